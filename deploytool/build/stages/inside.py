"""No path leaves its tree: before anything is made, removed or linked below one, the links on the way are looked at.

Pure. A revision holds links, and so does what steps make; `config/master.key` below a `config` that is a link is a file
somewhere else. Links that stay inside are followed as ever.
"""

#: For scripts that have descriptor 3 and `CODES`.
INSIDE = r"""
d_leads_out() {  # whether a link among the parents of $2, a path below the tree $1, leads out of it; $d_out tells which
  local d_at=$1 d_rest=$2 d_top d_real
  # No setting may hold `..`; what a link before it leads to would decide where that is.
  case /$2/ in
    */../*)
      d_out=$2$'\t..\t'
      return 0
      ;;
  esac
  while case $d_rest in */*) ;; *) false ;; esac; do
    d_at=$d_at/${d_rest%%/*}
    d_rest=${d_rest#*/}
    if [ ! -L "$d_at" ]; then continue; fi
    # By the kernel, which gives up after forty links: realpath follows `a -> a/b` for ever.
    d_top=$(CDPATH='' cd -P -- "$1" && pwd -P) || return 1
    # A link to nowhere, to itself, or to a file leads to no place inside.
    d_real=$(CDPATH='' cd -P -- "$d_at" 2>/dev/null && pwd -P) || d_real=
    case $d_real/ in
      "$d_top/.git/"*) ;;
      "$d_top/"*) continue ;;
    esac
    d_out=${d_at#"$1/"}
    d_out=${d_out#./}$'\t'$(readlink -- "$d_at")$'\t'$d_real
    return 0
  done
  return 1
}

d_inside() {  # end the step unless $2, a path below the tree $1, lies inside of it
  if d_leads_out "$1" "$2"; then
    printf 'problem\t%s\n' "$d_out" >&3
    exit "$d_path_leads_out"
  fi
}
"""
