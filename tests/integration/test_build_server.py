"""The way to the build server, over the real sshd: keys, hops, and what a cut connection leaves behind."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.build_server import SshChannel, start_worker
from deploytool.errors import ConnectionFailed, StepError, UsageError
from deploytool.playground import Playground
from deploytool.worker_client import WorkerClient

pytestmark = pytest.mark.integration


def build(playground: Playground, **changes: Any) -> Any:
    return SimpleNamespace(
        **{
            "is_local": False,
            "server": playground.build_server,
            "gateway": None,
            "forward_agent": False,
            "ssh_config": str(playground.ssh_config),
            "root": str(playground.build_root),
            **changes,
        }
    )


@contextlib.contextmanager
def worker(settings: Any) -> Iterator[WorkerClient]:
    channel, read = start_worker(settings)
    client = WorkerClient(channel, read, settings.server)
    try:
        client.ask(
            "hello",
            root=settings.root,
            application="ssh",
            environment="test",
            store={"url": "file:///nowhere"},
            consul={},
            secrets=[],
            operator="me@laptop",
            purpose="testing",
        )
        yield client
    finally:
        client.close()


def echo(client: WorkerClient, script: str = "echo hello") -> list[str]:
    tail = client.ask("run", step="try", script=script, timeout_seconds=60)["tail"]
    assert isinstance(tail, list)
    return tail


def ssh_config(playground: Playground, directory: Path, change: dict[str, str], more: str = "") -> str:
    """A copy of the playground's ssh_config with some texts replaced."""
    text = playground.ssh_config.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    path = directory / "ssh_config"
    path.write_text(more + text)
    return str(path)


def test_worker_answers_over_ssh(playground: Playground) -> None:
    with worker(build(playground)) as client:
        assert echo(client) == ["hello"]


def test_worker_is_sent_once_and_found_again(playground: Playground) -> None:
    for _ in range(2):
        with worker(build(playground)) as client:
            echo(client)
    assert len(list((playground.build_root / ".worker").glob("*.pyz"))) == 1


def test_whatever_a_login_script_prints_is_no_answer(playground: Playground) -> None:
    home = playground.build_server_environment()["HOME"]
    script = Path(home) / ".bashrc"
    script.write_text('echo "Welcome! {\\"id\\": 1}"\nprintf "no line end"\n')
    try:
        with worker(build(playground)) as client:
            assert echo(client) == ["hello"]
    finally:
        script.unlink()


def test_through_a_gateway(playground: Playground) -> None:
    with worker(build(playground, gateway=playground.build_server)) as client:
        assert echo(client) == ["hello"]


def test_through_a_jump_host_of_ssh_config(playground: Playground, tmp_path: Path) -> None:
    jump = f"Host target\n    HostName 127.0.0.1\n    ProxyJump {playground.build_server}\n"
    change = {"Host playground 127.0.0.1": "Host playground 127.0.0.1 target"}
    config = ssh_config(playground, tmp_path, change, jump)
    server = f"{playground.user}@target:{playground.ssh_port}"
    with worker(build(playground, server=server, ssh_config=config)) as client:
        assert echo(client) == ["hello"]


def test_unknown_key_of_a_gateway_is_refused(playground: Playground, tmp_path: Path) -> None:
    # The same sshd under a name that known_hosts does not have.
    change = {"Host playground 127.0.0.1": "Host playground 127.0.0.1 localhost"}
    config = ssh_config(playground, tmp_path, change)
    text = Path(config).read_text().replace("    HostName 127.0.0.1\n", "")
    Path(config).write_text(text)
    gateway = f"{playground.user}@localhost:{playground.ssh_port}"
    with pytest.raises(ConnectionFailed, match=rf"the host key of \S+@localhost:{playground.ssh_port} is unknown"):
        start_worker(build(playground, gateway=gateway, ssh_config=config))


def test_changed_key_of_a_gateway_is_refused(playground: Playground, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    known = playground.known_hosts.read_text() + f"[localhost]:{playground.ssh_port} {other}\n"
    (tmp_path / "known_hosts").write_text(known)
    change = {
        "Host playground 127.0.0.1": "Host playground 127.0.0.1 localhost",
        str(playground.known_hosts): str(tmp_path / "known_hosts"),
    }
    config = ssh_config(playground, tmp_path, change)
    Path(config).write_text(Path(config).read_text().replace("    HostName 127.0.0.1\n", ""))
    gateway = f"{playground.user}@localhost:{playground.ssh_port}"
    with pytest.raises(ConnectionFailed, match="has CHANGED"):
        start_worker(build(playground, gateway=gateway, ssh_config=config))


def test_refused_login_key_has_a_sentence(playground: Playground, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "mine")], check=True)
    config = ssh_config(playground, tmp_path, {str(playground.identity_file): str(tmp_path / "mine")})
    with pytest.raises(ConnectionFailed, match="refused us"):
        start_worker(build(playground, ssh_config=config))


def test_missing_ssh_config_has_a_sentence(playground: Playground, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"named by build\.ssh_config, is not there"):
        start_worker(build(playground, ssh_config=str(tmp_path / "gone")))


def test_work_area_of_another_user_is_not_touched(playground: Playground, tmp_path: Path) -> None:
    import os

    (tmp_path / "root/.worker").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(tmp_path / "root/.worker", 12345, 12345)
        with pytest.raises(StepError, match="belongs to another user"):
            start_worker(build(playground, root=str(tmp_path / "root")))
    assert list((tmp_path / "root/.worker").iterdir()) == []


def test_cut_connection_ends_the_step_on_the_server(playground: Playground, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    settings = build(playground)
    channel, read = start_worker(settings)
    assert isinstance(channel, SshChannel)
    client = WorkerClient(channel, read, settings.server)
    client.ask(
        "hello",
        root=settings.root,
        application="ssh",
        environment="test",
        store={"url": "file:///nowhere"},
        consul={},
        secrets=[],
        operator="me@laptop",
        purpose="testing",
    )
    script = f"while true; do date > '{alive}'; sleep 0.1; done"
    asked = client.start("run", step="try", script=script, timeout_seconds=600)
    deadline = time.monotonic() + 10
    while not alive.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for connection in channel._connections:
        connection.transport.sock.close()
    with pytest.raises(ConnectionFailed, match="broke"):
        for _ in asked.events():
            pass
    client.close()
    deadline = time.monotonic() + 20
    while True:
        before = alive.stat().st_mtime_ns
        time.sleep(1)
        if alive.stat().st_mtime_ns == before:
            break
        assert time.monotonic() < deadline, "the step still runs"


def test_large_answers_come_through_whole(playground: Playground) -> None:
    with worker(build(playground)) as client:
        answer = client.ask("run", step="try", script="seq 1 200000 >&3", timeout_seconds=60)
        assert answer["results"][-1] == "200000"
        assert len(answer["results"]) == 200_000
