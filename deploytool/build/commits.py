"""What a release brings, compared with what runs: commits and migrations, by the build server's mirror.

It is told for people and kept in records. A mirror that does not know a revision can't tell, and stops nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypedDict

from deploytool.build import stages
from deploytool.build.stages import Commit, Comparison
from deploytool.connection.client import Later
from deploytool.errors import StepError
from deploytool.session import Session
from deploytool.text.words import counted

if TYPE_CHECKING:
    from deploytool.state.targets import Here

#: So many commits are named on the screen.
SHOWN = 10


def compare(session: Session, old: str | None, new: str) -> Later[Comparison | None]:
    """The commits between two revisions; None if nothing runs yet, or nobody can tell."""
    if old is None:
        return Later(lambda: None)
    begun = session.run(stages.compare(session.settings, session.place, old, new), quiet=True)

    def found() -> Comparison | None:
        try:
            comparison = stages.compared(begun.results())
        except StepError as error:
            session.console.note(f"the commits are unknown: {error.message}")
            return None
        return comparison if comparison.known else None

    return Later(found)


def tell_changes(session: Session, here: "Here", changes: Comparison | None) -> None:
    """Say which commits a deployment brings and which it takes away."""
    live, served = here.live.release, here.served.release
    if served is None:
        session.console.note(f"nothing is deployed to {session.settings.environment} yet")
        return
    if served != live:
        session.console.note(f"the hosts are expected to run {live}, and run {served}")
    if changes is None:
        session.console.note(f"current: {served}; the commits since then are unknown")
    else:
        for line in change_lines(served, changes):
            session.console.note(line)


def change_lines(live: str, changes: Comparison) -> list[str]:
    """For people: `live` is what runs now."""
    if not changes.brings_count and not changes.takes_away_count:
        return [f"current: {live}, the same revision"]
    lines = []
    if changes.brings_count:
        lines.append(f"brings {counted(changes.brings_count, 'commit')} since {live}:")
        lines += commit_lines(changes.brings, changes.brings_count)
    if changes.takes_away_count:
        lines.append(f"drops {counted(changes.takes_away_count, 'commit')} of {live}:")
        lines += commit_lines(changes.takes_away, changes.takes_away_count)
    return lines


def commit_lines(commits: Sequence[Commit], count: int) -> list[str]:
    lines = [f"  {commit.revision[:10]} {commit.subject}" for commit in commits[:SHOWN]]
    return [*lines, f"  and {count - SHOWN} more"] if count > SHOWN else lines


class CommitJson(TypedDict):
    """A commit."""

    revision: Annotated[str, "its full SHA"]
    subject: Annotated[str, "the first line of its message"]


class CommitsJson(TypedDict):
    """Commits between two revisions."""

    count: Annotated[int, "how many there are"]
    newest: Annotated[list[CommitJson], "the newest of them"]


class ChangesJson(TypedDict):
    """What lies between two revisions."""

    commits: Annotated[CommitsJson | None, "the commits that are new; null if unknown"]
    commits_taken_away: Annotated[CommitsJson | None, "the commits that are dropped; null if unknown"]
    migrations: Annotated[list[str] | None, "files of new migrations; null if unknown"]


def changes_record(changes: Comparison | None) -> ChangesJson:
    """The same for a deployment's record; null where nobody could tell."""
    if changes is None:
        return {"commits": None, "commits_taken_away": None, "migrations": None}

    def listed(commits: Sequence[Commit], count: int) -> CommitsJson:
        return {
            "count": count,
            "newest": [{"revision": commit.revision, "subject": commit.subject} for commit in commits],
        }

    return {
        "commits": listed(changes.brings, changes.brings_count),
        "commits_taken_away": listed(changes.takes_away, changes.takes_away_count),
        "migrations": list(changes.migrations_added) if changes.migrations_told else None,
    }
