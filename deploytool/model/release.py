"""Names and keys of releases and deployments. Pure: no clock, no store, no network."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NewType

from deploytool.settings.files import NAME
from deploytool.text import ids
from deploytool.text.compressions import COMPRESSIONS
from deploytool.text.untrusted import CONTROL, read_json

Revision = NewType("Revision", str)
#: a pattern for the name of a commit: git names objects by SHA-1 or by SHA-256
SHA = "[0-9a-f]{40}(?:[0-9a-f]{24})?"
ReleaseId = NewType("ReleaseId", str)
DeploymentId = NewType("DeploymentId", str)

#: Stands in manifests that are rendered at build time, before any deployment exists. It sorts before every real id,
#: so a host's guard refuses it.
NO_DEPLOYMENT = DeploymentId("00000000T000000Znone")


def is_release_id(text: str) -> bool:
    return ids.RELEASE.fullmatch(text) is not None


def is_deployment_id(text: str) -> bool:
    return ids.DEPLOYMENT.fullmatch(text) is not None


def deployment_in(wanted: str | None) -> DeploymentId | None:
    """The deployment that a value of `wanted` names; None if it names none."""
    name = ids.deployment_in(wanted)
    return DeploymentId(name) if name is not None else None


def archive_key(release: ReleaseId, application: str, compression: str) -> str:
    """The archive's key in the store, relative to the store's URL."""
    return f"releases/{release}/{application}{COMPRESSIONS[compression].suffix}"


def record_key(release: ReleaseId) -> str:
    return f"releases/{release}/release.json"


def provenance_key(release: ReleaseId) -> str:
    """How and from what it was built; see `provenance`."""
    return f"releases/{release}/provenance.json"


def sbom_key(release: ReleaseId) -> str:
    """What its lock files name; see `sbom`."""
    return f"releases/{release}/sbom.cdx.json"


def signature_key(key: str) -> str:
    """Where the signature of a document of the store stands."""
    return f"{key}.sig"


def built_manifest_key(release: ReleaseId, environment: str, role: str) -> str:
    """The manifest rendered at build time, for reading; no event ever names it."""
    return f"releases/{release}/manifests/{environment}/{role}.yml"


def build_record_key(build_key: str) -> str:
    return f"builds/{build_key}.json"


def manifest_key(environment: str, deployment: DeploymentId, role: str) -> str:
    """The manifest that the event names."""
    return f"environments/{environment}/deployments/{deployment}/{role}.yml"


def kept_manifest_key(environment: str, deployment: DeploymentId, role: str) -> str:
    """The manifest without an archive, for hosts that have the release still. The event of a rollback names it."""
    return f"environments/{environment}/deployments/{deployment}/kept/{role}.yml"


def probes_prefix(environment: str) -> str:
    """Where manifests of `check` are, as long as it runs."""
    return f"environments/{environment}/checks/"


def probe_key(environment: str, probe: DeploymentId, role: str) -> str:
    return f"{probes_prefix(environment)}{probe}/{role}.yml"


def probe_archive_key(environment: str, probe: DeploymentId, role: str) -> str:
    """What hosts get in an archive's place when they are only asked."""
    return f"{probes_prefix(environment)}{probe}/{role}.archive"


def begun_key(environment: str, deployment: DeploymentId) -> str:
    """What is known of a deployment when it begins. From then on retention leaves its release alone."""
    return f"environments/{environment}/deployments/{deployment}/begun.json"


def deployment_record_key(environment: str, deployment: DeploymentId) -> str:
    """What is known of a deployment when it has ended."""
    return f"environments/{environment}/deployments/{deployment}.json"


def mark_key(environment: str, release: ReleaseId, moment: str) -> str:
    """One word of a person on a release; `moment` has the form of a deployment's id, so marks sort by time."""
    return f"environments/{environment}/marks/{release}/{moment}.json"


def migrated_after_key(environment: str, release: ReleaseId, moment: str) -> str:
    """That somebody has run a release's `build.migrate_after` by hand; `moment` has the form of a deployment's id."""
    return f"environments/{environment}/migrated_after/{release}/{moment}.json"


def event_name(application: str, role: str, environment: str) -> str:
    return f"deploy_{application}_{role}_{environment}"


def consul_prefix(application: str, environment: str) -> str:
    return f"deploytool/{application}/{environment}"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def build_key(inputs: Mapping[str, object]) -> str:
    """sha256 over what decides the bytes of an archive; equal inputs give equal keys in any order of their names."""
    return sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True))


@dataclass(frozen=True, slots=True)
class Release:
    """One immutable built artifact, as its record `release.json` tells it."""

    id: ReleaseId
    application: str
    revision: Revision
    branch: str
    built_at: str
    built_by: str
    build_key: str
    compression: str
    #: sha256 of the archive, 64 hex digits.
    checksum: str
    #: of the archive
    size_bytes: int
    #: of the unpacked tree, as the host's disk check needs it
    unpacked_bytes: int
    #: the first line of the commit's message; empty in records of before it was kept
    subject: str = ""
    #: the linked paths of all environments that were looked at when it was built; None in records of before
    links_checked: tuple[str, ...] | None = None
    #: those of them that hide something that the build made
    links_covering: tuple[str, ...] = ()
    #: sha256 of the text at `provenance_key`; None in records of before there was one
    provenance: str | None = None

    @property
    def archive_key(self) -> str:
        return archive_key(self.id, self.application, self.compression)


def release_record(release: Release) -> str:
    """`release.json`."""
    return json.dumps(asdict(release), indent=2, sort_keys=True) + "\n"


def read_record(text: str, expected_id: ReleaseId) -> Release:
    """The release that `release.json` of `expected_id` tells of. Raises ValueError with all that is wrong with it.

    Whoever can write to the store can write records, and what they say ends up in scripts on every host: nothing that
    we would not have written ourselves is taken. Fields that a newer deploytool added are passed over.
    """
    try:
        record = read_json(text)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    problems = list(_record_problems(record, expected_id))
    if problems:
        raise ValueError("; ".join(problems))
    known: dict[str, Any] = {field.name: record[field.name] for field in fields(Release) if field.name in record}
    lists: dict[str, Any] = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Release(**{**known, **lists})


def _matches(pattern: str) -> Callable[[object], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _is_size(value: object) -> bool:
    # bool is an int to Python; the hosts' shells count in 64 bits.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_line(value: object) -> bool:
    return isinstance(value, str) and CONTROL.search(value) is None


def _are_lines(value: object) -> bool:
    return isinstance(value, list) and all(_is_line(each) for each in value)


_is_sha256 = _matches("[0-9a-f]{64}")


_FORMS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "id": (lambda value: isinstance(value, str) and is_release_id(value), "no release id"),
    "application": (_matches(NAME.pattern), "not an application's name"),
    "revision": (_matches(SHA), "not a full SHA of a commit"),
    "branch": (_is_line, "not one line of text"),
    "built_at": (_matches("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"), "no time"),
    "built_by": (_is_line, "not one line of text"),
    "build_key": (_is_sha256, "not 64 hexadecimal digits"),
    "compression": (
        lambda value: isinstance(value, str) and value in COMPRESSIONS,
        f"none of {', '.join(COMPRESSIONS)}",
    ),
    "checksum": (_is_sha256, "not 64 hexadecimal digits"),
    "size_bytes": (_is_size, "no number of bytes"),
    "unpacked_bytes": (_is_size, "no number of bytes"),
    "subject": (_is_line, "not one line of text"),
    "links_checked": (lambda value: value is None or _are_lines(value), "no list of paths"),
    "links_covering": (_are_lines, "no list of paths"),
    "provenance": (lambda value: value is None or _is_sha256(value), "not 64 hexadecimal digits"),
}
_OPTIONAL = frozenset({"subject", "links_checked", "links_covering", "provenance"})


def _record_problems(record: Mapping[str, object], expected_id: ReleaseId) -> Iterator[str]:
    sound = True
    for name, (fits, otherwise) in _FORMS.items():
        if name not in record:
            if name in _OPTIONAL:
                continue
            sound = False
            yield f"{name} is missing"
        elif not fits(record[name]):
            sound = False
            yield f"{name} is {otherwise}: {_shortened(record[name])}"
    if not sound:
        return
    if record["id"] != expected_id:
        yield f"it is the record of release {record['id']}"
    elif not str(record["revision"]).startswith(expected_id.rpartition("-")[2]):
        yield f"its revision {record['revision']} is not the one in the release's name"


def _shortened(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"
