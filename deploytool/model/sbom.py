"""The software bill of materials of a release: CycloneDX 1.6 in JSON, from its lock files. Pure."""

import json
from collections.abc import Mapping, Sequence
from uuid import NAMESPACE_URL, uuid5

import deploytool
from deploytool.model.lock_files import Component, components
from deploytool.model.release import Release
from deploytool.worker.wire import LockFile

MEDIA_TYPE = "application/vnd.cyclonedx+json"


def sbom(release: Release, lock_files: Sequence[LockFile]) -> tuple[str, list[str]]:
    """The document's text, and a sentence for each lock file that can't be read, which it names as a property."""
    found: dict[str, Component] = {}
    problems: dict[str, str] = {}
    for file in lock_files:
        try:
            if file.text is None:
                raise ValueError("it is too large, or not UTF-8")
            for each in components(file.path, file.text):
                found.setdefault(each.purl, each)
        except ValueError as error:
            problems[file.path] = str(error)
    application = f"{release.application}@{release.id}"
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same release always has the same.
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'deploytool:{application}:{release.checksum}')}",
        "version": 1,
        "metadata": {
            "timestamp": release.built_at,
            "tools": {"components": [{"type": "application", "name": "deploytool", "version": deploytool.__version__}]},
            "component": {
                "type": "application",
                "bom-ref": application,
                "name": release.application,
                "version": release.id,
                "hashes": [{"alg": "SHA-256", "content": release.checksum}],
            },
            "properties": [
                *({"name": "deploytool:lock-file", "value": file.path} for file in lock_files),
                *({"name": "deploytool:unread-lock-file", "value": path} for path in problems),
            ],
        },
        "components": [_component(each) for _, each in sorted(found.items())],
        "compositions": [{"aggregate": "incomplete" if problems or not lock_files else "unknown"}],
    }
    sentences = [f"{path} is not in the release's SBOM: {why}" for path, why in problems.items()]
    return json.dumps(document, indent=2) + "\n", sentences


def _component(each: Component) -> Mapping[str, object]:
    return {
        "type": "library",
        "bom-ref": each.purl,
        "name": each.name,
        **({"version": each.version} if each.version else {}),
        **({"scope": "excluded"} if each.development else {}),
        **({"hashes": [{"alg": name, "content": digest} for name, digest in each.hashes]} if each.hashes else {}),
        "purl": each.purl,
    }
