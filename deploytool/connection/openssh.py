"""OpenSSH's client as the way to the build server, or as its first hops: how it is called, and what its words mean."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from deploytool.connection.channel import FAREWELL_SECONDS, LastWords, without_waiting
from deploytool.connection.identities import identities
from deploytool.connection.known_hosts import changed_key, known_hosts_files, revoked_key, unknown_key
from deploytool.connection.ssh_config import Host
from deploytool.errors import ConnectionFailed

#: Keeps NAT tables and firewalls from forgetting the connection, and notices a dead one.
KEEPALIVE_SECONDS = 15
#: An sshd ends a login that takes longer: so long may somebody look for a passphrase.
LOGIN_SECONDS = 120.0
ASKPASS = Path(__file__).with_name("askpass.sh")


def terminal() -> str | None:
    """Where the operator can be asked something; None if nobody sits there."""
    for number in (0, 2):
        with contextlib.suppress(OSError):
            return os.ttyname(number)
    return None


def strictness(host: Host) -> str:
    """`yes`, or what the user has chosen of `ask`, where there is somebody to ask, and `accept-new`. Never `no`."""
    said = host.one("stricthostkeychecking")
    return said if said == "accept-new" or (said == "ask" and terminal()) else "yes"


@dataclass(frozen=True, slots=True)
class Manner:
    """How OpenSSH's client is to connect."""

    #: how long one step may take
    seconds: int
    #: a `passphrase` and a `password` that were asked for already
    answers: Mapping[str, str | None]

    @property
    def is_askable(self) -> bool:
        """Whether it can ask: for what we know, on the terminal, or by a program of the user's own on the desktop."""
        desktop = os.environ.get("SSH_ASKPASS") and os.environ.get("DISPLAY")
        return bool(any(self.answers.values()) or terminal() or desktop)

    @property
    def of_hops(self) -> "Manner":
        """The password is for the last host only."""
        return replace(self, answers={**self.answers, "password": None})


def command(host: Host, before: Sequence[Host], manner: Manner, *more: str) -> list[str]:
    """The command line that gets there over the hosts `before`, with `more` options and without a remote command.

    What a user's files say of terminals, forwardings and commands is not for our channel.
    """
    assert host.arguments is not None
    options = {
        "StrictHostKeyChecking": strictness(host),
        "NoHostAuthenticationForLocalhost": "no",
        "UpdateHostKeys": "no",
        # A connection that somebody shares is used; ours is not for sharing, as it would have to wait for the others.
        "ControlMaster": "no",
        "ClearAllForwardings": "yes",
        "ForwardX11": "no",
        "Tunnel": "no",
        "PermitLocalCommand": "no",
        "RequestTTY": "no",
        "ConnectTimeout": str(manner.seconds),
        "ServerAliveInterval": str(KEEPALIVE_SECONDS),
        "ServerAliveCountMax": "3",
    }
    # Older clients do not know these, and then nobody has set them.
    options |= {
        name: value
        for name, value in {"RemoteCommand": "none", "StdinNull": "no", "ForkAfterAuthentication": "no"}.items()
        if name.lower() in host.options
    }
    if not manner.is_askable:
        options["BatchMode"] = "yes"
    if manner.answers.get("password"):
        # A wrong one is not sent again: servers count.
        options["NumberOfPasswordPrompts"] = "1"
    if before:
        options["ProxyCommand"] = hop(host, before, manner).replace("%", "%%")
    argv = [host.arguments[0]]
    # What is said first counts.
    argv += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return [*argv, *more, *host.arguments[1:], "--", host.name]


def hop(host: Host, before: Sequence[Host], manner: Manner) -> str:
    """A shell command whose stdin and stdout are a connection from the last of `before` to `host`."""
    to = f"[{host.hostname}]:{host.port}"
    options = ("-W", to, "-o", "LogLevel=INFO", "-o", "ForwardAgent=no")
    return shlex.join(command(before[-1], before[:-1], manner.of_hops, *options))


def marks_servers(host: Host) -> bool:
    """Whether this client shows who asks (8.5): else a server can ask in the words in which it asks itself."""
    return "pubkeyacceptedalgorithms" in host.options


#: those that run
_children: "weakref.WeakSet[Child]" = weakref.WeakSet()


def is_asking() -> bool:
    """Whether the operator is being asked for something, so that nothing else may be written on the terminal."""
    return any(child.is_asking() for child in list(_children))


class Child:
    """OpenSSH's client, or a ProxyCommand, at the other end of a socket. Its session is its own: Ctrl-C at the terminal
    is for us, and we tell the worker what it means. It asks by a program of ours (`askpass.sh`)."""

    def __init__(
        self,
        argv: Sequence[str],
        answers: Mapping[str, str | None],
        unsent: Sequence[str] = (),
        *,
        marks_servers: bool,
    ) -> None:
        """`answers` as in `Manner`; `unsent` are patterns of variables that it does not get. `marks_servers`: whether
        it tells a server's questions from its own, see `marks_servers`."""
        self.words = LastWords()
        self._pipes: list[int] = []
        self._directory: str | None = None
        environment = {
            name: value for name, value in os.environ.items() if not any(fnmatchcase(name, each) for each in unsent)
        }
        place = terminal()
        if place is not None or any(answers.values()):
            self._directory = tempfile.mkdtemp(prefix="deploytool-")
            self._pipes = [self._offer(name, answer) for name, answer in answers.items() if answer]
            environment |= {"SSH_ASKPASS": str(ASKPASS), "SSH_ASKPASS_REQUIRE": "force"}
            environment |= {"DEPLOYTOOL_TERMINAL": place or "", "DEPLOYTOOL_ASKING": self._directory}
            environment["DEPLOYTOOL_MARKS_SERVERS"] = "yes" if marks_servers else ""
            # Before 8.4 it must be there, whatever it is.
            environment.setdefault("DISPLAY", ":0")
        self.socket, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = subprocess.Popen(
                    # Its hops have its environment, and other numbers.
                    ["/bin/sh", "-c", 'export DEPLOYTOOL_CLIENT=$$; exec "$@"', "sh", *argv],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.PIPE,
                    env=environment,
                    start_new_session=True,
                )
        except BaseException:
            self._clean_up()
            self.socket.close()
            raise
        _children.add(self)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _offer(self, name: str, answer: str) -> int:
        """A pipe that has the answer for as often as it may be asked."""
        path = os.path.join(self._directory or "", name)
        os.mkfifo(path, 0o600)
        number = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        # A pipe takes 4096 bytes at least.
        os.write(number, f"{answer}\n".encode() * (64 if len(answer) < 60 else 8))
        return number

    def _listen(self) -> None:
        stderr = self.process.stderr
        assert stderr is not None
        with stderr:
            self.words.listen(lambda: os.read(stderr.fileno(), 4096))
        self.process.wait()
        self._clean_up()

    def _clean_up(self) -> None:
        pipes, self._pipes = self._pipes, []
        for number in pipes:
            os.close(number)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def is_asking(self) -> bool:
        """Whether it waits for an answer from the terminal."""
        return (
            self._directory is not None and self.process.poll() is None and os.path.exists(f"{self._directory}/asking")
        )

    def wait(self, seconds: float) -> int | None:
        """Its exit status; None if it has not ended by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self.process.wait(seconds)
            self._listener.join(1)
            return status
        return None

    def last_words(self) -> tuple[str, ...]:
        """What it has said, once it has ended; waits for that a little."""
        self.wait(1)
        return self.words.lines()

    def close(self) -> None:
        """End it, with all that it has started. Never waits."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGTERM)
        # Not left to the thread that listens: nobody waits for that when the command ends.
        self._clean_up()


class OpenSshChannel:
    """The worker over OpenSSH's client."""

    def __init__(self, child: Child, way: Sequence[Host]) -> None:
        self._child = child
        self._way = way
        self._heard = False

    def write(self, data: bytes) -> None:
        self._child.socket.sendall(data)

    def read(self) -> bytes:
        """Raises ConnectionFailed if the client got no further than to say why."""
        try:
            data = self._child.socket.recv(1 << 16)
        except OSError as error:
            if isinstance(error, TimeoutError) or self._child.socket.fileno() >= 0:
                raise
            # `end` does not wait for whoever reads.
            return b""
        if not data and not self._heard and (self.end(2.0) is None):
            raise explain(self.last_words(), self._way)
        self._heard = True
        return data

    def set_patience(self, seconds: float | None) -> None:
        if seconds is not None and terminal() is not None:
            seconds += LOGIN_SECONDS
        with contextlib.suppress(OSError):
            self._child.socket.settimeout(seconds)

    def end(self, patience_seconds: float = FAREWELL_SECONDS) -> int | None:
        without_waiting(lambda: self._child.socket.shutdown(socket.SHUT_WR))
        status = self._child.wait(patience_seconds)
        self._child.close()
        # 255 is its own: that of no connection, or of one that broke.
        return status if status is not None and 0 <= status < 255 else None

    def last_words(self) -> tuple[str, ...]:
        return self._child.words.lines()


def explain(words: Sequence[str], way: Sequence[Host]) -> ConnectionFailed:
    """Why OpenSSH's client, or one of the hops before it, did not get through."""
    text = "\n".join(words)
    where = way[-1]
    tail = tuple(words)

    def found(pattern: str) -> "re.Match[str] | None":
        return re.search(pattern, text)

    def host(name: str) -> Host:
        """The one that is meant by a name in its words."""
        plain = name.lower()
        names = {each.key_name: each for each in way}
        names |= {each.hostname.lower(): each for each in way if each.hostname.lower() not in names}
        return names.get(plain) or names.get(plain.strip("[]").rpartition("@")[2]) or where

    if hit := found(r"[Hh]ost key \S+ \S+ revoked by file (.*)|in revoked keys file (.*)"):
        return revoked_key(where, tail, hit[1] or hit[2])
    if hit := found(r"REVOKED HOST KEY|\bhost key .*(?:is|was) (?:marked as )?revoked|for host (\S+) .*revoked"):
        return revoked_key(host(hit[1] or ""), tail)
    if hit := found(r"[Hh]ost key for (\S+) has changed and you have requested strict checking"):
        offered = found(r"key sent by the remote host is\n(SHA256:\S+)")
        return changed_key(host(hit[1]), f"it offers {offered[1].rstrip('.')}" if offered else "see below", tail)
    if hit := found(r"Certificate invalid: (.*)"):
        return ConnectionFailed(
            f"the host certificate of {where} is not valid: {hit[1]}",
            tail=tail,
            hint="ask the server's administrator to have it signed again for this name",
        )
    if hit := found(r"No \S+ host key is known for (\S+) and you have requested strict checking"):
        at = host(hit[1])
        return unknown_key(at, known_hosts_files(at), list(tail))
    if found("Host key verification failed"):
        return ConnectionFailed(
            f"the host key of {where} was not accepted",
            tail=tail,
            hint="compare its fingerprint with that of the server's administrator",
        )
    if found("Too many authentication failures"):
        return ConnectionFailed(
            f"{where}: authentication failed: too many keys were tried before the right one",
            tail=tail,
            hint="set `IdentitiesOnly yes` and `IdentityFile` for this host in ~/.ssh/config, so that ssh offers "
            "only that key, not all keys of your agent",
        )
    if hit := found(r"(?:(\S+): )?Permission denied \(([^)]*)\)"):
        refusing = host(hit[1] or "")
        hint = login_hint(refusing, hit[2].split(","))
        if broken := found(r'Load key "(.*)": (.*)|Permissions \S+ for \'(.*)\' are too open'):
            if broken[3]:
                return ConnectionFailed(
                    f"{refusing}: authentication failed: ssh ignores the key {broken[3]}, because others can read it",
                    tail=tail,
                    hint=f"run `chmod 600 {shlex.quote(broken[3])}`",
                )
            hint = f"the key {broken[1]} can't be loaded: {broken[2]}. " + hint
        elif locked := _locked(way):
            return ConnectionFailed(
                f"{refusing}: authentication failed ({hit[2]}): the SSH key {', '.join(locked)} has a passphrase",
                tail=tail,
                hint="load it into ssh-agent with `ssh-add`, or run `fab --prompt-for-passphrase`",
            )
        return ConnectionFailed(
            f"{refusing}: authentication failed: Permission denied ({hit[2]})", tail=tail, hint=hint
        )
    if hit := found(r"Could not resolve hostname (\S+): (.*)"):
        return _unreachable(host(hit[1]), hit[2], tail)
    if hit := found(r"onnect to (?:host|address) (\S+) port (\d+): (.*)"):
        return _unreachable(host(hit[1] if hit[2] == "22" else f"[{hit[1]}]:{hit[2]}"), hit[3], tail)
    if len(way) > 1 and (hit := found(r"open failed: (?:\w+ \w+: |connect failed: )?(.*)")):
        return ConnectionFailed(
            f"the jump host {way[-2]} can't reach {where}: {hit[1]}",
            tail=tail,
            hint="check the name and the port as the jump host knows them, and AllowTcpForwarding in its sshd_config",
        )
    if hit := found("(timed out during banner exchange)|kex_exchange_identification: (.*)|(Unable to negotiate .*)"):
        why = hit[2] or hit[3] or "no answer in time"
        return ConnectionFailed(f"{where}: no SSH handshake: {why}", tail=tail, hint="check that an sshd listens there")
    return ConnectionFailed(
        f"{where} can't be reached: ssh ended without a connection",
        tail=tail,
        hint=f"run `{where.by_hand}` to see more",
    )


def login_hint(host: Host, methods: Collection[str]) -> str:
    """`methods` are those that it takes, as far as they are known."""
    if methods and "publickey" not in methods:
        return (
            "it accepts no key: run `fab` on a terminal, or with --prompt-for-login-password, and check the password. "
            f"Run `{host.by_hand}` to see more"
        )
    return f"check that your key is in its authorized_keys, and in your ssh-agent. Run `{host.by_hand}` to see more"


def _unreachable(host: Host, why: str, tail: tuple[str, ...]) -> ConnectionFailed:
    return ConnectionFailed(
        f"{host} can't be reached: {why}", tail=tail, hint="check build.server, build.gateway and your network"
    )


def _locked(way: Sequence[Host]) -> list[str]:
    with contextlib.suppress(LookupError):
        return [key for host in way for key in identities(host).locked]
    return []
