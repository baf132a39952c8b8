# shellcheck shell=sh disable=SC2010,SC2012,SC2016,SC2034,SC2086,SC2154
# What processes listen on, from /proc alone.
#
# An endpoint is `tcp ADDRESS:PORT` or `tcp6 ADDRESS:PORT` in the hexadecimal digits of /proc/net, or `unix PATH`, in which
# `current/` stands for the directory of the release. In another network namespace than ours it is `tcp-away …` and so on.
# Reads: newline, own, verify_real.
# Sets: any_address, elsewhere, found, listening.

any_address=00000000
any_address6=00000000000000000000000000000000

# find_processes DIRECTORY RELEASES: sets found to the pids of all whose working directory or executable lies in DIRECTORY,
# and elsewhere, lines of `PID PLACE`, to those of other directories in RELEASES.
find_processes() {
  found=' '
  elsewhere=
  places=$(ls -ld /proc/[0-9]*/cwd /proc/[0-9]*/exe 2>/dev/null | LC_ALL=C grep -aF -e " -> $1" -e " -> $2/") || return 0
  while IFS= read -r place; do
    place_pid=${place#* /proc/}
    place_pid=${place_pid%%/*}
    place=${place#* -> }
    case $place in
      "$1" | "$1"/*) case $found in *" $place_pid "*) ;; *) found="$found$place_pid " ;; esac ;;
      "$2"/*) elsewhere="$elsewhere$place_pid $place$newline" ;;
    esac
  done <<EOF
$places
EOF
}

# lasting PID...: prints those of these that have run since about when the first of them started, and no person's at a
# terminal. What another one listens on may be for a job, a debugger or a console, and go with it.
lasting() {
  first_start=
  lasting_list=
  for lasting_pid; do
    lasting_line=$(cat "/proc/$lasting_pid/stat" 2>/dev/null) || continue
    # shellcheck disable=SC2086
    set -- ${lasting_line##*)}
    if [ $# -ge 20 ] && [ "$5" -eq 0 ]; then
      lasting_list="$lasting_list $lasting_pid:${20}"
      if [ -z "$first_start" ] || [ "${20}" -lt "$first_start" ]; then first_start=${20}; fi
    fi
  done
  for lasting_pid in $lasting_list; do
    [ $((${lasting_pid#*:} - first_start)) -gt 6000 ] || printf '%s\n' "${lasting_pid%:*}"
  done
}

# sockets_of PID...: prints the inodes of the sockets that these hold.
sockets_of() {
  held_by=
  for held_pid; do
    held_by="$held_by /proc/$held_pid/fd"
  done
  [ -z "$held_by" ] || ls -l $held_by 2>/dev/null | sed -n 's/^.* -> socket:\[\([0-9]*\)\]$/\1/p'
}

# listeners_near PID...: prints `INODE ENDPOINT` for all that listens in the network namespaces of these processes.
listeners_near() {
  near_pids=$(
    near_seen=' '
    for near_pid; do
      near_space=$(readlink "/proc/$near_pid/ns/net" 2>/dev/null) || continue
      case $near_seen in *" $near_space "*) continue ;; esac
      near_seen="$near_seen$near_space "
      printf '%s\n' "$near_pid"
    done
  )
  for near_pid in $near_pids; do
    near_away=
    [ "/proc/$near_pid/ns/net" -ef /proc/self/ns/net ] || near_away=-away
    cat "/proc/$near_pid/net/tcp" "/proc/$near_pid/net/tcp6" 2>/dev/null | grep ' 0A ' |
      while read -r _ near_local _ _ _ _ _ _ _ near_inode _; do
        case $near_local in
          ????????:*) printf '%s tcp%s %s\n' "$near_inode" "$near_away" "$near_local" ;;
          *) printf '%s tcp6%s %s\n' "$near_inode" "$near_away" "$near_local" ;;
        esac
      done
    LC_ALL=C grep -a ' 00010000 0001 ' "/proc/$near_pid/net/unix" 2>/dev/null |
      while read -r _ _ _ _ _ _ near_inode near_path; do
        case $near_path in
          '') ;;
          *) printf '%s unix%s %s\n' "$near_inode" "$near_away" "$near_path" ;;
        esac
      done
  done
}

# read_listening DIRECTORY PID...: sets listening to the endpoints, a line each, on which these processes of the release in
# DIRECTORY listen.
read_listening() {
  listening=
  listening_directory=$1
  shift
  [ $# -gt 0 ] || return 0
  listening_inodes=$newline$(sockets_of "$@")$newline
  [ "$listening_inodes" != "$newline$newline" ] || return 0
  nearby=$(listeners_near "$@")
  listening=$(
    printf '%s\n' "$nearby" | while IFS= read -r near_line; do
      case $listening_inodes in
        *"$newline${near_line%% *}$newline"*)
          near_line=${near_line#* }
          case $near_line in
            "unix $listening_directory/"*) printf 'unix current/%s\n' "${near_line#"unix $listening_directory/"}" ;;
            *) printf '%s\n' "$near_line" ;;
          esac
          ;;
      esac
    done | sort -u
  )
}

# covered ENDPOINT LINES: whether one of the endpoints in LINES takes what comes for ENDPOINT.
covered() {
  covered_port=${1##*:}
  case $newline$2$newline in *"$newline$1$newline"*) return 0 ;; esac
  case $1 in
    "tcp "*)
      case $newline$2$newline in
        *"${newline}tcp $any_address:$covered_port$newline"* | *"${newline}tcp6 $any_address6:$covered_port$newline"*) return 0 ;;
      esac
      ;;
    "tcp6 "*)
      case $newline$2$newline in *"${newline}tcp6 $any_address6:$covered_port$newline"*) return 0 ;; esac
      ;;
  esac
  return 1
}

# read_address ENDPOINT: sets address and port, as people and /proc/sys know them; the wildcard is this machine.
read_address() {
  address=${1#* }
  port=$((0x${address##*:}))
  address=${address%:*}
  case $address in
    "$any_address") address=127.0.0.1 ;;
    "$any_address6" | 00000000000000000000000001000000) address=::1 ;;
    ????????)
      # Four bytes, the last one first.
      address=$(printf '%s' "$address" | sed 's/\(..\)\(..\)\(..\)\(..\)/0x\4 0x\3 0x\2 0x\1/')
      address=$(printf '%d.%d.%d.%d' $address)
      ;;
    *) address=$(printf '%s' "$address" | sed -e 's/\(..\)\(..\)\(..\)\(..\)/\4\3:\2\1:/g' -e 's/:$//') ;;
  esac
}

# endpoint_words ENDPOINT: prints it for people.
endpoint_words() {
  case $1 in
    "unix "*) printf '%s' "${1#unix }" ;;
    *" $any_address:"* | *" $any_address6:"*) printf 'port %d' "$((0x${1##*:}))" ;;
    *)
      read_address "$1"
      case $address in *:*) address="[$address]" ;; esac
      printf '%s:%d' "$address" "$port"
      ;;
  esac
}

# all_words LINES: prints the endpoints for people.
all_words() {
  printf '%s\n' "$1" | while IFS= read -r word_line; do
    [ -z "$word_line" ] || printf '%s, ' "$(endpoint_words "$word_line")"
  done | sed 's/, $//'
}

# accepts ENDPOINT: whether a connection to it is taken by a program, and not just kept in the kernel's queue, as with a
# master that listens while its workers don't come up. Succeeds where it can't be tried.
accepts() {
  case $1 in
    "unix @"* | *-away\ *) return 0 ;;
    "unix current/"*) unix_accepts "$verify_real/${1#unix current/}" ;;
    "unix /"*) unix_accepts "${1#unix }" ;;
    "unix "*) return 0 ;;
    *) tcp_accepts "$1" ;;
  esac
}

# A connection that waits in the queue is in /proc/net/tcp without an inode; one that a program has taken and closed waits
# for us to close it, too (08), while what nobody took ends with a reset. Some servers take one only when its first bytes
# have come: the end of an empty line harms none. A busy server has many lines there, and bash reads slowly: grep picks ours.
tcp_accepts() {
  command -v bash >/dev/null 2>&1 || return 0
  read_address "$1"
  timeout 5 bash -c '
    exec 3<>"/dev/tcp/$0/$1" || { [ "$0" = ::1 ] && exec 3<>"/dev/tcp/127.0.0.1/$1"; } || exit 1
    mine=$(readlink "/proc/$$/fd/3")
    mine=${mine#socket:?}
    mine=${mine%?}
    near= far=
    while read -r _ here there _ _ _ _ _ _ inode _; do
      if [ "$inode" = "$mine" ]; then near=$here far=$there; fi
    done <<<"$(grep -hi ":$2 [^ ]* .* $mine " /proc/net/tcp /proc/net/tcp6 2>/dev/null)"
    [ -n "$near" ] || exit 0
    for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
      ours=
      while read -r _ here there state _ _ _ _ _ inode _; do
        if [ "$inode" = "$mine" ]; then
          ours=$state
        elif [ "$state" = 01 ] && [ "$inode" != 0 ]; then
          exit 0
        fi
      done <<<"$(grep -h -e "$far [0-9A-F]*$near " -e " $near $far " /proc/net/tcp /proc/net/tcp6 2>/dev/null)"
      case $ours in "" | 08) exit 0 ;; esac
      [ "$try" != 8 ] || printf "\r\n" >&3
      sleep 0.1
    done
    exit 1
  ' "$address" "$port" "${1##*:}" 2>/dev/null
}

# took_since ENDPOINT: whether the processes in own have taken a connection there since this was first asked
# in a proof: a server with a queue is busy, and not down.
took_since() {
  took_now=$(connections_at "$1")
  case $newline$took_first in
    *"$newline$1="*) ;;
    *)
      took_first="$took_first$1=$(printf '%s' "$took_now" | tr '\n' ' ')$newline"
      return 1
      ;;
  esac
  took_then=$newline$took_first
  took_then=${took_then#*"$newline$1="}
  took_then=$(printf '%s' "${took_then%%"$newline"*}" | tr ' ' '\n')
  # Each of then is there twice, so that only a new one is there once.
  printf '%s\n' "$took_then" "$took_then" "$took_now" | sort | uniq -u | grep -q .
}

# connections_at ENDPOINT: prints the inodes of the connections there that the processes in own have taken.
connections_at() {
  {
    case $1 in
      "unix "*)
        at_path=${1#unix }
        case $at_path in current/*) at_path=$listening_directory/${at_path#current/} ;; esac
        LC_ALL=C grep -a ' 00000000 0001 03 ' /proc/net/unix | LC_ALL=C grep -aF -- " $at_path" |
          sed -n 's/^.* 0001 03  *\([0-9]*\) .*$/\1/p'
        ;;
      *)
        cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
          sed -n "s/^ *[0-9]*: [0-9A-F]*:${1##*:} [0-9A-F:]* 01 \([^ ]*  *\)\{5\}\([0-9]*\) .*\$/\2/p"
        ;;
    esac | sort -u
    sockets_of $own | sort -u
  } | sort | uniq -d | grep .
}

# unix_accepts PATH: the same, as far as curl is there to connect.
unix_accepts() {
  command -v curl >/dev/null 2>&1 || return 0
  # Another listener may have had this path before, with a queue of its own that nobody takes.
  unix_before=$(unix_ends "$1") unix_queue=$(unix_waiting "$1")
  curl -q -s --unix-socket "$1" --max-time 3 telnet://localhost </dev/null >/dev/null 2>&1 &
  unix_client=$!
  unix_status=1
  for unix_try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
    # It was taken and closed again; or it is there, and no more wait than before.
    if ! kill -0 "$unix_client" 2>/dev/null; then
      wait "$unix_client" && unix_status=0
      break
    fi
    if [ "$(unix_ends "$1")" -gt "$unix_before" ] && [ "$(unix_waiting "$1")" -le "$unix_queue" ]; then
      unix_status=0
      break
    fi
    sleep 0.1
  done
  kill "$unix_client" 2>/dev/null
  wait "$unix_client" 2>/dev/null
  return "$unix_status"
}

# How many connections to PATH there are, and how many of them nobody has taken.
unix_ends() {
  LC_ALL=C grep -a ' 00000000 0001 ' /proc/net/unix | LC_ALL=C grep -acF -- " $1"
}
unix_waiting() {
  LC_ALL=C grep -a ' 00000000 0001 02  *0 ' /proc/net/unix | LC_ALL=C grep -acF -- " $1"
}

# holders_of INODE: prints the pids of those that hold the socket, as far as we may see that.
holders_of() {
  ls -l /proc/[0-9]*/fd 2>/dev/null | grep -e '^/proc/' -e " -> socket:\[$1\]\$" |
    while IFS= read -r holder_line; do
      case $holder_line in
        /proc/*)
          holder_seen=${holder_line#/proc/}
          holder_seen=${holder_seen%%/*}
          ;;
        *) printf '%s\n' "$holder_seen" ;;
      esac
    done
}
