"""The way to the build server: over Fabric's connection where it can do what the configuration asks for, else over
OpenSSH's client. `build.transport` decides; the trace says which it was, and why.

Nothing else imports fabric's connection. Host keys are checked on every hop: Fabric by itself accepts any.
"""

import contextlib
import errno
import functools
import logging
import os
import shlex
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploytool.connection import openssh
from deploytool.connection.channel import FAREWELL_SECONDS, Channel, LastWords, without_waiting
from deploytool.connection.identities import identities
from deploytool.connection.known_hosts import KnownHosts, known_keys
from deploytool.connection.openssh import KEEPALIVE_SECONDS, Child, Manner, OpenSshChannel
from deploytool.connection.ssh_config import Host, OfFabric, Reading
from deploytool.connection.transport import asks_for_openssh, uses_agent
from deploytool.errors import ConnectionFailed, UsageError
from deploytool.trace import log

if TYPE_CHECKING:
    from deploytool.settings import Build

CONNECT_SECONDS = 15
#: A network that takes no packet of ours for so long is gone; without it TCP goes on for a quarter of an hour.
GONE_SECONDS = 60


#: Options of ssh_config, and what paramiko calls them.
ALGORITHMS = {"ciphers": "ciphers", "macs": "digests", "kexalgorithms": "kex", "hostkeyalgorithms": "key_types"}


class SshChannel:
    """The worker over Fabric: one connection, one channel. Closes the connections when it ends."""

    def __init__(self, build: "Build", host: Host, line: "FabricLine", argv: tuple[str, ...]) -> None:
        self._words = LastWords()
        self._line = line
        try:
            self._channel = line.connection.transport.open_session(timeout=CONNECT_SECONDS)
            if build.forward_agent:
                from paramiko.agent import AgentRequestHandler

                AgentRequestHandler(self._channel)
            for assignment in host.all("setenv"):
                self._channel.set_environment_variable(*assignment.split("=", 1))
            self._channel.exec_command(shlex.join(argv))
        except Exception as error:
            line.close()
            raise ConnectionFailed(
                f"the build server {build.server} opened no session: {error}",
                hint="check MaxSessions in its sshd_config",
            ) from error
        except BaseException:
            line.close()
            raise
        self._listener = threading.Thread(
            target=lambda: self._words.listen(lambda: bytes(self._channel.recv_stderr(4096))), daemon=True
        )
        self._listener.start()

    def write(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except EOFError as error:
            # What paramiko says of a line that broke under it. It is no OSError.
            raise BrokenPipeError(errno.EPIPE, "the connection has ended") from error

    def read(self) -> bytes:
        return bytes(self._channel.recv(1 << 16))

    def set_patience(self, seconds: float | None) -> None:
        self._channel.settimeout(seconds)

    def end(self, patience_seconds: float = FAREWELL_SECONDS) -> int | None:
        without_waiting(self._channel.shutdown_write)
        self._channel.status_event.wait(patience_seconds)
        status = self._channel.exit_status if self._channel.status_event.is_set() else None
        if status is not None:
            self._listener.join(1)
        self._line.close()
        return status if status is not None and status >= 0 else None

    def last_words(self) -> tuple[str, ...]:
        return self._words.lines()


class Refused(ConnectionFailed):
    """What OpenSSH's client may do better: the login, or the algorithms of the handshake."""


class WrongPassword(ConnectionFailed):
    """Not tried again: servers count."""


class FabricLine:
    """What Fabric has opened, first hops first."""

    def __init__(self) -> None:
        self._closing: list[Callable[[], object]] = []
        #: the last one, in the end that to the build server
        self.connection: Any = None

    def opened(self, close: Callable[[], object]) -> None:
        self._closing.append(close)

    def close(self) -> None:
        """Close all. Never waits for the network.

        What comes first goes before what runs through it: closing the inner one first would have to send through the
        outer, and that blocks if it is stopped.
        """
        for close in self._closing:
            with contextlib.suppress(Exception):
                close()


@dataclass(frozen=True, slots=True)
class Requested:
    """What the command line and Fabric's own configuration ask for."""

    config: Any
    keys: tuple[str, ...]
    answers: Mapping[str, str | None]
    #: None if nobody has said it
    seconds: int | None
    of_fabric: OfFabric

    @classmethod
    def of(cls, config: Any) -> "Requested":
        """`config` is that of the `fab` command line, or None."""
        import fabric
        import paramiko

        given = config if isinstance(config, fabric.Config) else fabric.Config(ssh_config=paramiko.SSHConfig())
        of_connections = {name: dict(given[name]) for name in ("connect_kwargs", "authentication", "timeouts")}
        # It reads no ssh_config: what that says, it is given.
        plain = fabric.Config(ssh_config=paramiko.SSHConfig(), overrides=of_connections)
        kwargs = dict(given.connect_kwargs)
        keys = kwargs.get("key_filename") or ()
        keys = (keys,) if isinstance(keys, str) else keys
        answers = {name: kwargs.get(name) for name in ("passphrase", "password")}
        seconds = kwargs.get("timeout") or given.timeouts.get("connect")
        keys = tuple(os.path.expanduser(key) for key in keys)
        # The keys, for OpenSSH's client.
        arguments = tuple(word for key in keys for word in ("-i", key))
        user = given.user if given.user != plain.user else None
        if given.gateway and not isinstance(given.gateway, str):
            raise UsageError("`gateway` in Fabric's configuration is not a ProxyCommand", hint="use `build.gateway`")
        of_fabric = OfFabric(arguments, user, given.get("ssh_config_path"), given.gateway or None)
        return cls(plain, keys, answers, int(seconds) if seconds else None, of_fabric)

    def manner(self, host: Host) -> Manner:
        return Manner(self.seconds or int(host.one("connecttimeout") or CONNECT_SECONDS), self.answers)


class Connecting:
    """The way to the build server, opened in a thread: meanwhile what is to be done there can be prepared.

    Whoever begins it takes its channel or abandons it. Nothing is asked of the server before.
    """

    def __init__(self, build: "Build", fabric_config: Any = None, ssh_config: str | None = None) -> None:
        """`fabric_config` is the config of the `fab` command line (its -i, -t and what it asked for), or None;
        `ssh_config` its -S, which goes before `build.ssh_config`."""
        self._build = build
        self._line = FabricLine()
        #: the transport that was taken, and why, for people
        self.transport = ""
        self._abandoned = False
        self._opened: Future[Callable[[tuple[str, ...]], Channel]] = Future()
        threading.Thread(target=self._connect, args=(fabric_config, ssh_config), daemon=True).start()

    def channel(self, argv: tuple[str, ...]) -> Channel:
        """A channel to that command on the build server, whose host key is checked; it is the caller's to end.

        Waits for the connection. Raises ConnectionFailed, or UsageError if ssh_config can't be used.
        """
        try:
            start = self._opened.result()
        except BaseException:
            # Also on Ctrl-C.
            self.abandon()
            raise
        return start(argv)

    def abandon(self) -> None:
        """Close what is open, taken or not, and let nothing more be opened."""
        self._abandoned = True
        self._line.close()

    def _connect(self, fabric_config: Any, ssh_config: str | None) -> None:
        # Without a handler paramiko's threads print tracebacks of what we tell in a sentence.
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
        try:
            start = self._begin(fabric_config, ssh_config)
        except BaseException as error:
            # Also what failed: paramiko has a thread for it.
            self._line.close()
            self._opened.set_exception(error)
            return
        if self._abandoned:
            self._line.close()
        self._opened.set_result(start)

    def _begin(self, fabric_config: Any, ssh_config: str | None) -> Callable[[tuple[str, ...]], Channel]:
        build = self._build
        requested = Requested.of(fabric_config)
        for key in requested.keys:
            if not os.path.isfile(key):
                raise ConnectionFailed(f"the key file {key} does not exist", hint="check -i")
        way = Reading.of(ssh_config, build.ssh_config, requested.of_fabric).way(build.server, build.gateway)
        host = way[-1]

        over_openssh = functools.partial(self._over_openssh, way, requested)
        if host.arguments is None:
            if build.transport == "openssh":
                raise UsageError(
                    f"`build.transport` is openssh, and {host.no_client}",
                    hint="install OpenSSH's client, or remove the setting",
                )
            why = None
        else:
            why = "build.transport" if build.transport == "openssh" else asks_for_openssh(host, requested.answers)
        if why is not None and build.transport != "fabric":
            self._take("openssh", why)
            return over_openssh
        try:
            self._open_by_fabric(way, requested)
        except LookupError as token:
            raise ConnectionFailed(
                f"{host} can't be reached: its configuration has a token or variable that only ssh knows: {token}",
                hint="use `build.transport: auto`",
            ) from token
        except ConnectionFailed as failure:
            is_last = host.arguments is None or build.transport == "fabric"
            if is_last or self._abandoned or not isinstance(failure, Refused):
                failure.hint = _hint(failure, why, host)
                raise
            self._take("openssh", f"Fabric did not get in: {failure.message}")
            self._line.close()
            return over_openssh
        self._take("fabric", "build.transport" if build.transport == "fabric" else self._why_fabric(way))
        return lambda argv: SshChannel(build, host, self._line, argv)

    def _over_openssh(self, way: Sequence[Host], requested: Requested, argv: tuple[str, ...]) -> OpenSshChannel:
        host = way[-1]
        if self._abandoned:
            raise ConnectionFailed(f"the connection to {host} was given up")
        lends = "yes" if self._build.forward_agent else "no"
        options = ("LogLevel=ERROR", "Compression=yes", f"ForwardAgent={lends}")
        more = [word for option in options for word in ("-o", option)]
        line = openssh.command(host, way[:-1], requested.manner(host), *more)
        # A build should not depend on the operator's environment; SetEnv is the user's own choice for this server.
        child = Child(
            [*line, shlex.join(argv)], requested.answers, host.all("sendenv"), marks_servers=openssh.marks_servers(host)
        )
        self._line.opened(child.close)
        return OpenSshChannel(child, way)

    def _take(self, transport: str, why: str) -> None:
        self.transport = f"{transport} ({why})"
        log.info("transport: %s: %s", transport, why)

    @staticmethod
    def _why_fabric(way: Sequence[Host]) -> str:
        if way[-1].arguments is None:
            return way[-1].no_client
        over = ", over " + ", ".join(map(str, way[:-1])) if way[:-1] else ""
        return f"it can do what the configuration of {way[-1]} asks for{over}"

    def _open_by_fabric(self, way: Sequence[Host], requested: Requested) -> None:
        """Raises ConnectionFailed."""
        if way[-1].arguments is not None:
            # OpenSSH's client brings us to the last one.
            self._open(way[-1], way, requested)
            return
        for at in range(len(way)):
            self._open(way[at], way[: at + 1], requested)
            if self._abandoned:
                break

    def _open(self, host: Host, way: Sequence[Host], requested: Requested) -> None:
        """Open one hop. Its key is checked before anything is said about ourselves."""
        import fabric
        import paramiko

        seconds = requested.manner(host).seconds
        known = known_keys(host)
        child = None
        sock: Any
        if self._line.connection is not None:
            try:
                sock = self._line.connection.transport.open_channel(
                    "direct-tcpip", (host.hostname, host.port), ("", 0), timeout=seconds
                )
            except paramiko.SSHException as error:
                raise ConnectionFailed(f"the jump host {way[-2]} can't reach {host}: {error}") from error
        elif line := proxy_command(host, way[:-1], requested.manner(host)):
            hops = requested.manner(host).of_hops
            child = Child(("/bin/sh", "-c", f"exec {line}"), hops.answers, marks_servers=openssh.marks_servers(host))
            self._line.opened(child.close)
            sock = child.socket
        else:
            sock = _tcp(host, seconds)
            self._line.opened(sock.close)

        if host.arguments is not None:
            keys = identities(host)
            files = [*keys.usable, *(keys.locked if requested.answers["passphrase"] else ())]
            kwargs = {"allow_agent": uses_agent(host), "look_for_keys": False}
        else:
            # Fabric's own places for keys.
            files, kwargs = [*requested.keys, *host.paths("identityfile")], {}
        # A jump host may ask somebody for something, and watches its time itself.
        patience = seconds + (openssh.LOGIN_SECONDS if child is not None and openssh.terminal() else 0)
        connection = fabric.Connection(
            host.hostname,
            user=host.user,
            port=host.port,
            config=requested.config,
            forward_agent=False,
            connect_timeout=patience,
        )
        # Where a fabric.yml names its strategy, that reads the keys here.
        connection.ssh_config = {"hostname": host.hostname, "identityfile": files}
        # The password is for the last host only.
        unused = {"timeout"} if host is way[-1] else {"timeout", "password"}
        own = {name: value for name, value in connection.connect_kwargs.items() if name not in unused}
        connection.connect_kwargs = {
            **kwargs,
            **own,
            "key_filename": files,
            "sock": sock,
            "transport_factory": lambda sock, **options: _transport(known, sock, **options),
            # What runs through a gateway is compressed already.
            "compress": host is way[-1],
            # Its first line may not end sooner by itself.
            "banner_timeout": patience + 1,
        }
        client = connection.client
        client.set_missing_host_key_policy(policy := _policy(known))
        self._line.opened(client.close)
        try:
            connection.open()
        except (paramiko.SSHException, OSError, ValueError, EOFError) as error:
            if child is not None and not policy.was_asked:
                if words := child.last_words():
                    raise openssh.explain(words, way) from error
                if (status := child.wait(0)) is not None:
                    raise ConnectionFailed(
                        f"{host} can't be reached: `{line}` ended with exit code {status}",
                        hint="check ProxyCommand in ssh_config",
                    ) from error
            if own.get("password") and _was_wrong(error, client.get_transport()):
                raise WrongPassword(
                    f"{host}: authentication failed: {error}",
                    hint=f"check the password. Run `{host.by_hand}` to see more",
                ) from error
            raise _failure(error, host, policy.was_asked, seconds) from error
        transport = connection.transport
        if not transport.is_authenticated():
            # paramiko takes a part for the whole where a server asks for two keys.
            raise Refused(f"{host}: authentication failed: it asks for more than one key")
        transport.set_keepalive(KEEPALIVE_SECONDS)
        # A gateway that can't reach the next hop would otherwise hold us for an hour.
        transport.channel_timeout = seconds
        self._line.connection = connection


def _hint(failure: ConnectionFailed, why: str | None, host: Host) -> str | None:
    """With what OpenSSH's client would do better: `why` it was to be taken, or what Fabric has left unread."""
    hints = [failure.hint] if failure.hint else []
    if why is not None:
        hints.append(f"OpenSSH's client may get in ({why}): `build.transport: auto`")
    if host.unread:
        why = host.no_client[0].upper() + host.no_client[1:]
        hints.append(
            f"{why}, and without it {', '.join(host.unread)} in ssh_config are ignored: install OpenSSH's client"
        )
    return ". ".join(hints) or None


def _policy(known: KnownHosts) -> Any:
    """Of paramiko's, so that its client asks our known_hosts, and whether it has asked."""
    import paramiko

    class Policy(paramiko.MissingHostKeyPolicy):
        was_asked = False

        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            known.check(key)
            self.was_asked = True

    return Policy()


def _was_wrong(error: Exception, transport: Any) -> bool:
    """Whether the password was, as far as can be known: the server took one, and nothing else was asked for."""
    import paramiko

    if isinstance(error, paramiko.BadAuthenticationType):
        return bool(transport.was_answered and not transport.was_asked_more)
    return isinstance(error, paramiko.AuthenticationException)


def _failure(error: Exception, host: Host, is_trusted: bool, seconds: int) -> ConnectionFailed:
    """`is_trusted`: whether its host key was right, so that it is about the login."""
    import paramiko

    if isinstance(error, paramiko.PasswordRequiredException):
        return Refused(
            f"the SSH key for {host} has a passphrase",
            hint="load it into ssh-agent with `ssh-add`, or run `fab --prompt-for-passphrase`",
        )
    if is_trusted or isinstance(error, paramiko.AuthenticationException):
        # So paramiko says that the server has had enough.
        why = "too many keys were tried" if "No existing session" in str(error) else error
        return Refused(
            f"{host}: authentication failed: {why}",
            hint=openssh.login_hint(host, getattr(error, "allowed_types", ())),
        )
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return Refused(
            f"{host}: no SSH connection: {error}",
            hint="check Ciphers, MACs, KexAlgorithms and HostKeyAlgorithms in ssh_config",
        )
    # So it says that it gave up waiting.
    slow = "No existing session" in str(error)
    why = f"no SSH connection: {str(error) or 'it was closed'}"
    if slow:
        why = f"no SSH handshake within {seconds:g} s"
    return ConnectionFailed(f"{host}: {why}", hint="check that an sshd listens there")


def proxy_command(host: Host, before: Sequence[Host], manner: Manner) -> str:
    """The shell command that is the connection to it; empty if it is one over TCP."""
    if host.arguments is None:
        # paramiko has expanded it.
        return host.one("proxycommand")
    return openssh.hop(host, before, manner) if before else host.expand(host.one("proxycommand"))


def _tcp(host: Host, seconds: int) -> "PromptSocket":
    chosen = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(host.one("addressfamily"), socket.AF_UNSPEC)
    why = ""
    try:
        addresses = socket.getaddrinfo(host.hostname, host.port, chosen, socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            sock = PromptSocket(family, kind, protocol)
            try:
                sock.settimeout(seconds)
                sock.connect(address)
                sock.hurry()
                return sock
            except OSError as error:
                sock.close()
                # Ours has no number, unlike the network's.
                ours = isinstance(error, TimeoutError) and error.errno is None
                why = f"no answer within {seconds:g} s" if ours else error.strerror or str(error)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise ConnectionFailed(f"{host} can't be reached: {why}", hint="check build.server, build.gateway and your network")


class PromptSocket(socket.socket):
    """A TCP socket on which no small message waits for 40 ms: neither ours, nor the server's.

    Without TCP_NODELAY each of ours waits for the answer to the one before. An sshd sets it for terminals only, so that
    each of its own waits until what it sent before is acknowledged; and Linux delays that, in the hope of an answer to
    send it with, unless it is told not to each time (TCP_QUICKACK, see tcp(7)).
    """

    def hurry(self) -> None:
        """Once it is connected."""
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_SECONDS * 1000)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if hasattr(socket, "TCP_QUICKACK"):
            # It may be closed by now; that is told by the next one who reads.
            with contextlib.suppress(OSError):
                self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


def is_list(algorithms: str) -> bool:
    """Whether it names them. Where there is no ssh to say what they come to, a file's own words may change a list that
    only ssh knows (`+`, `-`, `^`), or be patterns."""
    return bool(algorithms) and algorithms[0] not in "+-^" and "*" not in algorithms and "?" not in algorithms


def _transport(known: KnownHosts, sock: Any, **options: Any) -> Any:
    """paramiko's transport, which asks for a host key of a kind that is known; by itself it takes any. It answers one
    question; paramiko's own gives the password to each, and reads the terminal for a second factor."""
    import paramiko

    class Transport(paramiko.Transport):
        was_answered = was_asked_more = False

        def auth_publickey(self, username: str, key: Any, event: Any = None) -> Any:
            if accepted and accepted.isdisjoint(kinds.get(key.get_name(), (key.get_name(),))):
                raise paramiko.AuthenticationException(f"PubkeyAcceptedAlgorithms leaves {key.get_name()} out")
            return super().auth_publickey(username, key, event)

        def auth_interactive(self, username: str, handler: Any, submethods: str = "") -> Any:
            def once(title: str, instructions: str, fields: Any) -> Any:
                self.was_asked_more = len(fields) > 1 or bool(fields and self.was_answered)
                if self.was_asked_more:
                    raise paramiko.SSHException("it asks for more than a password")
                self.was_answered = self.was_answered or bool(fields)
                return handler(title, instructions, fields)

            return super().auth_interactive(username, once, submethods)

        def auth_interactive_dumb(self, username: str, handler: Any = None, submethods: str = "") -> Any:
            raise paramiko.SSHException("it asks for a second factor")

    kinds = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
    said = known.host.one("pubkeyacceptedalgorithms") or known.host.one("pubkeyacceptedkeytypes")
    accepted = set(said.split(",")) if is_list(said) else set()
    transport = Transport(sock, **options)
    security = transport.get_security_options()
    first = [kind for key in known.keys for kind in kinds.get(key.get_name(), (key.get_name(),))]
    first = [kind for kind in dict.fromkeys(first) if kind in security.key_types]
    security.key_types = (*first, *(kind for kind in security.key_types if kind not in first))
    # ssh would refuse with what its configuration leaves out, and so do we.
    for option, attribute in ALGORITHMS.items():
        if is_list(wanted := known.host.one(option)):
            ours = getattr(security, attribute)
            setattr(security, attribute, tuple(each for each in ours if each in wanted.split(",")))
    if accepted:
        out = [each for each in transport.preferred_pubkeys if each not in accepted]
        transport.disabled_algorithms = {**(transport.disabled_algorithms or {}), "pubkeys": out}
    return transport
