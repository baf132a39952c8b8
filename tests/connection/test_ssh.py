"""What is known of hosts, and what is made of a worker's first words; no network."""

import base64
import subprocess
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from deploytool.connection.boot import MARK, Refusal, boot
from deploytool.connection.channel import LocalChannel
from deploytool.connection.known_hosts import known_hosts_files, known_keys
from deploytool.connection.ssh import SshChannel
from deploytool.connection.ssh_config import Host, split
from deploytool.errors import ConnectionFailed, StepError

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE/1fgSJlcBi+RSNBjr5ukuz4QZi/SasFZ4cK//KLuC/"
BUILD: Any = SimpleNamespace(server="deploy@build", root="/var/tmp/deploytool")


def host(*files: Path | str, name: str = "build") -> Host:
    """One whose keys stand in these files."""
    return Host(name, {"userknownhostsfile": tuple(map(str, files)), "globalknownhostsfile": ("none",)}, ("ssh",))


def new_key(directory: Path, name: str) -> str:
    """Kind and key of a new host key, as known_hosts has them."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
    return " ".join((directory / f"{name}.pub").read_text().split()[:2])


def as_line(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {base64.b64encode(key.asbytes()).decode()}"


@pytest.mark.parametrize(
    "bad",
    [b"other ssh-ed25519 AAAA-not*base64=x", b"caf\xe9 ssh-ed25519 AAAA", b"other ssh-ed25519", b"|1|x|y ssh-rsa AAAA"],
)
def test_one_bad_line_in_known_hosts_leaves_the_others_good(tmp_path: Path, bad: bytes) -> None:
    key = new_key(tmp_path, "key")
    file = tmp_path / "known_hosts"
    file.write_bytes(b"# a comment\n\n" + bad + b"\nbuild " + key.encode() + b" with a comment\n")
    assert [as_line(key) for key in known_keys(host(file)).keys] == [key]


def test_line_of_a_host_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    key = new_key(tmp_path, "key")
    file = tmp_path / "known_hosts"
    file.write_text(f"build ssh-ed25519 AAAA-not*base64=x\nbuild {key}\n")
    known = known_keys(host(file))
    assert [as_line(key) for key in known.keys] == [key]
    assert known.problems == [f"a line of {file} for build can't be read"]


def test_hashed_host_is_found(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"[build]:2222 {new_key(tmp_path, 'key')}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, stderr=subprocess.DEVNULL)
    assert "build" not in file.read_text()
    at = Host("build", {**host(file).options, "port": ("2222",)}, ("ssh",))
    assert len(known_keys(at).keys) == 1
    assert known_keys(host(file)).keys == []


@pytest.mark.parametrize("program", ["ssh-keygen", None])
def test_revoked_key_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None) -> None:
    if program is None:
        monkeypatch.setenv("PATH", "/nowhere")
    key = new_key(tmp_path, "key") if program else OTHER_KEY
    file = tmp_path / "known_hosts"
    file.write_text(f"build {key}\n@revoked * {key}\n@cert-authority * {key}\n")
    known = known_keys(host(file))
    assert known.has_authority
    with pytest.raises(ConnectionFailed, match="is marked as revoked"):
        known.check(known.keys[0])


def test_known_hosts_file_with_spaces_in_its_path_is_found(tmp_path: Path) -> None:
    """`ssh -G` prints paths without quotes."""
    one, other = tmp_path / "o'brien's known hosts", tmp_path / "other"
    one.touch()
    other.touch()
    assert known_hosts_files(host(f"{one} {tmp_path}/gone {other}")) == [one, other]


def test_home_of_an_unknown_user_is_no_crash() -> None:
    assert known_hosts_files(host("~nobody-at-all/hosts")) == []


@pytest.mark.parametrize(
    ("server", "parts"),
    [
        ("build", ("", "build", "")),
        ("me@build:2201", ("me", "build", "2201")),
        ("me@[::1]:2201", ("me", "::1", "2201")),
        ("[::1]", ("", "::1", "")),
        ("ssh://me@build:22", ("me", "build", "22")),
        ("me@corp@jump", ("me@corp", "jump", "")),
    ],
)
def test_user_host_and_port_are_told_apart(server: str, parts: tuple[str, str, str]) -> None:
    assert split(server) == parts


class Line:
    """A channel whose other end says what the test wrote down."""

    def __init__(self, *said: bytes | BaseException, status: int | None = None, broken: bool = False) -> None:
        self._said = deque(said)
        self._status = status
        self._broken = broken
        self.written = b""
        self.patience: list[float | None] = []
        self.ended = False

    def write(self, data: bytes) -> None:
        if self._broken:
            raise BrokenPipeError
        self.written += data

    def read(self) -> bytes:
        said = self._said.popleft() if self._said else b""
        if isinstance(said, BaseException):
            raise said
        return said

    def set_patience(self, seconds: float | None) -> None:
        self.patience.append(seconds)

    def end(self, patience_seconds: float = 15) -> int | None:
        self.ended = True
        return self._status

    def last_words(self) -> tuple[str, ...]:
        return ("/root/.worker/x.pyz: No space left on device",)


def boot_over(line: Any) -> Any:
    return boot(line, BUILD, b"the worker")


def test_worker_that_is_there_is_not_sent() -> None:
    line = Line(b"Welcome!\n$ " + MARK.encode() + b"rea", b'dy\n{"id":', b" 1}\n")
    read = boot_over(line)
    assert line.written == b""
    assert [read(), read(), read()] == [b'{"id":', b" 1}\n", b""]
    assert line.patience[-1] is None
    assert not line.ended


def test_worker_that_is_needed_is_sent_and_waited_for() -> None:
    line = Line(f"{MARK}need\n".encode(), f"{MARK}ready\n".encode())
    boot_over(line)
    assert line.written == b"the worker"


@pytest.mark.parametrize("broken", [False, True])
def test_full_disk_is_not_a_broken_connection(broken: bool) -> None:
    line = Line(f"{MARK}need\n".encode(), status=Refusal.NO_SPACE, broken=broken)
    with pytest.raises(StepError, match="can't be written on the build server deploy@build: no space left") as caught:
        boot_over(line)
    assert caught.value.tail == ("/root/.worker/x.pyz: No space left on device",)
    assert "free some space" in str(caught.value.hint)
    assert line.ended


def test_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    line = Line(b"Enter your token: ", TimeoutError())
    with pytest.raises(ConnectionFailed, match="did not start the worker within 60 s"):
        boot_over(line)
    assert line.patience == [60]
    assert line.ended


@pytest.mark.parametrize("fault", [OSError("cut"), KeyboardInterrupt()])
def test_whatever_goes_wrong_at_the_start_ends_the_line(fault: BaseException) -> None:
    line = Line(fault)
    with pytest.raises((ConnectionFailed, KeyboardInterrupt)):
        boot_over(line)
    assert line.ended


def test_line_that_breaks_under_a_write_is_told_like_every_broken_pipe() -> None:
    """paramiko raises an EOFError, from where it writes packets."""

    def sendall(_data: bytes) -> None:
        raise EOFError

    channel = object.__new__(SshChannel)
    channel._channel = SimpleNamespace(sendall=sendall)
    with pytest.raises(BrokenPipeError, match="the connection has ended"):
        channel.write(b"{}\n")


def test_whoever_comes_to_read_after_the_end_reads_the_end() -> None:
    """The thread that listens may be late, on a busy machine: that is no traceback."""
    channel = LocalChannel(("cat",))
    channel.write(b"a line\n")
    assert channel.read() == b"a line\n"
    assert channel.end() == 0
    assert channel.read() == b""
