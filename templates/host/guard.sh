# shellcheck shell=sh disable=SC2034,SC2154
# Is this deployment for this host, now? Events are replayed, reordered and late, so the manifest in hand proves nothing.
# Reads: clock, consul_prefix, deployment, kv_problem, kv_value, last_deployment, node, node_problem, owner_problem,
#   report_seconds, role, state.
# Sets: sentence, verdict, wanted_deployment.

# Sets wanted_deployment to the one that the operator wants here, empty if there is none; from kv_lines of `wanted`.
pick_wanted() {
  kv_pick "$consul_prefix/wanted/$role/$node" || kv_pick "$consul_prefix/wanted/$role" || :
  wanted_deployment=${kv_value%% *}
}

# list_patiently PREFIX: Consul may be restarting.
list_patiently() {
  read_clock
  list_deadline=$((clock + report_seconds))
  until kv_list "$1"; do
    read_clock
    [ "$clock" -lt "$list_deadline" ] || return 1
    sleep 1
  done
}

# lets_go VALUE: whether what stands at a barrier lets this host go: `go all`, or one that names it. `go A B +N` is said
# while others wait for their turn, and `only A B` once nobody waits any more.
lets_go() {
  case $1 in
    "go all") return 0 ;;
    "go "* | "only "*) case " ${1#* } " in *" $node "*) return 0 ;; esac ;;
  esac
  return 1
}

# is_closed VALUE: whether it never lets this host go any more.
is_closed() {
  case $1 in
    abort | "only "*) ! lets_go "$1" ;;
    *) return 1 ;;
  esac
}

# Sets verdict to go, replay, not-meant, superseded, aborted or failed, and sentence. Changes nothing.
judge() {
  verdict=failed
  # Manifests that are rendered at build time name no deployment; they are there to be read.
  case $deployment in
    00000000T*)
      verdict=not-meant sentence="this manifest is for reading only, no deployment made it"
      return
      ;;
  esac
  if ! check_owner; then
    sentence=$owner_problem
    return
  fi
  read_last
  if [ -n "$last_deployment" ] && ! is_before "$last_deployment" "$deployment"; then
    verdict=replay sentence="this host has already switched for $state; nothing to do"
    return
  fi
  if ! find_node; then
    sentence=$node_problem
    return
  fi
  if ! list_patiently "$consul_prefix/wanted/$role"; then
    sentence="Consul can't be asked for $consul_prefix/wanted/$role: $kv_problem"
    return
  fi
  pick_wanted
  if [ -z "$wanted_deployment" ]; then
    # Consul answers a token without the right as if there were no key.
    sentence="Consul has no $consul_prefix/wanted/$role; may this host's token read it (key_prefix read)?"
  elif is_before "$deployment" "$wanted_deployment"; then
    verdict=superseded sentence="deployment $wanted_deployment is wanted by now"
  elif [ "$wanted_deployment" != "$deployment" ]; then
    verdict=not-meant sentence="$wanted_deployment is wanted on $node, and this deployment is not meant for it"
  elif ! list_patiently "$consul_prefix/deployments/$deployment/$role/go"; then
    sentence="Consul can't be asked for $consul_prefix/deployments/$deployment/$role/go: $kv_problem"
  elif kv_pick "$consul_prefix/deployments/$deployment/$role/go" && is_closed "$kv_value"; then
    verdict=aborted sentence="the operator has aborted this deployment"
  else
    verdict=go sentence="$deployment is wanted on $node"
  fi
}
