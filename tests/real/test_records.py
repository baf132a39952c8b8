"""Damaged records in the store, met by the real `fab`: nobody is to follow them, nor to lose a day."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

RECORDS = Application("records", (PlaygroundRole("web", ("app1",)),))


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Project:
    project = Project(playground, tmp_path, RECORDS)
    # A directory, because tests can damage what lies there.
    project.change(lambda settings: settings.update(store={"url": f"file://{tmp_path}/store"}))
    return project


def built(project: Project) -> Any:
    result = project.fab("playground", "build", "--json")
    assert result.code == 0, result.err
    return result


def test_damaged_build_record_is_named_until_somebody_deletes_it(project: Project, tmp_path: Path) -> None:
    first = built(project).json
    assert not first["reused"]
    (record,) = (tmp_path / "store/builds").iterdir()
    record.write_text("garbage")
    second = built(project)
    assert not second.json["reused"]
    assert f"{tmp_path}/store/builds/{record.name} is damaged" in " ".join(second.err.split())
    assert record.read_text() == "garbage"
    record.unlink()
    third = built(project)
    assert not third.json["reused"]
    assert "is damaged" not in third.err
    fourth = built(project).json
    assert fourth["reused"]
    assert fourth["release"] == third.json["release"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"unpacked_bytes": "1;echo ran>/tmp/pwned"}, "unpacked_bytes is no number of bytes"),
        ({"compression": "xz"}, "compression is none of gzip, zstd, none"),
        ({"checksum": 5}, "checksum is not 64 hexadecimal digits"),
        ({"id": "20200101T000000Z-0000000"}, "it is the record of release 20200101T000000Z-0000000"),
    ],
)
def test_damaged_release_record_is_exit_2_and_runs_nothing(
    project: Project, tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    release = built(project).json["release"]
    path = tmp_path / "store/releases" / release / "release.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    result = project.fab("playground", "deploy", "--release", release, "--json")
    assert result.code == 2, result.err
    assert f"the record of release {release} in the store is damaged: {why}" in result.json["error"]["message"]
    assert project.consul_keys() == {}
    again = built(project).json
    assert not again["reused"]
    assert again["release"] != release
