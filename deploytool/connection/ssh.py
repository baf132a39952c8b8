"""The worker over SSH: the way to the build server, hop by hop, and the one channel there.

Nothing else imports fabric's connection. Host keys are checked on every hop: Fabric by itself accepts any. What
ssh_config says is honoured as Fabric does, and so are its UserKnownHostsFile and GlobalKnownHostsFile.
"""

import contextlib
import errno
import logging
import os
import shlex
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from deploytool.connection.channel import FAREWELL_SECONDS, LastWords, without_waiting
from deploytool.connection.known_hosts import fingerprint, known_hosts_files, known_keys
from deploytool.errors import ConnectionFailed, UsageError

if TYPE_CHECKING:
    from deploytool.settings import Build

CONNECT_SECONDS = 15
#: Keeps NAT tables and firewalls from forgetting the connection, and notices a dead one.
KEEPALIVE_SECONDS = 15
#: A network that takes no packet of ours for so long is gone; without it TCP goes on for a quarter of an hour.
GONE_SECONDS = 60


class SshChannel:
    """The worker over SSH: one connection, one channel. Closes the connections when it ends."""

    def __init__(self, build: "Build", connections: list[Any], argv: tuple[str, ...]) -> None:
        self._words = LastWords()
        self._connections = connections
        transport = self._connections[-1].transport
        try:
            self._channel = transport.open_session(timeout=CONNECT_SECONDS)
            if build.forward_agent:
                from paramiko.agent import AgentRequestHandler

                AgentRequestHandler(self._channel)
            self._channel.exec_command(shlex.join(argv))
        except Exception as error:
            close(self._connections)
            raise ConnectionFailed(
                f"the build server {build.server} opened no session: {error}", hint="see MaxSessions in its sshd_config"
            ) from error
        except BaseException:
            close(self._connections)
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
        """How long `read` and `write` wait before they raise TimeoutError; None: for ever."""
        self._channel.settimeout(seconds)

    def end(self, patience_seconds: float = FAREWELL_SECONDS) -> int | None:
        without_waiting(self._channel.shutdown_write)
        self._channel.status_event.wait(patience_seconds)
        status = self._channel.exit_status if self._channel.status_event.is_set() else None
        if status is not None:
            self._listener.join(1)
        close(self._connections)
        return status if status is not None and status >= 0 else None

    def last_words(self) -> tuple[str, ...]:
        return self._words.lines()


def close(connections: list[Any]) -> None:
    """Close connections, given gateways first. Never waits for the network.

    A gateway goes before what runs through it: closing the inner one first would have to send through the gateway,
    and that blocks if the gateway is stopped. Fabric's own `close` leaves one alone that failed while it was opened.
    """
    for connection in connections:
        with contextlib.suppress(Exception):
            connection.client.close()


class Connecting:
    """The way to the build server, opened in a thread: meanwhile what is to be done there can be prepared.

    Whoever begins it takes its connections or abandons it. Nothing is asked of the server before.
    """

    def __init__(self, build: "Build", fabric_config: Any = None, ssh_config: str | None = None) -> None:
        """`fabric_config` is the config of the `fab` command line (its -i, -t and what it asked for), or None;
        `ssh_config` its -S, which goes before `build.ssh_config`."""
        self._hops: list[Any] = []
        self._abandoned = False
        self._opened: Future[list[Any]] = Future()
        threading.Thread(target=self._connect, args=(build, fabric_config, ssh_config), daemon=True).start()

    def connections(self) -> list[Any]:
        """The open connections, gateways first, each with its host key checked; they are the caller's to close.

        Waits for them. Raises ConnectionFailed, or UsageError if ssh_config can't be used.
        """
        try:
            return self._opened.result()
        except BaseException:
            # Also on Ctrl-C.
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close what is open, taken or not, and let nothing more be opened."""
        self._abandoned = True
        close(self._hops)

    def _connect(self, build: "Build", fabric_config: Any, ssh_config: str | None) -> None:
        try:
            self._hops = _hops(build, fabric_config, ssh_config)
            for hop in self._hops:
                if self._abandoned:
                    break
                _open(hop)
        except BaseException as error:
            # Also the one that failed: paramiko has a thread for it.
            close(self._hops)
            self._opened.set_exception(error)
            return
        if self._abandoned:
            close(self._hops)
        self._opened.set_result(self._hops)


def _hops(build: "Build", fabric_config: Any, ssh_config: str | None = None) -> list[Any]:
    """The connections to open, gateways first. Raises UsageError if ssh_config can't be used."""
    import fabric
    import paramiko

    # Without a handler paramiko's threads print tracebacks of what we tell in a sentence.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    said = "ssh_config (~/.ssh/config, /etc/ssh/ssh_config)"
    path = None
    if ssh_config is not None or build.ssh_config is not None:
        path = os.path.expanduser(ssh_config or build.ssh_config or "")
        said = f"the file {path}, named by {'-S/--ssh-config' if ssh_config else 'build.ssh_config'},"
        if not os.path.isfile(path):
            raise UsageError(f"{said} is not there")
    where = build.server
    try:
        if not isinstance(fabric_config, fabric.Config):
            fabric_config = fabric.Config()
        if path is not None:
            # One has read another file already; what else it says of connections stays.
            said_of_connections = {
                name: dict(fabric_config[name]) for name in ("connect_kwargs", "authentication", "timeouts")
            }
            fabric_config = fabric.Config(runtime_ssh_path=path, overrides=said_of_connections)
        # Of ForwardAgent Fabric knows yes and no only, and dies of a socket's path; build.forward_agent decides.
        options: dict[str, Any] = {"config": fabric_config, "forward_agent": False}
        if build.gateway is not None:
            where = build.gateway
            options["gateway"] = fabric.Connection(build.gateway, **options)
            where = build.server
        hops = [fabric.Connection(build.server, **options)]
        while isinstance(hops[0].gateway, fabric.Connection):
            hops.insert(0, hops[0].gateway)
        for hop in hops:
            # What runs through a gateway is compressed already.
            compress = hop is hops[-1]
            hop.connect_kwargs = {**hop.connect_kwargs, "transport_factory": _transport, "compress": compress}
            if seconds := hop.connect_kwargs.pop("timeout", None):
                # Of -t: for the socket, and again for the handshake, whose first line may not end sooner by itself.
                hop.connect_timeout, hop.connect_kwargs["banner_timeout"] = seconds, seconds + 1
            if keys := hop.connect_kwargs.get("key_filename"):
                hop.connect_kwargs["key_filename"] = [os.path.expanduser(key) for key in keys]
        for hop in hops:
            where = hop.host
            known_hosts_files(hop.ssh_config)
    except (paramiko.SSHException, ValueError, LookupError, TypeError, OSError) as error:
        # A KeyError's text is the value alone.
        why = f"a value that Fabric does not know, {error}" if isinstance(error, LookupError) else error
        raise UsageError(
            f"{said} can't be used for {where}: {why}",
            hint="mend it, or name another file in build.ssh_config. "
            "Of ForwardAgent only yes and no are known for jump hosts",
        ) from error
    return hops


def _open(connection: Any) -> None:
    """Open one hop. The key is checked against known_hosts before anything is said about ourselves."""
    import paramiko
    from paramiko.ssh_exception import NoValidConnectionsError

    client = connection.client
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    where = f"{connection.user}@{connection.host}:{connection.port}"
    # As ssh itself, which adds to the first of the user's own files.
    own = str(connection.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts"))
    own = own if " " not in own or os.path.isfile(os.path.expanduser(own)) else own.split()[0]
    scan = f"ssh-keyscan -p {connection.port} {connection.host} >> {own if own.startswith('~') else shlex.quote(own)}"
    name = connection.host if connection.port == 22 else f"[{connection.host}]:{connection.port}"
    # As ssh has it: an alias stands for host and port, in lower case.
    alias = connection.ssh_config.get("hostkeyalias", "").lower()
    files = known_hosts_files(connection.ssh_config)
    known = known_keys(files, alias or name)
    for key in known.keys:
        # The first of its kind counts.
        if key.get_name() not in (client.get_host_keys().lookup(name) or {}):
            client.get_host_keys().add(name, key.get_name(), key)
    if not connection.connect_timeout:
        connection.connect_timeout = CONNECT_SECONDS
    try:
        connection.open()
    except paramiko.BadHostKeyException as error:
        raise ConnectionFailed(
            f"the host key of {where} has CHANGED: it offers {error.key.get_name()} {fingerprint(error.key)}, and "
            f"known_hosts has {fingerprint(error.expected_key)}",
            hint="somebody may be in between. If the server was set up anew, ask its administrator for the new "
            f"fingerprint, then `ssh-keygen -R '{alias or name}'` and `{scan}`",
        ) from error
    except paramiko.PasswordRequiredException as error:
        raise ConnectionFailed(
            f"the SSH key for {where} has a passphrase",
            hint="load it into ssh-agent with `ssh-add`, or call `fab --prompt-for-passphrase`",
        ) from error
    except paramiko.AuthenticationException as error:
        raise ConnectionFailed(
            f"{where} refused us: {error}",
            hint="is your key in its authorized_keys, and in your ssh-agent? `ssh "
            + where.rpartition(":")[0]
            + "` tells more",
        ) from error
    except (NoValidConnectionsError, socket.gaierror, TimeoutError, ConnectionError) as error:
        why = error.strerror or error
        if isinstance(error, TimeoutError) and error.errno is None:
            # Ours, not the network's.
            why = f"no answer within {connection.connect_timeout:g} s"
        raise ConnectionFailed(
            f"{where} can't be reached: {why}",
            hint="check build.server, build.gateway and your network",
        ) from error
    except paramiko.SSHException as error:
        if "not found in known_hosts" in str(error):
            looked = ", ".join(str(path) for path in files) or "none of the known_hosts files exists"
            called = f" as {alias}, its HostKeyAlias" if alias else ""
            raise ConnectionFailed(
                f"the host key of {where} is unknown (looked{called} in: {looked})",
                tail=known.problems[-20:],
                hint=f"compare its fingerprint with the administrator's, then `{scan}`"
                + (f", with {alias} in place of the host's name" if alias else ""),
            ) from error
        # So paramiko says that it gave up waiting.
        slow = "No existing session" in str(error)
        why = f"no SSH handshake within {connection.connect_timeout:g} s" if slow else f"no SSH connection: {error}"
        raise ConnectionFailed(f"{where}: {why}", hint="does an sshd answer there?") from error
    except OSError as error:
        if error.filename is not None:
            raise ConnectionFailed(
                f"{where} can't be reached: the file {error.filename} can't be read: {error.strerror}",
                hint="see -i, and IdentityFile and ProxyCommand in ssh_config",
            ) from error
        raise ConnectionFailed(
            f"{where} can't be reached: {error}", hint="check build.server and your network"
        ) from error
    except (ValueError, EOFError) as error:
        raise ConnectionFailed(f"{where}: no SSH connection: {error}") from error
    transport = connection.transport
    transport.set_keepalive(KEEPALIVE_SECONDS)
    # A gateway that can't reach the next hop would otherwise hold us for an hour.
    transport.channel_timeout = connection.connect_kwargs.get("banner_timeout") or CONNECT_SECONDS


class PromptSocket(socket.socket):
    """A TCP socket on which no small message waits for 40 ms: neither ours, nor the server's.

    Without TCP_NODELAY each of ours waits for the answer to the one before. An sshd sets it for terminals only, so that
    each of its own waits until what it sent before is acknowledged; and Linux delays that, in the hope of an answer to
    send it with, unless it is told not to each time (TCP_QUICKACK, see tcp(7)).
    """

    @classmethod
    def of(cls, plain: socket.socket) -> "PromptSocket":
        """Takes the place of `plain`, which is closed to its owner from then on."""
        prompt = cls(fileno=plain.detach())
        prompt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            prompt.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_SECONDS * 1000)
        return prompt

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        data = super().recv(size, flags)
        if hasattr(socket, "TCP_QUICKACK"):
            # It may be closed by now; that is told by the next one who reads.
            with contextlib.suppress(OSError):
                self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


def _transport(sock: Any, **options: Any) -> Any:
    """paramiko's transport, on a socket that is prompt from the handshake on; a gateway's channel or a ProxyCommand is
    no socket of ours."""
    import paramiko

    return paramiko.Transport(PromptSocket.of(sock) if isinstance(sock, socket.socket) else sock, **options)
