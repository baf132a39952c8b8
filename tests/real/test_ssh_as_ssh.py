"""Other people's ssh_config and known_hosts: where `ssh -F` gets in, so do we, and where it refuses, we do.

Each case is a situation that people had with a client that reads such files by itself; `ssh` is asked beside us.
"""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fabric
import psutil
import pytest

from deploytool import trace
from deploytool.connection.boot import start_worker
from deploytool.connection.openssh import ASKPASS, OpenSshChannel
from deploytool.connection.ssh import Connecting, SshChannel
from deploytool.connection.ssh_config import split
from deploytool.errors import ConnectionFailed, UsageError
from deploytool.playground import parts
from tests.support import sshd
from tests.support.asking_server import Asking, asking
from tests.support.build_server import echo, greet, worker
from tests.support.sshd import Sshd, new_key, public
from tests.support.waiting import until
from tests.support.worker import RawClient

#: What the tests' sshd has beside the usual.
OPTIONS = """\
Banner {directory}/banner
PermitRootLogin yes
MaxAuthTries 3
TrustedUserCAKeys {directory}/user_ca.pub
HostCertificate {directory}/host_key-cert.pub
HostKey {directory}/second_host_key
AcceptEnv DEPLOY_*
MaxStartups 100
"""
#: After all else, as it holds for these users only.
MATCHES = """\
Match User two
    AuthenticationMethods publickey,publickey
Match User open
    PasswordAuthentication yes
    PermitEmptyPasswords yes
"""


@dataclass(slots=True)
class Place:
    """A server and a directory with an operator's files."""

    server: Sshd
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def text(self, template: str) -> str:
        """With the paths and the port of this test in place of `{…}`."""
        known = {
            "port": self.server.port,
            "dir": self.directory,
            "key": self.server.key,
            "known": self.directory / "known_hosts",
            "base": f"HostName 127.0.0.1\nPort {self.server.port}\nUser me\n{self.way}",
            "way": self.way,
        }
        return re.sub(r"\{(\w+)\}", lambda found: str(known.get(found[1], found[0])), template)

    @property
    def way(self) -> str:
        return f"IdentityFile {self.server.key}\nIdentitiesOnly yes\nUserKnownHostsFile {self.directory}/known_hosts\n"

    def config(self, template: str) -> Path:
        path = self.directory / "config"
        path.write_text(self.text(template))
        return path

    def ssh(self, config: Path, server: str = "build", *more: str) -> "subprocess.CompletedProcess[str]":
        """What `ssh` makes of it."""
        user, host, port = split(self.text(server))
        argv = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-T", *more]
        argv += [*(["-l", user] if user else []), *(["-p", port] if port else []), host, "echo in"]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    def ours(self, config: Path, server: str = "build", **changes: Any) -> str:
        """Which way we got in. Raises what we say where we did not."""
        channel, read = start_worker(self.build(config, server, **changes))
        client = RawClient(channel, read, "build")
        try:
            greet(client, str(self.directory / "root"))
            assert echo(client) == ["hello"]
        finally:
            client.close()
        return {SshChannel: "fabric", OpenSshChannel: "openssh"}[type(channel)]

    def build(self, config: Path, server: str = "build", **changes: Any) -> Any:
        values = {"gateway": None, "forward_agent": False, "transport": "auto", "ssh_config": str(config), **changes}
        return SimpleNamespace(is_local=False, server=self.text(server), root=str(self.directory / "root"), **values)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    directory = tmp_path_factory.mktemp("sshd")
    (directory / "banner").write_text("*** Authorized users only! ***\nLast login: never\n")
    for name in ("key", "host_key", "second_host_key", "user_ca", "host_ca"):
        new_key(directory / name, *(["-t", "ecdsa"] if name == "second_host_key" else []))
    sign = ["ssh-keygen", "-q", "-s", str(directory / "host_ca"), "-I", "host", "-h", "-n", "127.0.0.1,localhost"]
    subprocess.run([*sign, str(directory / "host_key.pub")], check=True)
    program = parts.find_or_install(print).sshd
    with sshd.running(program, directory, OPTIONS, MATCHES) as running:
        yield running


@pytest.fixture
def place(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The operator has no agent, and knows the server's key."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / "known_hosts").write_text(server.known_line)
    return Place(server, tmp_path)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server with few algorithms."""
    options = "Ciphers aes128-ctr\nMACs hmac-sha2-256\nKexAlgorithms ecdh-sha2-nistp256\nPermitRootLogin yes\n"
    with sshd.running(parts.find_or_install(print).sshd, tmp_path_factory.mktemp("narrow"), options) as running:
        yield running


@contextlib.contextmanager
def agent(path: Path, *keys: Path) -> Iterator[None]:
    """An ssh-agent with these keys at a socket, whose path may have 107 bytes."""
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for key in keys:
            subprocess.run(["ssh-add", "-q", str(key)], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(path)})
        yield
    finally:
        process.terminate()
        process.wait()
        path.unlink(missing_ok=True)


@pytest.fixture
def socket_path() -> Iterator[Path]:
    path = Path("/tmp") / f"deploytool-as-ssh-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


#: what an ssh_config says, the server that is named in `build.server`, and the way that we are to take
GETS_IN: Mapping[str, tuple[str, str, str]] = {
    "Include": ("Include {dir}/conf.d/*\n", "build", "fabric"),
    "Match host": ("Match host=build\n{base}", "build", "fabric"),
    "Match originalhost and user": ("Match originalhost build user me\n{base}", "me@build", "fabric"),
    "Match exec": ('Match exec "test %h = build"\n{base}', "build", "fabric"),
    "Match exec that does not hold": ('Match exec "false"\nPort 1\nHost build\n{base}', "build", "fabric"),
    "Port and HostName in a Match that is final": (
        "Host build\nHostName 127.0.0.1\nUser me\n{way}Match final host 127.0.0.1\nPort {port}\n",
        "build",
        "fabric",
    ),
    "%h in HostName": ("Host 0.0.1\nHostName 127.%h\nPort {port}\nUser me\n{way}", "0.0.1", "fabric"),
    "%h and %r in IdentityFile": (
        "Host build\nHostName 127.0.0.1\nPort {port}\nUser me\nUserKnownHostsFile {known}\n"
        "IdentityFile {dir}/keys/%h-%r\nIdentitiesOnly yes\n",
        "build",
        "fabric",
    ),
    "${ENV} in IdentityFile": (
        "Host build\nHostName 127.0.0.1\nPort {port}\nUser me\nUserKnownHostsFile {known}\nIdentityFile ${MY_KEY}\n",
        "build",
        "fabric",
    ),
    "%C in IdentityFile": (
        "Host build\n{base}IdentityFile {dir}/%C\n",
        "build",
        "openssh",
    ),
    "${ENV} in UserKnownHostsFile": (
        "Host build\nUserKnownHostsFile ${MY_HOSTS}\n{base}",
        "build",
        "fabric",
    ),
    "several UserKnownHostsFile": ("Host build\nUserKnownHostsFile {dir}/none {known}\n{base}", "build", "fabric"),
    "UserKnownHostsFile with spaces": (
        'Host build\nUserKnownHostsFile {dir}/none "{dir}/my known hosts"\n{base}',
        "build",
        "fabric",
    ),
    "GlobalKnownHostsFile": (
        "Host build\nUserKnownHostsFile none\nGlobalKnownHostsFile {known}\n{base}",
        "build",
        "fabric",
    ),
    "IPv6 literal": ("Host ::1\nUserKnownHostsFile {dir}/v6\n{way}", "me@[::1]:{port}", "fabric"),
    "IPv6 in HostName": ("Host build\nHostName ::1\nUserKnownHostsFile {dir}/v6\n{base}", "build", "fabric"),
    "AddressFamily": (
        "Host localhost\nAddressFamily inet\nUserKnownHostsFile {dir}/v4\nUser me\nPort {port}\n{way}",
        "localhost",
        "fabric",
    ),
    "CanonicalizeHostname": (
        "CanonicalizeHostname yes\nCanonicalDomains deploytool.invalid\nHost build\n{base}",
        "build",
        "fabric",
    ),
    "ProxyJump through an alias": ("Host build\nProxyJump jump\n{base}Host jump\n{base}", "build", "fabric"),
    "ProxyJump with a user of its own": (
        "Host build\nProxyJump zsh@jump:{port}\n{base}Host jump\nHostName 127.0.0.1\n{way}",
        "build",
        "fabric",
    ),
    "ProxyJump over two": (
        "Host build\nProxyJump one,two\n{base}Host one two\n{base}",
        "build",
        "fabric",
    ),
    "ProxyJump that jumps itself": (
        "Host build\nProxyJump two\n{base}Host two\nProxyJump one\n{base}Host one\n{base}",
        "build",
        "fabric",
    ),
    "ProxyJump none": ("Host build\nProxyJump none\n{base}Host *\nProxyJump nowhere.invalid\n", "build", "fabric"),
    "ProxyJump whose host has a ProxyCommand": (
        "Host build\nProxyJump one\n{base}Host one\nProxyCommand {dir}/connect %h %p\n{base}",
        "build",
        "fabric",
    ),
    "ProxyCommand": ("Host build\nProxyCommand {dir}/connect %h %p\n{base}", "build", "fabric"),
    "ProxyCommand of ssh": (
        "Host build\nProxyCommand ssh -F {dir}/config -W %h:%p jump\n{base}Host jump\n{base}",
        "build",
        "fabric",
    ),
    "HostKeyAlias": ("Host build\nHostKeyAlias The-Alias\nUserKnownHostsFile {dir}/alias\n{base}", "build", "fabric"),
    "User of the file": ("Host build\nUser dash\n{base}", "build", "fabric"),
    "ControlMaster of nobody": (
        "Host build\nControlMaster auto\nControlPath /tmp/deploytool-%C\n{base}",
        "build",
        "fabric",
    ),
    "RemoteCommand and RequestTTY": ("Host build\nRequestTTY force\n{base}", "build", "fabric"),
    "LocalForward of a port that is taken": (
        "Host build\nLocalForward {port} localhost:1\nExitOnForwardFailure no\n{base}",
        "build",
        "fabric",
    ),
    "LocalCommand": ("Host build\nPermitLocalCommand yes\nLocalCommand echo disturbed\n{base}", "build", "fabric"),
    "BatchMode": ("Host build\nBatchMode yes\n{base}", "build", "fabric"),
    "LogLevel QUIET": ("Host build\nLogLevel QUIET\n{base}", "build", "fabric"),
    "SetEnv": ("Host build\nSetEnv DEPLOY_A=b\nSendEnv LANG LC_*\n{base}", "build", "fabric"),
    "CertificateFile": (
        "Host build\nHostName 127.0.0.1\nPort {port}\nUser me\nUserKnownHostsFile {known}\n"
        "IdentityFile {dir}/signed\nCertificateFile {dir}/elsewhere-cert.pub\n",
        "build",
        "openssh",
    ),
    "certificate beside the key": (
        "Host build\nHostName 127.0.0.1\nPort {port}\nUser me\nUserKnownHostsFile {known}\nIdentityFile {dir}/beside\n",
        "build",
        "openssh",
    ),
    "KnownHostsCommand": (
        "Host build\nUserKnownHostsFile none\nKnownHostsCommand /bin/cat {known}\n{base}",
        "build",
        "openssh",
    ),
    "BindAddress": ("Host build\nBindAddress 127.0.0.1\n{base}", "build", "openssh"),
    "accept-new": (
        "Host build\nStrictHostKeyChecking accept-new\nUserKnownHostsFile {dir}/new\n{base}",
        "build",
        "openssh",
    ),
    "two keys are asked for": (
        "Host build\nUser two\nIdentityFile {dir}/keys/127.0.0.1-me\nIdentityFile {dir}/second\n{base}",
        "build",
        "openssh",
    ),
    "no key at all": (
        "Host build\nUser open\nIdentityFile none\nHostName 127.0.0.1\nPort {port}\nUserKnownHostsFile {known}\n",
        "build",
        "openssh",
    ),
}


@pytest.mark.parametrize("case", GETS_IN)
def test_where_ssh_gets_in_so_do_we(place: Place, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    furnish(place, monkeypatch)
    template, named, way = GETS_IN[case]
    config = place.config(template)
    alone = place.ssh(config, named)
    assert alone.stdout.splitlines()[-1:] == ["in"], alone.stderr
    (place.directory / "new").unlink(missing_ok=True)
    assert place.ours(config, named) == way
    # And the same by OpenSSH's client, whatever it was.
    assert place.ours(config, named, transport="openssh") == "openssh"
    if case == "accept-new":
        assert public(place.server.host_key).split()[1] in (place.directory / "new").read_text()


def furnish(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files that a case may name."""
    directory, server = place.directory, place.server
    for name in ("conf.d", "keys"):
        (directory / name).mkdir()
    (directory / "conf.d/build").write_text(place.text("Host build\n{base}"))
    for name in ("keys/127.0.0.1-me", "mine"):
        shutil.copy(server.key, directory / name)
    port, key = server.port, public(server.host_key)
    (directory / "my known hosts").write_text(server.known_line)
    (directory / "v6").write_text(f"[::1]:{port} {key}\n")
    (directory / "v4").write_text(f"[localhost]:{port} {key}\n")
    (directory / "alias").write_text(f"the-alias {key}\n")
    monkeypatch.setenv("MY_KEY", str(directory / "mine"))
    monkeypatch.setenv("MY_HOSTS", str(directory / "known_hosts"))
    connect = directory / "connect"
    connect.write_text(f"#!{sys.executable} -IS\n{CONNECT}")
    connect.chmod(0o755)
    for name in ("signed", "beside"):
        new_key(directory / name)
        sign = ["ssh-keygen", "-q", "-s", str(server.directory / "user_ca"), "-I", "me", "-n", "me"]
        subprocess.run([*sign, str(directory / f"{name}.pub")], check=True)
    (directory / "signed-cert.pub").rename(directory / "elsewhere-cert.pub")
    second = new_key(directory / "second")
    authorized = server.directory / "authorized_keys"
    authorized.write_text(f"{public(server.key)}\n{public(second)}\n")


#: Its stdin and stdout are a connection.
CONNECT = """\
import os, socket, sys, threading
server = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def copy(take, give):
    while data := take(65536):
        give(data)
    server.shutdown(socket.SHUT_WR)
threading.Thread(target=copy, args=(lambda n: os.read(0, n), server.sendall), daemon=True).start()
while data := server.recv(65536):
    os.write(1, data)
"""


# Host keys


def hosts(place: Place, *lines: str) -> Path:
    """A configuration with these lines in known_hosts; `KEY` and `SECOND` stand for the server's keys."""
    text = "".join(f"{line}\n" for line in lines).replace("AT ", f"[127.0.0.1]:{place.server.port} ")
    keys = {"KEY": public(place.server.host_key), "SECOND": public(place.server.directory / "second_host_key")}
    other, authority = place.directory / "other", place.server.directory / "host_ca"
    if not other.exists():
        new_key(other)
    keys |= {"OTHER": public(other), "AUTHORITY": public(authority)}
    for name, key in keys.items():
        text = text.replace(name, key)
    (place.directory / "known_hosts").write_text(text)
    return place.config("Host build\n{base}")


@pytest.mark.parametrize(
    ("lines", "way"),
    [
        (["[127.0.0.*]:* KEY"], "fabric"),
        (["[127.?.0.1]:*,![127.0.0.1]:* OTHER", "AT KEY"], "fabric"),
        (["# a comment", "nonsense", "AT ssh-ed25519 AAAA-not*base64", "AT KEY"], "fabric"),
        # A cluster behind one name.
        (["AT OTHER", "AT KEY"], "fabric"),
        # Of another kind than is asked for first.
        (["AT SECOND"], "fabric"),
        # Known by its name alone, for whatever port.
        (["127.0.0.1 KEY"], "fabric"),
        (["@revoked AT OTHER", "AT KEY"], "fabric"),
        (["@cert-authority [127.0.0.1]:* AUTHORITY"], "openssh"),
        (["@cert-authority 127.0.0.* AUTHORITY"], "openssh"),
    ],
)
def test_known_hosts_means_what_it_means_to_ssh(place: Place, lines: list[str], way: str) -> None:
    config = hosts(place, *lines)
    assert place.ssh(config).stdout == "in\n", place.ssh(config).stderr
    assert place.ours(config) == way
    assert place.ours(config, transport="openssh") == "openssh"


def test_hashed_known_hosts_are_found(place: Place) -> None:
    config = hosts(place, "AT KEY")
    file = place.directory / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, stderr=subprocess.DEVNULL)
    assert "127.0.0.1" not in file.read_text()
    assert place.ssh(config).stdout == "in\n"
    assert place.ours(config) == "fabric"


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "is unknown (looked in: "),
        (["[127.0.0.2]:* KEY"], "is unknown (looked in: "),
        (["[127.0.0.*]:*,![127.0.0.1]:* KEY"], "is unknown (looked in: "),
        (["AT OTHER"], "has CHANGED"),
        (["AT KEY", "@revoked * KEY"], "is marked as revoked"),
    ],
)
def test_host_key_that_ssh_refuses_is_refused_with_a_sentence(
    place: Place, transport: str, lines: list[str], words: str
) -> None:
    config = hosts(place, *lines)
    assert place.ssh(config, "build", "-o", "StrictHostKeyChecking=yes").returncode == 255
    with pytest.raises(ConnectionFailed) as caught:
        place.ours(config, transport=transport)
    assert f"the host key of me@127.0.0.1:{place.server.port} {words}" in caught.value.message
    if "revoked" not in words:
        assert f"ssh-keyscan -p {place.server.port} 127.0.0.1 >> {place.directory}/known_hosts" in str(
            caught.value.hint
        )
    if "CHANGED" in words:
        assert "SHA256:" in caught.value.message
        assert f"ssh-keygen -R '[127.0.0.1]:{place.server.port}'" in str(caught.value.hint)


REVOKES = "Host build\nRevokedHostKeys {dir}/revoked\n{base}"


@pytest.mark.parametrize("transport", ["auto", "openssh", "fabric"])
def test_key_in_the_file_of_revoked_ones_is_refused(place: Place, transport: str) -> None:
    (place.directory / "revoked").write_text(public(place.server.host_key) + "\n")
    config = place.config(REVOKES)
    assert place.ssh(config).returncode == 255
    with pytest.raises(ConnectionFailed) as caught:
        place.ours(config, transport=transport)
    if transport == "fabric":
        assert f"can't be checked: RevokedHostKeys ({place.directory}/revoked) is set" in caught.value.message
        assert "OpenSSH's client" in str(caught.value.hint)
    else:
        assert f"is marked as revoked in {place.directory}/revoked" in caught.value.message


def test_certificate_of_a_host_for_another_name_is_refused(place: Place) -> None:
    (place.directory / "known_hosts").write_text(f"@cert-authority * {public(place.server.directory / 'host_ca')}\n")
    config = place.config("Host build\nHostKeyAlias another.example.com\n{base}")
    assert place.ssh(config, "build", "-o", "StrictHostKeyChecking=yes").returncode == 255
    with pytest.raises(ConnectionFailed, match=r"host certificate of .* is not valid: name is not a listed principal"):
        place.ours(config)


@pytest.mark.parametrize("transport", ["auto", "openssh"])
@pytest.mark.parametrize("value", ["no", "off", "ask"])
def test_users_no_to_host_keys_counts_as_yes(place: Place, transport: str, value: str) -> None:
    """Here alone `ssh` gets in and we do not."""
    config = place.config("Host build\nStrictHostKeyChecking " + value + "\nUserKnownHostsFile {dir}/empty\n{base}")
    with pytest.raises(ConnectionFailed, match="is unknown"):
        place.ours(config, transport=transport)
    assert not (place.directory / "empty").exists()
    local = place.config("Host build\nNoHostAuthenticationForLocalhost yes\nUserKnownHostsFile {dir}/empty\n{base}")
    with pytest.raises(ConnectionFailed, match="is unknown"):
        place.ours(local, transport=transport)


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
@pytest.mark.parametrize(("line", "words"), [("", "is unknown"), ("[localhost]:{port} OTHER", "has CHANGED")])
def test_key_of_a_jump_host_is_checked_as_any_other(place: Place, transport: str, line: str, words: str) -> None:
    other = public(new_key(place.directory / "other"))
    (place.directory / "jump").write_text(place.text(line).replace("OTHER", other) + "\n")
    config = place.config(
        "Host build\nProxyJump jump\n{base}Host jump\nHostName localhost\nUserKnownHostsFile {dir}/jump\n"
        "StrictHostKeyChecking no\n{base}"
    )
    with pytest.raises(ConnectionFailed) as caught:
        place.ours(config, transport=transport)
    assert f"the host key of me@localhost:{place.server.port} {words}" in caught.value.message


# The login


def keys(directory: Path, count: int) -> list[Path]:
    return [new_key(directory / f"agent-{number}") for number in range(count)]


@pytest.mark.parametrize("only", ["yes", "no"])
def test_key_of_the_agent_chosen_by_its_public_half_is_the_first_that_is_offered(
    place: Place, socket_path: Path, monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    mine = place.directory / "mine.pub"
    mine.write_text(public(place.server.key))
    config = place.config(
        "Host build\nIdentityFile {dir}/mine.pub\nIdentitiesOnly "
        + only
        + "\nHostName 127.0.0.1\nPort {port}\nUser me\n"
        "UserKnownHostsFile {known}\n"
    )
    with agent(socket_path, *keys(place.directory, 6), place.server.key):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        assert place.ssh(config).stdout == "in\n"
        assert place.ours(config) == "openssh"


def test_key_with_a_passphrase_whose_agent_has_it_opens(
    place: Place, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = place.directory / "locked"
    shutil.copy(place.server.key, locked)
    with agent(socket_path, *keys(place.directory, 2), locked):
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(locked)], check=True)
        Path(f"{locked}.pub").write_text(public(place.server.key))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        for only, way in (("no", "fabric"), ("yes", "openssh")):
            config = place.config(
                "Host build\nIdentityFile {dir}/locked\nIdentitiesOnly " + only + "\nHostName 127.0.0.1\n"
                "Port {port}\nUser me\nUserKnownHostsFile {known}\n"
            )
            assert place.ssh(config).stdout == "in\n"
            assert place.ours(config) == way


def test_agent_that_the_configuration_names_is_asked(
    place: Place, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 1Password's and Secretive's."""
    config = place.config(
        f"Host build\nIdentityAgent {socket_path}\n" + "HostName 127.0.0.1\nPort {port}\nUser me\n"
        "UserKnownHostsFile {known}\n"
    )
    with agent(socket_path, place.server.key):
        assert place.ssh(config).stdout == "in\n"
        assert place.ours(config) == "openssh"
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        assert place.ours(config) == "fabric"
        config.write_text(config.read_text().replace(str(socket_path), "none"))
        assert place.ssh(config).returncode == 255
        with pytest.raises(ConnectionFailed, match="authentication failed"):
            place.ours(config)


@pytest.mark.parametrize("transport", ["auto", "openssh"])
def test_agent_with_more_keys_than_the_server_takes_names_identities_only(
    place: Place, socket_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    config = place.config(
        "Host build\nHostName 127.0.0.1\nPort {port}\nUser me\nIdentityFile none\nUserKnownHostsFile {known}\n"
    )
    with agent(socket_path, *keys(place.directory, 5), place.server.key):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        assert "Too many authentication failures" in place.ssh(config).stderr
        with pytest.raises(
            ConnectionFailed, match="authentication failed: too many keys were tried before the right one"
        ) as caught:
            place.ours(config, transport=transport)
    assert "IdentitiesOnly yes" in str(caught.value.hint)


@pytest.mark.parametrize("transport", ["auto", "fabric", "openssh"])
def test_refused_key_has_a_sentence(place: Place, transport: str) -> None:
    new_key(place.directory / "mine")
    config = place.config("Host build\n{base}".replace("{base}", "{base}")).read_text()
    path = place.config(config.replace(str(place.server.key), str(place.directory / "mine")))
    assert place.ssh(path).returncode == 255
    with pytest.raises(ConnectionFailed, match=f"me@127.0.0.1:{place.server.port}: authentication failed") as caught:
        place.ours(path, transport=transport)
    assert "authorized_keys" in str(caught.value.hint)


def test_key_that_others_can_read_is_named(place: Place) -> None:
    mine = place.directory / "mine"
    shutil.copy(place.server.key, mine)
    mine.chmod(0o644)
    config = place.config("Host build\n{base}")
    config.write_text(config.read_text().replace(str(place.server.key), str(mine)))
    assert place.ssh(config).returncode == 255
    with pytest.raises(ConnectionFailed, match=f"ssh ignores the key {mine}, because others can read it") as caught:
        place.ours(config, transport="openssh")
    assert f"chmod 600 {mine}" in str(caught.value.hint)


@pytest.mark.parametrize("transport", ["auto", "openssh"])
def test_jump_host_that_cannot_reach_the_next_is_named(place: Place, transport: str) -> None:
    config = place.config("Host build\nPort 1\nProxyJump zsh@jump\n{base}Host jump\n{base}")
    assert place.ssh(config).returncode == 255
    with pytest.raises(ConnectionFailed) as caught:
        place.ours(config, transport=transport)
    at = place.server.port
    assert f"the jump host zsh@127.0.0.1:{at} can't reach me@127.0.0.1:1: Connection refused" in caught.value.message


@pytest.mark.parametrize("transport", ["auto", "openssh"])
@pytest.mark.parametrize(
    ("name", "words"),
    [("gone.invalid", "Name or service not known"), ("127.0.0.1", "Connection refused")],
)
@pytest.mark.parametrize("as_jump", [False, True])
def test_host_that_cannot_be_reached_is_named(
    place: Place, transport: str, name: str, words: str, as_jump: bool
) -> None:
    way = "ProxyJump far\n" if as_jump else f"Port 1\nHostName {name}\n"
    config = place.config(f"Host build\n{way}" + "{base}" + f"Host far\nPort 1\nHostName {name}\n" + "{base}")
    assert place.ssh(config).returncode == 255
    with pytest.raises(ConnectionFailed, match=rf"^me@{re.escape(name)}:1 can't be reached: {words}"):
        place.ours(config, transport=transport)


def test_jump_hosts_in_a_circle_are_a_mistake(place: Place) -> None:
    config = place.config(
        "Host build\nProxyJump one\n{base}Host one\nProxyJump two\n{base}Host two\nProxyJump one\n{base}"
    )
    with pytest.raises(UsageError, match="ProxyJump is circular"):
        place.ours(config)


def test_shared_connection_is_used(place: Place, socket_path: Path) -> None:
    """Whoever has logged in by a code does so once."""
    config = place.config(f"Host build\nControlPath {socket_path}\n" + "{base}")
    master = subprocess.Popen(["ssh", "-F", str(config), "-M", "-N", "build"], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not socket_path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # By itself it would not get in.
        config.write_text(config.read_text().replace(str(place.server.key), "/nowhere"))
        assert place.ssh(config).stdout == "in\n"
        assert place.ours(config) == "openssh"
        assert place.ssh(config, "build", "-O", "check").returncode == 0
    finally:
        master.terminate()
        master.wait()


# What is told


def test_trace_says_which_way_was_taken_and_why(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    trace.begin(1, {})
    try:
        place.ours(place.config("Host build\n{base}"))
        at = f"me@127.0.0.1:{place.server.port}"
        assert f"transport: fabric: it can do what the configuration of {at} asks for" in capsys.readouterr().err
        place.ours(place.config("Host build\nBindAddress 127.0.0.1\n{base}"))
        assert "transport: openssh: BindAddress is set" in capsys.readouterr().err
    finally:
        trace.begin(0, {})


@pytest.mark.parametrize("transport", ["auto", "fabric", "openssh"])
@pytest.mark.parametrize(
    "option",
    [
        "HostKeyAlgorithms rsa-sha2-512",
        "Ciphers aes192-ctr",
        "KexAlgorithms diffie-hellman-group18-sha512",
        "MACs hmac-sha2-512\nCiphers aes128-ctr",
        "PubkeyAcceptedAlgorithms rsa-sha2-512",
    ],
)
def test_algorithms_that_ssh_may_not_use_are_not_used(narrow: Sshd, place: Place, option: str, transport: str) -> None:
    (place.directory / "known_hosts").write_text(narrow.known_line)
    mine = Place(narrow, place.directory)
    assert mine.ours(mine.config("Host build\n{base}"), transport=transport) in (transport, "fabric")
    config = mine.config(f"Host build\n{option}\n" + "{base}")
    assert mine.ssh(config).returncode == 255
    with pytest.raises(ConnectionFailed):
        mine.ours(config, transport=transport)


@pytest.mark.parametrize("transport", ["auto", "fabric", "openssh"])
def test_algorithms_that_the_file_chooses_are_used(place: Place, transport: str) -> None:
    config = place.config(
        "Host build\nCiphers aes192-ctr\nMACs hmac-sha2-512\nKexAlgorithms ecdh-sha2-nistp384\n"
        "HostKeyAlgorithms ssh-ed25519\nPubkeyAcceptedAlgorithms ssh-ed25519\n{base}"
    )
    assert place.ssh(config).stdout == "in\n"
    assert place.ours(config, transport=transport) in (transport, "fabric")


def test_fabric_that_was_demanded_says_what_it_can_not_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(place, monkeypatch)
    config = place.config(GETS_IN["CertificateFile"][0])
    with pytest.raises(ConnectionFailed, match="authentication failed") as caught:
        place.ours(config, transport="fabric")
    assert "OpenSSH's client may get in (CertificateFile is set): `build.transport: auto`" in str(caught.value.hint)


# Login shells


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
@pytest.mark.parametrize("shell", sshd.SHELLS)
def test_worker_starts_under_every_login_shell_and_whatever_its_files_print(
    place: Place, shell: str, transport: str
) -> None:
    home = place.server.home
    (home / ".config/fish").mkdir(parents=True, exist_ok=True)
    prints = 'echo "Welcome! {\\"id\\": 1}"\nprintf "no line end"\n'
    for name in (".bashrc", ".zshenv", ".config/fish/config.fish"):
        (home / name).write_text(prints)
    (home / ".tcshrc").write_text("echo Welcome\nprintf 'no line end'\n")
    try:
        config = place.config("Host build\n{base}")
        assert place.ssh(config, f"{shell}@build").stdout.endswith("in\n")
        assert place.ours(config, f"{shell}@build", transport=transport) == transport
    finally:
        for name in (".bashrc", ".zshenv", ".config/fish/config.fish", ".tcshrc"):
            (home / name).unlink()


# Somebody at a terminal

CONNECTS = """
import fabric, json, sys, types
from deploytool.connection.boot import start_worker
from deploytool.connection.ssh import Connecting
from deploytool.screen.console import Console
with Console(as_json=False).step("connect", quiet=True):
    build = types.SimpleNamespace(**json.loads(sys.argv[1]))
    asked = fabric.Config(overrides={"connect_kwargs": json.loads(sys.argv[2])})
    channel, read = start_worker(build, Connecting(build, asked))
channel.end()
print("in by", type(channel).__name__)
"""


class Terminal:
    """A program that connects, on a terminal of its own, at which somebody sits."""

    def __init__(self, settings: Any, answers: Mapping[str, str] = {}, **environment: str) -> None:
        self._mine, its_end = pty.openpty()
        self.shown = ""
        # The terminal is its controlling one: Ctrl-C reaches all of its process group.
        begin = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        argv = [
            sys.executable,
            "-c",
            begin,
            sys.executable,
            "-c",
            CONNECTS,
            json.dumps(vars(settings)),
            json.dumps(answers),
        ]
        self.process = subprocess.Popen(
            argv,
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **environment},
        )
        self._its_end = its_end

    def wait_for(self, words: str) -> None:
        while words not in self.shown:
            ready, _, _ = select.select([self._mine], [], [], 30)
            assert ready, self.shown
            self.shown += os.read(self._mine, 4096).decode()

    def all(self) -> str:
        """What is shown, once nothing more comes for a while."""
        while select.select([self._mine], [], [], 0.5)[0]:
            self.shown += os.read(self._mine, 4096).decode()
        return self.shown

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._its_end)[3] & termios.ECHO)

    def end(self) -> int:
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self.all()
            os.close(self._mine)
            os.close(self._its_end)


@pytest.mark.parametrize(("answer", "known"), [("yes", True), ("no", False)])
def test_unknown_host_key_is_asked_for_on_a_terminal_as_ssh_does(place: Place, answer: str, known: bool) -> None:
    config = place.config("Host build\nStrictHostKeyChecking ask\nUserKnownHostsFile {dir}/new\n{base}")
    terminal = Terminal(place.build(config))
    terminal.wait_for("Are you sure you want to continue connecting (yes/no")
    terminal.type(f"{answer}\n")
    assert (terminal.end() == 0) == known, terminal.shown
    assert ("in by OpenSshChannel" in terminal.shown) == known
    assert (place.directory / "new").exists() == known
    if not known:
        assert f"the host key of me@127.0.0.1:{place.server.port} was not accepted" in terminal.shown


@pytest.fixture
def locked(place: Place) -> Path:
    """A configuration whose key has the passphrase `open sesame`."""
    key = place.directory / "locked"
    shutil.copy(place.server.key, key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(key)], check=True)
    config = place.config("Host build\n{base}")
    config.write_text(config.read_text().replace(str(place.server.key), str(key)))
    return config


def test_passphrase_is_asked_for_on_a_terminal_and_not_shown(place: Place, locked: Path) -> None:
    terminal = Terminal(place.build(locked))
    terminal.wait_for("Enter passphrase for key")
    until(lambda: not terminal.echoes())
    # What moves on the screen stands still meanwhile.
    assert terminal.all().endswith("locked': "), terminal.shown
    terminal.type("open sesame\n")
    assert terminal.end() == 0, terminal.shown
    assert "in by OpenSshChannel" in terminal.shown
    assert "open sesame" not in terminal.shown


def test_ctrl_c_at_a_question_gives_the_terminal_back_as_it_was(place: Place, locked: Path) -> None:
    temporary = place.directory / "tmp"
    temporary.mkdir()
    terminal = Terminal(place.build(locked), TMPDIR=str(temporary))
    terminal.wait_for("Enter passphrase for key")
    until(lambda: not terminal.echoes())
    (ssh,) = [each for each in psutil.Process(terminal.process.pid).children() if each.name() == "ssh"]
    terminal.type("\x03")
    until(terminal.echoes)
    until(lambda: not ssh.is_running() or ssh.status() == psutil.STATUS_ZOMBIE)
    assert terminal.end() == -signal.SIGINT, terminal.shown
    assert list(temporary.iterdir()) == []


def test_nobody_is_asked_for_a_passphrase_where_there_is_no_terminal(place: Place, locked: Path) -> None:
    with pytest.raises(
        ConnectionFailed, match=r"authentication failed \(publickey\): the SSH key \S+ has a passphrase"
    ) as caught:
        place.ours(locked)
    assert "ssh-add" in str(caught.value.hint)


@pytest.mark.parametrize(("passphrase", "opens"), [("open sesame", True), ("wrong", False)])
@pytest.mark.parametrize("transport", ["fabric", "openssh"])
def test_passphrase_that_fab_has_asked_for_opens_the_key(
    place: Place, locked: Path, transport: str, passphrase: str, opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = place.build(locked, transport=transport)
    asked = fabric.Config(overrides={"connect_kwargs": {"passphrase": passphrase}})
    temporary = place.directory / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if opens:
        channel, _ = start_worker(build, Connecting(build, asked))
        assert channel.end() == 0
    else:
        with pytest.raises(ConnectionFailed, match="authentication failed"):
            start_worker(build, Connecting(build, asked))
    assert list(temporary.iterdir()) == []


def at(place: Place, server: Asking, more: str = "") -> Path:
    """A configuration with that server as `asks`, beside `build`, and with `more`."""
    with (place.directory / "known_hosts").open("a") as known:
        known.write(f"[127.0.0.1]:{server.port} {public(place.server.host_key)}\n")
    return place.config(
        f"Host asks\nHostName 127.0.0.1\nPort {server.port}\nUser me\n" + "{way}Host build\n{base}" + more
    )


def get_in(build: Any, **answers: str) -> str:
    """With what `fab` has asked for: which way it went."""
    connecting = Connecting(build, fabric.Config(overrides={"connect_kwargs": answers}))
    channel, _ = start_worker(build, connecting)
    assert channel.end() == 0
    return connecting.transport


def locked_by(config: Path, place: Place, passphrase: str) -> Path:
    """The configuration, whose key has a passphrase now."""
    key = place.directory / "locked"
    shutil.copy(place.server.key, key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", passphrase, "-f", str(key)], check=True)
    config.write_text(config.read_text().replace(str(place.server.key), str(key)))
    return config


@pytest.mark.parametrize("transport", ["auto", "openssh"])
@pytest.mark.parametrize("as_jump", [False, True])
def test_server_that_asks_for_a_passphrase_does_not_get_that_of_the_key(
    place: Place, transport: str, as_jump: bool
) -> None:
    with asking(place.server.host_key, ["Enter passphrase for key '/home/me/.ssh/id_ed25519': "]) as server:
        config = locked_by(at(place, server, "ProxyJump asks\n"), place, "open sesame")
        build = place.build(config, "build" if as_jump else "asks", transport=transport)
        with pytest.raises(ConnectionFailed, match="authentication failed"):
            get_in(build, passphrase="open sesame")
    assert "open sesame" not in str(server.told)


def test_ssh_that_does_not_mark_a_servers_questions_gets_no_passphrase(tmp_path: Path) -> None:
    """Before 8.5 the server's words stand alone."""
    pipe = tmp_path / "passphrase"
    pipe.write_text("")
    given = {**os.environ, "DEPLOYTOOL_ASKING": str(tmp_path), "DEPLOYTOOL_TERMINAL": ""}
    for marks in ("", "yes"):
        pipe.unlink()
        os.mkfifo(pipe)
        number = os.open(pipe, os.O_RDWR)
        try:
            os.write(number, b"open sesame\n")
            argv = [str(ASKPASS), "Enter passphrase for key '/k': "]
            done = subprocess.run(
                argv, env={**given, "DEPLOYTOOL_MARKS_SERVERS": marks}, capture_output=True, text=True
            )
        finally:
            os.close(number)
        assert done.stdout == ("open sesame\n" if marks else "")


@pytest.mark.parametrize("way", ["ProxyJump asks", "ProxyCommand ssh -F {dir}/config -W %h:%p asks"])
@pytest.mark.parametrize("transport", ["auto", "openssh"])
def test_password_of_the_build_server_is_not_for_the_jump_host(place: Place, transport: str, way: str) -> None:
    with asking(place.server.host_key, ["Password: "]) as server:
        config = at(place, server, place.text(way))
        with pytest.raises(ConnectionFailed):
            get_in(place.build(config, transport=transport), password="of the build server")
    assert "of the build server" not in str(server.told)


@pytest.mark.parametrize("transport", ["auto", "fabric", "openssh"])
def test_wrong_password_is_sent_once(place: Place, transport: str) -> None:
    with (
        asking(place.server.host_key, ["Password: "]) as server,
        pytest.raises(ConnectionFailed, match="authentication failed"),
    ):
        get_in(place.build(at(place, server), "asks", transport=transport), password="wrong")
    assert server.told.count("wrong") == 1, server.told


@pytest.mark.parametrize("transport", ["auto", "fabric", "openssh"])
def test_password_that_fab_has_asked_for_answers_the_build_servers_question(place: Place, transport: str) -> None:
    with asking(place.server.host_key, ["Password: "], ["right"]) as server:
        get_in(place.build(at(place, server), "asks", transport=transport), password="right")
    assert server.told[-1:] == ["right"]


@pytest.mark.parametrize("transport", ["auto", "openssh"])
def test_server_that_asks_for_a_code_beside_the_password_is_reached_on_a_terminal(place: Place, transport: str) -> None:
    with asking(place.server.host_key, ["Password: ", "Code: "], ["right", "123"]) as server:
        terminal = Terminal(place.build(at(place, server), "asks", transport=transport), {"password": "right"})
        terminal.wait_for("Code: ")
        terminal.type("123\n")
        assert terminal.end() == 0, terminal.shown
    assert "in by OpenSshChannel" in terminal.shown
    assert "right" not in terminal.shown


@pytest.mark.parametrize("transport", ["auto", "openssh"])
def test_server_that_only_asks_is_not_said_to_lack_a_key(place: Place, transport: str) -> None:
    with asking(place.server.host_key, ["Password: "]) as server:
        config = at(place, server)
        with pytest.raises(ConnectionFailed, match="authentication failed") as caught:
            place.ours(config, "asks", transport=transport)
    hint = str(caught.value.hint)
    assert "authorized_keys" not in hint
    assert "--prompt-for-login-password" in hint
    # The file is one that `ssh` alone does not read.
    assert f"Run `ssh -F {config} me@asks` to see more" in hint


def test_proxy_command_that_says_nothing_is_named(place: Place) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        place.ours(place.config("Host build\nProxyCommand false\n{base}"))
    where = f"me@127.0.0.1:{place.server.port}"
    assert caught.value.message == f"{where} can't be reached: `false` ended with exit code 1"


def test_key_of_the_command_line_is_for_jump_hosts_too(place: Place) -> None:
    config = place.config("Host build jump\nIdentityFile none\nHostName 127.0.0.1\nPort {port}\nUser me\n"
        "UserKnownHostsFile {known}\nHost build\nProxyJump jump\n")  # fmt: skip
    for transport in ("fabric", "openssh"):
        build = place.build(config, transport=transport)
        given = fabric.Config(overrides={"connect_kwargs": {"key_filename": [str(place.server.key)]}})
        channel, _ = start_worker(build, Connecting(build, given))
        assert channel.end() == 0


# The line, over OpenSSH's client


def test_ctrl_c_is_not_for_the_client(place: Place) -> None:
    """A terminal sends it to a process group, and ours has to say good-bye over that line."""
    channel, _ = start_worker(place.build(place.config("Host build\n{base}"), transport="openssh"))
    assert isinstance(channel, OpenSshChannel)
    pid = channel._child.process.pid
    assert (os.getpgid(pid), os.getsid(pid)) == (pid, pid)
    assert channel.end() == 0
    until(lambda: not psutil.pid_exists(pid))


def test_line_that_breaks_says_so_and_ends_what_ran(place: Place) -> None:
    alive, sleep = place.directory / "alive", f"sleep 6{place.server.port}"
    build = place.build(place.config("Host build\n{base}"), transport="openssh")
    channel, read = start_worker(build)
    assert isinstance(channel, OpenSshChannel)
    client = RawClient(channel, read, "build")
    greet(client, build.root)
    asked = client.begin("run", step="try", script=f"echo $$ >{alive}; exec {sleep}", timeout_seconds=600)
    until(lambda: alive.exists() and alive.read_text().strip() != "")
    channel._child.process.kill()
    with pytest.raises(ConnectionFailed, match="the connection to the build server build broke"):
        asked.answer()
    client.close()
    # Its number is that of the server's own namespace: it is found by its words.
    until(lambda: not [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == sleep.split()])


def test_large_messages_come_through_whole_both_ways(place: Place) -> None:
    with worker(place.build(place.config("Host build\n{base}"), transport="openssh")) as client:
        answer = client.ask("run", step="try", script="seq 1 200000 >&3\n#" + "x" * 1_000_000, timeout_seconds=60)
        assert len(answer["results"]) == 200_000


# Without OpenSSH's client


@pytest.fixture
def without_ssh(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("PATH", "/nowhere")
    return place


def test_without_ssh_plain_settings_lead_there(without_ssh: Place) -> None:
    config = without_ssh.config("Host build\n{base}Host jumps\nProxyJump zsh@build\n{base}")
    assert without_ssh.ours(config) == "fabric"
    assert without_ssh.ours(config, "jumps") == "fabric"
    assert without_ssh.ours(config, gateway="zsh@build") == "fabric"


def test_without_ssh_what_the_file_holds_beyond_that_is_named(without_ssh: Place) -> None:
    config = without_ssh.config("Include {dir}/conf.d/*\nHost build\nHostName 127.0.0.1\nPort 1\nIdentityAgent none\n")
    with pytest.raises(ConnectionFailed) as caught:
        without_ssh.ours(config)
    assert "There is no `ssh` in PATH, and without it Include, IdentityAgent in ssh_config are ignored" in str(
        caught.value.hint
    )
    config.write_text("Match host=build\nPort 1\n")
    with pytest.raises(UsageError, match="can't be used for build") as mistake:
        without_ssh.ours(config)
    assert "apt install openssh-client" in str(mistake.value.hint)
    with pytest.raises(UsageError, match="there is no `ssh` in PATH"):
        without_ssh.ours(without_ssh.config("Host build\n{base}"), transport="openssh")


def test_without_ssh_host_keys_are_checked(without_ssh: Place) -> None:
    config = without_ssh.config("Host build\nUserKnownHostsFile {dir}/empty\nStrictHostKeyChecking no\n{base}")
    with pytest.raises(ConnectionFailed, match="is unknown"):
        without_ssh.ours(config)


def test_without_ssh_a_revoked_key_is_refused(without_ssh: Place) -> None:
    key = public(without_ssh.server.host_key)
    with (without_ssh.directory / "known_hosts").open("a") as known:
        known.write(f"@revoked [127.0.0.*]:* {key}\n")
    with pytest.raises(ConnectionFailed, match="is marked as revoked in known_hosts"):
        without_ssh.ours(without_ssh.config("Host build\n{base}"))
    (without_ssh.directory / "known_hosts").write_text(without_ssh.server.known_line)
    with pytest.raises(ConnectionFailed, match=r"RevokedHostKeys .* is set"):
        without_ssh.ours(without_ssh.config(REVOKES))


#: Goes in and says by which way, or why not.
GOES_IN = """
import fabric, json, sys, types
from deploytool.connection.boot import start_worker
from deploytool.connection.ssh import Connecting
build = types.SimpleNamespace(**json.loads(sys.argv[1]))
connecting = Connecting(build, fabric.Config())
channel, _ = start_worker(build, connecting)
channel.end()
print(connecting.transport)
"""


def test_user_without_an_entry_in_passwd_gets_in(place: Place) -> None:
    """As in containers of CI systems: `docker run -u`, OpenShift."""
    home = place.directory / "home"
    (home / ".ssh").mkdir(parents=True)
    shutil.copy(place.server.key, home / ".ssh/id_ed25519")
    (home / ".ssh/known_hosts").write_text(place.server.known_line)
    build = place.build(home, "me@127.0.0.1:{port}", ssh_config=None)
    # As a user namespace has it: root's files, and a uid that passwd does not have.
    argv = ["unshare", "--user", "--map-user=54321", sys.executable, "-c", GOES_IN, json.dumps(vars(build))]
    given = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    assert (
        "No user exists for uid" in subprocess.run([*argv[:3], "ssh", "-G", "x"], capture_output=True, text=True).stderr
    )
    nameless = subprocess.run(argv, env=given, capture_output=True, text=True)
    assert "uid 54321 has no entry in passwd, and USER is not set" in nameless.stderr
    done = subprocess.run(argv, env={**given, "USER": "ci"}, capture_output=True, text=True)
    assert done.stdout.startswith("fabric (`ssh` does not run here: No user exists for uid 54321"), done.stderr


def test_ssh_that_is_not_openssh_counts_as_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = place.directory / "bin"
    programs.mkdir()
    (programs / "ssh").write_text("#!/bin/sh\necho 'WARNING: Ignoring unknown option -G' >&2\nexit 1\n")
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    config = place.config("Host build\n{base}")
    assert place.ours(config) == "fabric"
    with pytest.raises(UsageError, match=r"openssh, and \S+/bin/ssh is not OpenSSH's"):
        place.ours(config, transport="openssh")


# Fabric's own configuration


@pytest.mark.parametrize("with_ssh", [True, False])
@pytest.mark.parametrize(
    ("template", "named", "said", "user"),
    [
        ("Host build\nHostName 127.0.0.1\nPort {port}\n{way}", "build", {"user": "two"}, "two"),
        ("Host build\n{base}", "build", {"user": "two"}, "me"),
        ("Host build\n{base}", "dash@build", {"user": "two"}, "dash"),
        ("Host build\n{base}", "build", {"ssh_config_path": "{dir}/config"}, "me"),
        (
            "Host build\nPort 1\nHostKeyAlias The-Alias\nUserKnownHostsFile {dir}/alias\n{base}",
            "build",
            {"gateway": "{dir}/connect 127.0.0.1 {port}"},
            "me",
        ),
    ],
)
def test_what_fabrics_configuration_says_of_the_way_counts(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    with_ssh: bool,
    template: str,
    named: str,
    said: dict[str, str],
    user: str,
) -> None:
    furnish(place, monkeypatch)
    if not with_ssh:
        monkeypatch.setenv("PATH", "/nowhere")
    config = place.config(template)
    build = place.build(config, named)
    if "ssh_config_path" in said:
        build.ssh_config = None
    begin = len(place.server.log.read_text())
    connecting = Connecting(build, fabric.Config(overrides={name: place.text(value) for name, value in said.items()}))
    if user == "two":
        # The only one of whom a second key is asked for.
        with pytest.raises(ConnectionFailed, match=r"two@127\.0\.0\.1"):
            start_worker(build, connecting)
        return
    channel, _ = start_worker(build, connecting)
    channel.end()
    assert f"Accepted publickey for {user} " in place.server.log.read_text()[begin:]


def test_known_hosts_that_a_file_in_home_names_by_a_tilde_are_those_in_home(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = place.directory / ".ssh"
    files.mkdir()
    text = "Host build\nUserKnownHostsFile ~/.ssh/hosts\nHostName 127.0.0.1\nPort {port}\nUser me\nIdentityFile {key}\n"
    (files / "config").write_text(place.text(text))
    monkeypatch.setenv("HOME", str(place.directory))
    build = place.build(files / "config", ssh_config=None)
    with pytest.raises(ConnectionFailed, match="is unknown") as caught:
        start_worker(build)
    assert str(caught.value.hint).endswith(">> ~/.ssh/hosts`")
    (files / "hosts").write_text(place.server.known_line)
    for transport in ("fabric", "openssh"):
        build.transport = transport
        channel, _ = start_worker(build)
        assert channel.end() == 0


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
def test_home_that_is_not_that_of_the_users_entry_is_searched_too(
    place: Place, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """Jobs in containers have HOME elsewhere; ssh looks into passwd."""
    files = place.directory / ".ssh"
    files.mkdir()
    shutil.copy(place.server.key, files / "id_ed25519")
    (files / "known_hosts").write_text(place.server.known_line)
    (files / "config").write_text(place.text("Host build\nHostName 127.0.0.1\nPort {port}\nUser me\n"))
    monkeypatch.setenv("HOME", str(place.directory))
    build = place.build(files / "config", transport=transport)
    build.ssh_config = None
    channel, _ = start_worker(build)
    assert channel.end() == 0
