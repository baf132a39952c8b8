"""Whom the operator's machine trusts and what it lends: host keys on every hop, and the SSH agent."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.playground.playground import Playground
from tests.support.build_server import build, echo, ssh_config, worker
from tests.support.project import TINY, Project

# Host keys; the build server's own are in test_main_job


def other_key(directory: Path) -> str:
    """Kind and key of a host that is another one."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "other")], check=True)
    return " ".join((directory / "other.pub").read_text().split()[:2])


@pytest.mark.parametrize(("known", "sentence"), [(False, "is unknown"), (True, "has CHANGED")])
@pytest.mark.parametrize("task", ["deploy", "check"])
def test_a_gateway_whose_key_is_not_the_known_one_ends_a_task_with_exit_code_5(
    playground: Playground, tmp_path: Path, known: bool, sentence: str, task: str
) -> None:
    playground.add_application(TINY)
    project = Project(playground, tmp_path)
    # The same sshd under another name.
    name = f"[localhost]:{playground.ssh_port}"
    text = playground.known_hosts.read_text() + (f"{name} {other_key(tmp_path)}\n" if known else "")
    (tmp_path / "known_hosts").write_text(text)
    config = ssh_config(
        playground,
        tmp_path,
        {
            "Host playground 127.0.0.1": "Host playground 127.0.0.1 localhost",
            "    HostName 127.0.0.1\n": "",
            str(playground.known_hosts): str(tmp_path / "known_hosts"),
        },
    )
    gateway = f"{playground.user}@localhost:{playground.ssh_port}"
    project.settings["build"] |= {"ssh_config": config, "gateway": gateway}
    project.write()
    before = sorted(playground.build_root.rglob("*"))
    result = project.fab("playground", task, "--json")
    assert result.code == 5
    said = result.json["error"]["message"] if task == "deploy" else result.out + result.err
    assert f"the host key of {gateway} {sentence}" in said
    assert sorted(playground.build_root.rglob("*")) == before


# The agent


@pytest.fixture
def agent(playground: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An ssh-agent that has the operator's key, for this process; the key's fingerprint."""
    # A socket's path may have 107 bytes.
    place = Path("/tmp") / f"deploytool-test-agent-{os.getpid()}"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not place.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        subprocess.run(["ssh-add", "-q", str(playground.identity_file)], check=True)
        listed = subprocess.run(["ssh-add", "-l"], check=True, capture_output=True, text=True)
        yield listed.stdout.split()[1]
    finally:
        process.terminate()
        process.wait()
        with contextlib.suppress(FileNotFoundError):
            place.unlink()


ASK = 'echo "socket: ${SSH_AUTH_SOCK-none}"; ssh-add -l 2>&1 || true'


TRANSPORTS = pytest.mark.parametrize("transport", ["fabric", "openssh"])


@pytest.mark.parametrize(
    "config", ["", "Host *\n    ForwardAgent yes\n", "Host *\n    ForwardAgent ${SSH_AUTH_SOCK}\n"]
)
@pytest.mark.parametrize("through_gateway", [False, True])
@TRANSPORTS
def test_a_step_gets_no_agent_unless_the_settings_say_so(
    playground: Playground, tmp_path: Path, agent: str, config: str, through_gateway: bool, transport: str
) -> None:
    changes = {"transport": transport} | ({"gateway": playground.build_server} if through_gateway else {})
    path = ssh_config(playground, tmp_path, {}, config)
    with worker(build(playground, ssh_config=path, **changes)) as client:
        said = echo(client, ASK)
    assert said[0] == "socket: none"
    assert not any(agent in line for line in said)


@pytest.mark.parametrize("through_gateway", [False, True])
@TRANSPORTS
def test_forward_agent_lends_it_to_the_build_server(
    playground: Playground, agent: str, through_gateway: bool, transport: str
) -> None:
    changes = {"transport": transport} | ({"gateway": playground.build_server} if through_gateway else {})
    with worker(build(playground, forward_agent=True, **changes)) as client:
        said = echo(client, ASK)
    assert said[0] != "socket: none"
    assert any(agent in line for line in said), said


@pytest.mark.parametrize(("options", "through_gateway"), [("restrict", False), ("restrict,port-forwarding", True)])
def test_a_key_that_may_forward_nothing_does(playground: Playground, options: str, through_gateway: bool) -> None:
    keys = playground.directory / "ssh/authorized_keys"
    before = keys.read_text()
    keys.write_text(f"{options} {before}")
    try:
        changes = {"gateway": playground.build_server} if through_gateway else {}
        with worker(build(playground, **changes)) as client:
            assert echo(client) == ["hello"]
    finally:
        keys.write_text(before)


# What is made on the build server


def test_a_fresh_work_area_is_its_users_alone(playground: Playground, tmp_path: Path) -> None:
    root = tmp_path / "fresh/root"
    with worker(build(playground, root=str(root))) as client:
        echo(client)
    assert [oct(path.stat().st_mode & 0o777) for path in (root.parent, root, root / ".worker")] == ["0o700"] * 3
    (log,) = (root / "ssh/logs").iterdir()
    assert log.stat().st_mode & 0o077 == 0
