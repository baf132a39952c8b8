# shellcheck shell=sh disable=SC2034,SC2154
# Phase `failure`: pre, unpacking or post failed, or the archive never came, so pre never ran. May find a full disk.

# The directory that we were started in may be gone already.
cd /

# stretcher logs the whole text of each command, and the manifest: that is left out.
log=$(LC_ALL=C sed -e '/ Executing manifest /d' -e '/# deploytool [^ ]* [a-z]* begin$/,/# deploytool [^ ]* [a-z]* end/d')
exec </dev/null

# Prints this run's notes, without stretcher's time stamp.
notes() {
  printf '%s\n' "$log" |
    LC_ALL=C sed -n "s/^\\([0-9/]\\{10\\} [0-9:]\\{8\\} \\)\\{0,1\\}deploytool $deployment: //p"
}

last_note=$(notes | tail -n 1 | clean_lines)
verdict=${last_note%%: *}
sentence=${last_note#*: }
log=$(printf '%s\n' "$log" | tail -n 20 | clean_lines)
cause=$(printf '%s\n' "$log" | sed -n 's/^.* Deploy manifest failed: //p' | tail -n 1)

name_run
mine=no
if take_lock 0; then
  mine=yes
fi

case $verdict in
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
    verdict=failed
  fi
  rm -rf -- "$deploy_to/incoming/$deployment"
fi
say "$verdict: $sentence"

case $verdict in
  replay | not-meant) ;;
  *)
    if find_node; then
      report "$verdict" "$sentence" "$log" || :
      if [ -n "${undone-}" ]; then
        tell_serving "$serving_now" "$proven" || :
      fi
    else
      say "$node_problem"
    fi
    hook_directory=$deploy_to
    [ -d "$deploy_to" ] || hook_directory=/
    failure_hooks run_hook || say "$hook_problem"
    ;;
esac
drop_lock
