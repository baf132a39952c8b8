# shellcheck shell=sh disable=SC2034,SC2154
# A probe of `fab ENV check`: this host says that it hears, with which stretcher, and what a deployment would lack here.
# It changes nothing.
# Reads: bus_directory, consul_prefix, deploy_to, deployment, kv_value, link_problem, node, node_problem, owner_problem,
#   probe_phase, receiver, role, room.
# Sets: report_seconds.

# The operator does not wait longer.
report_seconds=10
host_problems=

lacks() {
  host_problems="$host_problems${host_problems:+, }\"$(printf '%s' "$1" | clean_lines | json_text)\""
}

tell_missing() {
  need_file "$1" || lacks "$link_problem"
}

tell_program() {
  command -v "$1" >/dev/null 2>&1 || lacks "the program $1 is missing: archives can't be unpacked"
}

# What deploy_to is, or the nearest directory above it that there is: it has to be made there.
find_place() {
  place=$deploy_to
  while [ ! -e "$place" ]; do
    place=${place%/*}
    place=${place:-/}
  done
}

cd /
if [ "$probe_phase" = failure ]; then
  probe_log=$(cat)
  case $probe_log in *"deploytool $deployment: answered: "*) exit 0 ;; esac
  lacks "stretcher can't get an archive from the store: $(printf '%s\n' "$probe_log" | grep 'failed:' | tail -n 1)"
fi
exec </dev/null
find_node || {
  say "$node_problem"
  exit 1
}
host_program=
host_version=
if [ -z "$bus_directory" ]; then
  host_program=$(readlink "/proc/$PPID/exe") || host_program=
  if [ -n "$host_program" ]; then
    host_version=$("$host_program" -version </dev/null 2>/dev/null | sed -n 's/^version: *//p')
  fi
fi
find_place
for directory in "$place" "${TMPDIR:-/tmp}"; do
  if ! { [ -d "$directory" ] && [ -w "$directory" ]; }; then
    lacks "the user $(id -un) can't write to $directory"
  fi
done
check_owner || lacks "$owner_problem"
linked_files tell_missing
unpacking_programs tell_program
host_wanted=
if kv_list "$consul_prefix/wanted/$role"; then
  kv_pick "$consul_prefix/wanted/$role/$node" || kv_pick "$consul_prefix/wanted/$role" || :
  host_wanted=${kv_value%% *}
fi
# Where the release that serves listens, as its proof has found.
host_listens=$(all_words "$(sed -n 's/^[0-9] \([a-z]* .*\)$/\1/p' "$room/kit/listens" 2>/dev/null)")
# Whether its token may report for other hosts: no host is called `-`.
host_shared=
if [ -z "$bus_directory" ] && kv_put "$consul_prefix/reports/$role/-/$deployment/listens" ''; then
  host_shared=yes
fi
put_patiently "$consul_prefix/reports/$role/$node/$deployment/listens" "$(
  printf '{"shared": "%s", "program": "%s", "version": "%s", "newer": "%s", "user": "%s", "wanted": "%s", "listens": "%s", "receiver": "%s", "problems": [%s]}' \
    "$host_shared" "$(printf '%s' "$host_program" | clean_lines | json_text)" "$(printf '%s' "$host_version" | clean_lines | json_text)" \
    "$(printf '%s' "$newer" | json_text)" "$(id -un)" "$(printf '%s' "$host_wanted" | clean_lines | json_text)" \
    "$(printf '%s' "$host_listens" | clean_lines | json_text)" "$receiver" "$host_problems"
)"
# In `pre` nothing is unpacked after a failure.
leave answered "what it lacks is in Consul"
