# shellcheck shell=sh disable=SC2034,SC2154
# Runs the commands of the user's: with a time limit, no input, and their output in a file. stretcher waits for the end of
# its pipe, so a daemon that a hook leaves behind must not have it.
# Reads: clock, environment, hook_directory, hook_seconds, owner_problem, role, room.
# Sets: hook_log, hook_problem.

# open_log NAME: sets hook_log. A hook must run even if the disk is full, or deploy_to is another's.
open_log() {
  hook_log=/dev/null
  [ -z "${owner_problem-}" ] || return 0
  hook_log=$room/log/$1.log
  rm -f -- "$hook_log" 2>/dev/null || :
  # What a hook prints may hold a secret of this host's.
  if ! (umask 077 && printf '\n' >"$hook_log") 2>/dev/null; then
    hook_log=/dev/null
  fi
}

# run_hook LABEL COMMAND: runs COMMAND in hook_directory. Fails, with hook_problem. Prints the output's last lines.
run_hook() {
  open_log "$1"
  read_clock
  hook_began=$clock
  (cd -- "$hook_directory" && exec timeout -k 5 "$hook_seconds" sh -c "$2") </dev/null >"$hook_log" 2>&1
  hook_status=$?
  if [ "$hook_log" != /dev/null ]; then
    tail -n 20 "$hook_log" | clean_lines | sed 's/^/  | /'
  fi
  [ "$hook_status" -ne 0 ] || return 0
  read_clock
  if [ $((clock - hook_began)) -ge "$hook_seconds" ]; then
    hook_problem="hook $1 was ended after $hook_seconds s (wait.hook_seconds)"
  else
    hook_problem="hook $1 failed with exit status $hook_status"
  fi
  # In the language of whoever runs it; most servers speak this one.
  case $(grep '^sudo: ' "$hook_log") in
    *"a password is required"* | *"authentication is required"*)
      hook_problem="$hook_problem: sudo asks for the password of $(id -un), who needs a line in /etc/sudoers.d: \`fab $environment app-server --role $role\` prints a script, which tells it when it is run on this host"
      ;;
    *"no new privileges"*)
      hook_problem="$hook_problem: sudo does not work in units that were printed with \`app-server --sandbox\`; print them without"
      ;;
  esac
  return 1
}
