"""What a deployment costs on the wire, at the real sshd: connections, channels, round trips, bytes."""

import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploytool.connection.client import Asked, Listener
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from deploytool.playground.slow_link import SlowLink
from deploytool.rollout.choose_release import Request
from deploytool.rollout.deploy import deploy
from deploytool.rollout.rollback import rollback
from deploytool.screen.console import Console
from deploytool.screen.summary import Outcome
from deploytool.session import Session, open_session
from deploytool.settings import load_every_environment
from tests.support.project import Project

FAR = Application("far", (PlaygroundRole("web", ("app1", "app2")),))


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Project:
    playground.add_application(FAR)
    made = Project(playground, tmp_path, FAR)
    made.change(lambda settings: settings["build"].update({"dependencies": ["true"], "assets": ["true"]}))
    return made


class Watched(Asked):
    """A question; whoever waits for its answer is noted."""

    def __init__(self, asked: Asked, waited: Callable[[], None]) -> None:
        self.inner, self.number, self.after, self._waited = asked, asked.number, asked.after, waited

    def hear(self, timeout_seconds: float) -> Any:
        self._waited()
        return self.inner.hear(timeout_seconds)

    def answer(self, *, told: Listener | None = None, limit_seconds: float | None = None) -> Any:
        self._waited()
        return self.inner.answer(told=told, limit_seconds=limit_seconds)


class Trips:
    """A worker that counts the round trips of whoever talks to it.

    A question that is asked when an answer was waited for since the last one begins another trip.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._waited = True
        self.count = 0
        #: what was asked in each trip
        self.asked: list[list[str]] = []

    def start(self, do: str, kind: Any, /, *, after: Asked | None = None, **parameters: Any) -> Asked:
        if self._waited:
            self.asked.append([])
        self._waited = False
        self.asked[-1].append(do)
        before = after.inner if isinstance(after, Watched) else after
        return Watched(self._worker.start(do, kind, after=before, **parameters), self._has_waited)

    def _has_waited(self) -> None:
        self._waited = True

    def __contains__(self, do: str) -> bool:
        return any(do in asked for asked in self.asked)

    @property
    def until_the_event(self) -> int:
        return 1 + next(number for number, asked in enumerate(self.asked) if "announce" in asked)


def trips(project: Project, act: Callable[[Session, Outcome], None]) -> Trips:
    """The round trips of a command in a session of its own; `hello`, which opens every session, is one more."""
    every = load_every_environment(project.directory, "playground", os.environ)
    console = Console(as_json=True, progress=io.StringIO(), results=io.StringIO())
    outcome = Outcome()
    with open_session(every["playground"], every, purpose="a test", console=console) as session:
        counting = Trips(session.worker)
        act(dataclasses.replace(session, worker=counting), outcome)
    assert outcome.exit_code == 0, outcome.hosts
    return counting


def deploying(session: Session, outcome: Outcome) -> None:
    deploy(session, Request("main"), outcome)


def test_deploy_asks_in_few_round_trips(project: Project) -> None:
    project.deploy()
    project.repository.commit({"A": "1"})
    building = trips(project, deploying)
    assert "publish_archive" in building
    assert building.until_the_event <= 7, building.asked
    reusing = trips(project, deploying)
    assert "publish_archive" not in reusing
    assert reusing.until_the_event <= 4, reusing.asked
    back = trips(project, lambda session, outcome: rollback(session, None, None, outcome))
    assert back.until_the_event <= 5, back.asked
    # After the event: `go`, whether all that reported still serve, the record, and what cleans up.
    for each in (building, reusing, back):
        assert len(each.asked) - each.until_the_event <= 8, each.asked[each.until_the_event :]


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
def test_whole_deploy_is_one_connection_with_one_channel(project: Project, transport: str) -> None:
    project.change(lambda settings: settings["build"].update(transport=transport))
    log = project.playground.directory / "log/sshd.log"
    before = log.stat().st_size
    project.repository.commit({"A": transport})
    project.deploy()
    with log.open("rb") as file:
        file.seek(before)
        lines = file.read().decode().splitlines()
    assert len([line for line in lines if "Accepted publickey" in line]) == 1
    assert len([line for line in lines if "Starting session" in line]) == 1


def test_deploy_over_a_slow_link_is_like_any_other(project: Project) -> None:
    playground = project.playground
    with SlowLink(playground.ssh_port, round_trip_seconds=0.15) as link:

        def far(text: str) -> str:
            return text.replace(str(playground.ssh_port), str(link.port))

        ssh_config, known_hosts = project.directory / "ssh_config", project.directory / "known_hosts"
        known_hosts.write_text(far(playground.known_hosts.read_text()))
        ssh_config.write_text(
            far(playground.ssh_config.read_text()).replace(str(playground.known_hosts), str(known_hosts))
        )
        server = far(playground.build_server)
        project.change(lambda settings: settings["build"].update({"server": server, "ssh_config": str(ssh_config)}))
        release = project.deploy().json["release"]
    assert project.served() == {"app1/web": release, "app2/web": release}
