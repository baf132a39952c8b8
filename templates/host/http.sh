# shellcheck shell=sh disable=SC2016
# HTTP where there is no program for it, and where one would take longer than the answer.

# http_by_bash HOST PORT PATH SECONDS [HEADERS]: prints the answer with its headers, or what bash says. Secrets in HEADERS
# stand on no command line. HTTP/1.0, so that the answer ends with the connection.
http_by_bash() {
  DEPLOYTOOL_HEADERS=${5-} timeout "$4" bash -c '
    exec 3<>"/dev/tcp/$0/$1" || exit 1
    printf "GET %s HTTP/1.0\r\nHost: %s\r\n%s\r\n" "$2" "$3" "$DEPLOYTOOL_HEADERS" >&3
    exec cat <&3
  ' "$1" "$2" "$3" "$1$([ "$2" = 80 ] || echo ":$2")" 2>&1
}
