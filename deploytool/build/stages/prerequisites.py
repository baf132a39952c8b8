"""What a build needs of its server, asked without changing anything: programs and the repository. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploytool.build.stages import git, shell, version_managers
from deploytool.connection.paths import Place
from deploytool.connection.step import CODES, NUMBER, Step, only_value
from deploytool.settings.recipes import RECIPES
from deploytool.text.compressions import COMPRESSIONS

if TYPE_CHECKING:
    from deploytool.settings import Settings

#: what our own scripts and pipes call
PROGRAMS = ("bash", "git", "tar", "sha256sum", "find", "sed", "cmp", "mktemp")

_LOOK = r"""
d_missing=()
for d_program in "${d_programs[@]}"; do
  if command -v "$d_program" >/dev/null; then
    d_version=$("$d_program" --version 2>/dev/null | grep -oE '[0-9]+([.][0-9]+)+' | sed -n 1p || true)
    printf 'found\t%s\n' "$d_program${d_version:+ $d_version}" >&3
  else
    d_missing+=("$d_program")
  fi
done
for d_program in "${d_missing[@]}"; do printf 'problem\t%s\n' "$d_program" >&3; done
[ "${#d_missing[@]}" = 0 ] || exit "$d_tool_missing"
d_check_git
"""

_SPACE = r"""
printf 'free_kib\t%s\n' "$(df -Pk -- "$d_root" | sed -n '2s/.* \([0-9][0-9]*\)  *[0-9-]*%* .*/\1/p')" >&3
"""

_LINKED_FILES = r"""
d_missing=
for d_file in "${d_linked_files[@]}"; do
  if [ ! -r "$d_shared/$d_file" ]; then
    printf 'problem\t%s\n' "$d_shared/$d_file" >&3
    d_missing=yes
  fi
done
[ -z "$d_missing" ] || exit "$d_linked_file_missing"
"""

_REACH = r"""
d_references=$(d_git ls-remote --quiet --heads --tags -- "$d_repository") ||
  d_fail "$d_repository_unreachable" "$d_repository"
d_result references "$(printf '%s' "$d_references" | grep -c . || true)"
"""


def programs(settings: "Settings", place: Place) -> Step:
    """Look for every program that a build calls. Results: found, one line each, with its version if it tells."""
    recipe, packing = RECIPES[settings.build.recipe], COMPRESSIONS[settings.build.compression]
    env = {**recipe.env, **settings.build.env}
    wanted = (*PROGRAMS, *packing.programs, *recipe.programs(env))
    return Step(
        "programs",
        shell.script(
            shell.environment(env, settings.build.path),
            shell.assignments({**CODES, "d_programs": wanted, "d_least_git": git.LEAST_VERSION}),
            version_managers.look(settings),
            git.VERSION,
            _LOOK,
        ),
        60,
    )


def space(place: Place) -> Step:
    """Look how much room the work area's disk has. Result: free_kib, empty if it does not tell."""
    return Step("disk", shell.script(shell.assignments({"d_root": place.root}), _SPACE), 60)


def free_kib(results: Sequence[str]) -> int | None:
    """What `space` found out; None if the system does not tell. Raises StepError if it makes no sense."""
    found = only_value(results, "free_kib", f"{NUMBER}|", "disk")
    return int(found) if found else None


def linked_files(settings: "Settings", place: Place) -> Step:
    """Look for `build.linked_files` where a build expects them; ends with the code of a missing one."""
    return Step(
        "linked_files",
        shell.script(
            shell.assignments({**CODES, "d_shared": place.shared, "d_linked_files": settings.build.linked_files}),
            _LINKED_FILES,
        ),
        60,
    )


def reach(settings: "Settings", place: Place) -> Step:
    """Ask the repository for its branches and tags. Result: references, their number."""
    env = {**RECIPES[settings.build.recipe].env, **settings.build.env}
    return Step(
        "repository",
        shell.script(
            git.BEFORE_ENVIRONMENT,
            shell.environment(env, settings.build.path),
            shell.assignments({**CODES, **git.variables(git.remote(settings.repository))}),
            git.PREPARE,
            _REACH,
        ),
        60,
    )


def references(results: Sequence[str]) -> int:
    """How many branches and tags `reach` found. Raises StepError if it does not say that."""
    return int(only_value(results, "references", NUMBER, "repository"))
