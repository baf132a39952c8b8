# shellcheck shell=sh disable=SC2034,SC2154
# Paths that a release names stay inside of a tree, whatever links its commit holds: asked before anything is made, removed
# or linked there.
# Sets: way_out.

# lies_inside TREE PATH: whether TREE/PATH can be made or replaced without leaving TREE: its parent, as far as there is one,
# resolved, lies in TREE. Fails, with way_out: which link leads where.
lies_inside() {
  inside_tree=$(cd -P -- "$1" 2>/dev/null && pwd -P) || {
    way_out="there is no directory $1"
    return 1
  }
  inside_left=$2/
  inside_path=$1
  inside_shown=
  while :; do
    inside_name=${inside_left%%/*}
    inside_left=${inside_left#*/}
    # The last name is what takes its place; the path itself, if it is a link, is replaced and not followed.
    [ -n "$inside_left" ] || return 0
    inside_path=$inside_path/$inside_name
    inside_shown=$inside_shown${inside_shown:+/}$inside_name
    if [ -L "$inside_path" ]; then
      inside_real=$(cd -P -- "$inside_path" 2>/dev/null && pwd -P) || {
        way_out="in the release $inside_shown is a link to $(readlink "$inside_path"), which is no directory"
        return 1
      }
      case $inside_real in
        "$inside_tree" | "$inside_tree"/*) ;;
        *)
          way_out="in the release $inside_shown is a link that leads out of it, to $inside_real"
          return 1
          ;;
      esac
    elif [ ! -e "$inside_path" ]; then
      return 0
    elif [ ! -d "$inside_path" ]; then
      way_out="in the release $inside_shown is no directory"
      return 1
    fi
  done
}
