# shellcheck shell=sh disable=SC2034,SC2154
# Puts links to shared files and directories into a release.
# Reads: shared_path.
# Sets: link_problem, way_out.

# link_into PATH: into link_tree, in place of whatever the release has under that name. Fails, with way_out.
link_into() {
  lies_inside "$link_tree" "$1" && way_out=$(place_link "$1")
}

# place_link PATH: step by step, each seen from within the one before, as a release may be the application's, whose processes
# can put a link there at any time. A program asks the kernel where that is: bash answers from memory. Prints why it fails.
place_link() (
  cd -P -- "$link_tree" && link_top=$(env pwd -P) || exit 1
  link_left=$1
  while :; do
    link_name=${link_left%%/*}
    [ "$link_name" != "$link_left" ] || break
    link_left=${link_left#*/}
    [ -d "./$link_name" ] || mkdir -- "./$link_name" || exit 1
    cd -P -- "./$link_name" || exit 1
    link_place=$(env pwd -P)
    case $link_place in
      "$link_top" | "$link_top"/*) ;;
      *)
        printf '%s' "in the release $link_name leads out of it by now, to $link_place"
        exit 1
        ;;
    esac
  done
  [ "$(readlink "./$link_left")" != "$shared_path/$1" ] || exit 0
  rm -rf -- "./${link_left:?}" && ln -sT -- "$shared_path/$1" "./$link_left"
)

link_directory() {
  way_out=
  mkdir -p -- "$shared_path/$1" && link_into "$1" && return 0
  link_problem="linked_dirs: $1 can't be linked: ${way_out:-$link_tree/$1 could not be made}; nothing was removed"
  return 1
}

need_file() {
  [ ! -e "$shared_path/$1" ] || return 0
  link_problem="linked_files: there is no $shared_path/$1 on this host; put it there"
  return 1
}

link_file() {
  way_out=
  link_into "$1" && return 0
  link_problem="linked_files: $1 can't be linked: ${way_out:-$link_tree/$1 could not be made}; nothing was removed"
  return 1
}

# link_shared TREE: fails, with link_problem.
link_shared() {
  link_tree=$1
  linked_dirs link_directory && linked_files link_file
}
