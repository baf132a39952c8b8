"""Schema changes, in two times, on the build server and with the release's own code. The environment's lock is held.

    all fetched → migrate, if anything is pending → go → all verified → migrate_after

What `migrate` does must suit the old release as well: it runs while that one serves, and is not undone. Drops and
renames are for `migrate_after`, when nothing runs the old release any more; until then it is due.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deploytool.build import stages
from deploytool.build.stages import Comparison
from deploytool.connection.paths import Place
from deploytool.connection.step import Step
from deploytool.errors import ConnectionFailed, DeployError, UsageError
from deploytool.model.fleet import LastWord, named
from deploytool.model.history import History, after_runs
from deploytool.model.release import Release
from deploytool.screen.summary import Outcome
from deploytool.session import Session
from deploytool.state.freeze import refuse_if_frozen
from deploytool.state.history_store import write_migrated_after
from deploytool.state.releases import check_signer, read_release
from deploytool.state.targets import stand
from deploytool.text.masking import Masking
from deploytool.text.words import counted

if TYPE_CHECKING:
    from deploytool.settings import Settings

#: An unpacked release that can't be removed so soon is left to the next one.
REMOVAL_SECONDS = 15.0


# --- before any host is let go


def migrate(session: Session, release: Release, outcome: Outcome) -> None:
    """Run `build.migrate`, unless `build.migrate_pending` says that there is nothing to do. Raises StepError."""
    if not session.settings.build.migrate:
        return
    with outcome.phase("migrate"), unpacked(session, release) as directory:
        pending = ask_pending(session, directory)
        if pending is not None and not pending:
            session.console.note("migrate: skipped, nothing is pending")
            return
        if pending:
            session.console.note(f"pending: {named(pending)}")
        run(session, stages.migrate, directory)
        outcome.migrated = True


def leave_out(session: Session, release: Release, outcome: Outcome, *, sure: bool, force: str | None = None) -> None:
    """What `--no-migrate` does in its place: ask whether the release goes without what is pending.

    Raises UsageError unless that is `sure`, or a person at the terminal says so; StoreError as `check_signer` does.
    """
    build = session.settings.build
    if not build.migrate:
        return
    if not build.migrate_pending:
        session.console.note(
            "--no-migrate: `build.migrate_pending` is empty, so it is unknown whether anything is pending"
        )
        return
    # What is asked is the release's own code.
    check_signer(session, release, force)
    with outcome.phase("migrate"), unpacked(session, release) as directory:
        pending = ask_pending(session, directory)
    if not pending:
        session.console.note("--no-migrate: nothing is pending")
        return
    refuse_unless_sure(
        session,
        f"--no-migrate leaves out what is pending for {release.id}: {named(pending)}",
        sure=sure,
    )


def ask_pending(session: Session, directory: str) -> tuple[str, ...] | None:
    """What is pending, by `build.migrate_pending` of the release unpacked there; None if there is nobody to ask.

    Raises StepError.
    """
    if not session.settings.build.migrate_pending:
        return None
    found = stages.pending(run(session, stages.migrate_pending, directory))
    masking = Masking(session.settings.secrets)
    return tuple(masking.text(name) for name in found)


def refuse_unless_sure(session: Session, what: str, *, sure: bool) -> None:
    """Raise UsageError unless `--yes` was given, or a person at the terminal says yes to `what`."""
    if sure:
        session.console.note(f"{what}; --yes: continuing")
        return
    answer = session.console.confirm(f"{what}. Continue anyway?")
    if not answer:
        raise UsageError(
            f"{what}; {'there is no terminal to ask on' if answer is None else 'not confirmed'}",
            hint="nothing was changed; --yes continues without asking",
        )


# --- when all hosts are verified


def migrate_after(session: Session, release: Release, outcome: Outcome) -> None:
    """Run `build.migrate_after` of the release that all expected hosts have proved.

    Raises DeployError, which says that nothing but this is left to do.
    """
    try:
        with outcome.phase("migrate_after"), unpacked(session, release) as directory:
            run(session, stages.migrate_after, directory)
    except DeployError as error:
        error.message += f"; every host runs {release.id}, and only its migrate_after is due"
        again = f"fix it, then run `fab {session.settings.environment} migrate --after`; the next deploy runs it, too"
        error.hint = "; ".join(filter(None, (again, error.hint)))
        raise
    outcome.migrate_after = "done"


# --- by hand


def migrate_by_hand(session: Session, release_id: str | None, outcome: Outcome, *, force: str | None = None) -> None:
    """Run the migrations of a release, by default of the one that the environment runs. See `chosen`."""
    with session.lock(session.settings.environment, wait=False):
        refuse_if_frozen(session)
        release = chosen(session, release_id or stand(session).answer().live.release, outcome, force)
        if not session.settings.build.migrate:
            session.console.note("build.migrate is empty: there is nothing to run")
            return
        migrate(session, release, outcome)


def migrate_after_by_hand(
    session: Session, release_id: str | None, outcome: Outcome, *, sure: bool, force: str | None = None
) -> None:
    """Run the `migrate_after` of a release, by default of the one that the environment runs. See `chosen`.

    Raises UsageError if a host that is up does not serve it, proven, unless that is `sure` or confirmed.
    """
    with session.lock(session.settings.environment, wait=False):
        refuse_if_frozen(session)
        here = stand(session).answer()
        release = chosen(session, release_id or here.live.release, outcome, force)
        if not session.settings.build.migrate_after:
            session.console.note("build.migrate_after is empty: there is nothing to run")
            return
        others = [
            f"{host} ({role})"
            for role, host in sorted(here.expected.hosts)
            if (word := here.expected.words.get((role, host), LastWord())).release != release.id or not word.verified
        ]
        if others:
            refuse_unless_sure(
                session,
                f"migrate_after is for when every host serves {release.id}, and {len(others)} of "
                f"{counted(len(here.expected.hosts), 'host')} are not verified: {named(others)}",
                sure=sure,
            )
        with outcome.phase("migrate_after"), unpacked(session, release) as directory:
            run(session, stages.migrate_after, directory)
        outcome.migrate_after = "done"
        write_migrated_after(session, release.id)


def chosen(session: Session, release_id: str | None, outcome: Outcome, force: str | None) -> Release:
    """The release whose migrations are to run. `force` says why, if nobody has signed it.

    Raises UsageError if nothing was deployed yet, StoreError as `check_signer` does.
    """
    if release_id is None:
        raise UsageError(
            f"nothing was deployed to {session.settings.environment} yet",
            hint=f"fab {session.settings.environment} migrate --release ID",
        )
    release = read_release(session, release_id)
    check_signer(session, release, force)
    outcome.release, outcome.revision = release.id, release.revision
    return release


# --- on the build server


@contextmanager
def unpacked(session: Session, release: Release) -> Iterator[str]:
    """The release, unpacked on the build server for its migrations."""
    with session.console.step("unpack"):
        directory = session.build_server.unpack_release(release).answer().directory
    yield directory
    # After a failure it stays, until the next one is unpacked: a migration may still be running in it. And it must not
    # make a deployment fail that it can't be removed now.
    with contextlib.suppress(ConnectionFailed):
        session.build_server.remove_unpacked().answer(limit_seconds=REMOVAL_SECONDS)


def run(session: Session, stage: "Callable[[Settings, Place, str], Step | None]", directory: str) -> tuple[str, ...]:
    """Run a stage in the directory where a release lies unpacked; returns its result lines. Raises StepError."""
    step = stage(session.settings, session.place, directory)
    return session.run(step).results() if step is not None else ()


# --- on the way back


def warn_of_migrations(session: Session, history: History, release: Release, changes: Comparison | None) -> None:
    """Say that the schema stays as it is, if migrations lie between what is wanted now and where we go."""
    last = max((each.id for each in history.deployments if each.release == release.id), default="")
    if changes is not None and changes.migrations_told:
        files = changes.migrations_taken_away
        if not files:
            return
        session.console.note(
            f"WARNING: {counted(len(files), 'migration')} between them, which a rollback does not undo: {named(files)}"
        )
    elif since := [each for each in history.deployments if each.record.get("migrated") is True and each.id > last]:
        session.console.note(
            f"WARNING: migrations have run with {counted(len(since), 'deployment')} since {release.id} was live; "
            "it is unknown whether they changed the schema, and a rollback does not undo them"
        )
    dropped = sorted({str(each.release) for each in after_runs(history) if each.moment > last} - {release.id})
    if dropped:
        session.console.note(
            f"WARNING: migrate_after of {named(dropped)} has run since: {release.id} may need what it dropped"
        )
