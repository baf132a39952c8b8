# shellcheck shell=sh disable=SC2034,SC2154
# Phase `post`: the release is unpacked in incoming/, or was kept from before. Nothing has changed yet.

# Sets switch_previous to what an undo goes back to. A switch that was cut off, by a reboot say, left a release in
# `current` that never proved itself: then it is the one before.
find_previous() {
  read_current || leave failed "$current_problem"
  read_switch
  if [ -n "$switch_deployment" ] && [ "$current_target" = "releases/$switch_release" ] &&
    ! grep -qxF "$switch_release" "$room/verified" 2>/dev/null; then
    case $switch_previous in
      -) return 0 ;;
    esac
    [ ! -d "$(directory_of "$switch_previous")" ] || return 0
  fi
  switch_previous=$current_target
}

cd -- "$deploy_to" || leave failed "$deploy_to is gone"
incoming=$deploy_to/incoming/$deployment
if [ "$kept" = yes ]; then
  [ -d "$release_path" ] || leave incomplete "$release_path has gone from this host since the deployment began"
else
  # With `dest` in place of `beside`, in a template of the user's own, stretcher has brought it already.
  [ -d "$incoming" ] || [ -d "$unpacked" ] ||
    leave failed "nothing was unpacked; does the manifest's template say so in dest?"
fi
linked_files need_file || leave failed "$link_problem"
if [ -d "$release_path" ]; then
  link_shared "$release_path" || leave failed "$link_problem"
else
  [ -d "$incoming" ] || bring_in "$incoming" || leave failed "$unpacked can't be brought to $incoming"
  link_shared "$incoming" || leave failed "$link_problem"
  # What `current` points to must be there after a power cut, too.
  sync -f "$incoming" 2>/dev/null || :
  # In two steps, as the first one copies where releases/ lies on a file system of its own.
  rm -rf -- "$deploy_to/releases/.incoming-$release"
  if ! mv -T -- "$incoming" "$deploy_to/releases/.incoming-$release" ||
    ! mv -T -- "$deploy_to/releases/.incoming-$release" "$release_path"; then
    leave failed "$incoming can't be moved to $release_path"
  fi
fi
find_previous
switch_deployment=$deployment
switch_release=$release
write_state switch "$deployment $release $switch_previous" || leave failed "$room/switch can't be written"
point_current "releases/$release" || leave failed "$current_path can't be pointed to releases/$release"
take_stamp
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
verify_release
verify_status=$?
wait "$telling"
[ "$verify_status" -eq 0 ] || leave failed "not proven to serve within $hook_seconds s: $doubt"
grep -qxF "$release" "$room/verified" 2>/dev/null || printf '%s\n' "$release" >>"$room/verified"
keep_kit || rm -rf -- "$room/kit"
switch_before=$switch_previous
finish_switch verified
note verified "$release serves"
# Nothing that fails from here on may undo the switch.
retain_verified "$switch_before" || :
