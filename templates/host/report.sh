# shellcheck shell=sh disable=SC2034,SC2154
# What a host tells the operator, over the bus.
# Reads: clock, consul_prefix, deployment, kv_problem, node, report_more, report_seconds, role.

# put_patiently KEY VALUE: Consul may be restarting, so a report that it did not take is tried again.
put_patiently() {
  read_clock
  put_deadline=$((clock + report_seconds))
  until kv_put "$1" "$2"; do
    read_clock
    if [ "$clock" -ge "$put_deadline" ]; then
      say "Consul did not take $1: $kv_problem. May this host's token write there (key_prefix write)?"
      return 1
    fi
    sleep 1
  done
}

# report STATE REASON LOG [incomplete]: says that this host has reached a state of this deployment; with the last word,
# that it only lacks the release that it should have kept, and has changed nothing. Where report_more is set, the report has
# these fields too: JSON, each with a comma before it.
report() {
  # Good news are the rule, and have little to say.
  report_reason=
  if [ -n "$2" ]; then
    case $2 in
      *[!\ 0-9A-Za-z-]*) report_reason=$(printf '%s' "$2" | tr '\n' ' ' | valid_utf8 | json_text) ;;
      *) report_reason=$2 ;;
    esac
  fi
  report_log=
  if [ -n "$3" ]; then
    report_log=$(printf '%s' "$3" | json_text)
  fi
  put_patiently "$consul_prefix/reports/$role/$node/$deployment/$1" \
    "{\"time\": \"$(utc_time)\", \"reason\": \"$report_reason\", \"log\": \"$report_log\"${4:+, \"incomplete\": true}${report_more-}}"
}
