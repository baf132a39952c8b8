"""The way to the build server, over the real sshd: keys, hops, and what a cut connection leaves behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import psutil
import pytest

from deploytool.connection.boot import start_worker
from deploytool.connection.channel import Channel
from deploytool.connection.ssh import Connecting, SshChannel
from deploytool.errors import ConnectionFailed, StepError, UsageError
from deploytool.playground.playground import Playground
from tests.support.build_server import build, echo, greet, ssh_config, worker
from tests.support.worker import RawClient, run


def wait_for_threads_to_end(before: set[threading.Thread]) -> None:
    """Until there are no others than before."""
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.05)


def wait_until_paramiko_speaks(before: set[threading.Thread]) -> None:
    """Until there is a transport besides the thread that connects."""
    deadline = time.monotonic() + 10
    while not any(isinstance(thread, paramiko.Transport) for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_worker_answers_over_ssh(playground: Playground) -> None:
    with worker(build(playground)) as client:
        assert echo(client) == ["hello"]


def test_worker_is_sent_once_and_found_again(playground: Playground) -> None:
    def kept() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in (playground.build_root / ".worker").glob("*.pyz")}

    with worker(build(playground)) as client:
        echo(client)
    before = kept()
    with worker(build(playground)) as client:
        echo(client)
    assert kept() == before
    assert sorted(name.count(".") for name in before) == [1, 2], "as it was sent, and compiled"


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
    jump = "Host target\n    HostName 127.0.0.1\n    ProxyJump playground\n"
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
    with pytest.raises(ConnectionFailed, match="authentication failed"):
        start_worker(build(playground, ssh_config=config))


def test_missing_ssh_config_has_a_sentence(playground: Playground, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"named by build\.ssh_config, is not there"):
        start_worker(build(playground, ssh_config=str(tmp_path / "gone")))


@pytest.mark.parametrize("mine", ["root/.worker", "root", "."])
def test_work_area_of_another_user_is_not_touched(playground: Playground, tmp_path: Path, mine: str) -> None:
    (tmp_path / "root/.worker").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(tmp_path / mine, 12345, 12345)
        with pytest.raises(ConnectionFailed, match=rf"{(tmp_path / mine).name} belongs to 12345, not to") as refused:
            start_worker(build(playground, root=str(tmp_path / "root")))
        assert "chown" in str(refused.value.hint)
    assert list((tmp_path / "root/.worker").iterdir()) == []


def test_cut_connection_ends_the_step_on_the_server(playground: Playground, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    settings = build(playground)
    channel, read = start_worker(settings)
    assert isinstance(channel, SshChannel)
    client = RawClient(channel, read, settings.server)
    greet(client, settings.root)
    script = f"while true; do date > '{alive}'; sleep 0.1; done"
    asked = client.begin("run", step="try", script=script, timeout_seconds=600)
    deadline = time.monotonic() + 10
    while not alive.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    channel._line.connection.transport.sock.close()
    with pytest.raises(ConnectionFailed, match="broke"):
        asked.answer()
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


def test_no_small_message_waits_from_the_handshake_on(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt: list[int] = []
    start_client = paramiko.Transport.start_client

    def note(transport: paramiko.Transport, *arguments: Any, **options: Any) -> None:
        assert isinstance(transport.sock, socket.socket)
        prompt.append(transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        start_client(transport, *arguments, **options)

    monkeypatch.setattr(paramiko.Transport, "start_client", note)
    with worker(build(playground)) as client:
        assert echo(client) == ["hello"]
    assert prompt == [1]


def test_connection_that_nobody_takes_is_closed(playground: Playground) -> None:
    before = set(threading.enumerate())
    connecting = Connecting(build(playground))
    connecting._opened.result()
    connection = connecting._line.connection
    assert connection.is_connected
    connecting.abandon()
    assert not connection.is_connected
    wait_for_threads_to_end(before)


def test_connection_that_is_abandoned_half_way_is_given_up(playground: Playground) -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        connecting = Connecting(build(playground, server=f"{playground.user}@127.0.0.1:{silent.getsockname()[1]}"))
        with silent.accept()[0]:
            wait_until_paramiko_speaks(before)
            connecting.abandon()
            wait_for_threads_to_end(before)
    with pytest.raises(ConnectionFailed):
        connecting.channel(("true",))


# what a user's files may hold


def known_hosts(playground: Playground, directory: Path, content: bytes) -> str:
    """An ssh_config whose known_hosts file has that content."""
    (directory / "known_hosts").write_bytes(content)
    return ssh_config(playground, directory, {str(playground.known_hosts): str(directory / "known_hosts")})


@pytest.mark.parametrize("bad", [b"other ssh-ed25519 AAAA-not*base64=x", b"caf\xe9.example.com ssh-ed25519 AAAA"])
def test_one_bad_line_in_known_hosts_does_not_refuse_all_hosts(
    playground: Playground, tmp_path: Path, bad: bytes
) -> None:
    config = known_hosts(playground, tmp_path, bad + b"\n" + playground.known_hosts.read_bytes())
    with worker(build(playground, ssh_config=config)) as client:
        assert echo(client) == ["hello"]


def test_unknown_key_names_the_lines_that_could_not_be_read(playground: Playground, tmp_path: Path) -> None:
    name = f"[127.0.0.1]:{playground.ssh_port}"
    config = known_hosts(playground, tmp_path, name.encode() + b" ssh-ed25519 AAAA-not*base64=x\n")
    with pytest.raises(ConnectionFailed, match="is unknown") as caught:
        start_worker(build(playground, ssh_config=config))
    assert caught.value.tail == (f"a line of {tmp_path}/known_hosts for {name} can't be read",)


def test_revoked_host_key_is_refused(playground: Playground, tmp_path: Path) -> None:
    known = playground.known_hosts.read_bytes()
    revoked = b"".join(b"@revoked * " + line.split(None, 1)[1] + b"\n" for line in known.splitlines())
    config = known_hosts(playground, tmp_path, known + revoked)
    with pytest.raises(ConnectionFailed, match="is marked as revoked"):
        start_worker(build(playground, ssh_config=config))


def test_host_key_alias_is_honoured(playground: Playground, tmp_path: Path) -> None:
    known = b"".join(
        b"the-alias " + line.split(None, 1)[1] + b"\n" for line in playground.known_hosts.read_bytes().splitlines()
    )
    config = known_hosts(playground, tmp_path, known)
    with pytest.raises(ConnectionFailed, match="is unknown"):
        start_worker(build(playground, ssh_config=config))
    Path(config).write_text(Path(config).read_text() + "    HostKeyAlias The-Alias\n")
    with worker(build(playground, ssh_config=config)) as client:
        assert echo(client) == ["hello"]


@pytest.mark.parametrize("as_gateway", [False, True])
def test_forward_agent_that_names_a_socket_is_no_crash(
    playground: Playground, tmp_path: Path, as_gateway: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    (tmp_path / "agent").touch()
    config = ssh_config(playground, tmp_path, {}, "Host *\n    ForwardAgent ${SSH_AUTH_SOCK}\n")
    changes = {"gateway": playground.build_server} if as_gateway else {}
    with worker(build(playground, ssh_config=config, **changes)) as client:
        assert echo(client) == ["hello"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("Host *\n    ForwardAgent perhaps here\n", "line 2: keyword forwardagent extra arguments at end of line"),
        ('Host *\n    UserKnownHostsFile "~/my hosts\n', "line 2: invalid quotes"),
        ("Host *\n    ConnectTimeout soon\n", "line 2: invalid time value."),
        ("Host\n", "line 1"),
        ("caf\xe9\n", "line 1: no argument after keyword"),
    ],
)
def test_ssh_config_that_cannot_be_used_is_named(playground: Playground, tmp_path: Path, more: str, why: str) -> None:
    config = Path(ssh_config(playground, tmp_path, {}))
    config.write_bytes(more.encode("latin-1") + config.read_bytes())
    with pytest.raises(UsageError, match=rf"the file {config}, named by build\.ssh_config, can't be used") as caught:
        start_worker(build(playground, ssh_config=str(config)))
    assert why in caught.value.message


# what a server may do


@contextlib.contextmanager
def tmpfs(directory: Path, options: str) -> Iterator[None]:
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("small disks need root")
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def test_full_disk_of_a_fresh_work_area_has_a_sentence(playground: Playground, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with tmpfs(root, "size=16k"):
        with pytest.raises(StepError, match=f"the work area {root} can't be written on .*: no space left") as caught:
            start_worker(build(playground, is_local=True, server="local", root=str(root)))
        assert any("No space left on device" in line for line in caught.value.tail)
        assert not any("Traceback" in line for line in caught.value.tail)
        assert "free some space" in str(caught.value.hint)
        assert list((root / ".worker").iterdir()) == []


def test_disk_without_room_for_a_directory_has_the_same_sentence(playground: Playground, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with tmpfs(root, "nr_inodes=1"), pytest.raises(StepError, match=r"can't be written on .*: no space left"):
        start_worker(build(playground, is_local=True, server="local", root=str(root)))


def test_work_area_that_is_read_only_has_a_sentence(playground: Playground, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with tmpfs(root, "size=1m"):
        (root / ".worker").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        with pytest.raises(StepError, match=r"can't be written on the build server local\n") as caught:
            start_worker(build(playground, is_local=True, server="local", root=str(root)))
        assert any("Read-only file system" in line for line in caught.value.tail)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The server's side of this process's connections stands still; in the end it is gone."""
    ports = {at.laddr.port for at in psutil.net_connections("tcp") if at.pid == pid and at.raddr and at.laddr}
    pids = {at.pid for at in psutil.net_connections("tcp") if at.raddr and at.raddr.port in ports and at.pid}
    pids -= {os.getpid(), pid}
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def fill(channel: Channel) -> None:
    """Write until nothing goes any more."""
    written = [0]

    def write() -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                channel.write(b" " * (1 << 16))
                written[0] += 1 << 16

    threading.Thread(target=write, daemon=True).start()
    before = -1
    while written[0] != before:
        before = written[0]
        time.sleep(0.5)


def ssh_child() -> int:
    """The one process of OpenSSH's client that we have started."""
    (child,) = (each for each in psutil.Process().children() if each.name() == "ssh")
    return child.pid


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
@pytest.mark.parametrize("through_gateway", [False, True])
def test_ending_does_not_wait_for_a_server_that_stands_still(
    playground: Playground, through_gateway: bool, transport: str
) -> None:
    changes = {"gateway": playground.build_server} if through_gateway else {}
    channel, _ = start_worker(build(playground, transport=transport, **changes))
    direct = transport == "fabric" and not through_gateway
    jump = psutil.Process(ssh_child()).children() if transport == "openssh" and through_gateway else []
    with stopped(os.getpid() if direct else jump[0].pid if jump else ssh_child()):
        fill(channel)
        begin = time.monotonic()
        assert channel.end(1.0) is None
        assert time.monotonic() - begin < 4


def test_ending_does_not_wait_for_a_local_worker_that_stands_still(playground: Playground) -> None:
    channel, _ = start_worker(build(playground, is_local=True, server="local"))
    pid = channel._process.pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGSTOP)

    def write() -> None:
        with contextlib.suppress(OSError, ValueError):
            channel.write(b" " * (1 << 20))

    threading.Thread(target=write, daemon=True).start()
    time.sleep(0.3)
    begin = time.monotonic()
    channel.end(1.0)
    assert time.monotonic() - begin < 4
    assert not psutil.pid_exists(pid)


def test_network_that_is_gone_is_noticed_within_a_minute(playground: Playground) -> None:
    channel, _ = start_worker(build(playground))
    assert isinstance(channel, SshChannel)
    try:
        sock = channel._line.connection.transport.sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    finally:
        channel.end()


def test_line_is_prompt_and_compressed(playground: Playground) -> None:
    channel, _ = start_worker(build(playground))
    assert isinstance(channel, SshChannel)
    try:
        transport = channel._line.connection.transport
        assert transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert (transport.local_compression, transport.remote_compression) == ("zlib@openssh.com",) * 2
    finally:
        channel.end()


@pytest.mark.parametrize("through_gateway", [False, True])
def test_ctrl_c_during_connect_ends_the_process(playground: Playground, through_gateway: bool) -> None:
    program = (
        "import json, sys, types\n"
        "from deploytool.connection.boot import start_worker\n"
        "start_worker(types.SimpleNamespace(**json.loads(sys.argv[1])))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        settings = build(
            playground,
            server=f"{playground.user}@127.0.0.1:{silent.getsockname()[1]}",
            gateway=playground.build_server if through_gateway else None,
        )
        argv = [sys.executable, "-c", program, json.dumps(vars(settings))]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            connection, _ = silent.accept()
            with connection:
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=5)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err
    assert "Exception (client)" not in err


def test_failed_connection_leaves_no_thread(playground: Playground, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    config = known_hosts(playground, tmp_path, b"")
    with pytest.raises(ConnectionFailed, match="is unknown"):
        start_worker(build(playground, ssh_config=config))
    wait_for_threads_to_end(before)


def test_read_only_worker_answers_over_ssh_and_leaves_nothing(playground: Playground, tmp_path: Path) -> None:
    build: Any = SimpleNamespace(
        is_local=False,
        server=playground.build_server,
        gateway=None,
        forward_agent=False,
        transport="auto",
        ssh_config=str(playground.ssh_config),
        root=str(tmp_path / "root"),
    )
    channel, read = start_worker(build, read_only=True)
    worker = RawClient(channel, read, build.server)
    try:
        worker.greet(root=build.root, application="shop", environment="test", store={"url": f"file://{tmp_path}/store"},
            consul={}, secrets=[], operator="me@laptop", purpose="testing", read_only=True,
        )  # fmt: skip
        assert run(worker, "echo fine")["tail"] == ["fine"]
        assert worker.ask("store_get", key="a")["content"] is None
    finally:
        worker.close()
    assert list(tmp_path.iterdir()) == []
