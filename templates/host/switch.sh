# shellcheck shell=sh disable=SC2034,SC2154
# `current`: pointing it to a release, and back.
# Reads: boot_seconds, current_path, deploy_to, doubt, hook_problem, listening, newline, notes, release, room, state,
#   strength, switch_deployment, switch_previous, switch_release, verify_settings.
# Sets: current_problem, current_target, heard_before, hook_directory, kit_text, proven, restarted, serving_now, stamp,
#   undone, verify_as_before, verify_expect, verify_path, verify_port.

# point_current TARGET: at once, so that no request ever finds nothing.
point_current() {
  ln -sfT -- "$1" "$room/current.new" && mv -fT -- "$room/current.new" "$current_path"
}

# Sets current_target to where `current` points, `-` if there is none. Fails if it is no link.
read_current() {
  current_target=-
  if [ -L "$current_path" ]; then
    current_target=$(readlink "$current_path")
  elif [ -e "$current_path" ]; then
    current_problem="$current_path is a directory or a file, not a link to a release; move it away"
    return 1
  fi
}

# directory_of TARGET: prints the directory that a target of `current` means.
directory_of() {
  case $1 in
    /*) printf '%s\n' "$1" ;;
    *) printf '%s\n' "$deploy_to/$1" ;;
  esac
}

# What proves the release that serves, as its own deployment said it: kept, because an undo has to restart and prove that
# release, not the new one. A file per text, so that nothing needs quoting. The kit of the release before is kept beside it,
# for a release that dies after its proof.
keep_kit() {
  [ ! -e "$room/kit.new" ] || rm -rf -- "$room/kit.new"
  mkdir -- "$room/kit.new" &&
    printf '%s' "releases/$release" >"$room/kit.new/target" &&
    printf '%s' "$switch_previous" >"$room/kit.new/previous" &&
    keep_proof &&
    printf '%s' "$(heard_with 12)" >"$room/kit.new/listens" &&
    printf '%s' "$strength" >"$room/kit.new/proof" &&
    printf '%s' "$notes" >"$room/kit.new/notes" &&
    printf '%s' "$boot_seconds" >"$room/kit.new/boot_seconds" &&
    kit_count=1000 &&
    restart_commands keep_restart &&
    put_kit
}

# What `verify` asks for, a file for each setting.
keep_proof() {
  for kit_name in $verify_settings; do
    eval "kit_text=\$$kit_name"
    printf '%s' "$kit_text" >"$room/kit.new/${kit_name#verify_}" || return 1
  done
}

# In place of the one before, which stays as `kit.before` if it is another release's.
put_kit() {
  read_state kit/target
  if [ "$state" = "releases/$release" ]; then
    rm -rf -- "$room/kit"
  else
    rm -rf -- "$room/kit.before"
    if [ -d "$room/kit" ]; then
      mv -T -- "$room/kit" "$room/kit.before" || return 1
    fi
  fi
  mv -T -- "$room/kit.new" "$room/kit"
}

# keep_listens: beside the release, for the day when it comes back; see hear_before.
keep_listens() {
  if [ -s "$room/kit/listens" ]; then
    mkdir -p -- "$room/listens" && cp -- "$room/kit/listens" "$room/listens/$release" && return
  fi
  [ ! -e "$room/listens/$release" ] || rm -f -- "$room/listens/$release"
}

# heard_with NUMBERS: prints listening as heard_before is written: a 2 before what that has with one of these digits, else a
# 1. So `2` keeps what is known of the same release, and `12` counts another one.
heard_with() {
  [ -z "$listening" ] || printf '%s\n' "$listening" | while IFS= read -r with_endpoint; do
    case $newline$heard_before$newline in
      *"$newline"[$1]" $with_endpoint$newline"*) printf '2 %s\n' "$with_endpoint" ;;
      *) printf '1 %s\n' "$with_endpoint" ;;
    esac
  done
}

keep_restart() {
  kit_count=$((kit_count + 1))
  printf '%s' "$2" >"$room/kit.new/restart.$kit_count"
}

# read_kit NAME: sets kit_text. The dot keeps trailing line breaks.
read_kit() {
  kit_text=$(cat -- "$room/kit/$1" && printf .) || return 1
  kit_text=${kit_text%.}
}

# bring_kit TARGET: where that release was the one before, its kit takes the place of the one that has died.
bring_kit() {
  read_state kit/target
  [ "$state" != "$1" ] || return 0
  read_state kit.before/target
  [ "$state" = "$1" ] || return 0
  rm -rf -- "$room/kit" && mv -T -- "$room/kit.before" "$room/kit"
}

# take_kit TARGET: sets the proof to the kept one of that release. Without one, as after another tool's release: our own
# proof as far as it says nothing about our release.
take_kit() {
  if read_kit target 2>/dev/null && [ "$kit_text" = "$1" ]; then
    # A kit of a version before lacks what was added since.
    heard_before='' random_before=no
    for kit_name in $verify_settings; do
      read_kit "${kit_name#verify_}" 2>/dev/null || kit_text=''
      eval "$kit_name=\$kit_text"
    done
    verify_as_before=${verify_as_before:-yes}
    read_kit listens 2>/dev/null && heard_before=$kit_text
    return 0
  fi
  verify_expect='' verify_port='' heard_before='' random_before=no
  return 1
}

# Restarts by the kept commands of the release that `current` points to again; by our own if there are none.
restart_kept() {
  if [ "$kit_kept" = no ]; then
    restart_commands run_restart
    return
  fi
  for kit_file in "$room"/kit/restart.*; do
    [ -f "$kit_file" ] || continue
    read_kit "${kit_file##*/}" && run_restart "restart of the previous release" "$kit_text" || return 1
  done
}

run_restart() {
  restarted=yes
  run_hook "$1" "$2"
}

# undo_switch: for the switch that read_switch found. Sets undone, a sentence, and serving_now and proven for the host's
# last word. Leaves the record in place if `current` could not be put back, for the next run or the boot unit.
undo_switch() {
  proven=false
  serving_now=$switch_release
  if ! read_current; then
    undone="not undone: $current_problem"
    return
  fi
  if [ "$current_target" != "releases/$switch_release" ] && [ "$current_target" != "$switch_previous" ]; then
    serving_now=${current_target##*/}
    undone="not undone: somebody has pointed $current_path to $current_target meanwhile"
    finish_switch failed
    return
  fi
  if [ "$switch_previous" = - ]; then
    if ! rm -f -- "$current_path"; then
      undone="not undone: $current_path can't be removed"
      return
    fi
    serving_now=
    undone="it was the first deployment here: $current_path is removed"
    finish_switch failed
    return
  fi
  verify_path=$(directory_of "$switch_previous")
  if [ ! -d "$verify_path" ]; then
    undone="not undone: the previous release $verify_path is gone"
    finish_switch failed
    return
  fi
  if ! point_current "$switch_previous"; then
    undone="not undone: $current_path can't be put back to $switch_previous"
    return
  fi
  serving_now=${switch_previous##*/}
  bring_kit "$switch_previous"
  kit_kept=yes
  take_kit "$switch_previous" || kit_kept=no
  hook_directory=$verify_path
  restarted=no
  take_stamp
  if ! restart_kept; then
    undone="put back to $serving_now, but its restart failed: $hook_problem"
  else
    # Where nothing restarts, the old processes have simply stayed.
    [ "$restarted" = yes ] || stamp=0
    if verify_release; then
      proven=true
      undone="put back to $serving_now, which is proven to serve again"
    else
      undone="put back to $serving_now, which is NOT proven to serve: $doubt"
    fi
  fi
  finish_switch failed
}

# finish_switch OUTCOME: the switch under way is over. On a full disk the record itself becomes the last word: it begins
# with the same id.
finish_switch() {
  if write_state last "$switch_deployment $1 $switch_release"; then
    rm -f -- "$room/switch"
  else
    mv -f -- "$room/switch" "$room/last"
  fi
}
