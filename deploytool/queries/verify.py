"""`fab ENV releases --verify`: whether releases are what was published, link by link, from the record to the bytes.

It changes nothing. The archive is read on the build server, and hashed there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypedDict

from deploytool.errors import StoreError, UsageError
from deploytool.model.provenance import contradictions, sbom_digest
from deploytool.model.release import (
    Release,
    ReleaseId,
    provenance_key,
    read_record,
    record_key,
    sbom_key,
    sha256,
    signature_key,
)
from deploytool.screen.page import BAD, GOOD, Page
from deploytool.session import Session
from deploytool.state.releases import signer_of_provenance
from deploytool.text import ids
from deploytool.text.words import counted
from deploytool.trust.signing import asks_for_signatures


class ComparisonJson(TypedDict):
    """One thing that was compared."""

    name: Annotated[str, "record, archive, provenance, sbom or signature"]
    holds: Annotated[bool | None, "whether it is what was published; null if there is nothing to compare"]
    words: Annotated[str, "what was found"]


class ReleaseVerificationJson(TypedDict):
    """Whether a release is what was published."""

    release: Annotated[str, "the release"]
    holds: Annotated[bool, "whether nothing contradicts"]
    links: Annotated[list[ComparisonJson], "what was compared, from the record to the archive's bytes"]


class VerificationJson(TypedDict):
    """Whether releases are what was published."""

    releases: Annotated[list[ReleaseVerificationJson], "the releases, newest first"]


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a release's chain."""

    #: record, archive, provenance, sbom or signature
    name: str
    #: None: there is nothing to compare, as with releases of earlier versions
    holds: bool | None
    words: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A release, and each link from its record to its bytes."""

    release: ReleaseId
    links: tuple[Link, ...]

    @property
    def holds(self) -> bool:
        return all(link.holds is not False for link in self.links)

    @property
    def trouble(self) -> str:
        """What a chain that does not hold comes to, in words."""
        broken = {link.name for link in self.links if link.holds is False}
        return "it is not signed by anyone who may deploy" if broken == {"signature"} else "is not what was published"


@dataclass(frozen=True, slots=True)
class Chains:
    """The releases that were verified, newest first."""

    rows: tuple[Chain, ...]

    @property
    def exit_code(self) -> int:
        """0, or the store's: it holds something else than was published."""
        return 0 if all(row.holds for row in self.rows) else StoreError.exit_code

    def as_dict(self) -> VerificationJson:
        return {
            "releases": [
                {
                    "release": row.release,
                    "holds": row.holds,
                    "links": [{"name": link.name, "holds": link.holds, "words": link.words} for link in row.links],
                }
                for row in self.rows
            ]
        }

    def page(self) -> Page:
        if not self.rows:
            return Page(verdict="the store has no release yet")
        marks = {True: "ok", False: "BROKEN", None: "-"}
        lines = []
        for row in self.rows:
            lines.append(row.release if row.holds else f"{row.release}: {row.trouble}")
            lines += [f"  {marks[link.holds]:<6}  {link.name:<10}  {link.words}" for link in row.links]
        broken = sum(not row.holds for row in self.rows)
        total = counted(len(self.rows), "release")
        return Page(
            remarks=tuple(lines),
            verdict=f"{broken} of {total} can't be trusted" if broken else f"{total} verified",
            style=BAD if broken else GOOD,
        )


def verify_releases(session: Session, release: str | None) -> Chains:
    """The chain of that release, or of every one in the store. Raises UsageError if there is none of that id."""
    keys = session.store.list("releases/" if release is None else f"releases/{release}/").answer().keys
    names = sorted({ReleaseId(name) for key in keys if ids.RELEASE.fullmatch(name := key.split("/")[1])}, reverse=True)
    if release is not None and not names:
        raise UsageError(f"the store {session.settings.store.url} has no release {release}")
    with session.console.step("verify"):
        return Chains(tuple(_chain(session, name, frozenset(keys)) for name in names))


def _chain(session: Session, name: ReleaseId, keys: frozenset[str]) -> Chain:
    record, provenance, sbom = record_key(name), provenance_key(name), sbom_key(name)
    signature = signature_key(provenance)
    texts = session.store.read([key for key in (record, provenance, sbom, signature) if key in keys]).answer().contents
    try:
        release = read_record(texts.get(record) or "", name)
    except ValueError as error:
        why = f"{record} is damaged: {error}" if texts.get(record) is not None else f"{record} is missing"
        return Chain(name, (Link("record", False, why),))
    return Chain(
        name,
        (
            Link("record", True, f"revision {release.revision}, built at {release.built_at} by {release.built_by}"),
            _archive(session, release),
            *_documents(release, texts.get(provenance), texts.get(sbom)),
            _signature(session, release, texts.get(provenance), texts.get(signature)),
        ),
    )


def _archive(session: Session, release: Release) -> Link:
    found = session.store.digest(release.archive_key).answer()
    if found.sha256 is None:
        return Link("archive", False, f"{release.archive_key} is missing")
    if (found.sha256, found.size_bytes) != (release.checksum, release.size_bytes):
        return Link(
            "archive",
            False,
            f"{release.archive_key} has {found.size_bytes} bytes with sha256 {found.sha256}; the record names "
            f"{release.size_bytes} bytes with sha256 {release.checksum}",
        )
    return Link("archive", True, f"{found.size_bytes} bytes, sha256 {found.sha256}")


def _documents(release: Release, provenance: str | None, sbom: str | None) -> Sequence[Link]:
    there, bill = provenance_key(release.id), sbom_key(release.id)
    if release.provenance is None:
        if provenance is not None:
            return [Link("provenance", False, f"{there} is there, and the record does not name it")]
        return [Link("provenance", None, "none: an earlier version of deploytool built this release")]
    if provenance is None:
        return [Link("provenance", False, f"{there} is missing")]
    problems = contradictions(release, provenance)
    links = [
        Link(
            "provenance",
            not problems,
            "; ".join(problems) or "names this archive, revision and build key; its sha256 is the record's",
        )
    ]
    if sbom is None:
        return [*links, Link("sbom", False, f"{bill} is missing")]
    same = sbom_digest(provenance) == sha256(sbom)
    words = "its sha256 is the one in the provenance" if same else f"{bill} has not the sha256 in the provenance"
    return [*links, Link("sbom", same, words)]


def _signature(session: Session, release: Release, provenance: str | None, signature: str | None) -> Link:
    signers = session.settings.trust.signers
    if provenance is None or signature is None:
        words = "none: anyone who can write to the store could have replaced all of this"
        return Link("signature", False if asks_for_signatures(session.settings) else None, words)
    if signers is None:
        return Link("signature", None, "there is one; `trust.signers` is not set, so it is not checked")
    name = signer_of_provenance(session, release, provenance, signature)
    if name is None:
        return Link("signature", False, f"not by anyone in {signers}")
    return Link("signature", True, f"signed by {name}")
