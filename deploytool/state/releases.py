"""Releases of the store, read from their records."""

from deploytool.errors import UsageError
from deploytool.model.release import (
    Release,
    ReleaseId,
    is_release_id,
    read_record,
    record_key,
)
from deploytool.session import Session


def read_release(session: Session, release_id: str) -> Release:
    """The release of that id, from its record in the store. Raises UsageError if the id is malformed or unknown."""
    if not is_release_id(release_id):
        raise UsageError(
            f"{release_id!r} is no release id",
            hint="one looks like 20261123T061500Z-1a2b3c4; `fab ENV releases` lists them",
        )
    content = session.store.get(record_key(ReleaseId(release_id))).answer().content
    return checked_release(session, release_id, content)


def checked_release(session: Session, release_id: str, content: str | None) -> Release:
    """The release, from the text of its record. Raises UsageError if there is none, or it can't be trusted."""
    if content is None:
        raise UsageError(f"the store {session.settings.store.url} has no release {release_id}")
    try:
        release = read_record(content, ReleaseId(release_id))
    except ValueError as error:
        raise UsageError(
            f"the record of release {release_id} in the store is damaged: {error}",
            hint=f"nothing in the store is ever overwritten: delete releases/{release_id}/ there, and build anew",
        ) from error
    if release.application != session.settings.application:
        raise UsageError(
            f"release {release_id} is of the application {release.application}, not of {session.settings.application}"
        )
    return release
