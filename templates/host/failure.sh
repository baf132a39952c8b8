# shellcheck shell=sh disable=SC2030,SC2031,SC2034,SC2154
# Phase `failure`: pre, unpacking or post failed, or the archive never came, so pre never ran. May find a full disk.
# Reads: consul_prefix, current_target, holder, kv_value, last_deployment, node, role, state, switch_deployment, undone,
#   wanted_deployment.
# Sets: deployment, incomplete, log, mine, proven, sentence, serving_now, verdict.

# The directory that we were started in may be gone already.
cd /

# stretcher logs the whole text of each command, and the manifest: that is left out.
log=$(without_texts)
exec </dev/null

# Prints this run's notes, without stretcher's time stamp.
print_notes() {
  printf '%s\n' "$log" |
    LC_ALL=C sed -n "s/^\\([0-9/]\\{10\\} [0-9:]\\{8\\} \\)\\{0,1\\}deploytool $deployment: //p"
}

last_note=$(print_notes | tail -n 1 | clean_lines)
verdict=${last_note%%: *}
sentence=${last_note#*: }
log=$(printf '%s\n' "$log" | tail -n 20 | clean_lines)
cause=$(printf '%s\n' "$log" | sed -n 's/^.* Deploy manifest failed: //p' | tail -n 1)

# leftover_is_over: whether the switch that read_switch found was cut off and nobody will finish it: it is another
# deployment's, and the one that is wanted here by now has been let go, so it can't be taken back any more.
leftover_is_over() {
  [ -n "$switch_deployment" ] && find_node && kv_list "$consul_prefix/wanted/$role" || return 1
  pick_wanted
  [ -n "$wanted_deployment" ] && [ "$wanted_deployment" != "$switch_deployment" ] || return 1
  wanted_go=$consul_prefix/deployments/$wanted_deployment/$role/go
  kv_list "$wanted_go" && kv_pick "$wanted_go" || return 1
  lets_go "$kv_value"
}

# In a subshell: it speaks in the other deployment's name.
undo_leftover() (
  deployment=$switch_deployment
  undo_switch
  sentence="the switch for $deployment was cut off, and $wanted_deployment is wanted by now; $undone"
  say "$sentence"
  report failed "$sentence" '' || return
  remove_unproven
  tell_serving "$serving_now" "$proven"
)

# mend_word: says again what this host should have said last, if Consul does not have it: stretcher was killed before it
# could speak, or Consul was away for too long.
mend_word() (
  read_last
  [ -n "$last_deployment" ] && find_node || return 0
  write_state node "$node" || :
  kv_list "$consul_prefix/serving/$role/$node" || return 0
  kv_pick "$consul_prefix/serving/$role/$node" || :
  case $kv_value in *"\"deployment\": \"$last_deployment\""*) return 0 ;; esac
  read_current && kv_list "$consul_prefix/wanted/$role" || return 0
  pick_wanted
  deployment=$last_deployment
  outcome=${state#* }
  last_release=${outcome#* }
  outcome=${outcome%% *}
  serving_now=${current_target##*/}
  proven=false
  case $outcome:$current_target in
    "verified:releases/$last_release") proven=true ;;
    *:-) serving_now= ;;
  esac
  # For a deployment that is over, nobody listens.
  if [ "$wanted_deployment" = "$deployment" ]; then
    case $outcome:$proven in
      verified:true) report verified "$last_release serves; the report was lost at first" '' || return ;;
      failed:*) report failed "failed after the switch; the report was lost, and its log with it" '' || return ;;
    esac
  fi
  tell_serving "$serving_now" "$proven" && say "said again, as it was lost: $last_deployment $outcome"
)

name_run
mine=no
# A directory that is another's stays as it is, even if it looks as if there were something to clean up.
if check_owner && take_lock 0; then
  mine=yes
fi

incomplete=
case $verdict in
  incomplete) verdict=failed incomplete=yes ;;
  '')
    # pre has said nothing, so it never came to judge.
    judge
    case $verdict in
      go | failed) verdict=failed sentence="${cause:-stretcher failed}" ;;
    esac
    ;;
  fetched | go | activated | verified)
    verdict=failed sentence="failed after it was $verdict: ${cause:-see the log}"
    ;;
esac

# Another stretcher may be at this very deployment: then it has the say.
case $mine:${holder-} in
  "no:"*":$deployment") verdict=not-meant sentence="another stretcher is at this deployment already" ;;
esac

if [ "$mine" = yes ]; then
  read_switch
  if [ "$switch_deployment" = "$deployment" ]; then
    undo_switch
    sentence="$sentence; $undone"
    verdict=failed incomplete=
  elif leftover_is_over; then
    undo_leftover || :
  fi
fi
