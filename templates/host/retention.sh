# shellcheck shell=sh disable=SC2034,SC2154
# Which releases stay on this host. What goes is renamed at once, so that the host's last word is true, and removed by
# `sweep`, when everybody has been told. Nothing goes without the room's lock, or where it can't be told what is needed.
# Reads: current_path, current_target, deploy_to, keep_releases, newline, node, release, rollback_release, room, state,
#   switch_previous, switch_release, unpacked_prefix.

# is_among ID LINES
is_among() {
  case $newline$2$newline in *"$newline$1$newline"*) return 0 ;; esac
  return 1
}

# read_needed ID...: sets needed, lines, to those and all that may never go: `current`, what `fab rollback` goes to, and
# both ends of a switch that is not over; and verified_here to the releases that have proven themselves on this host.
read_needed() {
  name_run
  holds_lock && read_current || return 1
  verified_here=
  if [ -e "$room/verified" ]; then
    if ! verified_here=$(cat -- "$room/verified" 2>/dev/null); then
      say "$room/verified can't be read, so no release is removed"
      return 1
    fi
  fi
  # Where `current` leads over another link.
  current_real=$(cd -P -- "$current_path" 2>/dev/null && pwd -P) || current_real=
  read_switch
  needed=$(printf '%s\n' "${current_target##*/}" "${current_real##*/}" "$rollback_release" "$switch_release" \
    "${switch_previous##*/}" "$@")
}

# set_aside ID: renamed, so that no half-removed release ever passes for a whole one; in releases/ itself, which may lie
# on a file system of its own.
set_aside() {
  aside=$deploy_to/releases/.discarded-$1
  if remove_tree "$aside" && mv -T -- "$deploy_to/releases/$1" "$aside"; then
    set_aside_any=yes
  else
    say "the release $1 could not be removed"
  fi
}

# retain_verified BEFORE: after a proven deployment. BEFORE, a target of `current`, is needed where the operator does not
# know what a rollback would go to. Of the others the newest stay that have proven themselves, keep_releases in all:
# failed releases push out no good ones.
retain_verified() {
  one_before=
  [ -n "$rollback_release" ] || one_before=${1##*/}
  read_needed "$release" "$one_before" || return 0
  places=$keep_releases
  here=$(complete_releases)
  for each_release in $here; do
    if is_among "$each_release" "$needed"; then
      places=$((places - 1))
    fi
  done
  for each_release in $here; do
    if is_among "$each_release" "$needed"; then
      continue
    elif [ "$places" -gt 0 ] && is_among "$each_release" "$verified_here"; then
      places=$((places - 1))
    else
      set_aside "$each_release"
    fi
  done
}

# remove_unproven: after a failed deployment, so that failures never fill a disk: what never proved itself here goes.
# Sets set_aside_any to yes if there was any.
remove_unproven() {
  set_aside_any=no
  read_needed || return 0
  for each_release in $(complete_releases); do
    is_among "$each_release" "$needed" || is_among "$each_release" "$verified_here" || set_aside "$each_release"
  done
}

# remove_tree PATH: also one with directories that nobody may write to.
remove_tree() {
  rm -rf -- "$1" 2>/dev/null && return 0
  [ -L "$1" ] || chmod -R u+rwx -- "$1" 2>/dev/null
  rm -rf -- "$1"
}

# forget ID: a release that comes back later has to prove itself again.
forget() {
  rm -f -- "$room/listens/$1"
  grep -qxF -e "$1" "$room/verified" 2>/dev/null || return 0
  remembered=$(LC_ALL=C grep -vxF -e "$1" "$room/verified") && write_state verified "$remembered"
}

# sweep: removes what was set aside, and what runs that were cut off have left. May take its time. What can't be removed
# is told with the host's last word, as nobody would ever look.
sweep() {
  name_run
  holds_lock || return 0
  unremoved=
  for swept in "$deploy_to/incoming"/* "$deploy_to/incoming"/.[!.]* "${TMPDIR:-/tmp}/${unpacked_prefix:?}"* \
    "$deploy_to/releases"/.incoming-????????T??????Z-??????? "$deploy_to/releases"/.discarded-????????T??????Z-???????; do
    [ -e "$swept" ] || [ -L "$swept" ] || continue
    if ! remove_tree "$swept"; then
      say "$swept could not be removed"
      unremoved="$unremoved${unremoved:+ }${swept#"$deploy_to"/}"
      continue
    fi
    swept_release=${swept##*/.discarded-}
    case $swept in
      "$deploy_to"/releases/.discarded-*) [ -d "$deploy_to/releases/$swept_release" ] || forget "$swept_release" ;;
    esac
  done
  read_state unremoved
  if [ "$state" != "$unremoved" ] && write_state unremoved "$unremoved" && [ -n "$node" ]; then
    tell_kept || :
  fi
}
