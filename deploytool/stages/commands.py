"""The user's own commands, stage by stage: dependencies, assets, migrations. Pure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploytool.recipes import RECIPES
from deploytool.stages import git, keeping, shell
from deploytool.stages.place import Place
from deploytool.stages.step import CODES, Step

if TYPE_CHECKING:
    from deploytool.settings import Settings

# Each command in a subshell of its own: `cd`, variables and options end with it. Its exit code is told apart from ours.
_RUN = r"""
if [ ! -d "$d_directory" ]; then
  printf 'problem\t%s\n' "$d_directory" >&3
  exit "$d_directory_missing"
fi
d_number=0
for d_command in "${d_commands[@]}"; do
  d_number=$((d_number + 1))
  printf '$ %s\n' "${d_command%%$'\n'*}"
  # `( … ) ||` would switch `set -e` off inside it.
  set +e
  ( set -e; cd -- "$d_directory"; exec 3>&-; eval "$d_command" ) </dev/null
  d_status=$?
  set -e
  if [ "$d_status" != 0 ]; then
    printf 'problem\t%s\t%s\n' "$d_number" "$d_status" >&3
    exit "$d_command_failed"
  fi
done
"""

# A release that lies unpacked on the build server gets the links that a host would give it. What is only on the hosts
# stays as the release has it.
_LINK = r"""
if [ ! -d "$d_directory" ]; then
  printf 'problem\t%s\n' "$d_directory" >&3
  exit "$d_directory_missing"
fi
d_link() {
  if [ "$d_directory/$1" -ef "$d_shared/$1" ]; then return; fi
  mkdir -p -- "$(dirname -- "$d_directory/$1")"
  rm -rf -- "${d_directory:?}/$1"
  ln -s -- "$d_shared/$1" "$d_directory/$1"
}
mkdir -p -- "$d_shared"
for d_path in "${d_linked_dirs[@]}"; do
  mkdir -p -- "$d_shared/$d_path"
  d_link "$d_path"
done
for d_path in "${d_linked_files[@]}"; do
  if [ -e "$d_shared/$d_path" ]; then
    d_link "$d_path"
  else
    printf '%s is not there: not linked for the migrations\n' "$d_shared/$d_path"
  fi
done
"""


def dependencies(settings: "Settings", place: Place, key: str | None = None, revision: str = "") -> Step | None:
    """Run `build.dependencies` in the work tree; None if there are none. With a key, what they make is kept."""
    return _stage(keeping.DEPENDENCIES, settings, place, settings.build.dependencies, key, revision)


def assets(settings: "Settings", place: Place, key: str | None = None, revision: str = "") -> Step | None:
    """Run `build.assets` in the work tree; None if there are none. With a key, what they make is kept."""
    return _stage(keeping.ASSETS, settings, place, settings.build.assets, key, revision)


def _stage(
    name: str, settings: "Settings", place: Place, commands: Sequence[str], key: str | None, revision: str
) -> Step | None:
    end = keeping.keep(settings, place, name, key, revision) if key is not None else ""
    return _step(name, settings, commands, place.work_tree, end=end)


def migrate(settings: "Settings", place: Place, directory: str) -> Step | None:
    """Run `build.migrate` in `directory`, where a release lies unpacked, with this environment's linked files and dirs.

    None if there are no commands. A linked directory that is missing is made; a missing linked file is left out.
    """
    linked_files = (*settings.linked_files, *settings.build.linked_files)
    links = shell.script(
        shell.assignments(
            {
                **CODES,
                "d_directory": directory,
                "d_shared": place.shared,
                "d_linked_dirs": settings.linked_dirs,
                "d_linked_files": tuple(dict.fromkeys(linked_files)),
            }
        ),
        _LINK,
    )
    return _step("migrate", settings, settings.build.migrate, directory, links)


def _step(
    name: str, settings: "Settings", commands: Sequence[str], directory: str, preparation: str = "", end: str = ""
) -> Step | None:
    if not commands:
        return None
    env = {**RECIPES[settings.build.recipe].env, **settings.build.env}
    return Step(
        name,
        shell.script(
            git.BEFORE_ENVIRONMENT,
            shell.environment(env, settings.build.path),
            shell.assignments({**CODES, "d_directory": directory, "d_commands": commands}),
            preparation,
            _RUN,
            end,
        ),
        settings.build.timeout_seconds,
    )
