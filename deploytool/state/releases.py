"""Releases of the store, read from their records."""

from deploytool.errors import StoreError, UsageError
from deploytool.model.provenance import contradictions
from deploytool.model.release import (
    Release,
    ReleaseId,
    is_release_id,
    provenance_key,
    read_record,
    record_key,
    signature_key,
)
from deploytool.session import Session
from deploytool.text import ids
from deploytool.trust.signing import asks_for_signatures, signer_of_release


def read_release(session: Session, release_id: str) -> Release:
    """The release of that id, from its record in the store. Raises UsageError if the id is malformed or unknown."""
    if not is_release_id(release_id):
        raise UsageError(
            f"{release_id!r} is not a release id",
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
            hint=f"nothing in the store is ever overwritten: delete releases/{release_id}/ there, and build again",
        ) from error
    if release.application != session.settings.application:
        raise UsageError(
            f"release {release_id} is of the application {release.application}, not of {session.settings.application}"
        )
    return release


def check_signer(session: Session, release: Release, force: str | None) -> str | None:
    """Who of those who may deploy has signed what the store has of the release; None: nobody, and `force` says why it
    is taken all the same, or there are no signers.

    A missing signature needs a reason: whoever can write to the store can replace an archive and delete its signature.
    Raises StoreError without one, and if the store has something else than was signed.
    """
    if not asks_for_signatures(session.settings):
        return None
    there = provenance_key(release.id)
    texts = session.store.read([there, signature_key(there)]).answer().contents
    provenance, signature = texts[there], texts[signature_key(there)]
    if provenance is None or signature is None:
        what = f"the release {release.id} is not signed: anyone who can write to the store could have changed it"
        if force is None:
            raise StoreError(
                what,
                hint=f"`fab {session.settings.environment} deploy --branch {release.revision[:10]} --rebuild` builds "
                'it again and signs it; --force "why" takes it as it is',
            )
        session.console.note(f"{what}; forced: {force}")
        return None
    name = signer_of_provenance(session, release, provenance, signature)
    if name is None:
        raise StoreError(
            f"the release {release.id} is not signed by anyone in {session.settings.trust.signers}, or was changed "
            "since",
            hint='if its signer has left, restore the line with valid-before="YYYYMMDD"; otherwise check who can write '
            "to the store, and build again: `fab ENV deploy --rebuild`",
        )
    if problems := contradictions(release, provenance):
        raise StoreError(
            f"the release {release.id} is not what was published: {problems[0]}",
            hint=f"check who can write to {session.settings.store.url}; `fab ENV releases --verify --release "
            f"{release.id}` has details, `fab ENV deploy --rebuild` builds it again",
        )
    return name


def signer_of_provenance(session: Session, release: Release, provenance: str, signature: str) -> str | None:
    return signer_of_release(session.settings, provenance, signature, ids.read(release.built_at))
