"""A deploy_to that Capistrano has used before, on the playground's real stretcher."""

import os
from pathlib import Path

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

HOSTS = ("app1", "app2", "app3")
APPLICATION = Application("takeover", (PlaygroundRole("web", HOSTS),))
#: as Capistrano names them
OLD = ("20240102030405", "20240203040506")
AFFECTED = "[ ! -e {{ shared_path }}/affected ] || { echo 'it does not start'; exit 9; }"


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Project:
    playground.add_application(APPLICATION)
    made = Project(playground, tmp_path, APPLICATION)
    made.role("web")["hooks"] = {"post": [AFFECTED]}
    # The playground shows a deploy_to at another place than the host does.
    deploy_to = made.role("web").get("deploy_to", made.settings["deploy_to"])
    for host in HOSTS:
        for release in OLD:
            path = made.file(host, f"releases/{release}")
            path.mkdir(parents=True)
            (path / "REVISION").write_text("made by cap\n")
        made.file(host, "shared/log").mkdir(parents=True)
        made.file(host, "shared/log/production.log").write_text("old lines\n")
        made.file(host, "revisions.log").write_text("Branch main deployed as release 20240203040506\n")
        made.file(host, "current").symlink_to(f"{deploy_to}/releases/{OLD[-1]}")
    made.settings["linked_dirs"] = ["log"]
    made.settings["keep_releases"] = 1
    made.write()
    return made


def test_directory_of_capistrano_is_taken_over_and_what_it_holds_stays(project: Project) -> None:
    # A first deployment that fails on one host brings it back to what Capistrano had put there.
    project.file("app2", "shared/affected").touch()
    failed = project.fab("playground", "deploy", "--json")
    assert failed.code == 8, failed.err
    assert failed.verdicts() == {"app1/web": "verified", "app2/web": "failed", "app3/web": "verified"}
    assert os.path.basename(os.readlink(project.file("app2", "current"))) == OLD[-1]

    project.file("app2", "shared/affected").unlink()
    project.repository.commit({"VERSION": "2"})
    project.deploy()
    project.repository.commit({"VERSION": "3"})
    third = project.deploy().json["release"]
    assert project.served() == dict.fromkeys([f"{host}/web" for host in HOSTS], third)
    for host in HOSTS:
        for release in OLD:
            assert project.file(host, f"releases/{release}/REVISION").read_text() == "made by cap\n"
        assert project.file(host, "shared/log/production.log").read_text() == "old lines\n"
        assert project.file(host, "current/VERSION").read_text() == "3"
        ours = [path.name for path in project.file(host, "releases").iterdir() if path.name not in OLD]
        # keep_releases counts ours: the current one, and the one to go back to.
        assert len(ours) == 2, ours
