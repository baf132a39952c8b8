# shellcheck shell=sh disable=SC2034,SC2154
# A host's last word: what it serves, and what it has.
# Reads: consul_prefix, deployment, kv_value, node, receiver, report_process, role, state.
# Sets: kit_fields.

# Sets serving_kept to the items of a JSON list of the releases that this host has whole.
list_kept() {
  serving_kept=
  for serving_release in $(complete_releases); do
    serving_kept="$serving_kept${serving_kept:+, }\"$serving_release\""
  done
}

# Sets serving_unremoved to what this host could not remove, as a field of its last word.
list_unremoved() {
  read_state unremoved
  serving_unremoved=
  [ -z "$state" ] || serving_unremoved=", \"unremoved\": \"$(printf '%s' "$state" | clean_lines | json_text)\""
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
  list_unremoved
  fit_name "$1"
  serving_name=null
  [ -z "$1" ] || serving_name="\"$fitted\""
  read_kit_fields "$1"
  serving_word=$(
    printf '{"release": %s, "deployment": "%s", "time": "%s", "verified": %s%s%s, "receiver": "%s"%s, "releases": [%s]}' \
      "$serving_name" "$deployment" "$(utc_time)" "$2" "${3:+, \"reason\": \"$(printf '%s' "$3" | clean_lines | json_text)\"}" \
      "$kit_fields" "$receiver" "$serving_unremoved" "$serving_kept"
  )
  if [ -n "${report_process-}" ]; then
    wait "$report_process" || return
  fi
  put_patiently "$consul_prefix/serving/$role/$node" "$serving_word"
}

# tell_kept: the host's last word stands, but for its list of releases and what it can't remove, if that has changed.
tell_kept() {
  kv_list "$consul_prefix/serving/$role/$node" && kv_pick "$consul_prefix/serving/$role/$node" || return 0
  case $kv_value in *', "releases": ['*']}') ;; *) return 0 ;; esac
  list_kept
  list_unremoved
  kept_word=${kv_value%, \"releases\": \[*}
  kept_word=${kept_word%, \"unremoved\": *}$serving_unremoved", \"releases\": [$serving_kept]}"
  [ "$kept_word" = "$kv_value" ] || put_patiently "$consul_prefix/serving/$role/$node" "$kept_word"
}
