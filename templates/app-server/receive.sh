#!/bin/sh
# shellcheck disable=SC2034,SC2154
# receive.sh HOW APPLICATION ENVIRONMENT ROLE DEPLOY_TO [SIGNERS]
#
# Stands between Consul and stretcher. An event is a bell and no more: what this host runs is what `wanted` names in
# Consul by its digest, and, where SIGNERS is given (ssh-keygen's allowed_signers), only what one of those has signed for
# this application, environment and deployment. stretcher gets a private copy of that and never hears the event's URL.
#
# HOW is `event` for `consul watch`, whose list on stdin is not read, or `catch-up` for a timer: that brings this host to
# the release that is wanted here, if it missed the event, is new, was cut off in the middle of a switch, or has a last word
# to say that never arrived; else it sees whether what it serves still does, by the script that the deployment has left
# here for that. What is to be done, and whether, the manifest's guard decides.
#
# Exit status 1, for `catch-up` alone: Consul did not answer, try again.
how=$1 application=$2 environment=$3 role=$4 deploy_to=$5 signers=${6-}
consul_prefix=deploytool/$application/$environment
shared_path=$deploy_to/shared
deployment=
# So that what this host runs can say how much was asked of it.
DEPLOYTOOL_RECEIVER=${signers:+signed}
export DEPLOYTOOL_RECEIVER="${DEPLOYTOOL_RECEIVER:-digest}"
# the parts of a manifest's scripts that are needed here

exec </dev/null
# With it stretcher would read a list of events.
unset CONSUL_INDEX
private=
trap 'rm -rf -- "$private"' EXIT
trap 'say "it was ended by a signal, as when its unit is stopped or has taken longer than it may"; exit 1' HUP INT TERM

# Prints the node's name, as the agent has it: what was written down may be of a machine that this one is a copy of.
name_node() {
  (report_seconds=2 && find_node && printf '%s' "$node") 2>/dev/null
}

# refuse SENTENCE: nothing of this is run. The operator hears it, where that can be said.
refuse() {
  say "$deployment: refused: $1"
  [ -n "$node" ] || return 0
  report_seconds=10
  if [ "$following" = probe ]; then
    refusal=$(printf '%s' "$1" | clean_lines | json_text)
    put_patiently "$consul_prefix/reports/$role/$node/$deployment/listens" "$(
      printf '{"proven": false, "reason": "%s", "receiver": "%s", "program": "%s", "user": "%s", "problems": ["%s"]}' \
        "$refusal" "$receiver" "$(command -v stretcher | json_text)" "$(id -un)" "$refusal"
    )"
  else
    report failed "$1" ''
  fi || :
}

# fetch NAME: what Consul has of that name for this deployment, as the private file of that name.
fetch() {
  read_clock
  fetch_deadline=$((clock + report_seconds))
  until kv_command get "$place/$1" >"$private/$1" 2>"$private/problem"; do
    fetch_problem="Consul does not give $place/$1: $(tail -n 1 "$private/problem")"
    read_clock
    # Asking again makes no key.
    if grep -q 'No key exists' "$private/problem" || [ "$clock" -ge "$fetch_deadline" ]; then
      return 1
    fi
    sleep 1
  done
}

digest_of() {
  file_digest=$(sha256sum <"$private/$1")
  file_digest=${file_digest%% *}
}

# verified_by NAME OPTION...: whether the statement is signed by the signer of that name; ssh-keygen's words are in problem.
verified_by() {
  principal=$1
  shift
  TZ=UTC0 ssh-keygen -Y verify "$@" -f "$signers" -I "$principal" -n deploytool -s "$private/signature" \
    <"$private/statement" >"$private/problem" 2>&1
}

# is_signed: whether one of the signers has signed the statement, in time where that is limited.
is_signed() {
  fetch signature || return 1
  [ -r "$signers" ] || {
    fetch_problem="there is no file $signers, which names those who may deploy"
    return 1
  }
  command -v ssh-keygen >/dev/null 2>&1 || {
    fetch_problem="there is no ssh-keygen here, which checks signatures: install openssh-client"
    return 1
  }
  set --
  # What was signed then counts for whoever joins later.
  if grep -qi 'valid-' "$signers"; then
    signed_at=${deployment%Z*}
    set -- -O "verify-time=${signed_at%T*}${signed_at#*T}"
  fi
  TZ=UTC0 ssh-keygen -Y find-principals "$@" -f "$signers" -s "$private/signature" \
    >"$private/principals" 2>"$private/problem"
  while read -r principal; do
    verified_by "$principal" "$@" && return 0
  done <"$private/principals"
  case $(cat "$private/problem") in
    *"nknown option"* | *"llegal option"* | *"nvalid option"* | *"sage: ssh-keygen"* | *"nsupported operation"*)
      fetch_problem="this host's ssh-keygen is too old to check its signature: OpenSSH 8.2 is needed, and 8.9 for valid-after and valid-before"
      ;;
    *"No such file"*) fetch_problem="its signature can't be checked: $(tail -n 1 "$private/problem")" ;;
    *) fetch_problem="it is signed by nobody who may deploy to $environment, as $signers has it" ;;
  esac
  return 1
}

# is_for_us: whether the statement, where it names hosts of this role, names this one.
is_for_us() {
  named=$(sed -n "s/^hosts $role //p" "$private/statement")
  case " ${named:-$node} " in *" $node "*) return 0 ;; esac
  fetch_problem="it was signed for other hosts: $named"
  return 1
}

# waits_for_go: whether hosts still come together at its barrier.
waits_for_go() {
  kv_list "$consul_prefix/deployments/$deployment/$role/go" &&
    kv_pick "$consul_prefix/deployments/$deployment/$role/go" || return 1
  case $kv_value in "wait "* | "go "*" +"*) return 0 ;; esac
  return 1
}

# names_us: whether the statement is of this application, environment and deployment, and of no other.
names_us() {
  [ "$(head -n 4 "$private/statement")" = "deploytool statement 1
application $application
environment $environment
deployment $deployment" ]
}

# get_manifest DIGEST: the manifest of this role as the private file manifest.yml, once it is proven.
get_manifest() {
  place=$consul_prefix/deployments/$deployment/.manifests
  fetch statement || return 1
  digest_of statement
  if [ "$file_digest" != "$1" ]; then
    fetch_problem="what Consul has for it is not what \`wanted\` names: its statement has the sha256 $file_digest, not $1"
    return 1
  fi
  if ! names_us; then
    fetch_problem="its statement is of another deployment, environment or application"
    return 1
  fi
  if [ -n "$signers" ]; then
    is_signed || return 1
  fi
  is_for_us || return 1
  # Who is there when the others are has the release still; who comes later has to get it.
  name=$role pattern=$role
  if [ "$how" = event ] && grep -q "^manifest $role\\.kept " "$private/statement" && waits_for_go; then
    name=$role.kept pattern=$role\\.kept
  fi
  named=$(sed -n "s/^manifest $pattern //p" "$private/statement")
  fetch "$name" || return 1
  digest_of "$name"
  if [ -z "$named" ] || [ "$file_digest" != "$named" ]; then
    fetch_problem="the manifest that Consul has for it is another one: its sha256 is $file_digest, not $named"
    return 1
  fi
  mv -f -- "$private/$name" "$private/manifest.yml"
}

# follow VALUE: hands stretcher what a value of `wanted`, `DEPLOYMENT URL#sha256=DIGEST`, names. In a shell of its own.
follow() {
  deployment=${1%% *}
  case $deployment in
    *[!0-9A-Za-z]*) deployment= ;;
    ????????T??????Z????) ;;
    *) deployment= ;;
  esac
  if [ -z "$deployment" ]; then
    say "$consul_prefix/wanted/$role names no deployment: $(printf '%s' "$1" | clean_lines | head -n 1)"
    return 0
  fi
  if [ "$strict" = no ]; then
    refuse "$strict_problem"
    return 0
  fi
  private=$(umask 077 && mktemp -d "${RUNTIME_DIRECTORY:-${TMPDIR:-/tmp}}/receive.XXXXXX") || {
    refuse "no file can be written in ${RUNTIME_DIRECTORY:-${TMPDIR:-/tmp}}"
    return 0
  }
  trap 'rm -rf -- "$private"' EXIT
  case $1 in
    *"#sha256="*)
      get_manifest "${1##*#sha256=}" || {
        refuse "$fetch_problem"
        return 0
      }
      manifest_url=file://$(printf '%s' "$private/manifest.yml" | sed -e 's/%/%25/g' -e 's/ /%20/g' -e 's/#/%23/g' -e 's/?/%3F/g')
      ;;
    *)
      # Announced by a deploytool of before: where nobody's signature is asked for, it works on.
      if [ -n "$signers" ]; then
        refuse "it was announced by a deploytool that does not sign; deploy again with this one"
        return 0
      fi
      manifest_url=${1#* }
      ;;
  esac
  DEPLOYTOOL_BEGUN=$private/begun
  export DEPLOYTOOL_BEGUN
  # What it writes is for the journal, which people read: the texts of its commands are in the manifest. It never writes to
  # nobody, which would end it.
  {
    printf '%s\n' "$manifest_url" | stretcher 2>&1
    echo $? >"$private/ended"
  } | {
    without_texts
    cat >/dev/null
  }
  read -r ended <"$private/ended" || ended=unknown
  # Whatever its own scripts have to say, they have said.
  [ "$ended" = 0 ] || [ -e "$DEPLOYTOOL_BEGUN" ] ||
    refuse "stretcher ended with status $ended before any script of the manifest ran; the journal of this host's watch tells why"
}

# What others can change is neither read nor run, and nothing is put there.
strict=yes
if ! is_strict; then
  say "$strict_problem"
  strict=no
  [ "$how" = event ] || exit 0
fi
# no_answer PREFIX: the end of a catch-up.
no_answer() {
  say "Consul can't be asked for $1: $kv_problem; the timer tries again"
  exit 1
}

until kv_list "$consul_prefix/wanted/$role"; do
  [ "$how" = event ] || no_answer "$consul_prefix/wanted/$role"
  read_clock
  : "${until_clock:=$((clock + report_seconds))}"
  [ "$clock" -lt "$until_clock" ] || {
    say "Consul can't be asked for $consul_prefix/wanted/$role: $kv_problem"
    exit 0
  }
  sleep 1
done
state=
[ "$strict" = no ] || read_state node
node=$(name_node) && [ -n "$node" ] || node=$state

if [ "$how" = event ] && kv_pick "$consul_prefix/wanted/$role.probe"; then
  (following=probe && follow "$kv_value")
  # Whoever only asks starts no deployment.
  exit 0
fi

following=wanted
kv_pick "$consul_prefix/wanted/$role/${node:--}" || kv_pick "$consul_prefix/wanted/$role" || :
wanted=$kv_value
deployment=${wanted%% *}
if [ -z "$deployment" ]; then
  # Consul answers a token without the right as if there were no key.
  say "nothing is wanted at $consul_prefix/wanted/$role; if something was deployed, may this token read it (key_prefix read)?"
  exit 0
fi

# Nothing to do: it was dealt with, no switch was cut off, the host is not drained, and Consul has its word for it.
last_deployment=
[ "$strict" = no ] || read_last
if [ -n "$last_deployment" ] && ! is_before "$last_deployment" "$deployment" &&
  [ ! -e "$room/switch" ] && [ ! -e "$room/drained" ]; then
  if [ "$how" = event ]; then
    say "replay: this host has already switched for $state; nothing to do"
    exit 0
  fi
  kv_list "$consul_prefix/serving/$role/$node" || no_answer "$consul_prefix/serving/$role/$node"
  kv_pick "$consul_prefix/serving/$role/$node" || :
  case $kv_value in
    *"\"deployment\": \"$last_deployment\""*)
      [ ! -f "$room/kit/look" ] || sh "$room/kit/look" "$kv_value"
      exit 0
      ;;
  esac
fi

if [ "$how" = event ]; then
  # A bell costs nothing to ring: what failed is tried again by the timer, in its own time.
  rung=
  [ "$strict" = no ] || read -r rung 2>/dev/null <"$room/rung" || rung=
  if [ "$rung" = "$deployment" ] && ! waits_for_go; then
    say "nothing new: $deployment was tried here when its event came"
    exit 0
  fi
  (follow "$wanted")
  [ "$strict" = no ] || { printf '%s\n' "$deployment" >"$room/rung"; } 2>/dev/null
  exit 0
fi

# Before `go` it is the affair of those hosts that heard the event.
kv_list "$consul_prefix/deployments/$deployment/$role/go" || no_answer "$consul_prefix/deployments/$deployment/$role/go"
kv_pick "$consul_prefix/deployments/$deployment/$role/go" || :
case "$kv_value " in
  "go all "* | "go"*" $node "* | "only"*" $node "*) ;;
  *) exit 0 ;;
esac
# A stretcher is at work here already.
holder=$(readlink "$room/lock") && [ "$(cat "/proc/${holder%%:*}/comm" 2>/dev/null)" = stretcher ] && exit 0

# What failed is tried again, but not every minute: each time costs a download.
read_clock
read -r tried when 2>/dev/null <"$room/tried" || tried=
if [ "$tried" = "$deployment" ] && [ "$clock" -ge "$when" ] &&
  [ $((clock - when)) -lt "${DEPLOYTOOL_RETRY_SECONDS:-600}" ]; then
  exit 0
fi
started=$clock
(follow "$wanted")
{ printf '%s %s\n' "$deployment" "$started" >"$room/tried"; } 2>/dev/null
exit 0

