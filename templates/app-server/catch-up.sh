#!/bin/sh
# catch-up.sh APPLICATION ENVIRONMENT ROLE DEPLOY_TO
#
# Brings this host to the release that is wanted here, if it missed the event, is new, was cut off in the middle of a
# switch, or has a last word to say that never arrived; else sees whether what it serves still does, by the script that the
# deployment has left here for that. It only hands the wanted manifest to stretcher: what is to be
# done, and whether, the manifest's guard decides. Exit status 1: Consul did not answer, try again.
prefix=deploytool/$1/$2 role=$3 room=$4/.deploytool
node=${DEPLOYTOOL_NODE:-$(cat "$room/node" 2>/dev/null)}

# ask PREFIX: sets lines to the "key:value" lines below it. `-recurse`, as a plain `kv get` ends alike for "no such key"
# and for "no answer".
ask() { lines=$(timeout -k 1 15 consul kv get -recurse "$prefix/$1"); }
# value_of KEY: prints its value, out of lines.
value_of() { printf '%s\n' "$lines" | grep -F -m 1 -- "$prefix/$1:" | cut -d : -f 2-; }

ask "wanted/$role" || exit 1
wanted=$(value_of "wanted/$role/${node:--}")
wanted=${wanted:-$(value_of "wanted/$role")}
deployment=${wanted%% *}
if [ -z "$deployment" ]; then
  # Consul answers a token without the right as if there were no key.
  echo "nothing is wanted at $prefix/wanted/$role; if something was deployed, may this token read it (key_prefix read)?"
  exit 0
fi

# Before `go` it is the affair of those hosts that heard the event.
ask "deployments/$deployment/$role/go" || exit 1
case "$(value_of "deployments/$deployment/$role/go") " in
  "go all "* | "go"*" $node "* | "only"*" $node "*) ;;
  *) exit 0 ;;
esac

# Nothing to do: it was dealt with, no switch was cut off, the host is not drained, and Consul has its word for it.
read -r last _ 2>/dev/null <"$room/last" || last=
if [ -n "$last" ] && ! LC_ALL=C expr "x$last" '<' "x$deployment" >/dev/null &&
  [ ! -e "$room/switch" ] && [ ! -e "$room/drained" ]; then
  ask "serving/$role/$node" || exit 1
  word=$(value_of "serving/$role/$node")
  case $word in
    *"\"deployment\": \"$last\""*)
      [ ! -f "$room/kit/look" ] || sh "$room/kit/look" "$word"
      exit 0
      ;;
  esac
fi

# A stretcher is at work here already.
holder=$(readlink "$room/lock") && [ "$(cat "/proc/${holder%%:*}/comm" 2>/dev/null)" = stretcher ] && exit 0

# What failed is tried again, but not every minute: each time costs a download.
read -r uptime _ </proc/uptime
uptime=${uptime%%.*}
read -r tried when 2>/dev/null <"$room/tried" || tried=
if [ "$tried" = "$deployment" ] && [ "$uptime" -ge "$when" ] &&
  [ $((uptime - when)) -lt "${DEPLOYTOOL_RETRY_SECONDS:-600}" ]; then
  exit 0
fi
printf '%s\n' "${wanted#* }" | stretcher
{ printf '%s %s\n' "$deployment" "$uptime" >"$room/tried"; } 2>/dev/null
exit 0
