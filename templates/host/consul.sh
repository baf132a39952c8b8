# shellcheck shell=sh disable=SC2016,SC2034,SC2154
# The bus: keys and values, and this host's name on it. Nothing else here knows that it is Consul; directory.sh is the
# other one.
# Reads: clock, newline, report_seconds.
# Sets: kv_lines, kv_problem, node, node_problem, receiver.

# What stands between Consul and stretcher here: `digest` or `signed`, as receive.sh says; a watch of before is none.
receiver=${DEPLOYTOOL_RECEIVER:-none}
# So that it knows that the manifest's own scripts can say what is wrong.
[ -z "${DEPLOYTOOL_BEGUN-}" ] || : >"$DEPLOYTOOL_BEGUN"

kv_command() {
  timeout -k 1 15 consul kv "$@"
}

# kv_list PREFIX [-stale or '']: sets kv_lines to "key:value" lines of all keys that begin with PREFIX. Fails, with kv_problem,
# if Consul can't be asked. `-recurse`, as a plain `kv get` ends alike for "no such key" and for "no answer".
kv_list() {
  if kv_lines=$(kv_command get -recurse ${2:+"$2"} "$1" 2>&1); then
    return 0
  fi
  kv_problem=$(printf '%s\n' "$kv_lines" | tail -n 1)
  : "${kv_problem:=the agent does not answer within 15 s}"
  kv_lines=
  return 1
}

# kv_put KEY VALUE. Fails, with kv_problem, if Consul refuses or can't be asked. The value goes by stdin: a command line
# has its limits, and readers.
kv_put() {
  if kv_problem=$(printf '%s' "$2" | kv_command put "$1" - 2>&1); then
    return 0
  fi
  kv_problem=$(printf '%s\n' "$kv_problem" | tail -n 1)
  : "${kv_problem:=the agent does not answer within 15 s}"
  return 1
}

# ask_agent PATH SECONDS: prints the agent's answer over HTTP, with its headers, for what Consul's commands can't do: tell
# the agent's own name, and wait. Secrets go by the environment or by stdin, never on a command line.
ask_agent() {
  agent=${CONSUL_HTTP_ADDR:-127.0.0.1:8500}
  token=${CONSUL_HTTP_TOKEN-}
  if [ -n "${CONSUL_HTTP_TOKEN_FILE-}" ]; then
    token=$(cat "$CONSUL_HTTP_TOKEN_FILE") || return 1
  fi
  case $agent in
    unix://* | https://*) ;;
    *)
      agent=${agent#http://}
      case ${CONSUL_HTTP_SSL-} in 1 | t | T | true | TRUE | True) agent=https://$agent ;; esac
      ;;
  esac
  agent=${agent%/}
  case $agent in
    unix://* | https://*) ;;
    *)
      if command -v bash >/dev/null 2>&1; then
        ask_by_bash "$1" "$2"
        return
      fi
      agent=http://$agent
      ;;
  esac
  if command -v curl >/dev/null 2>&1; then
    ask_by_curl "$1" "$2"
  elif command -v wget >/dev/null 2>&1; then
    ask_by_wget "$1" "$2"
  else
    return 1
  fi
}

ask_by_bash() {
  agent_end=$(printf '\r')$newline
  agent_headers=${token:+"X-Consul-Token: $token$agent_end"}${CONSUL_NAMESPACE:+"X-Consul-Namespace: $CONSUL_NAMESPACE$agent_end"}
  if [ -n "${CONSUL_HTTP_AUTH-}" ]; then
    agent_basic=$(printf '%s' "$CONSUL_HTTP_AUTH" | base64 | tr -d '\n')
    agent_headers="${agent_headers}Authorization: Basic $agent_basic$agent_end"
  fi
  agent_port=${agent##*:}
  agent_host=${agent%:*}
  agent_host=${agent_host#\[}
  http_by_bash "${agent_host%\]}" "$agent_port" "$1" "$2" "$agent_headers"
}

# option NAME VALUE: one line of curl's configuration file, if there is a value.
option() {
  if [ -n "$2" ]; then
    printf '%s = "%s"\n' "$1" "$(printf '%s' "$2" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g')"
  fi
}

ask_by_curl() {
  {
    case $agent in
      unix://*)
        option unix-socket "${agent#unix://}"
        option url "http://localhost$1"
        ;;
      https://*)
        # The name in the certificate, and where whoever has it is.
        option connect-to "${CONSUL_TLS_SERVER_NAME:+::${agent#https://}}"
        option url "https://${CONSUL_TLS_SERVER_NAME:-${agent#https://}}$1"
        ;;
      *) option url "$agent$1" ;;
    esac
    option header "${token:+X-Consul-Token: $token}"
    option header "${CONSUL_NAMESPACE:+X-Consul-Namespace: $CONSUL_NAMESPACE}"
    option user "${CONSUL_HTTP_AUTH-}"
    option cacert "${CONSUL_CACERT-}"
    option capath "${CONSUL_CAPATH-}"
    option cert "${CONSUL_CLIENT_CERT-}"
    option key "${CONSUL_CLIENT_KEY-}"
    case ${CONSUL_HTTP_SSL_VERIFY-} in 0 | f | F | false | FALSE | False) echo insecure ;; esac
  } | curl -q -sS -i --globoff --noproxy '*' --max-time "$2" -K - 2>&1
}

ask_by_wget() {
  case $agent in unix://*) return 1 ;; esac
  # wget reads its options from nothing but a file.
  agent_options=$(umask 077 && mktemp) || return 1
  printf '%s\n' "${token:+header = X-Consul-Token: $token}" "${CONSUL_NAMESPACE:+header = X-Consul-Namespace: $CONSUL_NAMESPACE}" \
    "${CONSUL_CACERT:+ca_certificate = $CONSUL_CACERT}" \
    >"$agent_options"
  WGETRC=$agent_options wget -q -S -T "$2" -O - "$agent$1" 2>&1
  rm -f -- "$agent_options"
}

# kv_wait KEY SECONDS: returns as soon as the key has changed since the last kv_wait, or when the time is over; the first
# one at once. Fails if the agent can't be asked so. A bell, no more: what the key says is for kv_list to tell.
kv_index=0
kv_wait() {
  kv_answer=$(ask_agent "/v1/kv/$1?index=$kv_index&wait=$2s" $(($2 + 2))) || return 1
  case $kv_answer in
    *" 200 "*[Xx]-[Cc]onsul-[Ii]ndex:*) ;;
    *) return 1 ;;
  esac
  kv_before=$kv_index
  kv_index=${kv_answer#*[Xx]-[Cc]onsul-[Ii]ndex:}
  kv_index=${kv_index%%[!0-9 ]*}
  kv_index=${kv_index# }
  case $kv_index in
    '' | 0 | *[!0-9]*)
      kv_index=0
      return 1
      ;;
  esac
  # Consul's memory is another one, and begins again.
  [ "$kv_index" -ge "$kv_before" ] || kv_index=0
}

# Sets node: this host's name on the bus; not `hostname`, from which it may differ.
find_node() {
  node=${DEPLOYTOOL_NODE-}
  [ -z "$node" ] || return 0
  read_clock
  node_deadline=$((clock + report_seconds))
  while :; do
    node_answer=$(ask_agent /v1/agent/self 10)
    case $node_answer in
      *'"NodeName"'*)
        node=${node_answer#*\"NodeName\"}
        node=${node#*\"}
        node=${node%%\"*}
        return 0
        ;;
      # Asking again gives a missing right to nobody.
      *"Permission denied"*) break ;;
    esac
    read_clock
    [ "$clock" -lt "$node_deadline" ] || break
    sleep 1
  done
  node_problem="the Consul agent at ${CONSUL_HTTP_ADDR:-127.0.0.1:8500} does not tell this host's name; is it up, may the token read agents (agent read), is there one of bash, curl and wget? Or set DEPLOYTOOL_NODE to the name"
  return 1
}
