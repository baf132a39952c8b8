"""What dependencies and assets made is kept from build to build, as long as all that decides it is the same. Pure.

A stage is known by its key: the machine, its commands and their surroundings, the versions of the tools, the stage
before it, and its inputs in the revision (`build.dependencies_inputs`, `build.assets_inputs`). What it made, all that
lies in the work tree and is not of the revision, is kept under that key as hard links. It is used again only if nothing
in it has changed since, and no file of the new revision lies in it: then the tree is the same as after a clean build.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import deploytool
from deploytool.build.stages import git, inside, shell
from deploytool.connection.paths import Place
from deploytool.connection.step import groups, values
from deploytool.settings.recipes import RECIPES

if TYPE_CHECKING:
    from deploytool.build.stages.fetch import Fetched
    from deploytool.settings import Settings

#: So many results of each stage are kept: a lock file that goes back and forth between branches is installed once.
SLOTS = 3
#: More places than this are not moved one by one.
MOST_ROOTS = 50

DEPENDENCIES, ASSETS = "dependencies", "assets"

# The revision's own index: commands of the user may have changed the other one.
_OURS = r"""
d_ours() {  # in the application's directory
  ( cd -- "$d_work_tree" && GIT_INDEX_FILE=$d_workspace/.git/deploytool-index d_git --git-dir="$d_workspace/.git" \
      --work-tree="$d_workspace" -c diff.autoRefreshIndex=false "$@" )
}

# Inode, size and time of change tell whether a file is still the one that was linked; a directory has only its mode.
d_fingerprint() {
  ( cd -- "$1" && find . -mindepth 1 \( -type d -printf '%p\t%y%m\0' -o -printf '%p\t%y%m\t%i\t%s\t%T@\t%l\0' \) |
      LC_ALL=C sort -z | sha256sum )
}

d_drop_ours() {  # from the tree $1: what checkout puts there itself
  local d_path
  for d_path in REVISION "${d_linked_files[@]}"; do
    if d_leads_out "$1" "$d_subdirectory/$d_path"; then continue; fi
    rm -f -- "$1/$d_subdirectory/$d_path"
  done
}
"""

# To move what the last build left, and most often is the same still, costs nothing; to make thousands of links does.
_ASIDE = r"""
d_move() {  # what the list $1 names, and is there, from the directory $2 to $3
  local d_root
  while read -r -d '' d_root; do
    d_root=${d_root%/}
    if d_leads_out "$2" "$d_root" || d_leads_out "$3" "$d_root"; then return 1; fi
    if [ ! -e "$2/$d_root" ] && [ ! -L "$2/$d_root" ]; then continue; fi
    case $d_root in */*) mkdir -p -- "$3/${d_root%/*}" || return ;; esac
    mv -T --no-clobber -- "$2/$d_root" "$3/$d_root" || return
    if [ -e "$2/$d_root" ]; then return 1; fi
  done <"$1"
}

rm -rf -- "$d_aside"
d_left=$d_workspace/.git/deploytool-roots
if [ "$d_reuse" = yes ] && [ -f "$d_left" ] && [ "$(tr -cd '\\0' <"$d_left" | wc -c)" -le "$d_most_roots" ]; then
  mkdir -p -- "$d_aside/left"
  if ! d_move "$d_left" "$d_workspace" "$d_aside/left"; then rm -rf -- "$d_aside"; fi
fi
rm -f -- "$d_left"
"""

_TAKE = r"""
d_key() {  # $1: what the operator knows of the stage; $2: the key of the one before; then its inputs
  local d_known=$1 d_before=$2 d_tool
  shift 2
  { cat /etc/os-release 2>/dev/null || true
    uname -m
    printf '%s\n' "$d_known" "$d_before"
    for d_tool in "${d_tools[@]}"; do command -v -- "$d_tool" || true; done
    d_ours ls-files --stage -z -- "$@"
  } | sha256sum | cut -d ' ' -f 1
}

d_refers_to_the_tree() {  # dependencies that are installed from the tree itself are decided by all of it
  [ -n "$d_local_references" ] &&
    d_ours grep --cached --quiet --extended-regexp -e "$d_local_references" -- "${d_dependencies_inputs[@]}"
}

d_in_place() {  # no link of the revision stands on the way to what the list $1 names
  local d_root
  while read -r -d '' d_root; do
    if d_leads_out "$d_workspace" "$d_root"; then return 1; fi
  done <"$1"
}

d_whole() { [ "$(d_fingerprint "$1")" = "$(cat -- "$2/fingerprint")" ]; }  # the tree $1 is what the slot $2 holds

d_lies_aside() {  # the slot $1, among what the last build left
  if [ ! -d "$d_aside/left" ]; then return 1; fi
  rm -rf -- "$d_aside/chosen"
  mkdir -- "$d_aside/chosen"
  d_move "$1/roots" "$d_aside/left" "$d_aside/chosen"
  d_drop_ours "$d_aside/chosen"
  if d_whole "$d_aside/chosen" "$1"; then return 0; fi
  d_move "$1/roots" "$d_aside/chosen" "$d_aside/left"
  return 1
}

d_put_back() {  # what the slot $1 holds: moved where the last build left the same, else as links
  [ -f "$1/fingerprint" ] || return 1
  # No file of the revision lies in it.
  [ -z "$(xargs -0 -r env GIT_INDEX_FILE="$d_workspace/.git/deploytool-index" git -C "$d_workspace" \
    --literal-pathspecs ls-files --full-name -- <"$1/roots")" ] || return 1
  d_in_place "$1/roots" || return 1
  if d_lies_aside "$1"; then
    if d_move "$1/roots" "$d_aside/chosen" "$d_workspace"; then d_put=yes; fi
  elif d_whole "$1/tree" "$1"; then
    if cp -al -- "$1/tree/." "$d_workspace/"; then d_put=yes; fi
  else
    return 1
  fi
  if [ -n "$d_put" ]; then
    touch -- "$1"
    cp -- "$1/roots" "$d_workspace/.git/deploytool-roots"
    return 0
  fi
  # A file of the revision is in the way.
  d_git -C "$d_workspace" clean -ffdxq
  return 1
}

d_dependencies_key=none
if [ -n "$d_dependencies_known" ] && ! d_refers_to_the_tree; then
  d_dependencies_key=$(d_key "$d_dependencies_known" '' "${d_dependencies_inputs[@]}")
  d_result key "$d_dependencies" "$d_dependencies_key"
elif [ "$d_has_dependencies" = yes ]; then
  d_dependencies_key=
fi
d_assets_key=
if [ -n "$d_assets_known" ] && [ -n "$d_dependencies_key" ]; then
  d_assets_key=$(d_key "$d_assets_known" "$d_dependencies_key" "${d_assets_inputs[@]}")
  d_result key "$d_assets" "$d_assets_key"
fi
if [ "$d_reuse" = yes ]; then
  d_put=
  if [ -n "$d_assets_key" ] && d_put_back "$d_kept/$d_assets/$d_assets_key"; then
    d_result kept "$d_dependencies"
    d_result kept "$d_assets"
  elif [ "${d_dependencies_key:-none}" != none ] && d_put_back "$d_kept/$d_dependencies/$d_dependencies_key"; then
    d_result kept "$d_dependencies"
  fi
fi
rm -rf -- "$d_aside"
"""

# After assets, all that is not of the revision is kept, so that it stands for both stages.
_KEEP = r"""
d_same_revision() {  # the stage changed no file of the revision, nor what we put beside them
  local d_path
  [ "$(cat -- "$d_work_tree/REVISION")" = "$d_revision" ] || return 1
  # The kept index has attributes that are left out, and would not see one that comes back.
  while read -r -d '' d_path; do
    if [ "${d_path##*/}" = .gitattributes ] && [ -e "$d_workspace/$d_path" ]; then return 1; fi
  done <"$d_workspace/.git/deploytool-unexported"
  for d_path in "${d_linked_files[@]}"; do
    [ "$(readlink -- "$d_work_tree/$d_path")" = "$d_shared/$d_path" ] || return 1
  done
  d_ours diff --quiet --no-ext-diff --no-textconv -- :/ "${d_not_ours[@]}" || return 1
  d_path=$(d_ours ls-files --full-name -z -- :/ "${d_not_ours[@]}" |
    LC_ALL=C comm -z -23 - "$d_workspace/.git/deploytool-unexported" | sed -z 's|^|./|' | d_odd_files) || return 1
  [ -z "$d_path" ] || return 1
  while read -r -d '' d_path; do
    d_path=$(cd -- "$d_workspace" && git --literal-pathspecs ls-files -- "$d_path") || return 1
    [ -z "$d_path" ] || return 1
  done < <(cd -- "$d_workspace" && find . -name .git -prune -o -type d ! -perm 755 -print0)
}

d_odd_files() {  # of those whose names come in: with rights that git does not keep
  cd -- "$d_workspace" && xargs -0 -r sh -c 'find "$@" -maxdepth 0 -type f ! -perm 644 ! -perm 755' find
}

d_keep() {
  local d_new d_path
  mkdir -p -- "$d_kept/$d_stage"
  rm -rf -- "$d_kept/$d_stage"/new.*
  d_new=$(mktemp -d "$d_kept/$d_stage/new.XXXXXX")
  mkdir -m 755 -- "$d_new/tree"
  d_ours ls-files --others --directory --full-name -z -- :/ "${d_not_ours[@]}" >"$d_new/roots"
  ( cd -- "$d_workspace" && xargs -0 -r cp -al --parents -t "$d_new/tree" -- <"$d_new/roots" )
  d_drop_ours "$d_new/tree"
  d_fingerprint "$d_new/tree" >"$d_new/fingerprint"
  rm -rf -- "${d_kept:?}/$d_stage/$d_stage_key"
  cp -- "$d_new/roots" "$d_workspace/.git/deploytool-roots"
  mv -T -- "$d_new" "$d_kept/$d_stage/$d_stage_key"
  ls -1t -- "$d_kept/$d_stage" | tail -n "+$((d_slots + 1))" |
    while read -r d_path; do rm -rf -- "${d_kept:?}/$d_stage/$d_path"; done
}

if d_same_revision; then
  # `if d_keep` would switch `set -e` off inside it.
  set +e
  ( set -e; d_keep )
  d_status=$?
  set -e
  if [ "$d_status" != 0 ]; then
    rm -rf -- "${d_kept:?}/$d_stage"/new.*
    echo "what the $d_stage made can't be kept for the next build"
  fi
else
  echo "the $d_stage changed files of the revision: not kept for the next build"
fi
"""


@dataclass(frozen=True, slots=True)
class CheckedOut:
    """What `checkout` found out: the keys of the stages that can be kept, and those that need not run."""

    keys: Mapping[str, str]
    kept: frozenset[str]


def checked_out(results: Sequence[str]) -> CheckedOut:
    """Read the result lines of `checkout`. Raises StepError if a key is none."""
    keys = groups(results, "key", rf"({DEPENDENCIES}|{ASSETS})\t([0-9a-f]{{64}})", "checkout")
    return CheckedOut({each[0]: each[1] for each in keys}, frozenset(values(results, "kept")))


def aside(place: Place, *, reuse: bool) -> str:
    """The part of `checkout` before the work tree is cleaned: what stages left there is moved aside, for `take`."""
    return shell.script(
        shell.assignments(
            {
                "d_kept": place.kept,
                "d_aside": f"{place.kept}/aside",
                "d_reuse": "yes" if reuse else "",
                "d_most_roots": str(MOST_ROOTS),
            }
        ),
        _OURS,
        _ASIDE,
    )


def take(settings: "Settings", place: Place, fetched: "Fetched") -> str:
    """The part of `checkout` that tells each stage's key and puts back what is kept under it."""
    build = settings.build
    return shell.script(
        shell.assignments(
            {
                "d_dependencies": DEPENDENCIES,
                "d_assets": ASSETS,
                "d_tools": RECIPES[build.recipe].programs({**RECIPES[build.recipe].env, **build.env}),
                "d_has_dependencies": "yes" if build.dependencies else "",
                "d_dependencies_inputs": build.dependencies_inputs,
                "d_assets_inputs": build.assets_inputs,
                "d_dependencies_known": _known(settings, fetched, build.dependencies, build.dependencies_inputs),
                "d_assets_known": _known(settings, fetched, build.assets, build.assets_inputs),
                "d_local_references": RECIPES[build.recipe].local_references,
            }
        ),
        # What lies in submodules is not looked through.
        'if [ ! -s "$d_workspace/.git/deploytool-submodules" ]; then',
        _TAKE,
        "fi",
    )


def keep(settings: "Settings", place: Place, stage: str, key: str, revision: str) -> str:
    """The part after a stage's commands that keeps what they made."""
    linked = settings.build.linked_files
    return shell.script(
        shell.assignments(
            {
                **git.variables(git.Remote("")),
                "d_workspace": place.workspace,
                "d_work_tree": place.work_tree,
                "d_subdirectory": place.subdirectory,
                "d_shared": place.shared,
                "d_kept": place.kept,
                "d_stage": stage,
                "d_stage_key": key,
                "d_revision": revision,
                "d_linked_files": linked,
                "d_not_ours": [_exclusion(place, path) for path in ("REVISION", *linked)],
                "d_slots": str(SLOTS),
            }
        ),
        git.PREPARE,
        inside.INSIDE,
        _OURS,
        _KEEP,
    )


def _exclusion(place: Place, path: str) -> str:
    return f":(exclude,literal,top){path if place.subdirectory == '.' else f'{place.subdirectory}/{path}'}"


def _known(settings: "Settings", fetched: "Fetched", commands: Sequence[str], inputs: Sequence[str]) -> str:
    """A digest of all but the inputs that decides what the commands make; empty if they can't be kept."""
    if not commands or not inputs:
        return ""
    build = settings.build
    known = {
        "deploytool": deploytool.__version__,
        "recipe": build.recipe,
        "env": dict(build.env),
        "path": list(build.path),
        "commands": list(commands),
        "inputs": list(inputs),
        "subdirectory": settings.subdirectory,
        "tools": dict(fetched.tools),
        "linked_files": {item.name: item.sha256 for item in fetched.linked_files},
        **({"conversion": fetched.conversion} if fetched.conversion else {}),
        **fetched.exports,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
