# shellcheck shell=sh disable=SC2154
# All hosts hold the archive before any host switches: wait for the operator's `go`.
# Reads: clock, consul_prefix, deployment, kv_problem, kv_value, role, silence_seconds, wanted_deployment.

# obey VALUE: succeeds if it lets this host go; leaves if it never will.
obey() {
  lets_go "$1" && return 0
  case $1 in
    abort) leave aborted "the operator has aborted this deployment" ;;
    "only "*) leave aborted "the rollout was stopped before it was this host's turn" ;;
  esac
  return 1
}

# is_news VALUE: whether it shows that the operator lives. Beats only count upwards, as a stale server may repeat old ones.
is_news() {
  case $1 in
    "wait "* | "go "*" +"*)
      beat_now=${1##* }
      beat_now=${beat_now#+}
      case $beat_now in '' | *[!0-9]*) return 1 ;; esac
      [ "$beat_now" -gt "$beat" ] || return 1
      beat=$beat_now
      ;;
    '') return 1 ;;
    *)
      [ "$1" != "$said" ] || return 1
      said=$1
      ;;
  esac
}

# last_word: the key once more, from Consul's leader. Succeeds on `go`; sets unheard to why the host may leave, empty if
# the operator has spoken meanwhile.
last_word() {
  unheard="nothing was heard from the operator for $silence_seconds s"
  if ! kv_list "$go_key"; then
    unheard="$unheard; Consul can't be asked: $kv_problem"
    return 1
  fi
  if ! kv_pick "$go_key"; then
    unheard="$unheard; there is no key $go_key, or this host's token may not read it (key_prefix read)"
    return 1
  fi
  obey "$kv_value" && return 0
  if is_news "$kv_value"; then
    unheard=
  fi
  return 1
}

barrier() {
  go_key=$consul_prefix/deployments/$deployment/$role/go
  beat=-1
  said=
  taken_back=
  read_clock
  heard=$clock
  asked=$clock
  bell=yes
  while :; do
    # Where there is no bell, hosts look again and again; not all in step: each has its own pause, of 0.40 to 0.59 s.
    if [ "$bell" = yes ] && kv_wait "$go_key" 2; then
      how=
    else
      bell=
      how=-stale
      sleep "0.$((40 + $$ % 20))"
    fi
    if kv_list "$go_key" "$how" && kv_pick "$go_key"; then
      obey "$kv_value" && return
      if is_news "$kv_value"; then
        read_clock
        heard=$clock
      fi
    fi
    read_clock
    if [ $((clock - heard)) -ge "$silence_seconds" ]; then
      last_word && return
      [ -z "$unheard" ] || leave aborted "$unheard"
      heard=$clock
    fi
    if [ $((clock - asked)) -ge 2 ]; then
      asked=$clock
      if kv_list "$consul_prefix/wanted/$role" -stale; then
        pick_wanted
        wanted_now=$wanted_deployment
        if [ -z "$wanted_now" ] || [ "$wanted_now" = "$deployment" ]; then
          taken_back=
        elif is_before "$deployment" "$wanted_now"; then
          last_word && return
          leave superseded "deployment $wanted_now is wanted by now"
        elif [ -z "$taken_back" ]; then
          # Or told so by a server that has just started, and shows the past until it has read its log.
          taken_back=$clock
        elif [ $((clock - taken_back)) -ge $((silence_seconds / 6)) ]; then
          last_word && return
          leave aborted "the operator has taken this deployment back; $wanted_now is wanted"
        fi
      fi
      # With stretcher gone nothing would unpack, nor undo.
      read_process "$PPID" || leave failed "stretcher has ended"
    fi
  done
}
