"""`fab ENV releases --verify`, on a store that somebody has written to."""

import json
from pathlib import Path

import pytest

from tests.support.local import Local
from tests.support.schemas import checked_provenance, checked_sbom


@pytest.fixture
def local(tmp_path: Path) -> Local:
    made = Local(tmp_path)
    made.repository.commit({"requirements.txt": "Django==5.2\n", "VERSION": "1"})
    return made


def built(local: Local) -> Path:
    """The directory of a new release in the store."""
    result = local.fab("local", "build", "--json")
    assert result.code == 0, result.err
    return local.directory / "var/store/releases" / str(result.json["release"])


def verified(local: Local, *arguments: str) -> tuple[int, list[str]]:
    result = local.fab("local", "releases", "--verify", *arguments)
    return result.code, result.out.splitlines()


def test_verify_shows_each_link_from_the_record_to_the_bytes(local: Local) -> None:
    release = built(local)
    checked_sbom((release / "sbom.cdx.json").read_text())
    statement = checked_provenance((release / "provenance.json").read_text())
    assert statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["uri"].startswith("git+file:///")
    code, lines = verified(local, "--release", release.name)
    assert (code, lines[0]) == (0, release.name)
    assert lines[-1] == "1 release verified"
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["ok", "record"],
        ["ok", "archive"],
        ["ok", "provenance"],
        ["ok", "sbom"],
        ["-", "signature"],
    ]
    document = local.fab("local", "releases", "--verify", "--json").json
    assert [each["release"] for each in document["releases"]] == [release.name]
    assert document["releases"][0]["holds"] is True


def test_verify_names_what_was_changed_in_the_store(local: Local) -> None:
    release = built(local)
    for name, link, words in (
        ("tiny.tar.gz", "archive", "the record names"),
        ("provenance.json", "provenance", "does not have the sha256 that the record names"),
        ("sbom.cdx.json", "sbom", "has not the sha256 in the provenance"),
    ):
        file = release / name
        before = file.read_bytes()
        for change in (lambda file=file, before=before: file.write_bytes(before + b"\n"), file.unlink):
            change()
            code, lines = verified(local, "--release", release.name)
            assert (code, lines[0]) == (6, f"{release.name}: is not what was published")
            broken = [line for line in lines if line.split()[0] == "BROKEN"]
            assert [line.split()[1] for line in broken] == [link]
            assert words in broken[0] or "is missing" in broken[0]
        file.write_bytes(before)
    assert verified(local)[0] == 0
    (release / "release.json").write_text("{")
    code, lines = verified(local)
    assert (code, "is damaged" in lines[1]) == (6, True)


def test_verify_takes_a_release_of_the_version_before_as_it_is(local: Local) -> None:
    release = built(local)
    record = json.loads((release / "release.json").read_text())
    (release / "sbom.cdx.json").unlink()
    del record["provenance"]
    (release / "release.json").write_text(json.dumps(record))
    # A record that names none beside a statement is not of that version.
    code, lines = verified(local)
    assert (code, "the record does not name it" in "\n".join(lines)) == (6, True)
    (release / "provenance.json").unlink()
    code, lines = verified(local)
    assert (code, "an earlier version of deploytool built this release" in "\n".join(lines)) == (0, True)
    assert local.fab("local", "deploy", "--json").json["reused"] is True


def test_verify_refuses_what_it_can_not_answer(local: Local) -> None:
    for arguments, words in (
        (("--verify", "--deployments"), "can't be used together"),
        (("--release", "20261123T061500Z-1a2b3c4"), "--release needs --verify"),
        (("--verify", "--release", "20261123T061500Z-1a2b3c4"), "has no release"),
    ):
        result = local.fab("local", "releases", *arguments)
        assert result.code == 2
        assert words in result.err


def test_a_link_a_directory_or_a_pipe_is_no_lock_file(local: Local, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter22==1\n")
    (local.repository.directory / "requirements.txt").unlink()
    (local.repository.directory / "requirements.txt").symlink_to(secret)
    local.repository.commit({"yarn.lock/README": "a directory", "package-lock.json": "\x00{"})
    local.settings["build"]["exclude"] = ["requirements.txt"]
    local.write()
    # A pipe that nobody writes into.
    local.settings["build"]["assets"] = ["mkfifo uv.lock"]
    local.settings["build"]["exclude"] += ["uv.lock"]
    local.write()
    bill = checked_sbom((built(local) / "sbom.cdx.json").read_text())
    assert bill["components"] == []
    named = {each["name"]: each["value"] for each in bill["metadata"]["properties"]}
    assert set(named.values()) == {"package-lock.json"}
