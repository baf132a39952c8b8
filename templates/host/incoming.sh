# shellcheck shell=sh disable=SC2010,SC2034,SC2154
# The tree that stretcher has unpacked, on its way into deploy_to. The manifest lets stretcher put it beside the directory
# that it was unpacked in, which is a rename on every host; from there it gets here by another one, or is copied.
# Reads: deploy_to, room, strict_uid, unpacked_name.
# Sets: plain_problem, unpacked.

# Where Go's programs have their temporary files.
unpacked=${TMPDIR:-/tmp}/${unpacked_name:?}

# can_rename: whether the tree gets into deploy_to by a rename. Not from one mount to another, be it of the same file
# system: there link(2) fails, too. Nor where files have access lists or SELinux labels from the directory that they are
# made in: `ls` shows that after the mode.
can_rename() {
  case $(ls -ld -- "$deploy_to/incoming") in
    ??????????" "*) ln -fT -- "$room/owner" "$unpacked.probe" 2>/dev/null && rm -f -- "$unpacked.probe" ;;
    *) return 1 ;;
  esac
}

# make_plain TREE: where root unpacks, tar makes what the archive says. Our own says nothing of the kind: setuid and setgid
# are taken off. Fails, with plain_problem, if there is a device.
make_plain() {
  [ "$strict_uid" -eq 0 ] || return 0
  plain_kinds=$(LC_ALL=C ls -qlnR -- "$1" | grep -E '^[bc]|^-..[sS]|^-.....[sS]' | cut -c 1 | sort -u | tr -d '\n')
  case $plain_kinds in
    *[bc]*)
      plain_problem="the archive holds a device, and deploytool packs none: build a new release"
      return 1
      ;;
    -)
      plain_problem="setuid can't be taken off in $1"
      chmod -R ug-s -- "$1"
      ;;
  esac
}

# bring_in PATH: the unpacked tree, to PATH in incoming/. What a copy leaves behind is for `sweep`.
bring_in() {
  if can_rename; then
    mv -T -- "$unpacked" "$1"
  elif command -v rsync >/dev/null 2>&1; then
    rsync -a -- "$unpacked/" "$1"
  else
    cp -RPp -- "$unpacked" "$1"
  fi
}
