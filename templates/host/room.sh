# shellcheck shell=sh disable=SC2034,SC2154
# The host's own directory below deploy_to: who owns deploy_to, who works in it, what was done last, and the switch that
# is under way. Files: owner, node, lock, last, switch, verified, tried and rung (receive.sh), kit/, drained/, log/.
# Reads: application, clock, deploy_to, deployment, environment, role, shared_path, strict_problem.
# Sets: holder, last_deployment, node, owner_problem, process_start, room, state, switch_back, switch_deployment,
#   switch_previous, switch_release.

room=$deploy_to/.deploytool

make_room() {
  mkdir -p -- "$deploy_to/incoming" "$deploy_to/releases" "$shared_path" "$room/log"
}

# write_state NAME TEXT: all or nothing, also if the power fails.
write_state() {
  printf '%s\n' "$2" >"$room/$1.new" || return 1
  sync "$room/$1.new" 2>/dev/null || :
  mv -f -- "$room/$1.new" "$room/$1"
}

# read_state NAME: sets state to the file's line, empty if there is none.
read_state() {
  state=
  if [ -f "$room/$1" ]; then
    IFS= read -r state <"$room/$1" || :
  fi
}

# Sets node to what `pre` has found and kept in this very run.
recall_node() {
  read_state node
  node=$state
  [ -n "$node" ] || find_node
}

# read_switch: sets switch_deployment, switch_release and switch_previous (the target of `current` before the switch, or
# `-`). All are empty if no switch is under way; a record of the
# last deployment is over, only its removal was cut off; unless it is of the way back, when a release has died later: then
# switch_back is yes.
read_switch() {
  read_last
  read_state switch
  switch_back=no
  if [ "${state% back}" != "$state" ]; then
    switch_back=yes
    state=${state% back}
  elif [ -n "$last_deployment" ] && [ "${state%% *}" = "$last_deployment" ]; then
    rm -f -- "$room/switch"
    state=
  fi
  switch_deployment=${state%% *}
  switch_release=${state#* }
  switch_previous=${switch_release#* }
  switch_release=${switch_release%% *}
}

# read_last: sets last_deployment, the last one for which this host switched `current`, whatever came of it.
read_last() {
  read_state last
  last_deployment=${state%% *}
}

# is_before A B: whether A is the older of two ids; in bytes, whatever the host's language.
is_before() {
  LC_ALL=C expr "x$1" '<' "x$2" >/dev/null
}

# Sets owner_problem if deploy_to belongs to another application, environment or role, or others can change what is run
# from there: then nothing of it is read or run.
check_owner() {
  owner_problem=
  if ! is_strict; then
    owner_problem=$strict_problem
    return 1
  fi
  read_state owner
  if [ -n "$state" ] && [ "$state" != "$application $environment $role" ]; then
    owner_problem="$deploy_to belongs to '$state' (application, environment, role), not to '$application $environment $role'; give each its own deploy_to"
    return 1
  fi
}

# This run: stretcher's process, which outlives its phases. The boot's id, as pids come again after a reboot.
name_run() {
  read_process "$PPID" || process_start=0
  boot=
  if [ -r /proc/sys/kernel/random/boot_id ]; then
    read -r boot </proc/sys/kernel/random/boot_id
  fi
  run=$PPID:$process_start:$boot
}

# holder_lives HOLDER: whether the stretcher that a lock names is still running.
holder_lives() {
  holder_pid=${1%%:*}
  holder_rest=${1#*:}
  holder_start=${holder_rest%%:*}
  holder_boot=${holder_rest#*:}
  holder_boot=${holder_boot%%:*}
  [ "$holder_boot" = "$boot" ] && read_process "$holder_pid" && [ "$process_start" = "$holder_start" ]
}

# take_lock SECONDS: two stretchers may come to one deploy_to, from a watch and from a boot unit. The lock is a symbolic
# link, as that is made at once with its content. Fails, with holder, if another run has it for longer than that; holder
# is empty if the lock can't be made at all.
take_lock() {
  name_run
  read_clock
  lock_deadline=$((clock + $1))
  while :; do
    if ln -sT "$run:$deployment" "$room/lock" 2>/dev/null; then
      return 0
    fi
    holder=$(readlink "$room/lock")
    case $holder in
      "$run:"*) return 0 ;;
      '') ;;
      *)
        if ! holder_lives "$holder"; then
          # Taken away under another name first: of two that find the same dead holder, only one may have the lock.
          mv -T "$room/lock" "$room/lock.$PPID" 2>/dev/null || :
          moved=$(readlink "$room/lock.$PPID")
          rm -f -- "$room/lock.$PPID"
          if [ "$moved" != "$holder" ] && [ -n "$moved" ]; then
            ln -sT "$moved" "$room/lock" 2>/dev/null || :
          fi
          [ -z "$moved" ] || continue
        fi
        ;;
    esac
    read_clock
    [ "$clock" -lt "$lock_deadline" ] || return 1
    sleep 0.5
  done
}

# holds_lock: whether it is this run that has the lock.
holds_lock() {
  case $(readlink "$room/lock") in "$run:"*) return 0 ;; esac
  return 1
}

drop_lock() {
  holds_lock && rm -f -- "$room/lock"
}

# Prints the ids of all releases that this host has whole, newest first. They are made and taken away by renaming, so
# what is there is whole. Other directories, of Capistrano say, are not ours.
complete_releases() {
  # shellcheck disable=SC2010,SC2012
  ls -1 "$deploy_to/releases" 2>/dev/null | LC_ALL=C grep -E '^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{7}$' | LC_ALL=C sort -r
}
