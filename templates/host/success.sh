# shellcheck shell=sh disable=SC2034,SC2154
# Phase `success`: the release serves, and everything that follows may fail without harm.

cd /
# stretcher's log is on stdin: taken off, so that it never waits for us, and of no further use.
cat >/dev/null
exec </dev/null
name_run
if recall_node; then
  # The last word only after the report: without it, catch-up.sh sees to it that both are said.
  report verified "$release serves" '' && tell_serving "$release" true || :
else
  say "$node_problem"
fi
sweep
hook_directory=$release_path
success_hooks run_hook || say "$hook_problem"
drop_lock
