"""The edge to the build server: one channel to the worker there, over SSH or on this machine.

Nothing else imports fabric's connection. Both ways give the same thing, a `Channel` of bytes to the worker, so that all
above is written once. Host keys are checked on every hop: Fabric by itself accepts any. ssh_config is honoured as
Fabric does, and so are its UserKnownHostsFile and GlobalKnownHostsFile.
"""

import contextlib
import errno
import hashlib
import io
import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
import zipfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deploytool.errors import ConnectionFailed, DeployError, StepError, UsageError

if TYPE_CHECKING:
    from deploytool.settings import Build

CONNECT_SECONDS = 15
#: Keeps NAT tables and firewalls from forgetting the connection, and notices a dead one.
KEEPALIVE_SECONDS = 15
#: A network that takes no packet of ours for so long is gone; without it TCP goes on for a quarter of an hour.
GONE_SECONDS = 60
#: How long the worker may take to put things in order once its line has ended.
FAREWELL_SECONDS = 15.0
#: The same for one that has not started yet: it has nothing to put in order.
SHORT_FAREWELL_SECONDS = 2.0
#: A login script and Python on a busy server may take their time; a server that is stopped takes for ever.
BOOT_SECONDS = 60.0

#: Announces a line that is ours: a login script on the server may print anything before it.
MARK = "deploytool-boot "


class Refusal(IntEnum):
    """Exit codes of the scripts below."""

    NO_PYTHON = 91
    NO_ROOT = 92
    NOT_OURS = 93
    BAD_TRANSFER = 94
    NO_SPACE = 95
    NOT_WRITABLE = 96
    NO_MEMORY_FILE = 97


#: Finding and booting need the standard library alone: without the rest (-I -S) Python starts in a third of the time,
#: and nothing in the home directory is taken for a module. The worker itself is started with all of it, for boto3.
FIND_PYTHON = """
for python in "$5" python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
  if [ -n "$python" ] && "$python" -ISB -c "import sys; sys.exit(sys.version_info < (3, 8))" 2>/dev/null; then
    exec "$python" -ISB -c "$4" "$1" "$2" "$3" "$6"
  fi
done
exit 91
"""

#: Runs on the server: takes the worker's one file from stdin unless it is there, and becomes the worker. It says
#: `need` or `ready`, and `ready` after `need` when the file is there. A file that is used is touched: retention removes
#: those that nobody has used for long. The same with compiled modules is preferred if the worker has kept it, and it is
#: whole (`worker/compiled.py`). One that may write nothing (`read-only`) keeps the file in memory instead, and has
#: Python leave no compiled modules anywhere.
RECEIVE_WORKER = """
import errno, hashlib, os, sys
root, digest, size = os.path.expanduser(sys.argv[1]), sys.argv[2], int(sys.argv[3])
read_only = sys.argv[4] == "read-only"
home = os.path.join(root, ".worker")
def refuse(error, status):
    sys.stderr.write("%s: %s\\n" % (error.filename or home, error.strerror or error))
    sys.exit(95 if error.errno in (errno.ENOSPC, errno.EDQUOT) else status)
def say(word):
    sys.stdout.write("deploytool-boot %s\\n" % word)
    sys.stdout.flush()
def whole(data):
    return hashlib.sha256(data).hexdigest() == digest
def receive():
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(94)
        data += more
    if not whole(data):
        sys.exit(94)
    return data
def keep_in_memory(data):
    try:
        number = os.memfd_create("deploytool-worker", 0)
    except (AttributeError, OSError):
        import tempfile
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
        os.set_inheritable(number, True)
    with os.fdopen(os.dup(number), "wb") as file:
        file.write(data)
    return "/dev/fd/%d" % number
def keep_on_disk(data):
    beside = "%s.%d" % (path, os.getpid())
    try:
        with open(beside, "wb") as file:
            file.write(data)
        os.rename(beside, path)
    except OSError:
        if os.path.exists(beside):
            os.unlink(beside)
        raise
os.umask(0o077)
try:
    if not read_only:
        os.makedirs(home, exist_ok=True)
    owner = os.geteuid() if read_only and not os.path.lexists(home) else os.stat(home).st_uid
except OSError as error:
    refuse(error, 92)
if owner != os.geteuid():
    sys.stderr.write("%s belongs to user id %d\\n" % (home, owner))
    sys.exit(93)
def use(path):
    try:
        if not read_only:
            os.utime(path)
    except OSError:
        pass
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
path = os.path.join(home, digest + ".pyz")
compiled = os.path.join(home, "%s.%s.pyz" % (digest, sys.implementation.cache_tag))
if whole(use(path)):
    checksum, _, rest = use(compiled).partition(b"\\n")
    if hashlib.sha256(rest).hexdigest().encode() == checksum:
        path = compiled
else:
    say("need")
    data = receive()
    try:
        if read_only:
            path = keep_in_memory(data)
        else:
            keep_on_disk(data)
    except OSError as error:
        if not read_only:
            refuse(error, 96)
        sys.stderr.write("%s\\n" % error)
        sys.exit(97)
say("ready")
os.umask(0o022)
os.execv(sys.executable, [sys.executable, *(["-B", path, "read-only"] if read_only else [path])])
"""


class Channel(Protocol):
    """A process on the build server, as a line of bytes."""

    def write(self, data: bytes) -> None:
        """Send; raises OSError when the line is cut."""

    def read(self) -> bytes:
        """The next bytes; empty when the process or the connection has ended."""

    def end(self) -> int | None:
        """Close the process's stdin, wait for it for a while, close everything; its exit status if it had one."""

    def last_words(self) -> tuple[str, ...]:
        """The last lines of its stderr."""


def worker_archive() -> bytes:
    """The worker as one file that Python runs. Equal sources give equal bytes."""
    buffer = io.BytesIO()
    package = Path(__file__).parent
    sources = [package / "__init__.py", *(package / "text").glob("*.py"), *(package / "worker").glob("*.py")]
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sorted(sources):
            entry = zipfile.ZipInfo(str(source.relative_to(package.parent)), date_time=(2020, 1, 1, 0, 0, 0))
            archive.writestr(entry, source.read_bytes(), zipfile.ZIP_DEFLATED)
        archive.writestr(
            zipfile.ZipInfo("__main__.py", date_time=(2020, 1, 1, 0, 0, 0)),
            "from deploytool.worker.line import main\n\nmain()\n",
        )
    return buffer.getvalue()


def boot_command(
    root: str, digest: str, size_bytes: int, python: str = "", *, read_only: bool = False
) -> tuple[str, ...]:
    """The command line that becomes the worker. `python` is tried first, then what is in PATH, 3.8 or newer."""
    mode = "read-only" if read_only else ""
    return ("sh", "-c", FIND_PYTHON, "deploytool", root, digest, str(size_bytes), RECEIVE_WORKER, python, mode)


def start_worker(
    build: "Build", connecting: "Connecting | None" = None, read_only: bool = False
) -> tuple[Channel, Callable[[], bytes]]:
    """Connect, and start the worker; returns its channel and a function that reads on from where its line begins.

    `connecting` is the way to the build server if that was begun already. With `read_only` nothing is written to the
    server's disk: the worker runs from memory unless its file is there already, and refuses all that writes. Raises
    ConnectionFailed, or StepError if the server has no fitting Python or its work area can't be used.
    """
    archive = worker_archive()
    digest = hashlib.sha256(archive).hexdigest()
    channel: LocalChannel | SshChannel
    if build.is_local:
        channel = LocalChannel(boot_command(build.root, digest, len(archive), sys.executable, read_only=read_only))
    else:
        connections = (connecting or Connecting(build)).connections()
        channel = SshChannel(build, connections, boot_command(build.root, digest, len(archive), read_only=read_only))
    return channel, boot(channel, build, archive)


def boot(channel: "LocalChannel | SshChannel", build: "Build", archive: bytes) -> Callable[[], bytes]:
    """Wait until the worker runs, sending it first if it is not there; returns what reads on from there.

    Whatever goes wrong, the channel is ended. Raises ConnectionFailed or StepError.
    """
    where = f"the build server {build.server}"
    received = b""
    strange: deque[str] = deque(maxlen=10)
    try:
        channel.set_patience(BOOT_SECONDS)
        while True:
            line, found, rest = received.partition(b"\n")
            if not found:
                data = channel.read()
                if not data:
                    status = channel.end(SHORT_FAREWELL_SECONDS)
                    raise _refused(build, status, (*strange, *channel.last_words()))
                received += data
                continue
            received = rest
            text = line.decode("utf-8", "replace")
            # A prompt without a line's end may stand before the mark.
            _, marked, word = text.partition(MARK)
            if not marked:
                strange.append(text)
            elif word == "need":
                # A worker that refuses has said why, and then it does not read: its exit status tells.
                with contextlib.suppress(BrokenPipeError):
                    channel.write(archive)
            else:
                break
        channel.set_patience(None)
    except TimeoutError as error:
        channel.end(SHORT_FAREWELL_SECONDS)
        raise ConnectionFailed(
            f"{where} did not start the worker within {BOOT_SECONDS:.0f} s",
            tail=(*strange, *channel.last_words()),
            hint="is it overloaded, or does a login script there wait for something?",
        ) from error
    except OSError as error:
        channel.end(SHORT_FAREWELL_SECONDS)
        raise ConnectionFailed(f"the connection to {where} broke: {error}") from error
    except DeployError:
        raise
    except BaseException:
        channel.end(SHORT_FAREWELL_SECONDS)
        raise
    pending = [received] if received else []
    return lambda: pending.pop() if pending else channel.read()


def _refused(build: "Build", status: int | None, words: tuple[str, ...]) -> DeployError:
    """Why the worker did not start, from its exit status."""
    where = f"the build server {build.server}"
    match status:
        case Refusal.NO_PYTHON:
            return StepError(
                f"{where} has no Python 3.8 or newer in its PATH",
                tail=words,
                hint="install python3 there (on Debian: `apt install python3`)",
            )
        case Refusal.NO_ROOT:
            return StepError(
                f"the work area {build.root} can't be made on {where}",
                tail=words,
                hint="mend build.root, or the rights there",
            )
        case Refusal.NOT_OURS:
            return StepError(
                f"the work area {build.root} on {where} belongs to another user",
                tail=words,
                hint="deploy as that user, or choose another build.root",
            )
        case Refusal.BAD_TRANSFER:
            return ConnectionFailed(f"the worker did not arrive whole on {where}", tail=words, hint="try again")
        case Refusal.NO_SPACE:
            return StepError(
                f"the work area {build.root} can't be written on {where}: no space left on the device",
                tail=words,
                hint=f"free some space there, or mend the quota (`df -h {shlex.quote(build.root)}` and `df -i` tell), "
                "or choose another build.root",
            )
        case Refusal.NOT_WRITABLE:
            return StepError(
                f"the work area {build.root} can't be written on {where}",
                tail=words,
                hint="mend the rights there, or choose another build.root",
            )
        case Refusal.NO_MEMORY_FILE:
            return StepError(
                f"the worker can be kept neither in memory nor in a temporary file on {where}",
                tail=words,
                hint="free some memory there, or some space below TMPDIR",
            )
        case None:
            return ConnectionFailed(f"the connection to {where} broke before the worker started", tail=words)
        case _:
            return StepError(f"the worker did not start on {where}: exit status {status}", tail=words)


class LocalChannel:
    """The worker on this machine, `build.server: local`."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._words = _LastWords()
        # A session of its own: Ctrl-C at the terminal is for us, and we tell the worker what it means.
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stderr is not None
        stderr = self._process.stderr
        self._listener = threading.Thread(
            target=lambda: self._words.listen(lambda: os.read(stderr.fileno(), 4096)), daemon=True
        )
        self._listener.start()

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self) -> bytes:
        assert self._process.stdout is not None
        try:
            return os.read(self._process.stdout.fileno(), 1 << 16)
        except ValueError:
            # `end` does not wait for whoever reads, who may be on the way here only now.
            return b""

    def set_patience(self, seconds: float | None) -> None:
        """No limit is needed: what hangs on this machine, its user can see."""

    def end(self, patience_seconds: float = FAREWELL_SECONDS) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        _begin(self._process.stdin.close)
        try:
            return self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._listener.join(1)
            self._process.stdout.close()
            self._process.stderr.close()

    def last_words(self) -> tuple[str, ...]:
        return self._words.lines()


class SshChannel:
    """The worker over SSH: one connection, one channel. Closes the connections when it ends."""

    def __init__(self, build: "Build", connections: list[Any], argv: tuple[str, ...]) -> None:
        self._words = _LastWords()
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
        _begin(self._channel.shutdown_write)
        self._channel.status_event.wait(patience_seconds)
        status = self._channel.exit_status if self._channel.status_event.is_set() else None
        if status is not None:
            self._listener.join(1)
        close(self._connections)
        return status if status is not None and status >= 0 else None

    def last_words(self) -> tuple[str, ...]:
        return self._words.lines()


def _begin(farewell: Callable[[], object]) -> None:
    """Say it without waiting for it: to a server that is stopped or gone even a good-bye can block for ever."""

    def say() -> None:
        # paramiko raises its own when keys are being exchanged, or the line is cut already.
        with contextlib.suppress(Exception):
            farewell()

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    # In nearly all cases it is said at once, and then things end in their order.
    thread.join(0.5)


def close(connections: list[Any]) -> None:
    """Close connections, given gateways first. Never waits for the network.

    A gateway goes before what runs through it: closing the inner one first would have to send through the gateway,
    and that blocks if the gateway is stopped. Fabric's own `close` leaves one alone that failed while it was opened.
    """
    for connection in connections:
        with contextlib.suppress(Exception):
            connection.client.close()


class _LastWords:
    def __init__(self) -> None:
        self._data = b""

    def listen(self, read: Callable[[], bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := read():
                self._data = (self._data + data)[-8192:]

    def lines(self) -> tuple[str, ...]:
        return tuple(self._data.decode("utf-8", "replace").splitlines()[-20:])


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


def known_hosts_files(ssh_config: Any) -> list[Path]:
    """The files in which ssh would look for this host's key, as its ssh_config says; only those that exist.

    Raises ValueError if they are badly quoted.
    """
    defaults = {
        "UserKnownHostsFile": "~/.ssh/known_hosts ~/.ssh/known_hosts2",
        "GlobalKnownHostsFile": "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",
    }
    paths = []
    for option in ("GlobalKnownHostsFile", "UserKnownHostsFile"):
        text = ssh_config.get(option.lower(), defaults[option])
        try:
            # paramiko has taken the quotes from around a single path with spaces already.
            names = [text] if os.path.isfile(os.path.expanduser(text)) else shlex.split(text)
            paths += [Path(os.path.expanduser(name)) for name in names]
        except ValueError as error:
            raise ValueError(f"{option} {text}: {error}") from error
    return [path for path in paths if path.is_file()]


@dataclass(slots=True)
class KnownHosts:
    """Keys of one host in known_hosts files, in their order, and what could not be read there."""

    keys: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def known_keys(files: list[Path], name: str) -> KnownHosts:
    """The keys of the host `name`, as known_hosts files spell it. A line that can't be read leaves the others good.

    paramiko by itself gives up at the first bad line, and takes the marker of a revoked key for a host's name.
    """
    from paramiko.hostkeys import HostKeyEntry, HostKeys

    known = KnownHosts()
    revoked = []
    for path in files:
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            known.problems.append(f"{path} can't be read: {error.strerror}")
            continue
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith(b"#") or words[0] == b"@cert-authority":
                continue
            is_revoked = words[0] == b"@revoked"
            fields = words[1:4] if is_revoked else words[:3]
            try:
                if len(fields) < 3:
                    raise ValueError("too few words")
                entry = HostKeyEntry.from_line(b" ".join(fields).decode("utf-8"))
                # None: of a kind that paramiko does not know, which is no fault.
                if entry is None:
                    continue
                if is_revoked:
                    revoked.append(entry.key)
                    continue
                entries = HostKeys()
                for host in entry.hostnames:
                    entries.add(host, entry.key.get_name(), entry.key)
                if entries.lookup(name) is not None:
                    known.keys.append(entry.key)
            except Exception:
                # Whatever paramiko stumbles over in a line (InvalidHostKey is not even an SSHException).
                known.problems.append(f"line {number} of {path} can't be read")
    if any(key in revoked for key in known.keys):
        known.problems.append(f"a key of {name} is marked as revoked")
    known.keys = [key for key in known.keys if key not in revoked]
    return known


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


def fingerprint(key: Any) -> str:
    """The key's fingerprint as ssh-keygen prints it."""
    import base64

    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
