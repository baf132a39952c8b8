"""Names and keys of releases and deployments. Pure: no clock, no store, no network."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

Revision = NewType("Revision", str)
ReleaseId = NewType("ReleaseId", str)
DeploymentId = NewType("DeploymentId", str)

RELEASE_PATTERN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{7}")
DEPLOYMENT_PATTERN = re.compile(r"\d{8}T\d{6}Z[a-z0-9]{4}")

#: Stands in manifests that are rendered at build time, before any deployment exists. It sorts before every real id,
#: so a host's guard refuses it.
NO_DEPLOYMENT = DeploymentId("00000000T000000Znone")

ARCHIVE_SUFFIX = {"gzip": ".tar.gz", "zstd": ".tar.zst", "none": ".tar"}


def is_release_id(text: str) -> bool:
    return RELEASE_PATTERN.fullmatch(text) is not None


def is_deployment_id(text: str) -> bool:
    return DEPLOYMENT_PATTERN.fullmatch(text) is not None


def archive_key(release: ReleaseId, application: str, compression: str) -> str:
    """The archive's key in the store, relative to the store's URL."""
    return f"releases/{release}/{application}{ARCHIVE_SUFFIX[compression]}"


def record_key(release: ReleaseId) -> str:
    return f"releases/{release}/release.json"


def built_manifest_key(release: ReleaseId, environment: str, role: str) -> str:
    """The manifest rendered at build time, for reading; no event ever names it."""
    return f"releases/{release}/manifests/{environment}/{role}.yml"


def build_record_key(build_key: str) -> str:
    return f"builds/{build_key}.json"


def manifest_key(environment: str, deployment: DeploymentId, role: str) -> str:
    """The manifest that the event names."""
    return f"environments/{environment}/deployments/{deployment}/{role}.yml"


def deployment_record_key(environment: str, deployment: DeploymentId) -> str:
    return f"environments/{environment}/deployments/{deployment}.json"


def event_name(application: str, role: str, environment: str) -> str:
    return f"deploy_{application}_{role}_{environment}"


def consul_prefix(application: str, environment: str) -> str:
    return f"deploytool/{application}/{environment}"


def build_key(inputs: Mapping[str, object]) -> str:
    """sha256 over what decides the bytes of an archive; equal inputs give equal keys in any order of their names."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


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

    @property
    def archive_key(self) -> str:
        return archive_key(self.id, self.application, self.compression)
