# shellcheck shell=sh disable=SC2016,SC2034,SC2154
# Proves that the running processes serve a release. What can't be read is not proven.
#
# Reads verify_pid_file, verify_url, verify_expect and verify_command; verify_path, the release's directory; and stamp,
# which workers must be younger than (0: age proves nothing here).

# worker_serves PID: fails, with doubt.
worker_serves() {
  if ! worker_directory=$(readlink "/proc/$1/cwd"); then
    if [ -d "/proc/$1" ]; then
      doubt="the working directory of process $1 (of $(stat -c %U "/proc/$1")) can't be read by $(id -un): run stretcher as root or as that user, or use verify.url"
    else
      doubt="process $1 has ended"
    fi
    return 1
  fi
  if ! read_process "$1"; then
    doubt="process $1 has ended"
    return 1
  fi
  case $worker_directory in
    *" (deleted)") ;;
    "$verify_real" | "$verify_real"/*)
      if [ "$process_start" -gt "$stamp" ]; then
        proof="$proof $1:$process_start"
        return 0
      fi
      doubt="process $1 runs since before the switch"
      return 1
      ;;
  esac
  doubt="process $1 still runs in $worker_directory, not in $verify_real"
  return 1
}

# Prints the children of a process that aren't just waiting to be reaped.
children_of() {
  parent=$1
  cat /proc/[0-9]*/stat 2>/dev/null | while IFS= read -r child_line; do
    child=${child_line%% *}
    # shellcheck disable=SC2086
    set -- ${child_line##*)}
    if [ "${2-}" = "$parent" ] && [ "$1" != Z ]; then
      printf '%s\n' "$child"
    fi
  done
}

# A master may stay, as gunicorn's does on HUP: its workers count, and itself only if it has none.
pid_file_serves() {
  case $verify_pid_file in
    /*) pid_file=$verify_pid_file ;;
    *) pid_file=$current_path/$verify_pid_file ;;
  esac
  master=
  if ! read -r master master_rest 2>/dev/null <"$pid_file" && [ -z "$master" ]; then
    doubt="there is no pid in $pid_file"
    return 1
  fi
  case $master in
    '' | *[!0-9]*)
      doubt="there is no pid in $pid_file"
      return 1
      ;;
  esac
  if ! read_process "$master" || [ "$process_state" = Z ]; then
    doubt="process $master of $pid_file does not run"
    return 1
  fi
  workers=$(children_of "$master")
  for worker in ${workers:-$master}; do
    worker_serves "$worker" || return 1
  done
}

# fetch URL: sets fetched_status and fetched_body.
fetch() {
  if command -v curl >/dev/null 2>&1; then
    fetched_body=$(curl -q -sS --globoff --noproxy '*' --max-time 5 -w "$newline%{http_code}" -- "$1" 2>&1)
    fetched_status=${fetched_body##*"$newline"}
    fetched_body=${fetched_body%"$newline"*}
  elif command -v wget >/dev/null 2>&1; then
    fetched_status=000
    # shellcheck disable=SC2046
    fetched_body=$(wget -q -T 5 $(wget_options) -O - "$1" 2>&1) && fetched_status=200
  else
    fetch_by_bash "$1"
  fi
}

# A redirection to a log-in page that answers 200 is no 2xx; busybox' wget has no say in that.
wget_options() {
  case $(wget --help 2>&1) in
    *--max-redirect*) echo --max-redirect=0 --tries=1 --no-proxy ;;
  esac
}

fetch_by_bash() {
  fetched_status=000
  fetched_body=
  case $1 in http://*) ;; *) return ;; esac
  command -v bash >/dev/null 2>&1 || return
  fetch_host=${1#http://}
  fetch_host=${fetch_host%%/*}
  fetch_path=/${1#http://*/}
  [ "$1" != "http://$fetch_host" ] || fetch_path=/
  case $fetch_host in
    *:*) fetch_port=${fetch_host##*:} ;;
    *) fetch_port=80 ;;
  esac
  fetched_body=$(timeout 5 bash -c '
    exec 3<>"/dev/tcp/$0/$1" || exit 1
    printf "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" "$2" "$3" >&3
    cat <&3
  ' "${fetch_host%:*}" "$fetch_port" "$fetch_path" "$fetch_host" 2>&1)
  fetched_status=${fetched_body#HTTP/1.? }
  fetched_status=${fetched_status%"${fetched_status#???}"}
}

url_serves() {
  fetch "$verify_url"
  case $fetched_status in
    2??) ;;
    *)
      doubt="$verify_url answers ${fetched_status:-nothing}, not 2xx"
      return 1
      ;;
  esac
  case $fetched_body in
    *"$verify_expect"*) ;;
    *)
      doubt="$verify_url answers without '$verify_expect'"
      return 1
      ;;
  esac
}

# One command has the time that is left, at least a second.
command_serves() {
  read_clock
  command_seconds=$((verify_deadline - clock))
  [ "$command_seconds" -ge 1 ] || command_seconds=1
  open_log verify.command
  (cd -- "$verify_path" && exec timeout -k 5 "$command_seconds" sh -c "$verify_command") </dev/null >"$hook_log" 2>&1
  command_status=$?
  [ "$command_status" -ne 0 ] || return 0
  doubt="verify.command ends with exit status $command_status"
  if [ "$hook_log" != /dev/null ]; then
    doubt="$doubt: $(tail -n 1 "$hook_log" | clean_lines)"
  fi
  return 1
}

# Everything at once, once. Sets proof to the workers seen; fails, with doubt.
holds_now() {
  proof=
  if [ -z "$verify_pid_file$verify_url$verify_command" ]; then
    [ "$(cd -P -- "$current_path" && pwd -P)" = "$verify_real" ] && return 0
    doubt="$current_path does not point to $verify_path"
    return 1
  fi
  if [ -n "$verify_pid_file" ]; then
    pid_file_serves || return 1
  fi
  if [ -n "$verify_url" ]; then
    url_serves || return 1
  fi
  if [ -n "$verify_command" ]; then
    command_serves || return 1
  fi
}

# still_there OLD NEW: whether each worker of OLD is in NEW. One that starts and dies is no proof.
still_there() {
  for seen in $1; do
    case " $2 " in *" $seen "*) ;; *) return 1 ;; esac
  done
}

# verify_release: tried until it holds, for hook_seconds, and held for stable_seconds. Fails, with doubt.
verify_release() {
  verify_real=$(cd -P -- "$verify_path" && pwd -P) || {
    doubt="there is no $verify_path"
    return 1
  }
  read_clock
  verify_deadline=$((clock + hook_seconds))
  held_since=
  held=
  while :; do
    if holds_now; then
      read_clock
      if [ -z "$held_since" ] || ! still_there "$held" "$proof"; then
        # A proof that keeps breaking is none.
        if [ "$clock" -gt "$verify_deadline" ]; then
          doubt="the workers do not stay: $held, then $proof"
          return 1
        fi
        held_since=$clock_hundredths
      fi
      held=$proof
      still_to_hold=$((held_since + stable_seconds * 100 - clock_hundredths))
      [ "$still_to_hold" -gt 0 ] || return 0
    else
      held_since=
      held=
      read_clock
      [ "$clock" -le "$verify_deadline" ] || return 1
    fi
    # Most restarts take less than a second or much longer.
    if [ -z "$held_since" ] && [ $((verify_deadline - clock)) -ge $((hook_seconds - 2)) ]; then
      sleep 0.1
    elif [ -n "$held_since" ] && [ "$still_to_hold" -lt 40 ]; then
      # The last look, not long after the time is over.
      sleep "0.$((still_to_hold / 10))$((still_to_hold % 10))"
    else
      sleep 0.4
    fi
  done
}
