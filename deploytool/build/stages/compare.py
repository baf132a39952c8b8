"""Which commits and migrations lie between two revisions, read from the mirror. Nothing is changed or locked. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploytool.build.stages import git, shell
from deploytool.connection.paths import Place
from deploytool.connection.step import CODES, NUMBER, Step, groups, only_value, values
from deploytool.model.release import SHA, Revision
from deploytool.settings.recipes import RECIPES
from deploytool.text.untrusted import printable

if TYPE_CHECKING:
    from deploytool.settings import Settings

#: So many commits of each side are named, the newest; all are counted.
COMMITS_NAMED = 50

# All is asked before anything is told: half an answer would be none.
COMPARE = r"""
d_compare() {  # in the git directory $1: what lies between the revisions $2, the old one, and $3
  local d_told
  if [ -d "$1" ] && d_told=$(d_differences "$@"); then
    d_result known yes
    if [ -n "$d_told" ]; then printf '%s\n' "$d_told" >&3; fi
  else
    d_result known no
  fi
}

# Whoever calls these has `set -e` switched off inside them: every line says what becomes of a failure.
d_differences() {
  local d_sha='^([0-9a-f]{40}|[0-9a-f]{64})$' d_old d_new
  [[ $2 =~ $d_sha && $3 =~ $d_sha ]] || return
  d_git --git-dir="$1" cat-file -e "$2^{commit}" || return
  d_git --git-dir="$1" cat-file -e "$3^{commit}" || return
  d_commits brings "$1" "$2..$3" || return
  d_commits takes_away "$1" "$3..$2" || return
  if [ "${#d_migrations[@]}" = 0 ]; then return 0; fi
  d_old=$(d_tree "$1" "$2") && d_new=$(d_tree "$1" "$3") || return 0
  printf 'migrations_told\tyes\n'
  d_files migration_added A "$1" "$d_old" "$d_new" || return
  d_files migration_taken_away D "$1" "$d_old" "$d_new" || return
}

d_commits() {
  local d_count
  d_count=$(d_git --git-dir="$2" rev-list --count "$3") || return
  printf '%s_count\t%s\n' "$1" "$d_count"
  d_git --git-dir="$2" -c log.showSignature=false log --no-decorate --no-patch --encoding=UTF-8 \
    --max-count="$d_commits_named" --format="tformat:$1%x09%H%x09%s" "$3"
}

# A revision from before the application's directory was there has an empty one. What is there and no directory, a
# symbolic link say, can't be compared.
d_tree() {
  local d_found
  if [ "$d_subdirectory" = . ]; then
    d_git --git-dir="$1" rev-parse --verify --quiet "$2^{tree}"
  elif d_found=$(d_git --git-dir="$1" rev-parse --verify --quiet "$2:$d_subdirectory"); then
    d_git --git-dir="$1" rev-parse --verify --quiet "$d_found^{tree}"
  else
    d_git --git-dir="$1" hash-object -t tree /dev/null
  fi
}

d_files() {
  d_git --git-dir="$3" -c core.quotePath=false diff-tree -r --no-renames --name-only --diff-filter="$2" "$4" "$5" \
    -- "${d_migrations[@]}" | sed "s/^/$1\t/"
}
"""


def compare(settings: "Settings", place: Place, old_revision: str, new_revision: str) -> Step:
    """Compare two revisions in the mirror; read the results with `compared`.

    What is missing there, and what is no full SHA, is no failure: then `known` is False.
    """
    return Step(
        "compare",
        shell.script(
            git.BEFORE_ENVIRONMENT,
            shell.environment({}, settings.build.path),
            shell.assignments(
                {
                    **CODES,
                    # The repository itself is not asked.
                    **git.variables(git.Remote("")),
                    **variables(settings, place),
                    "d_mirror": place.mirror,
                    "d_old_revision": old_revision,
                    "d_new_revision": new_revision,
                }
            ),
            git.PREPARE,
            COMPARE,
            'd_compare "$d_mirror" "$d_old_revision" "$d_new_revision"',
        ),
        settings.build.timeout_seconds,
    )


def variables(settings: "Settings", place: Place) -> Mapping[str, str | Sequence[str]]:
    """What `COMPARE` needs in the head of its script."""
    return {
        "d_subdirectory": place.subdirectory,
        "d_migrations": RECIPES[settings.build.recipe].migrations,
        "d_commits_named": str(COMMITS_NAMED),
    }


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit and the first line of its message, without what moves a cursor."""

    revision: Revision
    subject: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a new revision changes, compared with an old one."""

    #: False: the git directory lacks one of them; then all else is empty
    known: bool
    #: commits of the new revision that the old one has not: the newest, and how many there are
    brings: tuple[Commit, ...] = ()
    brings_count: int = 0
    #: the other way round
    takes_away: tuple[Commit, ...] = ()
    takes_away_count: int = 0
    #: whether the recipe knows which files change the schema
    migrations_told: bool = False
    #: such files, as paths below the application's directory; git quotes odd names
    migrations_added: tuple[str, ...] = ()
    migrations_taken_away: tuple[str, ...] = ()


def compared(results: Sequence[str]) -> Comparison:
    """Read the result lines of `compare`. Raises StepError where an answer is missing: an empty one must not pass."""

    def commits(key: str) -> tuple[Commit, ...]:
        told = groups(results, key, rf"({SHA})\t(.*)", "compare")
        return tuple(Commit(Revision(revision), printable(subject)) for revision, subject in told)

    def paths(key: str) -> tuple[str, ...]:
        return tuple(printable(path) for path in values(results, key))

    if only_value(results, "known", "yes|no", "compare") == "no":
        return Comparison(known=False)
    return Comparison(
        known=True,
        brings=commits("brings"),
        brings_count=int(only_value(results, "brings_count", NUMBER, "compare")),
        takes_away=commits("takes_away"),
        takes_away_count=int(only_value(results, "takes_away_count", NUMBER, "compare")),
        migrations_told=bool(values(results, "migrations_told")),
        migrations_added=paths("migration_added"),
        migrations_taken_away=paths("migration_taken_away"),
    )
