# shellcheck shell=sh disable=SC2034,SC2154
# Phase `failure`, its end: what became of this host is told.
# Reads: deploy_to, hook_problem, incomplete, log, mine, node_problem, owner_problem, proven, sentence, serving_now, undone,
#   verdict.
# Sets: hook_directory.

say "$verdict: $sentence"

case $verdict in
  replay | not-meant)
    if [ "$mine" = yes ]; then
      mend_word || :
    fi
    sweep
    ;;
  *)
    reported=no
    if find_node; then
      if report "$verdict" "$sentence" "$log" "$incomplete"; then
        reported=yes
      fi
    else
      say "$node_problem"
    fi
    set_aside_any=no
    if [ "$verdict" = failed ] && [ -z "$owner_problem" ]; then
      remove_unproven
    fi
    # Of a report that was lost, receive.sh sees to it that all is said again.
    case $reported:${undone:+undone}:$set_aside_any in
      yes:undone:*) tell_serving "$serving_now" "$proven" || : ;;
      yes::yes) tell_kept || : ;;
    esac
    sweep
    hook_directory=$deploy_to
    [ -d "$deploy_to" ] && [ -z "$owner_problem" ] || hook_directory=/
    failure_hooks run_hook || say "$hook_problem"
    ;;
esac
drop_lock
