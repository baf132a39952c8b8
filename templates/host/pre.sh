# shellcheck shell=sh disable=SC2034,SC2154
# Phase `pre`: stretcher holds the archive, checked, and has not unpacked it yet; or there is none (kept=yes), as this
# host should have the release from before.
# Reads: application, current_problem, deploy_to, deployment, environment, holder, hook_problem, kept, kv_problem,
#   link_problem, lock_seconds, node, owner_problem, release_path, role, room, sentence, state, unpacked, unpacked_bytes,
#   verdict.
# Sets: hook_directory.

# free_kib DIRECTORY: prints the space left there; nothing if df can't tell.
free_kib() {
  df -Pk -- "$1" 2>/dev/null | LC_ALL=C sed -n '2s/.* \([0-9][0-9]*\)  *[0-9-]*%* .*/\1/p'
}

# need_space DIRECTORY KIB
need_space() {
  space=$(free_kib "$1")
  case $space in '' | *[!0-9]*) return 0 ;; esac
  [ "$space" -lt "$2" ] || return 0
  leave failed "the disk of $1 is too small: $((space / 1024)) MiB are free, unpacking needs $(($2 / 1024 + 1)) MiB"
}

# stretcher unpacks below TMPDIR: where the tree is copied from there, it is there twice for a while.
check_space() {
  need_kib=$((unpacked_bytes / 1024 + 1))
  temporary=${TMPDIR:-/tmp}
  if can_rename; then
    need_space "$deploy_to" "$need_kib"
  elif [ "$(stat -c %d -- "$temporary")" = "$(stat -c %d -- "$deploy_to")" ]; then
    need_space "$deploy_to" $((need_kib * 2))
  else
    need_space "$temporary" "$need_kib"
    need_space "$deploy_to" "$need_kib"
  fi
}

cd /
check_owner || leave failed "$owner_problem"
make_room || leave failed "the directories below $deploy_to can't be made"
if ! take_lock "$lock_seconds"; then
  case $holder in
    '') leave failed "$room can't be written" ;;
    *":$deployment") leave not-meant "another stretcher is at this deployment already" ;;
    *) leave failed "another stretcher has been at work in $deploy_to for $lock_seconds s: $holder" ;;
  esac
fi
judge
[ "$verdict" = go ] || leave "$verdict" "$sentence"
read_state owner
if [ -z "$state" ]; then
  write_state owner "$application $environment $role" || leave failed "$room/owner can't be written"
fi
# For the phases that follow; and for receive.sh, which has no other way to learn it than a person who writes it down.
read_state node
[ "$state" = "$node" ] || write_state node "$node" || rm -f -- "$room/node"
read_current || leave failed "$current_problem"
linked_files need_file || leave failed "$link_problem"
rm -rf -- "$deploy_to/incoming/$deployment" "$unpacked"
if [ "$kept" = yes ]; then
  [ -d "$release_path" ] || leave incomplete "this host has kept no $release_path; it has to download the release"
else
  check_space
fi
report fetched '' '' || leave failed "the report could not be written to Consul: $kv_problem"
note fetched "waiting for the operator's go"
barrier
note go "the operator said go"
hook_directory=$deploy_to
pre_hooks run_hook || leave failed "$hook_problem"
