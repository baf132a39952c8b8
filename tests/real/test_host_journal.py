"""What a host writes down for people: in the journal of its watch and catch-up, and in its last word."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.hosts.scripts import receive_script
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project
from tests.support.waiting import until

APPLICATION = Application("journal", (PlaygroundRole("web", ("app1",)),))


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Iterator[Project]:
    playground.add_application(APPLICATION)
    made = Project(playground, tmp_path, APPLICATION)
    yield made
    made.retire()


def log(project: Project) -> str:
    """What systemd would have in its journal for the watch."""
    place = project.playground.host_directory("app1") / "log/watch-journal-web-playground.log"
    return place.read_text() if place.exists() else ""


def test_deployment_and_check_write_into_the_journal_what_people_need(project: Project) -> None:
    """It was 5,362 lines: stretcher logs the whole text of each command, the failing ones twice."""
    project.change(lambda settings: settings["roles"]["web"].update(hooks={"post": ["echo from the hook"]}))
    before = len(log(project))
    deployed = project.deploy().json["release"]
    until(lambda: " Done" in log(project)[before:])
    said = log(project)[before:]
    assert f"verified: {deployed} serves" in said
    assert "  | from the hook" in said
    assert len(said.splitlines()) <= 60

    before = len(log(project))
    assert project.fab("playground", "check").code == 0
    until(lambda: "answered" in log(project)[before:])
    assert len(log(project)[before:].splitlines()) <= 30

    before = len(log(project))
    project.change(lambda settings: settings["roles"]["web"].update(hooks={"post": ["echo it broke; exit 3"]}))
    assert project.fab("playground", "deploy", "--rebuild").code == 8
    until(lambda: "put back to" in log(project)[before:])
    said = log(project)[before:]
    assert "  | it broke" in said
    assert "hook roles.web.hooks.post[0] failed with exit status 3" in said
    assert len(said.splitlines()) <= 60


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what root can't remove")
def test_release_that_cannot_be_removed_is_named_by_status_and_check(project: Project) -> None:
    project.deploy()
    left = project.playground.deploy_to("web", APPLICATION.name) / "releases/.discarded-20200101T000000Z-0000000"
    words = f"app1 (web) can't remove releases/{left.name}: another user owns something in it"
    assert words not in project.fab("playground", "status").out
    mounted = project.playground.run_on_host("app1", ["sh", "-c", f"mkdir {left} && mount -t tmpfs left {left}"])
    assert mounted.returncode == 0, mounted.stderr
    try:
        project.repository.commit({"VERSION": "2"})
        project.deploy()
        until(lambda: "unremoved" in project.consul_keys("serving")["serving/web/app1"])
        status = project.fab("playground", "status")
        assert (status.code, words in status.out) == (0, True), status.out
        checked = project.fab("playground", "check")
        assert (checked.code, f"room on app1 (web): {words}" in checked.out) == (0, True), checked.out
    finally:
        project.playground.run_on_host("app1", ["umount", str(left)])


@pytest.fixture
def catch_up(tmp_path: Path) -> list[str]:
    """The command of the unit, for a host whose Consul is a file `consul` that a test writes."""
    script = tmp_path / "receive.sh"
    script.write_text(receive_script())
    (tmp_path / "deploy_to").mkdir(mode=0o755)
    path = f"PATH={tmp_path}:{os.environ['PATH']}"
    return ["env", path, "sh", str(script), "catch-up", "shop", "production", "web", str(tmp_path / "deploy_to")]


def consul(directory: Path, script: str) -> None:
    (directory / "consul").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "consul").chmod(0o755)


def test_catch_up_whose_consul_does_not_answer_says_so(catch_up: list[str], tmp_path: Path) -> None:
    """It ended with exit status 1 and no word: `timeout` ends the program, which has printed nothing."""
    for script, words in (
        ("exit 124", "the agent does not answer within 15 s"),
        ("echo 'no leader'; exit 1", "no leader"),
    ):
        consul(tmp_path, script)
        done = subprocess.run(catch_up, capture_output=True, text=True)
        assert done.returncode == 1
        assert (
            f"Consul can't be asked for deploytool/shop/production/wanted/web: {words}; the timer tries again"
            in done.stdout
        )


def test_catch_up_that_is_ended_says_so(catch_up: list[str], tmp_path: Path) -> None:
    consul(tmp_path, f": >{tmp_path}/asked; until [ -e {tmp_path}/go ]; do sleep 0.1; done; echo late; exit 1")
    with subprocess.Popen(catch_up, stdout=subprocess.PIPE, text=True) as running:
        until((tmp_path / "asked").exists)
        running.terminate()
        (tmp_path / "go").touch()
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "it was ended by a signal" in out
