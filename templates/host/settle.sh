# shellcheck shell=sh disable=SC2034,SC2154
# Phase `post`, its end: the release serves, proven.
# Reads: clock, release, room, switch_previous.
# Sets: notes.

notes=$(old_sentence)
grep -qxF "$release" "$room/verified" 2>/dev/null || printf '%s\n' "$release" >>"$room/verified"
[ ! -e "$room/lost" ] || rm -f -- "$room/lost"
read_clock
# Not worth waiting for the disk.
printf '%s\n' "$clock" >"$room/looked" || :
keep_kit || rm -rf -- "$room/kit"
keep_listens
switch_before=$switch_previous
finish_switch verified
note verified "$release serves"
# Nothing that fails from here on may undo the switch.
retain_verified "$switch_before" || :
