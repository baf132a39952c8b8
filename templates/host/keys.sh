# shellcheck shell=sh disable=SC2034,SC2154
# Keys and values as consul.sh and directory.sh give them: "key:value" lines in kv_lines.
# Reads: kv_lines, newline.
# Sets: kv_value.

# kv_pick KEY: sets kv_value from kv_lines; fails if the key isn't there.
kv_pick() {
  kv_value=$newline$kv_lines$newline
  case $kv_value in
    *"$newline$1:"*)
      kv_value=${kv_value#*"$newline$1:"}
      kv_value=${kv_value%%"$newline"*}
      ;;
    *)
      kv_value=
      return 1
      ;;
  esac
}
