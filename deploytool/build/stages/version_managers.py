"""Versions of programs that files in the application ask for (`.ruby-version` and its like). Pure.

Where the build server has the version manager that goes with such a file, the manager is asked, its shims stand in PATH
and its variable (`RBENV_VERSION`) says the version. So a missing version ends the first stage, before anything runs.
Where there is no manager, whatever version the program has is used, and `unfit` says so if it is another one: also for
files that no manager here reads (`.nvmrc`, `.tool-versions`), and for programs that the recipe does not know.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploytool.build.stages import shell
from deploytool.connection.step import groups
from deploytool.settings.recipes import RECIPES

if TYPE_CHECKING:
    from deploytool.settings import Settings

#: reads a version file in the directory that the variable `d_directory` names
IN_DIRECTORY = r"""
d_version_file() { cat -- "$d_directory/$1" 2>/dev/null; }
"""

#: reads it in the revision, as long as no work tree holds that
IN_REVISION = r"""
d_version_file() {
  local d_path=$1
  if [ "$d_subdirectory" != . ]; then d_path=$d_subdirectory/$1; fi
  d_git --git-dir="$d_copy" cat-file blob "$d_revision:$d_path" 2>/dev/null
}
"""

_FIND = r"""
d_manager() {  # prints where the manager $1 is; fails if there is none. Most are not in PATH unless a person logs in
  local d_root=${1^^}_ROOT
  d_root=${!d_root:-$HOME/.$1}
  command -v -- "$1" || { [ -x "$d_root/bin/$1" ] && printf '%s\n' "$d_root/bin/$1"; }
}
"""

_USE = r"""
d_use_versions() {
  local d_number d_name d_file d_tool d_wanted d_manager d_found d_missing=
  for ((d_number = 0; d_number < ${#d_managers[@]}; d_number += 3)); do
    d_name=${d_managers[d_number]} d_file=${d_managers[d_number + 1]} d_tool=${d_managers[d_number + 2]}
    d_wanted=$(d_version_file "$d_file") || continue
    # One on a line, without what follows it; several are one list to pyenv.
    d_wanted=$(sed -e 's/#.*//' -e 's/^[[:space:]]*//' -e 's/[[:space:]].*//' -e '/^$/d' <<<"$d_wanted")
    d_wanted=${d_wanted//$'\n'/:}
    if [ -z "$d_wanted" ]; then continue; fi
    if ! d_manager=$(d_manager "$d_name"); then
      printf 'unmanaged\t%s\t%s\t%s\n' "$d_tool" "$d_file" "$d_wanted" >&3
    elif d_found=$(export "${d_name^^}_VERSION=$d_wanted" && "$d_manager" version-name); then
      export "${d_name^^}_VERSION=$d_found"
      PATH=$("$d_manager" root)/shims:$PATH
    else
      printf 'problem\t%s\t%s\t%s\n' "$d_file" "$d_name" "$d_wanted" >&3
      d_missing=yes
    fi
  done
  [ -z "$d_missing" ] || exit "$d_version_missing"
}
d_use_versions
"""

# A shim (of asdf, mise, …) decides by the directory that it is called in, and is right there.
_ASKED = r"""
d_asked() {
  local d_number d_file d_key d_tool d_wanted d_version d_there d_top=$d_subdirectory
  if [ "$d_top" = . ]; then d_top=''; fi
  d_there=$(d_git --git-dir="$d_copy" ls-tree --name-only "$d_revision:$d_top" 2>/dev/null) || return 0
  for ((d_number = 0; d_number < ${#d_asking[@]}; d_number += 3)); do
    d_file=${d_asking[d_number]} d_key=${d_asking[d_number + 1]} d_tool=${d_asking[d_number + 2]}
    if [[ $'\n'$d_there$'\n' != *$'\n'"$d_file"$'\n'* ]]; then continue; fi
    d_wanted=$(d_version_file "$d_file") || continue
    d_wanted=$(awk -v key="$d_key" '{ sub(/\r$/, ""); sub(/#.*/, "") }
      key == "" && NF { print $1; exit }
      key != "" && NF > 1 && index("|" key "|", "|" $1 "|") { print $2; exit }' <<<"$d_wanted")
    if [ -z "$d_wanted" ]; then continue; fi
    case $(command -v -- "$d_tool") in '' | */shims/*) continue ;; esac
    d_version=$("$d_tool" --version 2>/dev/null 3>&-) || continue
    printf 'asked\t%s\t%s\t%s\t%s\n' "$d_tool" "$d_file" "$d_wanted" "${d_version%%$'\n'*}" >&3
  done
}
d_asked
"""

#: files that ask for a version, the names in them if they are lists, and the program
_FILES = (
    (".ruby-version", "", "ruby"),
    (".node-version", "", "node"),
    (".nvmrc", "", "node"),
    (".python-version", "", "python3"),
    (".tool-versions", "ruby", "ruby"),
    (".tool-versions", "nodejs|node", "node"),
    (".tool-versions", "python", "python3"),
)
#: what nvm calls the versions of Node.js that are supported for long
_LTS = {"boron": 6, "carbon": 8, "dubnium": 10, "erbium": 12, "fermium": 14, "gallium": 16, "hydrogen": 18} | {
    "iron": 20,
    "jod": 22,
    "krypton": 24,
}

# No revision is known: what the managers have at all.
_LOOK = r"""
for ((d_number = 0; d_number < ${#d_managers[@]}; d_number += 3)); do
  if d_manager=$(d_manager "${d_managers[d_number]}"); then
    printf 'found\t%s\n' "${d_managers[d_number]}" >&3
    PATH=$PATH:$("$d_manager" root)/shims
  fi
done
"""


@dataclass(frozen=True, slots=True)
class Unmanaged:
    """A version that a file asks for, of a program whose versions nobody manages on the build server."""

    #: as `Fetched.tools` calls it
    program: str
    file: str
    wanted: str
    #: the first line of its `--version`, if `Fetched.tools` has none
    runs: str = ""


def use(settings: "Settings", reader: str) -> str:
    """The part of a script that puts shims into PATH, behind `build.path`. Needs `CODES` and what `reader` needs."""
    managers = _managers(settings)
    if not managers:
        return ""
    return shell.script(
        shell.assignments({"d_managers": managers}),
        _FIND,
        reader,
        _USE,
        shell.environment({}, settings.build.path),
    )


def asked(settings: "Settings") -> str:
    """The part of a script, behind `use`, that looks what else in the revision asks for a version. Results: asked."""
    managers, names = _managers(settings), _names(settings)
    words = [
        word
        for file, key, program in _FILES
        if file not in managers or program not in names
        for word in (file, key, names.get(program, program))
    ]
    return shell.script(shell.assignments({"d_asking": words}), IN_REVISION, _ASKED)


def look(settings: "Settings") -> str:
    """The part of a script that puts all shims behind PATH. Results: found, with the names of the managers."""
    managers = _managers(settings)
    return shell.script(shell.assignments({"d_managers": managers}), _FIND, _LOOK) if managers else ""


def _managers(settings: "Settings") -> Sequence[str]:
    names = _names(settings)
    return [
        word
        for manager in RECIPES[settings.build.recipe].version_managers
        for word in (manager.name, manager.file, names.get(manager.program, manager.program))
    ]


def _names(settings: "Settings") -> Mapping[str, str]:
    """The recipe's tools as they are called: `env` may name another interpreter, whose version is asked for then."""
    recipe = RECIPES[settings.build.recipe]
    return dict(zip(recipe.tools, recipe.programs({**recipe.env, **settings.build.env}), strict=True))


def unmanaged(results: Sequence[str], step: str) -> tuple[Unmanaged, ...]:
    """What the result lines `unmanaged` and `asked` of that step say. Raises StepError if one makes no sense."""
    of_managers = groups(results, "unmanaged", r"([^\t]+)\t([^\t]+)\t(.+)", step)
    others = groups(results, "asked", r"([^\t]+)\t([^\t]+)\t([^\t]+)\t(.*)", step)
    return tuple(Unmanaged(*each) for each in (*of_managers, *others))


def unfit(asked: Sequence[Unmanaged], tools: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each program of another version than its file asks for. What can't be compared is passed over."""
    for each in asked:
        said = tools.get(each.program) or each.runs
        found = re.search(r"\d+(\.\d+)*", said or "")
        named = _LTS.get(each.wanted.removeprefix("lts/"), each.wanted)
        wanted = re.fullmatch(r"[a-z]*-?(\d+(?:\.\d+)*)", str(named))
        if said and found and wanted and not f"{found[0]}.".startswith(f"{wanted[1]}."):
            yield f"{each.file} asks for {each.wanted}, but {each.program} on the build server is {said}"
