# shellcheck shell=sh disable=SC2034,SC2154
# A probe of `fab ENV status --probe`: this host proves anew what it serves, as the deployment that brought it did, and
# corrects its last word. It restarts and changes nothing else.
# Reads: consul_prefix, current_target, doubt, last_deployment, node, node_problem, owner_problem, role, room, strength,
#   switch_deployment.
# Sets: deployment, holder, hook_seconds, release, report_seconds, restarted, revision, serving_now, stable_seconds, stamp,
#   verify_path.

# The operator does not wait longer.
report_seconds=10
hook_seconds=${DEPLOYTOOL_LOOK_SECONDS:-8}
stable_seconds=0
stamp=0
restarted=no

# answer PROVEN STRENGTH REASON
answer() {
  put_patiently "$consul_prefix/reports/$role/$node/$probe/listens" "$(
    printf '{"proven": %s, "proof": "%s", "reason": "%s"}' "$1" "$2" "$(printf '%s' "$3" | clean_lines | json_text)"
  )"
}

cd /
find_node || {
  say "$node_problem"
  exit 1
}
probe=$deployment
if ! check_owner; then
  answer false '' "$owner_problem"
  exit 0
fi
name_run
read_switch
deployment=$last_deployment
read_current
serving_now=${current_target##*/}
if [ "$current_target" = - ] || [ -z "$last_deployment" ]; then
  answer false '' "nothing is deployed here"
elif [ -n "$switch_deployment" ] || { holder=$(readlink "$room/lock") && holder_lives "$holder"; }; then
  answer false '' "a deployment is at work here"
elif [ -e "$room/drained" ]; then
  answer false '' "the host is drained: it gets no traffic"
else
  release=$serving_now
  revision=${serving_now##*-}
  take_kit "$current_target" || :
  verify_path=$(directory_of "$current_target")
  verify_release
  proved=$?
  read_last
  if [ "$last_deployment" != "$deployment" ] || { holder=$(readlink "$room/lock") && holder_lives "$holder"; }; then
    answer false '' "a deployment was at work here meanwhile"
  elif [ "$proved" -eq 0 ]; then
    tell_serving "$serving_now" true && rm -f -- "$room/lost"
    answer true "$strength" ''
  else
    tell_serving "$serving_now" false "$doubt"
    printf '%s\n' "$serving_now" >"$room/lost" || :
    answer false '' "$doubt"
  fi
fi
