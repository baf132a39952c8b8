"""How a release came to be, as an in-toto statement with SLSA's predicate; and whether a release fits it. Pure.

It is published beside the archive for everybody who may read that. So it has no values of `build.env` and no digests of
linked files, which may be secrets or can be guessed from: these are bound by the build key alone.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deploytool
from deploytool.model.release import Release, provenance_key, release_record, sbom_key, sha256
from deploytool.model.sbom import MEDIA_TYPE
from deploytool.text.masking import Masking
from deploytool.text.untrusted import read_json
from deploytool.worker.wire import LockFile

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
#: What the parameters below mean; another meaning gets another number.
BUILD_TYPE = "urn:deploytool:build:v1"
#: Inputs of the build key of which only the names are published.
_NAMES_ONLY = ("env", "linked_files")

#: Fields of a record that stand in places of their own in the statement.
_SAID_ELSEWHERE = ("id", "revision", "built_at", "built_by", "build_key", "checksum")

_SCP = re.compile(r"(?P<host>(?:[^/@\s]+@)?[^/:\s]+):(?P<path>.*)")


@dataclass(frozen=True, slots=True)
class Run:
    """One build: where, by whom, from what."""

    #: what the build server calls itself
    host: str
    #: git's URL without credentials
    repository: str
    #: all that is in the build key, by `build_inputs`
    inputs: Mapping[str, object]
    lock_files: Sequence[LockFile]
    started_at: str


def repository_uri(repository: str) -> str:
    """A repository as a URI: `user@host:path` and paths are none."""
    if "://" in repository:
        return f"git+{repository}"
    found = _SCP.fullmatch(repository)
    return f"git+ssh://{found['host']}/{found['path'].lstrip('/')}" if found else f"git+file://{repository}"


def statement(release: Release, run: Run, sbom: str, masking: Masking) -> str:
    """The text at `provenance_key`. `sbom` is the text at `sbom_key`; what settings say is masked."""
    inputs = {name: sorted(value) if name in _NAMES_ONLY else value for name, value in _items(run.inputs)}
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": masking.value(
                {
                    "application": release.application,
                    "repository": run.repository,
                    "reference": release.branch,
                    "subdirectory": inputs.pop("subdirectory", None),
                    "recipe": inputs.pop("recipe", None),
                }
            ),
            "internalParameters": {
                "buildKey": release.build_key,
                "operator": release.built_by,
                # All of the record: whoever can write to the store can change that, and not this.
                "record": _record_of(release),
                "inputs": masking.value(inputs),
            },
            "resolvedDependencies": [
                {
                    "uri": masking.text(f"{repository_uri(run.repository)}@{release.revision}"),
                    "digest": {"gitCommit": release.revision},
                },
                *({"name": file.path, "digest": {"sha256": file.sha256}} for file in run.lock_files),
            ],
        },
        "runDetails": {
            "builder": {
                "id": f"urn:deploytool:build-server:{run.host}",
                "version": {"deploytool": deploytool.__version__},
            },
            "metadata": {
                "invocationId": release.id,
                "startedOn": run.started_at,
                "finishedOn": release.built_at,
            },
            "byproducts": [
                {"name": sbom_key(release.id), "digest": {"sha256": sha256(sbom)}, "mediaType": MEDIA_TYPE},
            ],
        },
    }
    document = {
        "_type": STATEMENT,
        "subject": [{"name": release.archive_key, "digest": {"sha256": release.checksum}}],
        "predicateType": PREDICATE,
        "predicate": predicate,
    }
    return json.dumps(document, indent=2) + "\n"


def _record_of(release: Release) -> Mapping[str, Any]:
    """The record as JSON has it, without the digest of what it stands in."""
    found: dict[str, Any] = json.loads(release_record(release))
    return {name: value for name, value in found.items() if name != "provenance"}


def _items(inputs: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    # These are said elsewhere in the statement.
    return ((name, value) for name, value in inputs.items() if name not in ("application", "revision"))


def contradictions(release: Release, text: str) -> list[str]:
    """What the statement says otherwise than the release's record, in words. Nothing that was written is trusted."""
    problems = []
    if release.provenance != sha256(text):
        problems.append(f"{provenance_key(release.id)} does not have the sha256 that the record names")
    try:
        said = read_json(text)
        predicate = said["predicate"]
        definition, run = predicate["buildDefinition"], predicate["runDetails"]
        facts = {
            "type": ((said["_type"], said["predicateType"]), (STATEMENT, PREDICATE)),
            "archive": (said["subject"], [{"name": release.archive_key, "digest": {"sha256": release.checksum}}]),
            "revision": (definition["resolvedDependencies"][0]["digest"], {"gitCommit": release.revision}),
            "build key": (definition["internalParameters"]["buildKey"], release.build_key),
            "release": (run["metadata"]["invocationId"], release.id),
            "operator": (definition["internalParameters"]["operator"], release.built_by),
            "time": (run["metadata"]["finishedOn"], release.built_at),
        }
        record = _record_of(release)
        # Statements of before do not have it.
        told = definition["internalParameters"].get("record", record)
        others = {name: value for name, value in record.items() if name not in _SAID_ELSEWHERE}
        facts |= {name.replace("_", " "): (told.get(name), value) for name, value in others.items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return [*problems, f"{provenance_key(release.id)} is not a statement of deploytool"]
    return [
        *problems,
        *(f"the statement and the record name another {what}" for what, (one, other) in facts.items() if one != other),
    ]


def sbom_digest(text: str) -> str | None:
    """The sha256 of the SBOM that the statement names; None if it names none."""
    try:
        found = read_json(text)["predicate"]["runDetails"]["byproducts"][0]["digest"]["sha256"]
    except (ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None
