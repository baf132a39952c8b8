# shellcheck shell=sh disable=SC2034,SC2154
# Phase `post`: the release is unpacked in incoming/. Nothing has changed yet.

# discard DIRECTORY: renamed first, so that no half-removed release ever passes for a whole one.
discard() {
  discarded=$deploy_to/incoming/.discarded-${1##*/}
  rm -rf -- "$discarded" && mv -T -- "$1" "$discarded" && rm -rf -- "$discarded"
}

# Keeps the newest keep_releases of those that once served here, and in any case `current` and the one before it: failed
# releases must not push out good ones.
remove_old_releases() {
  kept=0
  for old in $(complete_releases); do
    if [ "$old" = "$release" ] || [ "releases/$old" = "$switch_previous" ]; then
      kept=$((kept + 1))
    elif [ "$kept" -lt "$keep_releases" ] && grep -qxF "$old" "$room/verified"; then
      kept=$((kept + 1))
    else
      discard "$deploy_to/releases/$old" || say "the old release $old could not be removed"
    fi
  done
  rm -rf -- "$deploy_to/incoming"/* "$deploy_to/incoming"/.discarded-* || say "incoming/ could not be emptied"
}

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
[ -d "$incoming" ] || leave failed "nothing was unpacked in $incoming; does the manifest's template say so in dest?"
linked_files need_file || leave failed "$link_problem"
if [ -d "$release_path" ]; then
  link_shared "$release_path" || leave failed "$link_problem"
  rm -rf -- "$incoming"
else
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
# Worth knowing, but nothing to wait for.
(
  report_seconds=2
  if find_node; then
    report activated '' ''
  fi
)
verify_path=$release_path
verify_release || leave failed "not proven to serve within $hook_seconds s: $doubt"
grep -qxF "$release" "$room/verified" 2>/dev/null || printf '%s\n' "$release" >>"$room/verified"
keep_kit || rm -rf -- "$room/kit"
finish_switch verified
note verified "$release serves"
remove_old_releases
