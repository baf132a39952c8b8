"""The user's own commands, stage by stage: dependencies, assets, migrations in two times. Pure.

Besides what is in PATH they have `relocate_virtualenv DIRECTORY`, see templates/build/relocate_virtualenv.py.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploytool.build.stages import cache, git, inside, shell, version_managers
from deploytool.connection.paths import Place
from deploytool.connection.step import CODES, Step, values
from deploytool.hosts.scripts import own_templates
from deploytool.settings.recipes import RECIPES, command_name

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
  printf '$ %s\n' "${d_names[d_number]}"
  d_number=$((d_number + 1))
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

# The same for commands that ask: 0 is yes and 1 is no. What they say is told, too; a yes without a word is told by the
# command itself.
_ASK = r"""
d_number=0
for d_command in "${d_commands[@]}"; do
  printf '$ %s\n' "${d_names[d_number]}"
  d_number=$((d_number + 1))
  set +e
  d_said=$( ( set -e; cd -- "$d_directory"; exec 3>&-; eval "$d_command" ) </dev/null )
  d_status=$?
  set -e
  if [ -n "$d_said" ]; then printf '%s\n' "$d_said"; fi
  case $d_status in
    0)
      while IFS= read -r d_line; do
        printf 'pending\t%s\n' "$d_line" >&3
      done <<<"${d_said:-${d_names[d_number - 1]}}"
      ;;
    1) ;;
    *)
      printf 'problem\t%s\t%s\n' "$d_number" "$d_status" >&3
      exit "$d_command_failed"
      ;;
  esac
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
  d_inside "$d_directory" "$1"
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


@functools.cache
def relocate_virtualenv() -> str:
    """The function of bash by that name."""
    program = (own_templates() / "build" / "relocate_virtualenv.py").read_text("utf-8")
    return f"""
relocate_virtualenv() {{
  "$1/bin/python" -B - "$1" <<'D_PROGRAM'
{program}D_PROGRAM
}}
"""


def dependencies(settings: "Settings", place: Place, key: str | None = None, revision: str = "") -> Step | None:
    """Run `build.dependencies` in the work tree; None if there are none. With a key, what they make is kept."""
    return _stage(cache.DEPENDENCIES, settings, place, settings.build.dependencies, key, revision)


def assets(settings: "Settings", place: Place, key: str | None = None, revision: str = "") -> Step | None:
    """Run `build.assets` in the work tree; None if there are none. With a key, what they make is kept."""
    return _stage(cache.ASSETS, settings, place, settings.build.assets, key, revision)


def _stage(
    name: str, settings: "Settings", place: Place, commands: Sequence[str], key: str | None, revision: str
) -> Step | None:
    end = cache.keep(settings, place, name, key, revision) if key is not None else ""
    return _step(name, settings, commands, place.work_tree, end=end)


def migrate(settings: "Settings", place: Place, directory: str) -> Step | None:
    """Run `build.migrate` in `directory`, where a release lies unpacked; None if there are no commands."""
    return _migration("migrate", settings, place, settings.build.migrate, directory)


def migrate_after(settings: "Settings", place: Place, directory: str) -> Step | None:
    """Run `build.migrate_after` in `directory`, where a release lies unpacked; None if there are no commands."""
    return _migration("migrate_after", settings, place, settings.build.migrate_after, directory)


def migrate_pending(settings: "Settings", place: Place, directory: str) -> Step | None:
    """Ask `build.migrate_pending` in `directory`, where a release lies unpacked; None if there is nobody to ask."""
    return _migration("migrate_pending", settings, place, settings.build.migrate_pending, directory, _ASK)


def pending(results: Sequence[str]) -> tuple[str, ...]:
    """What is pending, in the words of the commands that were asked; empty if nothing is."""
    found = values(results, "pending")
    return tuple(line.strip() for line in found if line.strip()) or found


def _migration(
    name: str, settings: "Settings", place: Place, commands: Sequence[str], directory: str, body: str = _RUN
) -> Step | None:
    """A step in an unpacked release, with this environment's linked files and dirs.

    A linked directory that is missing is made; a missing linked file is left out.
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
        inside.INSIDE,
        _LINK,
    )
    return _step(name, settings, commands, directory, links, body=body)


def _step(
    name: str,
    settings: "Settings",
    commands: Sequence[str],
    directory: str,
    preparation: str = "",
    *,
    body: str = _RUN,
    end: str = "",
) -> Step | None:
    if not commands:
        return None
    env = {**RECIPES[settings.build.recipe].env, **settings.build.env}
    return Step(
        name,
        shell.script(
            git.BEFORE_ENVIRONMENT,
            shell.environment(env, settings.build.path),
            shell.assignments(
                {
                    **CODES,
                    "d_directory": directory,
                    "d_commands": commands,
                    "d_names": tuple(map(command_name, commands)),
                }
            ),
            version_managers.use(settings, version_managers.IN_DIRECTORY),
            relocate_virtualenv() if any("relocate_virtualenv" in command for command in commands) else "",
            preparation,
            body,
            end,
        ),
        settings.build.timeout_seconds,
    )
