"""The documents beside an archive: valid for those who made their schemas, and silent on secrets."""

import json
from dataclasses import replace
from typing import Any

from deploytool.model.provenance import Run, contradictions, repository_uri, sbom_digest, statement
from deploytool.model.release import sha256
from deploytool.model.sbom import sbom
from deploytool.text.masking import Masking
from deploytool.worker.wire import LockFile
from tests.support.manifests import RELEASE
from tests.support.schemas import checked_provenance, checked_sbom

LOCK = LockFile("requirements.txt", "12" * 32, "Django==5.2\nblack\n")
RUN = Run(
    host="build1",
    repository="git@git.example.com:acme/shop.git",
    inputs={
        "application": "shop",
        "recipe": "django",
        "subdirectory": None,
        "env": {"API_KEY": "let-me-in", "A": "b"},
        "linked_files": {"config/master.key": "34" * 32},
        "dependencies": ["curl https://jo:hunter22@example.com"],
        "tools": {"python3": "Python 3.11.7"},
    },
    lock_files=[LOCK],
    started_at="2026-11-23T06:14:00Z",
)


def test_provenance_and_sbom_are_valid_by_their_official_schemas() -> None:
    bill, unread = sbom(RELEASE, [LOCK])
    assert unread == []
    components = checked_sbom(bill)["components"]
    assert [each["purl"] for each in components] == ["pkg:pypi/black", "pkg:pypi/django@5.2"]
    document = checked_provenance(statement(RELEASE, RUN, bill, Masking()))
    assert document["subject"] == [{"name": RELEASE.archive_key, "digest": {"sha256": RELEASE.checksum}}]
    definition = document["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [
        {
            "uri": f"git+ssh://git@git.example.com/acme/shop.git@{RELEASE.revision}",
            "digest": {"gitCommit": RELEASE.revision},
        },
        {"name": "requirements.txt", "digest": {"sha256": "12" * 32}},
    ]
    assert definition["internalParameters"]["inputs"]["tools"] == {"python3": "Python 3.11.7"}


def test_provenance_publishes_no_value_of_an_environment_and_no_secret() -> None:
    text = statement(RELEASE, RUN, "", Masking(["hunter22"]))
    for hidden in ("let-me-in", "hunter22", "34" * 32):
        assert hidden not in text
    assert json.loads(text)["predicate"]["buildDefinition"]["internalParameters"]["inputs"]["env"] == ["A", "API_KEY"]


def test_a_lock_file_that_can_not_be_read_is_named_in_the_sbom() -> None:
    bill, unread = sbom(RELEASE, [LOCK, LockFile("package-lock.json", "", "{"), LockFile("yarn.lock", "", None)])
    properties = checked_sbom(bill)["metadata"]["properties"]
    assert [each["value"] for each in properties if each["name"] == "deploytool:unread-lock-file"] == [
        "package-lock.json",
        "yarn.lock",
    ]
    assert len(unread) == 2
    assert unread[1] == "yarn.lock is not in the release's SBOM: it is too large, or not UTF-8"


def test_an_application_without_lock_files_has_a_valid_sbom() -> None:
    assert checked_sbom(sbom(RELEASE, [])[0])["components"] == []


def test_a_statement_about_another_release_is_seen() -> None:
    bill, _ = sbom(RELEASE, [LOCK])
    text = statement(RELEASE, RUN, bill, Masking())
    release = replace(RELEASE, provenance=sha256(text))
    assert contradictions(release, text) == []
    assert sbom_digest(text) == sha256(bill)
    other = statement(replace(RELEASE, checksum="cd" * 32), RUN, bill, Masking())
    assert contradictions(replace(RELEASE, provenance=sha256(other)), other) == [
        "the statement and the record name another archive"
    ]
    assert "does not have the sha256 that the record names" in contradictions(release, other)[0]
    forged: dict[str, Any] = {
        "built_by": "mallory",
        "branch": "x",
        "subject": "x",
        "unpacked_bytes": 1 << 60,
        "compression": "none",
    }
    for name, value in forged.items():
        assert contradictions(replace(release, **{name: value}), text), name
    # One of before has not all of the record in it.
    before = json.loads(text)
    del before["predicate"]["buildDefinition"]["internalParameters"]["record"]
    old = json.dumps(before)
    assert contradictions(replace(RELEASE, provenance=sha256(old)), old) == []
    for nonsense in ("", "[]", "{}", '{"predicate": 7}', json.dumps({"predicate": {"runDetails": []}})):
        assert contradictions(replace(RELEASE, provenance=sha256(nonsense)), nonsense) == [
            f"releases/{RELEASE.id}/provenance.json is not a statement of deploytool"
        ]
        assert sbom_digest(nonsense) is None


def test_a_repository_is_named_by_a_uri() -> None:
    assert repository_uri("https://example.com/a.git") == "git+https://example.com/a.git"
    assert repository_uri("git@example.com:/srv/a.git") == "git+ssh://git@example.com/srv/a.git"
    assert repository_uri("/srv/a.git") == "git+file:///srv/a.git"
