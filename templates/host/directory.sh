# shellcheck shell=sh disable=SC2034,SC2154
# The bus of pretend hosts: the key a/b is the file a/b.value below bus_directory. Takes the place of consul.sh.
# Reads: bus_directory, newline.
# Sets: kv_lines, kv_problem, node, node_problem, receiver.

# Nothing stands between this bus and a receiver.
receiver=

# kv_list PREFIX [-stale or '']: as in consul.sh, for PREFIX itself and what is directly below it.
kv_list() {
  kv_lines=
  for kv_file in "$bus_directory/$1.value" "$bus_directory/$1"/*.value; do
    [ -f "$kv_file" ] || continue
    kv_key=${kv_file#"$bus_directory"/}
    kv_lines=$kv_lines${kv_key%.value}:$(cat -- "$kv_file")$newline
  done
}

# kv_put KEY VALUE: appears at once and whole.
kv_put() {
  kv_file=$bus_directory/$1.value
  if kv_problem=$({ mkdir -p -- "${kv_file%/*}" && printf '%s\n' "$2" >"$kv_file.$$" && mv -f -- "$kv_file.$$" "$kv_file"; } 2>&1); then
    return 0
  fi
  return 1
}

# kv_wait KEY SECONDS: as in consul.sh; looking costs little here.
kv_wait() {
  sleep 0.1
}

# Sets node: pretend hosts are told their names.
find_node() {
  node=${DEPLOYTOOL_NODE-}
  node_problem="DEPLOYTOOL_NODE is not set: a pretend host is told its name by whoever starts its receiver"
  [ -n "$node" ]
}
