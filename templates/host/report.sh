# shellcheck shell=sh disable=SC2034,SC2154
# What a host tells the operator, over the bus.
# Reads: clock, consul_prefix, deployment, kv_problem, kv_value, node, receiver, report_more, report_process, report_seconds,
#   role, state.
# Sets: kit_fields.

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

# Sets serving_kept to the items of a JSON list of the releases that this host has whole.
list_kept() {
  serving_kept=
  for serving_release in $(complete_releases); do
    serving_kept="$serving_kept${serving_kept:+, }\"$serving_release\""
  done
}

# fit_name NAME: sets fitted to NAME, which holds no secret, as the inside of one JSON string.
fit_name() {
  case $1 in
    *[!0-9A-Za-z-]*) fitted=$(printf '%s' "$1" | clean_lines | json_text) ;;
    *) fitted=$1 ;;
  esac
}

# read_kit_fields RELEASE: sets kit_fields to how strong the proof of the release was, and what else was seen then, as fields
# for a report.
read_kit_fields() {
  kit_fields=
  read_state kit/target
  [ "$state" = "releases/$1" ] || return 0
  for kit_field in proof notes; do
    read_state "kit/$kit_field"
    fit_name "$state"
    kit_fields="$kit_fields${fitted:+, \"$kit_field\": \"$fitted\"}"
  done
}

# tell_serving RELEASE VERIFIED [REASON]: the host's last word, what `current` points to now. RELEASE is empty if it is
# gone. REASON says why it is not verified any more. With report_process, only once that has written its report.
tell_serving() {
  list_kept
  fit_name "$1"
  serving_name=null
  [ -z "$1" ] || serving_name="\"$fitted\""
  read_kit_fields "$1"
  serving_word=$(
    printf '{"release": %s, "deployment": "%s", "time": "%s", "verified": %s%s%s, "receiver": "%s", "releases": [%s]}' \
      "$serving_name" "$deployment" "$(utc_time)" "$2" "${3:+, \"reason\": \"$(printf '%s' "$3" | clean_lines | json_text)\"}" \
      "$kit_fields" "$receiver" "$serving_kept"
  )
  if [ -n "${report_process-}" ]; then
    wait "$report_process" || return
  fi
  put_patiently "$consul_prefix/serving/$role/$node" "$serving_word"
}

# tell_kept: the host's last word stands, but for its list of releases, if that has changed.
tell_kept() {
  kv_list "$consul_prefix/serving/$role/$node" && kv_pick "$consul_prefix/serving/$role/$node" || return 0
  case $kv_value in *', "releases": ['*']}') ;; *) return 0 ;; esac
  list_kept
  kept_word=${kv_value%, \"releases\": \[*}", \"releases\": [$serving_kept]}"
  [ "$kept_word" = "$kv_value" ] || put_patiently "$consul_prefix/serving/$role/$node" "$kept_word"
}
