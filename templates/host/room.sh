# shellcheck shell=sh disable=SC2034,SC2154
# The host's own directory below deploy_to: who owns deploy_to, what was done last, and the switch that is under way. Files:
# owner, node, lock, last, switch, verified, unremoved, tried and rung (receive.sh), kit/, drained/, log/.
# Reads: application, deploy_to, environment, role, shared_path, strict_problem.
# Sets: last_deployment, node, owner_problem, room, state, switch_back, switch_deployment, switch_previous, switch_release.

room=$deploy_to/.deploytool

make_room() {
  mkdir -p -- "$deploy_to/incoming" "$deploy_to/releases" "$shared_path" "$room/log"
}

# write_state NAME TEXT: all or nothing, also if the power fails.
write_state() {
  printf '%s\n' "$2" >"$room/$1.new" || return 1
  sync "$room/$1.new" 2>/dev/null || :
  mv -f -- "$room/$1.new" "$room/$1"
}

# read_state NAME: sets state to the file's line, empty if there is none.
read_state() {
  state=
  if [ -f "$room/$1" ]; then
    IFS= read -r state <"$room/$1" || :
  fi
}

# Sets node to what `pre` has found and kept in this very run.
recall_node() {
  read_state node
  node=$state
  [ -n "$node" ] || find_node
}

# read_switch: sets switch_deployment, switch_release and switch_previous (the target of `current` before the switch, or
# `-`). All are empty if no switch is under way; a record of the
# last deployment is over, only its removal was cut off; unless it is of the way back, when a release has died later: then
# switch_back is yes.
read_switch() {
  read_last
  read_state switch
  switch_back=no
  if [ "${state% back}" != "$state" ]; then
    switch_back=yes
    state=${state% back}
  elif [ -n "$last_deployment" ] && [ "${state%% *}" = "$last_deployment" ]; then
    rm -f -- "$room/switch"
    state=
  fi
  switch_deployment=${state%% *}
  switch_release=${state#* }
  switch_previous=${switch_release#* }
  switch_release=${switch_release%% *}
}

# read_last: sets last_deployment, the last one for which this host switched `current`, whatever came of it.
read_last() {
  read_state last
  last_deployment=${state%% *}
}

# is_before A B: whether A is the older of two ids; in bytes, whatever the host's language.
is_before() {
  LC_ALL=C expr "x$1" '<' "x$2" >/dev/null
}

# Sets owner_problem if deploy_to belongs to another application, environment or role, or others can change what is run
# from there: then nothing of it is read or run.
check_owner() {
  owner_problem=
  if ! is_strict; then
    owner_problem=$strict_problem
    return 1
  fi
  read_state owner
  if [ -n "$state" ] && [ "$state" != "$application $environment $role" ]; then
    owner_problem="$deploy_to belongs to '$state' (application, environment, role), not to '$application $environment $role'; give each its own deploy_to"
    return 1
  fi
}
