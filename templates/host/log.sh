# shellcheck shell=sh disable=SC2034,SC2154
# What a host says: sentences for stretcher's log, the outcome of a phase, and texts made fit for a report.
# Reads: deployment.
# Sets: newline.

newline='
'
escape=$(printf '\033')

say() {
  printf 'deploytool: %s\n' "$1"
}

# note OUTCOME SENTENCE: a line that the failure hooks find again in the log that stretcher hands them. So the outcome
# of a phase needs no disk, which may be full, and can't be taken from an earlier run.
note() {
  noted=$2
  case $noted in *"$newline"*) noted=$(printf '%s' "$noted" | tr '\n' ' ') ;; esac
  printf 'deploytool %s: %s: %s\n' "$deployment" "$1" "$noted"
}

# leave OUTCOME SENTENCE: ends the phase, and with it stretcher's run.
leave() {
  note "$1" "$2"
  exit 1
}

# Reports are JSON, which must be UTF-8.
valid_utf8() {
  if command -v iconv >/dev/null 2>&1; then
    iconv -c -f UTF-8 -t UTF-8 2>/dev/null || :
  else
    LC_ALL=C tr -d '\200-\377'
  fi
}

# Filter: lines without the secrets that stretcher has from this host, and hands to every hook. By the shell itself, as
# they must stand on no command line.
without_secrets() {
  set --
  for secret in "${AWS_SECRET_ACCESS_KEY-}" "${AWS_SESSION_TOKEN-}" "${CONSUL_HTTP_TOKEN-}" "${CONSUL_HTTP_AUTH-}"; do
    # A shorter one is a slip of the hand, and would be found everywhere.
    case $secret in ????????*) set -- "$@" "$secret" ;; *) continue ;; esac
    case $secret in
      # As it stands in a URL: AWS makes keys of letters, digits and these. Programs write the digits in either case.
      *[/+=]*)
        set -- "$@" "$(printf '%s' "$secret" | sed -e 's:/:%2F:g' -e 's/+/%2B/g' -e 's/=/%3D/g')" \
          "$(printf '%s' "$secret" | sed -e 's:/:%2f:g' -e 's/+/%2b/g' -e 's/=/%3d/g')"
        ;;
    esac
  done
  while IFS= read -r said_line || [ -n "$said_line" ]; do
    for secret; do
      said_rest=$said_line
      said_line=
      while :; do
        case $said_rest in *"$secret"*) ;; *) break ;; esac
        said_line=$said_line${said_rest%%"$secret"*}'***'
        said_rest=${said_rest#*"$secret"}
      done
      said_line=$said_line$said_rest
    done
    printf '%s\n' "$said_line"
  done
}

# Filter: lines of at most 300 bytes without colours, control characters, broken letters and our secrets. A shell reads
# long lines slowly, so that they are cut before as well.
clean_lines() {
  LC_ALL=C tr '\t' ' ' |
    LC_ALL=C sed "s/$escape\\[[0-9;?]*[a-zA-Z]//g" |
    LC_ALL=C tr -d '\000-\010\013-\037\177' |
    LC_ALL=C cut -b 1-4096 |
    without_secrets |
    LC_ALL=C cut -b 1-300 |
    valid_utf8
}

# Filter: clean lines to the inside of one JSON string.
json_text() {
  sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' | sed -e ':a' -e '$!{' -e 'N' -e 'ba' -e '}' -e 's/\n/\\n/g'
}

# Filter: stretcher's log without the whole text of each command, and of the manifest; by the line, where that can be had.
without_texts() {
  set -- sed -e '/ Executing manifest /d' -e '/# deploytool [^ ]* [a-z]* begin$/,/# deploytool [^ ]* [a-z]* end/d'
  if command -v stdbuf >/dev/null 2>&1; then
    set -- stdbuf -oL "$@"
  fi
  LC_ALL=C "$@"
}

utc_time() {
  date -u +%Y-%m-%dT%H:%M:%SZ
}
