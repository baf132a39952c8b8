# shellcheck shell=sh disable=SC2034,SC2154
# Strict modes, as sshd's: what lies in deploy_to, where it is run from, and each directory on the way there is root's or the
# user's who runs stretcher, and nobody else may write there. Else somebody could have commands run as that user: by a kit,
# a record or a release of his own. receive.sh and setup.sh have this in them, too.
# Reads: deploy_to, room.
# Sets: strict_problem, strict_uid.

# Sets strict_user, which only a problem needs.
name_strict() {
  strict_user=${strict_user:-$(id -un 2>/dev/null || id -u)}
}

# strict_group GID: whether nobody but the user, or root, is in it: a umask of 002 goes with those.
strict_group() {
  name_strict
  case $(getent group "$1" 2>/dev/null) in
    "$strict_user":*: | "$strict_user":*:"$strict_user" | root:*: | root:*:root) return 0 ;;
  esac
  return 1
}

# strict_each PATH...: each by itself; where strict_sticky is yes, a sticky directory may be everybody's, but not
# strict_last. What is not there is fine. Fails, with strict_problem.
strict_each() {
  strict_problem=
  while read -r strict_owner strict_gid strict_mode strict_path; do
    case $strict_owner in
      '' | 0 | "$strict_uid" | "$strict_unmapped") ;;
      *)
        name_strict
        # A report has room for 300 characters of it.
        strict_tree=$strict_path strict_deep=
        case $strict_path in "$room" | "$room"/*) strict_tree=$room strict_deep=R ;; esac
        strict_problem="$strict_path belongs to $(stat -c %U -- "$strict_path") ($strict_owner), who could have commands run as $strict_user: type 'chown -h$strict_deep $strict_user $strict_tree' if you trust all in it"
        [ "$strict_uid" -ne 0 ] || strict_problem="$strict_problem; the application writes below shared/"
        return 1
        ;;
    esac
    if [ -z "$strict_owner" ] || [ -L "$strict_path" ] || [ $((0$strict_mode & 022)) -eq 0 ]; then
      continue
    elif [ "$strict_sticky" = yes ] && [ $((0$strict_mode & 01000)) -ne 0 ] && [ "$strict_path" != "$strict_last" ]; then
      continue
    elif [ $((0$strict_mode & 2)) -ne 0 ] || ! strict_group "$strict_gid"; then
      name_strict
      strict_problem="$strict_path can be written by others (mode $strict_mode, group $(stat -c %G -- "$strict_path")), who could have commands run as $strict_user: type 'chmod go-w $strict_path'"
      return 1
    fi
  done <<STRICT_END
$(stat -c '%u %g %a %n' -- "$@" 2>/dev/null)
STRICT_END
}

# strict_way PATH [shared]: the path and all on the way there, links as well as where they lead. Sticky directories on the
# way may be everybody's, as nobody can move there what is ours; the last one only if it is shared.
strict_way() {
  strict_left=$1/ strict_at='' strict_last=${2-} strict_links=0
  set -- /
  while [ -n "$strict_left" ]; do
    strict_name=${strict_left%%/*}
    strict_left=${strict_left#*/}
    case $strict_name in
      '' | .) continue ;;
      ..) strict_at=${strict_at%/*} && continue ;;
    esac
    strict_at=$strict_at/$strict_name
    set -- "$@" "$strict_at"
    [ -L "$strict_at" ] || continue
    strict_links=$((strict_links + 1))
    if [ "$strict_links" -gt 40 ]; then
      strict_problem="$strict_at is a link that leads to itself"
      return 1
    fi
    strict_name=$(readlink -- "$strict_at")
    strict_left=$strict_name/$strict_left
    strict_at=${strict_at%/*}
    case $strict_name in /*) strict_at='' ;; esac
  done
  [ -n "$strict_last" ] || strict_last=$strict_at
  strict_sticky=yes
  strict_each "$@"
}

# strict_for UID [NAME]: all that stretcher runs or trusts here when it runs as that user. Fails, with strict_problem.
strict_for() {
  strict_uid=$1 strict_user=${2-} strict_unmapped=
  # In a user namespace root's files may show as nobody's, and nothing else can be told of them.
  read -r _ _ strict_size </proc/self/uid_map 2>/dev/null || strict_size=
  if [ "${strict_size:-4294967295}" != 4294967295 ]; then
    read -r strict_unmapped </proc/sys/kernel/overflowuid || :
  fi
  strict_way "$deploy_to" || return 1
  for strict_name in "$room" "$deploy_to/releases" "$deploy_to/incoming"; do
    [ ! -L "$strict_name" ] || strict_way "$strict_name" || return 1
  done
  case ${TMPDIR:-/tmp} in
    "$deploy_to"/.tmp) [ ! -L "$TMPDIR" ] ;;
    *) false ;;
  esac || strict_way "${TMPDIR:-/tmp}" shared || return 1
  strict_sticky=no
  strict_each "$deploy_to/.tmp" "$deploy_to/releases" "$deploy_to/incoming" "$room" "$room"/* "$room"/*/* "$room"/*/*/*
}

# Asked once in a run: what is safe stays safe.
is_strict() {
  [ -z "${strict_known-}" ] || return 0
  strict_for "$(id -u)" && strict_known=yes
}
