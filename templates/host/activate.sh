# shellcheck shell=sh disable=SC2034,SC2154
# Phase `post`, the switch: `current` is pointed to the release, which has to prove itself.
# Reads: clock, current_path, deployment, doubt, hook_problem, hook_seconds, release, release_path, room, stable_seconds,
#   switch_previous.
# Sets: boot_seconds, hook_directory, report_seconds, restarted, switch_deployment, switch_release, verify_path.

switch_deployment=$deployment
switch_release=$release
write_state switch "$deployment $release $switch_previous" || leave failed "$room/switch can't be written"
point_current "releases/$release" || leave failed "$current_path can't be pointed to releases/$release"
take_stamp
restarted=no
hook_directory=$release_path
post_hooks run_hook || leave failed "$hook_problem"
restart_commands run_restart || leave failed "$hook_problem"
note activated "$current_path points to releases/$release"
# Worth knowing, but nothing to wait for before the proof; after it, so that the last report comes last.
(
  report_seconds=2
  if recall_node; then
    report activated '' ''
  fi
) &
telling=$!
verify_path=$release_path
read_clock
verify_began=$clock
verify_release
verify_status=$?
read_clock
boot_seconds=$((clock - verify_began - stable_seconds))
wait "$telling"
[ "$verify_status" -eq 0 ] || leave failed "not proven to serve within $hook_seconds s: $doubt"
