"""The edge to the build server: one channel to the worker there, over SSH or on this machine.

Nothing else imports fabric's connection. Both ways give the same thing, a `Channel` of bytes to the worker, so that all
above is written once. Host keys are checked on every hop: Fabric by itself accepts any. ssh_config is honoured as
Fabric does, and so are its UserKnownHostsFile and GlobalKnownHostsFile.
"""

import contextlib
import hashlib
import io
import os
import shlex
import socket
import subprocess
import sys
import threading
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from deploytool.errors import ConnectionFailed, StepError, UsageError

if TYPE_CHECKING:
    from deploytool.settings import Build

CONNECT_SECONDS = 15
#: Keeps NAT tables and firewalls from forgetting the connection, and notices a dead one.
KEEPALIVE_SECONDS = 15
#: How long the worker may take to put things in order once its line has ended.
FAREWELL_SECONDS = 15.0

#: Announces the first line that is ours: a login script on the server may print anything before it.
MARK = "deploytool-boot "
NO_PYTHON, NO_ROOT, NOT_OURS, BAD_TRANSFER = 91, 92, 93, 94

FIND_PYTHON = """
for python in "$5" python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
  if [ -n "$python" ] && "$python" -c "import sys; sys.exit(sys.version_info < (3, 8))" 2>/dev/null; then
    exec "$python" -c "$4" "$1" "$2" "$3"
  fi
done
exit 91
"""

#: Runs on the server: takes the worker's one file from stdin unless it is there, and becomes the worker.
RECEIVE_WORKER = """
import hashlib, os, sys
root, digest, size = os.path.expanduser(sys.argv[1]), sys.argv[2], int(sys.argv[3])
home = os.path.join(root, ".worker")
os.umask(0o077)
try:
    os.makedirs(home, exist_ok=True)
except OSError as error:
    sys.stderr.write("%s: %s\\n" % (error.filename, error.strerror))
    sys.exit(92)
if os.stat(home).st_uid != os.geteuid():
    sys.stderr.write("%s belongs to user id %d\\n" % (home, os.stat(home).st_uid))
    sys.exit(93)
path = os.path.join(home, digest + ".pyz")
def whole(data):
    return hashlib.sha256(data).hexdigest() == digest
here = os.path.exists(path) and whole(open(path, "rb").read())
sys.stdout.write("deploytool-boot %s\\n" % ("have" if here else "need"))
sys.stdout.flush()
if not here:
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(94)
        data += more
    if not whole(data):
        sys.exit(94)
    beside = "%s.%d" % (path, os.getpid())
    with open(beside, "wb") as file:
        file.write(data)
    os.rename(beside, path)
os.umask(0o022)
os.execv(sys.executable, [sys.executable, path])
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
    package = Path(__file__).parent / "worker"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sorted(package.glob("*.py")):
            entry = zipfile.ZipInfo(f"worker/{source.name}", date_time=(2020, 1, 1, 0, 0, 0))
            archive.writestr(entry, source.read_bytes(), zipfile.ZIP_DEFLATED)
        archive.writestr(
            zipfile.ZipInfo("__main__.py", date_time=(2020, 1, 1, 0, 0, 0)), "from worker.main import main\n\nmain()\n"
        )
    return buffer.getvalue()


def boot_command(root: str, digest: str, size_bytes: int, python: str = "") -> tuple[str, ...]:
    """The command line that becomes the worker. `python` is tried first, then what is in PATH, 3.8 or newer."""
    return ("sh", "-c", FIND_PYTHON, "deploytool", root, digest, str(size_bytes), RECEIVE_WORKER, python)


def start_worker(build: "Build", fabric_config: Any = None) -> tuple[Channel, Callable[[], bytes]]:
    """Connect, and start the worker; returns its channel and a function that reads on from where its line begins.

    `fabric_config` is the config of the `fab` command line (its -i and -S), or None. Raises ConnectionFailed, or
    StepError if the server has no fitting Python or its work area can't be used.
    """
    archive = worker_archive()
    digest = hashlib.sha256(archive).hexdigest()
    channel: Channel
    if build.is_local:
        channel = LocalChannel(boot_command(build.root, digest, len(archive), sys.executable))
    else:
        channel = SshChannel(build, fabric_config, boot_command(build.root, digest, len(archive)))
    received = b""
    strange: deque[str] = deque(maxlen=10)
    try:
        while True:
            line, found, rest = received.partition(b"\n")
            if not found:
                data = channel.read()
                if not data:
                    _refuse_boot(build, channel.end(), (*strange, *channel.last_words()))
                received += data
                continue
            received = rest
            text = line.decode("utf-8", "replace")
            # A prompt without a line's end may stand before the mark.
            _, marked, word = text.partition(MARK)
            if marked:
                break
            strange.append(text)
        if word == "need":
            channel.write(archive)
    except OSError as error:
        raise ConnectionFailed(f"the connection to the build server {build.server} broke: {error}") from error
    pending = [received] if received else []
    return channel, lambda: pending.pop() if pending else channel.read()


def _refuse_boot(build: "Build", status: int | None, words: tuple[str, ...]) -> NoReturn:
    where = f"the build server {build.server}"
    match status:
        case 91:
            raise StepError(
                f"{where} has no Python 3.8 or newer in its PATH",
                tail=words,
                hint="install python3 there (on Debian: `apt install python3`)",
            )
        case 92:
            raise StepError(
                f"the work area {build.root} can't be made on {where}",
                tail=words,
                hint="mend build.root, or the rights there",
            )
        case 93:
            raise StepError(
                f"the work area {build.root} on {where} belongs to another user",
                tail=words,
                hint="deploy as that user, or choose another build.root",
            )
        case None:
            raise ConnectionFailed(f"the connection to {where} broke before the worker started", tail=words)
        case _:
            raise StepError(f"the worker did not start on {where}: exit status {status}", tail=words)


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
        return os.read(self._process.stdout.fileno(), 1 << 16)

    def end(self) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            return self._process.wait(FAREWELL_SECONDS)
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
    """The worker over SSH: one connection, one channel."""

    def __init__(self, build: "Build", fabric_config: Any, argv: tuple[str, ...]) -> None:
        self._words = _LastWords()
        self._connections = connect(build, fabric_config)
        transport = self._connections[-1].transport
        try:
            self._channel = transport.open_session(timeout=CONNECT_SECONDS)
            if build.forward_agent:
                from paramiko.agent import AgentRequestHandler

                AgentRequestHandler(self._channel)
            self._channel.exec_command(shlex.join(argv))
        except Exception as error:
            self._close()
            raise ConnectionFailed(
                f"the build server {build.server} opened no session: {error}", hint="see MaxSessions in its sshd_config"
            ) from error
        self._listener = threading.Thread(
            target=lambda: self._words.listen(lambda: bytes(self._channel.recv_stderr(4096))), daemon=True
        )
        self._listener.start()

    def write(self, data: bytes) -> None:
        self._channel.sendall(data)

    def read(self) -> bytes:
        return bytes(self._channel.recv(1 << 16))

    def end(self) -> int | None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()
        self._channel.status_event.wait(FAREWELL_SECONDS)
        self._listener.join(1)
        status = self._channel.exit_status if self._channel.status_event.is_set() else None
        self._close()
        return status if status is not None and status >= 0 else None

    def _close(self) -> None:
        for connection in reversed(self._connections):
            with contextlib.suppress(Exception):
                connection.close()

    def last_words(self) -> tuple[str, ...]:
        return self._words.lines()


class _LastWords:
    def __init__(self) -> None:
        self._data = b""

    def listen(self, read: Callable[[], bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := read():
                self._data = (self._data + data)[-8192:]

    def lines(self) -> tuple[str, ...]:
        return tuple(self._data.decode("utf-8", "replace").splitlines()[-20:])


def connect(build: "Build", fabric_config: Any) -> list[Any]:
    """Open connections to the build server, gateways first, each with its host key checked. Raises ConnectionFailed."""
    import fabric

    if build.ssh_config is not None:
        path = Path(build.ssh_config).expanduser()
        if not path.is_file():
            raise UsageError(f"the file {path}, named by build.ssh_config, is not there")
        fabric_config = fabric.Config(runtime_ssh_path=str(path))
    elif not isinstance(fabric_config, fabric.Config):
        fabric_config = fabric.Config()
    options: dict[str, Any] = {"config": fabric_config}
    if build.gateway is not None:
        options["gateway"] = fabric.Connection(build.gateway, config=fabric_config)
    try:
        connection = fabric.Connection(build.server, **options)
    except (ValueError, KeyError) as error:
        # Fabric knows ForwardAgent's yes and no only.
        raise UsageError(f"ssh_config for {build.server} can't be used: {error}") from error
    hops = [connection]
    while isinstance(hops[0].gateway, fabric.Connection):
        hops.insert(0, hops[0].gateway)
    opened: list[Any] = []
    for hop in hops:
        try:
            _open(hop)
        except ConnectionFailed:
            for other in reversed(opened):
                other.close()
            raise
        opened.append(hop)
    return opened


def known_hosts_files(ssh_config: Any) -> list[Path]:
    """The files in which ssh would look for this host's key, as its ssh_config says; only those that exist."""
    user = ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    everyone = ssh_config.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2")
    paths = [Path(name).expanduser() for name in (*shlex.split(everyone), *shlex.split(user))]
    return [path for path in paths if path.is_file()]


def _open(connection: Any) -> None:
    """Open one hop. The key is checked against known_hosts before anything is said about ourselves."""
    import paramiko
    from paramiko.ssh_exception import NoValidConnectionsError

    client = connection.client
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    where = f"{connection.user}@{connection.host}:{connection.port}"
    scan = f"ssh-keyscan -p {connection.port} {connection.host} >> ~/.ssh/known_hosts"
    name = connection.host if connection.port == 22 else f"[{connection.host}]:{connection.port}"
    files = known_hosts_files(connection.ssh_config)
    if not connection.connect_timeout:
        connection.connect_timeout = CONNECT_SECONDS
    try:
        for path in files:
            client.load_system_host_keys(str(path))
        connection.open()
    except paramiko.BadHostKeyException as error:
        raise ConnectionFailed(
            f"the host key of {where} has CHANGED: it offers {error.key.get_name()} {fingerprint(error.key)}, and "
            f"known_hosts has {fingerprint(error.expected_key)}",
            hint="somebody may be in between. If the server was set up anew, ask its administrator for the new "
            f"fingerprint, then `ssh-keygen -R '{name}'` and `{scan}`",
        ) from error
    except paramiko.PasswordRequiredException as error:
        raise ConnectionFailed(
            f"the SSH key for {where} has a passphrase", hint="load it into ssh-agent with `ssh-add`"
        ) from error
    except paramiko.AuthenticationException as error:
        raise ConnectionFailed(
            f"{where} refused us: {error}",
            hint="is your key in its authorized_keys, and in your ssh-agent? `ssh "
            + where.rpartition(":")[0]
            + "` tells more",
        ) from error
    except (NoValidConnectionsError, socket.gaierror, TimeoutError, ConnectionError) as error:
        raise ConnectionFailed(
            f"{where} can't be reached: {error}", hint="check build.server, build.gateway and your network"
        ) from error
    except paramiko.SSHException as error:
        if "not found in known_hosts" in str(error):
            looked = ", ".join(str(path) for path in files) or "none of the known_hosts files exists"
            raise ConnectionFailed(
                f"the host key of {where} is unknown (looked in: {looked})",
                hint=f"compare its fingerprint with the administrator's, then `{scan}`",
            ) from error
        raise ConnectionFailed(f"{where}: no SSH connection: {error}", hint="does an sshd answer there?") from error
    except OSError as error:
        raise ConnectionFailed(
            f"{where} can't be reached: {error}", hint="check build.server and your network"
        ) from error
    except (ValueError, EOFError) as error:
        raise ConnectionFailed(f"{where}: no SSH connection: {error}") from error
    transport = connection.transport
    transport.set_keepalive(KEEPALIVE_SECONDS)
    # A gateway that can't reach the next hop would otherwise hold us for an hour.
    transport.channel_timeout = CONNECT_SECONDS
    if isinstance(transport.sock, socket.socket):
        # Without it each small message waits for the answer to the one before: 45 ms.
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def fingerprint(key: Any) -> str:
    """The key's fingerprint as ssh-keygen prints it."""
    import base64

    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
