"""This version over a fleet and a store that the version before has left: real hosts, stretcher, Consul and S3."""

from pathlib import Path

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project
from tests.support.version_before import version_before

HOSTS = ("app1", "app2", "app3")
APPLICATION = Application("elder", (PlaygroundRole("web", HOSTS),))


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Project:
    playground.add_application(APPLICATION)
    made = Project(playground, tmp_path, APPLICATION)
    # Which the version before does not know.
    del made.role("web")["verify"]["port"]
    made.write()
    return made


def served(project: Project) -> set[str]:
    return {project.file(host, "current/VERSION").read_text() for host in HOSTS}


def test_fleet_of_the_version_before_is_gone_on_with_and_gone_back_on(project: Project, tmp_path: Path) -> None:
    old = version_before(tmp_path / "before")
    for version in ("1", "2"):
        project.repository.commit({"VERSION": version})
        done = project.fab("playground", "deploy", env=old)
        assert done.code == 0, done.err
    assert project.fab("playground", "status").code == 0
    project.repository.commit({"VERSION": "3"})
    done = project.fab("playground", "deploy")
    assert done.code == 0, done.err
    assert served(project) == {"3"}
    for version in ("2", "1"):
        back = project.fab("playground", "rollback")
        assert back.code == 0, back.err
        assert served(project) == {version}
