# shellcheck shell=sh disable=SC2010,SC2016,SC2034,SC2086,SC2154
# Proves that the running processes serve a release. What can't be read is not proven.
#
# verify_path is the release's directory; workers must be younger than stamp (0: age proves nothing here); heard_before is on
# what the processes of the release before listened, `SEEN ENDPOINT` a line: SEEN is 2 where those of two releases did.
# Reads: any_address, build_root, clock, clock_hundredths, current_path, deploy_to, elsewhere, found, hook_log, hook_seconds,
#   kit_text, listening, newline, process_start, process_state, release, restarted, revision, room, stable_seconds, stamp,
#   state, switch_previous, verify_as_before, verify_command, verify_expect, verify_path, verify_pid_file, verify_port,
#   verify_url.
# Sets: doubt, heard_before, own, strength, verify_real.

# read_foreign PID: sets foreign to the program or script that the process runs, if that is of another release or of a
# build: what it imports from there is not what is proven.
read_foreign() {
  foreign=$(
    {
      readlink "/proc/$1/exe"
      tr '\0' '\n' <"/proc/$1/cmdline" | sed -n -e '1p' -e '2,${' -e '/^\//{' -e 'p' -e 'q' -e '}' -e '/^[^-]/q' -e '}'
    } 2>/dev/null | while IFS= read -r run_path; do
      case $run_path in
        "$verify_real"/* | "$verify_path"/*) ;;
        "$releases_real"/* | "$deploy_to"/releases/* | "${build_root:-/nowhere}"/*)
          printf '%s\n' "$run_path"
          break
          ;;
      esac
    done
  )
  [ -n "$foreign" ]
}

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
      if [ "$process_start" -le "$stamp" ]; then
        doubt="process $1 runs since before the switch"
        return 1
      fi
      runs_only_this "$1" || return 1
      proof="$proof $1:$process_start"
      return 0
      ;;
  esac
  doubt="process $1 still runs in $worker_directory, not in $verify_real"
  return 1
}

# runs_only_this PID: fails, with doubt. Each is looked at once, and again at the end: what was a shell may run a program.
runs_only_this() {
  case $looked_at in *" $1:$process_start "*) return 0 ;; esac
  if read_foreign "$1"; then
    doubt="process $1 runs $foreign, which is not of this release: a reload that keeps its master keeps what that was started with; restart it, from $current_path"
    return 1
  fi
  looked_at="$looked_at$1:$process_start "
}

# Prints the children of a process that aren't just waiting to be reaped.
children_of() {
  parent=$1
  # A shell reads by the byte: the lines of others are left out by grep, which may let too many through.
  cat /proc/[0-9]*/stat 2>/dev/null | LC_ALL=C grep -a ") . $parent " | while IFS= read -r child_line; do
    child=${child_line%% *}
    # shellcheck disable=SC2086
    set -- ${child_line##*)}
    if [ "${2-}" = "$parent" ] && [ "$1" != Z ]; then
      printf '%s\n' "$child"
    fi
  done
}

# Sets master to the process that the pid file names. Fails, with doubt.
read_master() {
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
}

# A master may stay, as gunicorn's does on HUP: its workers count, and itself only if it has none.
pid_file_serves() {
  read_master || return 1
  workers=
  for worker in $(children_of "$master"); do
    is_helper "$worker" || workers="$workers $worker"
  done
  for worker in $workers; do
    # One that has ended meanwhile is judged by whether its like stay.
    worker_serves "$worker" || [ ! -d "/proc/$worker" ] || return 1
  done
  [ -n "$proof" ] || worker_serves "$master"
}

# is_helper PID: whether this child of a master that listens itself is another program, which it runs for a request, say.
is_helper() {
  helper_exe=$(readlink "/proc/$1/exe" 2>/dev/null) && master_exe=$(readlink "/proc/$master/exe" 2>/dev/null) || return 1
  [ "$helper_exe" != "$master_exe" ] || return 1
  read_listening "$verify_real" "$master"
  [ -n "$listening" ] || return 1
  # A worker has the master's socket, whichever program it is.
  master_listening=$listening
  read_listening "$verify_real" "$1"
  [ "$listening" != "$master_listening" ]
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
  fetched_body=$(http_by_bash "${fetch_host%:*}" "$fetch_port" "$fetch_path" 5)
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

# Sets own to the processes of the release that count: those in its directory, younger than the switch where something was
# restarted; and the master of the pid file, whose workers are proven.
find_own() {
  own=
  find_processes "$verify_real" "$releases_real"
  for own_pid in $found; do
    if read_process "$own_pid" && { [ "${restarted:-no}" = no ] || [ "$process_start" -gt "$stamp" ]; }; then
      own="$own $own_pid"
    fi
  done
  master_proof=
  if [ -n "$verify_pid_file" ]; then
    case "$own " in
      *" $master "*) read_process "$master" && master_proof=" $master:$process_start" ;;
    esac
    own="$own $master"
  fi
}

# sockets_serve: whether the release listens where it should, and takes connections. Sets listening and strength; fails,
# with doubt.
sockets_serve() {
  find_own
  read_listening "$verify_real" $own
  if [ -n "$listening" ] && [ -z "$verify_pid_file" ]; then
    for own_pid in $own; do
      if read_process "$own_pid"; then
        runs_only_this "$own_pid" || return 1
      fi
    done
  fi
  if [ -n "$verify_port" ]; then
    port_serves || return 1
    strength=listening
  elif [ -z "$verify_url" ] && [ "$verify_as_before" = yes ]; then
    as_before || return 1
  fi
  [ -n "$listening" ] || return 0
  sockets_left=$listening$newline
  while [ -n "$sockets_left" ]; do
    socket=${sockets_left%%"$newline"*}
    sockets_left=${sockets_left#*"$newline"}
    takes "$socket" || return 1
    case $socket in
      "unix @"*) ;;
      *) strength=listening ;;
    esac
  done
}

# takes ENDPOINT: asked once in a proof, and again at its end. Fails, with doubt.
takes() {
  case $newline$taken$newline in *"$newline$1$newline"*) return 0 ;; esac
  # What any program may have for itself, at a place that the kernel chose, is nobody's door.
  if is_fixed "1 $1" && ! accepts "$1" && ! took_since "$1"; then
    doubt="the release listens on $(endpoint_words "$1"), but takes no connection there: its workers are not up"
    return 1
  fi
  taken=$taken$1$newline
}

# is_fixed SEEN ENDPOINT: whether the endpoint was chosen by somebody, so that every release has it: a port that the kernel
# does not give away by itself, a socket in deploy_to; or one that two releases had.
is_fixed() {
  case $1 in
    "2 "*) return 0 ;;
    "1 unix current/"* | "1 unix $deploy_to/"*) return 0 ;;
    "1 unix "*) return 1 ;;
  esac
  # At once: a shell reads by the byte, and gets but one of this file.
  kernels_ports=$(cat /proc/sys/net/ipv4/ip_local_port_range) || return 0
  fixed_port=$((0x${1##*:}))
  [ "$fixed_port" -lt "${kernels_ports%%[!0-9]*}" ] || [ "$fixed_port" -gt "${kernels_ports##*[!0-9]}" ]
}

# as_before: whether it listens where the release before did. Fails, with doubt.
as_before() {
  before_left=$heard_before${heard_before:+$newline}
  while [ -n "$before_left" ]; do
    before=${before_left%%"$newline"*}
    before_left=${before_left#*"$newline"}
    is_fixed "$before" || continue
    covered "${before#* }" "$listening" || others_serve "${before#* }" "the release before listened on" || return 1
  done
  [ "$random_before" = yes ] || return 0
  case $listening in *tcp*) return 0 ;; esac
  doubt="the release before listened on $(all_words "$(printf '%s\n' "$heard_before" | sed 's/^[0-9] //')"), and none of the processes of this one listens${own:+ ($own)}"
  [ -n "$verify_pid_file" ] || [ -n "$own" ] || doubt="$doubt; no process has its working directory there"
  doubt="$doubt; $as_before_hint"
  return 1
}
as_before_hint="if that is meant, say where it listens with verify.port or verify.url, or set verify.as_before: false"

# port_serves: whether verify_port is listened on by the release, or by somebody who is no other release. Fails, with doubt.
port_serves() {
  port_hexadecimal=$(printf '%04X' "$verify_port")
  case $newline$listening$newline in *":$port_hexadecimal$newline"*) return 0 ;; esac
  others_serve "tcp $any_address:$port_hexadecimal" "nothing of the release listens on"
}

# others_serve ENDPOINT WORDS: whether a program outside of all releases takes connections there, as systemd does for a
# socket unit, or a proxy in front of a container. Fails, with doubt, which begins with WORDS.
others_serve() {
  doubt="$2 $(endpoint_words "$1")"
  others=$(
    listeners_near $$ | while read -r other_inode other_endpoint; do
      case $other_endpoint in
        "$1") ;;
        "tcp"*":${1##*:}") [ -n "$verify_port" ] || covered "$1" "$other_endpoint" || continue ;;
        *) continue ;;
      esac
      printf '%s %s\n' "$other_inode" "$other_endpoint"
    done
  )
  if [ -z "$others" ]; then
    doubt="$doubt, and nobody listens there now"
    [ -n "$verify_port" ] || doubt="$doubt; $as_before_hint"
    return 1
  fi
  others_left=$others$newline
  while [ -n "$others_left" ]; do
    other=${others_left%%"$newline"*}
    others_left=${others_left#*"$newline"}
    other_pids=$(holders_of "${other%% *}")
    if [ -z "$other_pids" ]; then
      doubt="$doubt; who listens there can't be seen by $(id -un): run stretcher as root or as the application's user, or use verify.url"
      return 1
    fi
    for other_pid in $other_pids; do
      other_place=$(readlink "/proc/$other_pid/cwd") || other_place=
      case $other_place in
        "$verify_real" | "$verify_real"/*) other_place="$other_place, since before the switch" ;;
        "$releases_real"/*) ;;
        *)
          other_place=$(readlink "/proc/$other_pid/exe") || other_place=
          case $other_place in "$releases_real"/*) ;; *) continue ;; esac
          ;;
      esac
      doubt="$doubt; process $other_pid of $other_place has it"
      return 1
    done
  done
  if ! accepts "${other#* }"; then
    doubt="$doubt; process $other_pid listens there, and takes no connection"
    return 1
  fi
}

# hear_before: sets heard_before to what the release that serves listens on now and did when it was proven, or to what it did
# then, if nothing of it listens any more; what is not known from then, to what its lasting processes listen on now. Sets
# random_before to yes if it has a port that the kernel has chosen, and had one then: one for a job is soon gone. Called
# right before a switch. Of a release that comes back it is asked what it did when it was verified here, whatever others did.
hear_before() {
  heard_before=
  random_before=no
  [ "$switch_previous" != - ] || return 0
  if grep -qxF "$release" "$room/verified" 2>/dev/null && heard_before=$(cat -- "$room/listens/$release" 2>/dev/null) &&
    [ -n "$heard_before" ]; then
    return 0
  fi
  heard_before=
  read_state kit/target
  if [ "$state" = "$switch_previous" ] && [ -s "$room/kit/listens" ] && read_kit listens; then
    heard_before=$kit_text
  fi
  before_real=$(cd -P -- "$(directory_of "$switch_previous")" 2>/dev/null && pwd -P) || return 0
  master=
  if [ -n "$verify_pid_file" ]; then
    read_master || master=
  fi
  find_processes "$before_real" "$before_real"
  before_pids="$found $master"
  # shellcheck disable=SC2046
  if [ -z "$heard_before" ]; then
    read_listening "$before_real" $(lasting $before_pids)
    [ -z "$listening" ] || heard_before=$(heard_with 2)
    # For the day when it comes back: when it was proven, it did not listen yet.
    case $switch_previous:$heard_before in
      *:) ;;
      releases/*) mkdir -p -- "$room/listens" && printf '%s' "$heard_before" >"$room/listens/${switch_previous#releases/}" ;;
    esac
    return 0
  fi
  read_listening "$before_real" $before_pids
  if [ -n "$listening" ] && has_random "$heard_before" && has_random "$(heard_with 2)"; then
    random_before=yes
  fi
  heard_both=$(printf '%s\n' "$heard_before" | while IFS= read -r both_line; do
    case $newline$listening$newline in *"$newline${both_line#* }$newline"*) printf '%s\n' "$both_line" ;; esac
  done)
  heard_before=${heard_both:-$heard_before}
}

# has_random LINES: whether there is a port of TCP in LINES that nobody has chosen.
has_random() (
  random_left=$1$newline
  while [ -n "$random_left" ]; do
    random_line=${random_left%%"$newline"*}
    random_left=${random_left#*"$newline"}
    case $random_line in *" tcp"*) is_fixed "$random_line" || exit 0 ;; esac
  done
  exit 1
)

# old_sentence: prints a sentence on processes of other releases that run still; nothing if there are none. Called when the
# release is proven. A daemon may have left the directory, and another user's can't be read: those name their program.
old_sentence() {
  find_processes "$verify_real" "$releases_real"
  old_list=$(
    {
      printf '%s' "$elsewhere"
      LC_ALL=C grep -alF -e "$releases_real/" -e "$deploy_to/releases/" /proc/[0-9]*/cmdline 2>/dev/null |
        while IFS=/ read -r _ _ old_pid _; do
          ! read_foreign "$old_pid" || printf '%s %s\n' "$old_pid" "$foreign"
        done
    } | while read -r old_pid old_place; do
      old_place=${old_place#"$releases_real"/}
      old_place=${old_place#"$deploy_to"/releases/}
      old_place=${old_place#.discarded-}
      case $old_place in
        /*) ;;
        *) printf '%s of %s\n' "$old_pid" "${old_place%%[/ ]*}" ;;
      esac
    done | sort -u | tr '\n' ',' | sed -e 's/,$//' -e 's/,/, /g'
  )
  [ -z "$old_list" ] || printf 'processes of other releases still run: %s' "$old_list" | cut -b 1-300
}

# Everything at once, once. Sets proof to the workers seen, listening, and strength; fails, with doubt.
holds_now() {
  proof=
  strength='link'
  if [ -z "$verify_pid_file$verify_port$verify_url$verify_command" ]; then
    if [ "$(cd -P -- "$current_path" && pwd -P)" != "$verify_real" ]; then
      doubt="$current_path does not point to $verify_path"
      return 1
    fi
  fi
  if [ -n "$verify_pid_file" ]; then
    pid_file_serves || return 1
    strength=process
  fi
  sockets_serve || return 1
  # Whoever listens nowhere may have a child for each job: it is the release's own, and that it stays is what counts.
  [ -n "$listening" ] || proof=${master_proof:-$proof}
  if [ -n "$verify_command" ]; then
    command_serves || return 1
    [ "$strength" = listening ] || strength='command'
  fi
  if [ -n "$verify_url" ]; then
    url_serves || return 1
    strength=answers
    case $verify_expect in *"$release"* | *"$revision"*) strength=revision ;; esac
  fi
}

# still_there OLD NEW: whether each worker of OLD is in NEW, or was replaced after it had lived for stable_seconds, as
# workers are that end after so many requests. One that starts and dies is no proof.
still_there() {
  for seen in $1; do
    case " $2 " in
      *" $seen "*) ;;
      *) [ $((clock_hundredths - ${seen#*:})) -ge $((stable_seconds * 100)) ] || return 1 ;;
    esac
  done
}

# verify_release: tried until it holds, for hook_seconds, and held for stable_seconds. Fails, with doubt.
verify_release() {
  verify_real=$(cd -P -- "$verify_path" && pwd -P) || {
    doubt="there is no $verify_path"
    return 1
  }
  releases_real=$(cd -P -- "$deploy_to/releases" 2>/dev/null && pwd -P) || releases_real=$deploy_to/releases
  read_clock
  verify_deadline=$((clock + hook_seconds))
  held_since=
  held=
  looked_at=' '
  taken=
  took_first=
  while :; do
    if holds_now; then
      read_clock
      if [ -z "$held_since" ] || ! still_there "$held" "$proof"; then
        # A proof that keeps breaking is none.
        if [ -n "$held_since" ] && [ "$clock" -gt "$verify_deadline" ]; then
          doubt="the workers do not stay: $held, then $proof"
          return 1
        fi
        held_since=$clock_hundredths
        [ -z "$held" ] || taken=
      fi
      held=$proof
      still_to_hold=$((held_since + stable_seconds * 100 - clock_hundredths))
      [ "$still_to_hold" -gt 0 ] || return 0
    else
      held_since=
      held=
      taken=
      read_clock
      [ "$clock" -le "$verify_deadline" ] || return 1
    fi
    # Most restarts take less than a second or much longer.
    if [ -z "$held_since" ] && [ $((verify_deadline - clock)) -ge $((hook_seconds - 2)) ]; then
      sleep 0.1
    elif [ -n "$held_since" ] && [ "$still_to_hold" -lt 40 ]; then
      # The last look, not long after the time is over; at everything.
      taken='' looked_at=' '
      sleep "0.$((still_to_hold / 10))$((still_to_hold % 10))"
    else
      sleep 0.4
    fi
  done
}
