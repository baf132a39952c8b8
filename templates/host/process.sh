# shellcheck shell=sh disable=SC2034,SC2154
# The host's clock and its processes, from /proc.
# Sets: clock, clock_hundredths, process_start, process_state, stamp.

# Sets clock: seconds since boot, and clock_hundredths. The wall clock may jump while we wait.
read_clock() {
  read -r clock clock_idle </proc/uptime
  clock_hundredths=${clock%%.*}${clock#*.}
  clock=${clock%%.*}
}

# read_process PID: sets process_state, process_parent and process_start (ticks since boot). Fails if there is none.
# The command's name stands in parentheses and may hold anything, parentheses too: what counts follows the last one.
read_process() {
  # By the shell itself, as it is asked often.
  process_line=
  while IFS= read -r process_part; do
    process_line=$process_line$process_part
  done 2>/dev/null <"/proc/$1/stat" || return 1
  # shellcheck disable=SC2086
  set -- ${process_line##*)}
  [ $# -ge 20 ] || return 1
  process_state=$1 process_parent=$2 process_start=${20}
}

# Sets stamp: processes that start from now on have a greater process_start, those that run already have not. A tick is
# 10 ms, hence the pause.
take_stamp() {
  stamp=$(cat /proc/self/stat)
  # shellcheck disable=SC2086
  set -- ${stamp##*)}
  stamp=${20}
  sleep 0.03
}
