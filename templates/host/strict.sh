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

# strict_quote TEXT: sets strict_quoted to it as a shell takes it, between single quotes of a sentence as well.
strict_quote() {
  strict_quoted=$(printf '%s\n' "$1" | sed 's/[][ !"#$&'\''()*;<>?\\^`{|}~]/\\&/g')
}

# strict_group GID: whether nobody but the user, or root, is in it, and nobody else has it as the primary group: a umask of
# 002 goes with those. Where a directory service does not list its users within 10 s, that is unknown, and so no.
strict_group() {
  case " $strict_private " in *" $1 "*) return 0 ;; esac
  name_strict
  case $(getent group "$1" 2>/dev/null) in
    "$strict_user":*: | "$strict_user":*:"$strict_user" | root:*: | root:*:root) ;;
    *) return 1 ;;
  esac
  strict_users=$(timeout 10 getent passwd 2>/dev/null) && [ -n "$strict_users" ] &&
    strict_users=$(printf '%s\n' "$strict_users" |
      sed -n -e "/^[^:]*:[^:]*:0:/d" -e "/^[^:]*:[^:]*:$strict_uid:/d" -e "/^[^:]*:[^:]*:[^:]*:$1:/p") &&
    [ -z "$strict_users" ] && strict_private="$strict_private $1"
}

# strict_each PATH...: each by itself; where strict_sticky is yes, a sticky directory may be everybody's, but not
# strict_last. What is not there is fine; what can't be asked for is not. Fails, with strict_problem.
strict_each() {
  strict_problem=
  for strict_path; do
    shift
    if [ -e "$strict_path" ] || [ -L "$strict_path" ]; then set -- "$@" "$strict_path"; fi
  done
  [ $# -gt 0 ] || return 0
  strict_answer=$(stat -c '%u %g %a %n' -- "$@" 2>/dev/null) || {
    strict_problem="stat can't tell whose $strict_path and the directories on the way there are, so nothing there is run"
    return 1
  }
  while read -r strict_owner strict_gid strict_mode strict_path; do
    case $strict_owner in
      0 | "$strict_uid" | "$strict_unmapped") ;;
      *)
        name_strict
        # A report has room for 300 characters of it.
        strict_tree=$strict_path strict_deep=
        case $strict_path in
          "$room" | "$room"/*) strict_tree=$room strict_deep=R ;;
          "$deploy_to"/releases/*)
            strict_tree=${strict_path#"$deploy_to"/releases/} strict_deep=R
            strict_tree=$deploy_to/releases/${strict_tree%%/*}
            ;;
        esac
        strict_quote "$strict_tree"
        strict_problem="$strict_path belongs to $(stat -c %U -- "$strict_path") ($strict_owner), who could have commands run as $strict_user: type 'chown -h$strict_deep $strict_user $strict_quoted' if you trust all in it"
        [ "$strict_uid" -ne 0 ] || strict_problem="$strict_problem; the application writes below shared/"
        return 1
        ;;
    esac
    if [ -L "$strict_path" ] || [ $((0$strict_mode & 022)) -eq 0 ]; then
      continue
    elif [ "$strict_sticky" = yes ] && [ $((0$strict_mode & 01000)) -ne 0 ] && [ "$strict_path" != "$strict_last" ]; then
      continue
    elif [ $((0$strict_mode & 2)) -ne 0 ] || ! strict_group "$strict_gid"; then
      name_strict
      strict_quote "$strict_path"
      strict_problem="$strict_path can be written by others (mode $strict_mode, group $(stat -c %G -- "$strict_path")), who could have commands run as $strict_user: type 'chmod go-w $strict_quoted'"
      return 1
    fi
  done <<STRICT_END
$strict_answer
STRICT_END
}

# strict_walk: the same as strict_room where there is no find; slower, as each name is asked for by itself.
strict_walk() {
  set -- "$room"/* "$room"/.[!.]* "$room"/*/* "$room"/*/.[!.]* "$room"/*/*/* "$room"/*/*/.[!.]*
  for strict_walked; do
    if [ -L "$strict_walked" ]; then
      [ ! -e "$strict_walked" ] || strict_way "$strict_walked" || return 1
      strict_sticky=no
    else
      strict_each "$strict_walked" || return 1
    fi
  done
}

# strict_room: the same of all in the room that is run or trusted, however much it is, and of what links there lead to.
# What others could change is not looked into, so that they can't make the answer long.
strict_room() {
  if ! command -v find >/dev/null 2>&1; then
    strict_walk
    return
  fi
  strict_tries=3
  while [ -d "$room" ]; do
    set -- ! -user 0 ! -user "$strict_uid" ${strict_unmapped:+! -user "$strict_unmapped"}
    set -- \( "$@" \) -o ! -type l \( -perm -002 -o -perm -020
    for strict_gid in $strict_private; do
      set -- "$@" ! -group "$strict_gid"
    done
    strict_before=$strict_private
    # In /, as a failure hook runs in a directory that is gone.
    if strict_found=$(cd / && find -L "$room" -maxdepth 3 \( "$@" \) \) -print -prune 2>/dev/null); then
      [ -n "$strict_found" ] || return 0
      # The first line of it.
      read -r strict_found <<STRICT_END
$strict_found
STRICT_END
      strict_each "$strict_found" || return 1
      # Its group is a private one: then that is known from now on.
      [ "$strict_private" = "$strict_before" ] || continue
      strict_problem="$strict_found, or what it leads to, can be changed by others: remove it"
    else
      strict_quote "$room"
      strict_problem="find can't look through $room, so nothing there is run: type 'find -L $strict_quoted -maxdepth 3' and remove what it complains about"
    fi
    # A run that is at work there may have moved it.
    strict_tries=$((strict_tries - 1))
    [ "$strict_tries" -gt 0 ] || return 1
  done
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
  strict_uid=$1 strict_user=${2-} strict_unmapped='' strict_private=''
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
  strict_each "$deploy_to/.tmp" "$deploy_to/releases" "$deploy_to/incoming" "$room" && strict_room
}

# Asked once in a run: what is safe stays safe.
is_strict() {
  [ -z "${strict_known-}" ] || return 0
  strict_for "$(id -u)" && strict_known=yes
}
