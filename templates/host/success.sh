# shellcheck shell=sh disable=SC2034,SC2154
# Phase `success`: the release serves, and everything that follows may fail without harm.
# Reads: hook_problem, kit_fields, look_script, node_problem, owner_problem, release, release_path, room, state.
# Sets: hook_directory, report_more, report_process.

# keep_look: what receive.sh runs every minute from now on, as long as this release serves.
keep_look() {
  read_state kit/target
  [ "$state" = "releases/$release" ] &&
    printf '%s\n' "$look_script" >"$room/kit/look.new" && mv -f -- "$room/kit/look.new" "$room/kit/look"
}

cd /
# stretcher's log is on stdin: taken off, so that it never waits for us, and of no further use.
cat >/dev/null
exec </dev/null
check_owner || {
  say "$owner_problem"
  exit 1
}
name_run
if recall_node; then
  # The last word only after the report: without it, receive.sh sees to it that both are said. The operator waits for
  # both: the word is made meanwhile.
  read_kit_fields "$release"
  report_more=$kit_fields
  report verified "$release serves" '' &
  report_process=$!
  tell_serving "$release" true || :
else
  say "$node_problem"
fi
keep_look || say "$room/kit/look can't be written: if the release dies later on, this host does not notice"
sweep
hook_directory=$release_path
success_hooks run_hook || say "$hook_problem"
drop_lock
