"""`fab ENV mark`: a person's word on a release."""

from deploytool.errors import UsageError
from deploytool.model.history import Mark, standings
from deploytool.model.release import ReleaseId, record_key
from deploytool.session import Session
from deploytool.state.history_store import moment_name, read_history, write_mark


def mark(session: Session, release_id: str, *, good: bool, why: str) -> None:
    """Call a release good or bad here. Raises UsageError if neither the store nor the history knows it."""
    release, environment = ReleaseId(release_id), session.settings.environment
    known = session.store.exists(record_key(release)).answer().exists
    standing = standings(read_history(session, environment, lambda found: release in standings(found))).get(release)
    if not known and standing is None:
        raise UsageError(
            f"there is no release {release} in {session.settings.store.url}, and {environment} never had it",
            hint=f"`fab {environment} releases` lists them",
        )
    if good and (standing is None or not standing.proven):
        session.console.note(f"{release} was never verified on a host of {environment}: rollbacks don't choose it yet")
    write_mark(session, Mark(release, good, why, str(session.operator), moment_name(session.now())))
