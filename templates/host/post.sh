# shellcheck shell=sh disable=SC2034,SC2154
# Phase `post`, to begin with: the release is unpacked in incoming/, or was kept from before. Nothing has changed yet.
# Reads: current_problem, current_target, deploy_to, deployment, kept, link_problem, owner_problem, plain_problem, release,
#   release_path, room, switch_back, switch_deployment, switch_release, unpacked, virtualenv_problem.
# Sets: switch_previous.

# Sets switch_previous to what an undo goes back to. A switch that was cut off, by a reboot say, left a release in
# `current` that never proved itself: then it is the one before.
find_previous() {
  read_current || leave failed "$current_problem"
  read_switch
  if [ -n "$switch_deployment" ] && [ "$current_target" = "releases/$switch_release" ] &&
    { [ "$switch_back" = yes ] || ! grep -qxF "$switch_release" "$room/verified" 2>/dev/null; }; then
    case $switch_previous in
      -) return 0 ;;
    esac
    [ ! -d "$(directory_of "$switch_previous")" ] || return 0
  fi
  switch_previous=$current_target
}

check_owner || leave failed "$owner_problem"
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
if [ -L "$release_path" ] || [ -L "$incoming" ]; then
  leave failed "$release_path or $incoming is a link, and a release is a directory; move it away"
fi
if [ -d "$release_path" ]; then
  link_shared "$release_path" || leave failed "$link_problem"
else
  [ -d "$incoming" ] || bring_in "$incoming" || leave failed "$unpacked can't be brought to $incoming"
  make_plain "$incoming" || leave failed "$plain_problem"
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
virtualenv_runs "$release_path" || leave failed "$virtualenv_problem"
find_previous
hear_before
