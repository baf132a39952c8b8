# shellcheck shell=sh disable=SC2034,SC2154
# Who may work in this deploy_to: one stretcher at a time. And which releases are there.
# Reads: clock, deploy_to, deployment, room.
# Sets: holder, process_start.

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
