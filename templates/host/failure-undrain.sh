# shellcheck shell=sh disable=SC2034,SC2154
# Phase `failure`, after an undo: a host that this run has drained, or one that was cut off, is brought back.
# Reads: current_target, hook_problem, last_deployment, mine, room, switch_deployment, undone.
# Sets: deployment, proven, sentence, stamp, verify_path.

# tell_drained VERIFIED: the host's last word once more, as what it says of the proof is not true any more. In a subshell:
# it speaks in the last deployment's name.
tell_drained() (
  read_last
  [ -n "$last_deployment" ] && find_node && read_current && [ "$current_target" != - ] || return 0
  deployment=$last_deployment
  tell_serving "${current_target##*/}" "$1"
)

# serves_still: whether what `current` points to is proven to serve. Restarts nothing.
serves_still() {
  read_current && [ "$current_target" != - ] || return 1
  verify_path=$(directory_of "$current_target")
  take_kit "$current_target" || :
  stamp=0
  verify_release
}

if [ "$mine" = yes ] && is_drained; then
  # In the host's last word nothing counts as proven that gets no traffic; `.told` is there once that was said.
  drained_told=no
  [ ! -e "$room/drained/.told" ] || drained_told=yes
  read_switch
  if [ -n "$switch_deployment" ]; then
    sentence="$sentence; still drained, as the switch for $switch_deployment is not over"
  elif undrain; then
    sentence="$sentence; undrained"
    if [ "$drained_told:${undone:+undone}" = yes: ] && serves_still; then
      tell_drained true || :
    fi
  else
    sentence="$sentence; NOT undrained, so it may get no traffic: $hook_problem"
    proven=false
    true >"$room/drained/.told" || :
    [ -n "${undone:+undone}" ] || tell_drained false || :
  fi
fi
