# shellcheck shell=sh disable=SC2034,SC2154
# Puts links to shared files and directories into a release.
# Reads: shared_path.
# Sets: link_problem, way_out.

# link_into PATH: into link_tree, in place of whatever the release has under that name. Fails, with way_out.
link_into() {
  lies_inside "$link_tree" "$1" || return 1
  way_out=
  [ "$(readlink "$link_tree/$1")" != "$shared_path/$1" ] || return 0
  link_parent=${1%/*}
  if [ "$link_parent" != "$1" ]; then
    mkdir -p -- "$link_tree/$link_parent" || return 1
  fi
  rm -rf -- "${link_tree:?}/$1" && ln -sT -- "$shared_path/$1" "$link_tree/$1"
}

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
