# shellcheck shell=sh disable=SC2034,SC2154
# Takes this host out of traffic for a switch, and brings it back. Before `drain` begins, `undrain` is written down, in
# drained/<deployment>/, a file for each command: whatever cuts this run off, whoever comes next brings the host back, by
# the commands that belong to what was done.
# Reads: deploy_to, deployment, room.
# Sets: hook_directory, hook_problem.

# drain: fails, with hook_problem.
drain() {
  if ! keep_undrain; then
    hook_problem="$room/drained can't be written, so nothing was drained"
    return 1
  fi
  hook_directory=$deploy_to
  drain_commands run_hook
}

keep_undrain() {
  rm -rf -- "$room/drained.new" "$room/drained/$deployment" &&
    mkdir -p -- "$room/drained" "$room/drained.new" &&
    undrain_count=1000 &&
    undrain_commands keep_undrain_command &&
    mv -T -- "$room/drained.new" "$room/drained/$deployment" || return 1
  # It must be there after a power cut, too: a load balancer does not forget.
  sync -f "$room/drained" 2>/dev/null || :
}

# In the order of their numbers, which have as many digits each; the label says which setting it is.
keep_undrain_command() {
  undrain_count=$((undrain_count + 1))
  printf '%s' "$2" >"$room/drained.new/$undrain_count.$1"
}

is_drained() {
  [ -e "$room/drained" ]
}

# undrain: whatever was drained here, by this deployment or by one that was cut off. Fails, with hook_problem; what was
# not brought back stays written down.
undrain() {
  is_drained || return 0
  hook_directory=$deploy_to
  undrain_status=0
  for drained in "$room"/drained/*; do
    [ -d "$drained" ] || continue
    if undrain_by "$drained"; then
      rm -rf -- "$drained"
    else
      undrain_status=1
    fi
  done
  [ "$undrain_status" -eq 0 ] || return 1
  rm -rf -- "$room/drained"
}

# undrain_by DIRECTORY: by the commands in it. The dot keeps trailing line breaks.
undrain_by() {
  for undrain_file in "$1"/*; do
    [ -f "$undrain_file" ] || continue
    if ! undrain_text=$(cat -- "$undrain_file" && printf .); then
      hook_problem="$undrain_file can't be read"
      return 1
    fi
    undrain_label=${undrain_file##*/}
    run_hook "${undrain_label#*.}" "${undrain_text%.}" || return 1
  done
}
