# shellcheck shell=sh disable=SC2034,SC2154
# Does the release that this host has verified still serve? Kept on the host with its kit, and run every minute by
# receive.sh, which gives the host's last word. Looks at processes and sockets, and asks nothing of the application but to
# take a connection. A release that has died is told; while its rollout is still open, the host goes back.
# Reads: clock, consul_prefix, current_target, doubt, heard_before, kit_text, kv_value, last_deployment, node, own,
#   owner_problem, proven, release, release_path, role, room, serving_now, verify_real.
# Sets: boot_seconds, deployment, holder, hook_seconds, restarted, stable_seconds, stamp, state, switch_deployment,
#   switch_previous, switch_release, undone, verify_command, verify_path, verify_url.

# For a restart of the application's own, which is no death.
look_seconds=${DEPLOYTOOL_LOOK_SECONDS:-10}
# How old the last word may become while all is well.
word_seconds=${DEPLOYTOOL_WORD_SECONDS:-300}

# rollout_is_open: whether the operator has let this host go and not yet all: so it is one of the first, and goes back.
rollout_is_open() {
  [ "$last_deployment" = "$deployment" ] && kv_list "$consul_prefix/wanted/$role" || return 1
  kv_pick "$consul_prefix/wanted/$role/$node" && [ "${kv_value%% *}" = "$deployment" ] || return 1
  if kv_pick "$consul_prefix/wanted/$role"; then
    is_before "${kv_value%% *}" "$deployment" || return 1
  fi
  look_go=$consul_prefix/deployments/$deployment/$role/go
  kv_list "$look_go" && kv_pick "$look_go" && [ "$kv_value" != "go all" ]
}

# boots_again: whether it is back after all, if the host would go back now: somebody may have restarted it, and it has twice
# the time for its start that it took when it was deployed.
boots_again() {
  read_kit boot_seconds 2>/dev/null || return 1
  boot_seconds=$((kit_text * 2))
  [ "$boot_seconds" -le "$all_seconds" ] || boot_seconds=$all_seconds
  [ "$boot_seconds" -gt "$look_seconds" ] && rollout_is_open || return 1
  hook_seconds=$boot_seconds
  verify_release
}

# go_back: to the release before, by its own kit; see undo_switch.
go_back() {
  read_kit previous || return 1
  switch_deployment=$deployment switch_release=$release switch_previous=$kit_text
  # If this is cut off, the next run of receive.sh finds it, and goes on.
  write_state switch "$deployment $release $switch_previous back" || return 1
  undo_switch
}

# In the words of the last deployment: it is the one that the last word is about.
has_died() {
  died="it was verified, and does not serve any more: $doubt"
  if rollout_is_open; then
    hook_seconds=$all_seconds
    go_back || undone="not undone: $room/switch or its kit can't be written or read"
    died="$died; $undone"
    say "$died"
    report failed "$died" ''
    rm -f -- "$room/lost"
    tell_serving "$serving_now" "$proven"
    return
  fi
  say "$died"
  write_state lost "$release" || return
  if [ "$last_deployment" = "$deployment" ]; then
    report failed "$died; not undone" ''
  fi
  (
    deployment=$last_deployment
    tell_serving "$release" false "$doubt"
  )
}

# The last word again, with the time of now.
serves_on() {
  deployment=$last_deployment
  tell_serving "$release" true && rm -f -- "$room/lost" && write_state looked "$clock"
}

# What is looked for from now on, if the release did not listen yet when it was proven: what its lasting processes listen
# on. What comes later than that may be a debugger's, and go again.
learn() {
  [ -z "$heard_before" ] || return 0
  # shellcheck disable=SC2046,SC2086
  read_listening "$verify_real" $(lasting $own)
  learned=$(heard_with 2 | while IFS= read -r learned_line; do
    ! is_fixed "$learned_line" || printf '%s\n' "$learned_line"
  done)
  [ -z "$learned" ] || { printf '%s' "$learned" >"$room/kit/listens.new" && mv -f -- "$room/kit/listens.new" "$room/kit/listens" && keep_listens; }
}

# is_still_so: takes the lock, unless anybody has been at work here since the look began: then it is about the past.
is_still_so() {
  take_lock 0 || return 1
  look_deployment=$last_deployment look_lost=$1
  read_switch
  [ "$last_deployment" = "$look_deployment" ] && [ -z "$switch_deployment" ] && [ ! -e "$room/drained" ] || return 1
  read_current && [ "$current_target" = "releases/$release" ] || return 1
  read_state lost
  [ "$state" = "$look_lost" ]
}

cd /
exec </dev/null
check_owner || {
  say "$owner_problem"
  exit 0
}
name_run
holder=$(readlink "$room/lock") && holder_lives "$holder" && exit 0
read_switch
if [ -n "$switch_deployment" ] || [ -e "$room/drained" ]; then exit 0; fi
read_current && [ "$current_target" = "releases/$release" ] && recall_node && take_kit "$current_target" || exit 0
read_state lost
case $1:$state in
  *'"verified": true'*) ;;
  *":$release") ;;
  # It was not verified before, whatever the reason: it is not for a look to say that it is.
  *) exit 0 ;;
esac
all_seconds=$hook_seconds
hook_seconds=$look_seconds stable_seconds=0 stamp=0 restarted=no verify_url='' verify_command=''
verify_path=$release_path
if verify_release; then
  learn
  was_lost=$state
  # The way back was cut off before it was told.
  case $1 in *"\"release\": \"$release\","*) ;; *) was_told=no ;; esac
  read_clock
  read_state looked
  case $state in '' | *[!0-9]*) state=-$word_seconds ;; esac
  if [ -n "$was_lost" ] || [ "${was_told-}" = no ] || [ $((clock - state)) -ge "$word_seconds" ] || [ "$state" -gt "$clock" ]; then
    is_still_so "$was_lost" && serves_on
  fi
elif [ "$state" != "$release" ] && ! boots_again; then
  is_still_so "$state" && has_died
fi
drop_lock
