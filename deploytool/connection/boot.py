"""How the worker gets to the build server and starts there: one file, sent once per version, checked by its hash."""

import base64
import contextlib
import hashlib
import io
import json
import shlex
import sys
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from deploytool.connection.channel import Channel, LocalChannel
from deploytool.connection.ssh import Connecting
from deploytool.errors import ConnectionFailed, DeployError, StepError

if TYPE_CHECKING:
    from deploytool.settings import Build

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
    UNSAFE = 93
    BAD_TRANSFER = 94
    NO_SPACE = 95
    NOT_WRITABLE = 96
    NO_MEMORY_FILE = 97


#: Finding and booting need the standard library alone: without the rest (-I -S) Python starts in a third of the time,
#: and nothing in the home directory is taken for a module. The worker itself is started with all of it, for boto3.
#: The whole command is one line and has no `!`, as the login shell reads it first: csh takes neither within quotes.
FIND_PYTHON = (
    'for python in "$5" python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do '
    'if [ -n "$python" ] && "$python" -ISB -c "import sys; sys.exit(sys.version_info < (3, 8))" 2>/dev/null; then '
    'exec "$python" -ISB -c "import sys, zlib, base64; exec(zlib.decompress(base64.b64decode(sys.argv.pop())))" '
    '"$1" "$2" "$3" "$6" "$4"; fi; done; exit 91'
)

#: Runs on the server: takes the worker's one file from stdin unless it is there, and becomes the worker. It says
#: `need` or `ready`, and `ready` after `need` when the file is there; or `unsafe`, with a sentence and a hint, before
#: anything is run from there. A file that is used is touched: retention removes those that nobody has used for long.
#: The same with compiled modules is preferred if the worker has kept it, and it is whole (`worker/compiled.py`). One
#: that may write nothing (`read-only`) keeps the file in memory instead, and has Python leave no compiled modules
#: anywhere.
RECEIVE_WORKER = (
    (Path(__file__).parents[1] / "worker/strict.py").read_text("utf-8")
    + """
import errno, hashlib, json, os, sys
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
    refuse_unsafe_way(root, shared=True)
    if not read_only:
        os.makedirs(home, exist_ok=True)
    # In a sticky directory another user may have been quicker.
    refuse_unsafe_area(home)
except Unsafe as unsafe:
    say("unsafe " + json.dumps(unsafe.args))
    sys.exit(93)
except OSError as error:
    refuse(error, 92)
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
)


def worker_archive() -> bytes:
    """The worker as one file that Python runs. Equal sources give equal bytes."""
    buffer = io.BytesIO()
    package = Path(__file__).parents[1]
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
    script = base64.b64encode(zlib.compress(RECEIVE_WORKER.encode(), 9)).decode()
    return ("sh", "-c", FIND_PYTHON, "deploytool", root, digest, str(size_bytes), script, python, mode)


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
    channel: Channel
    if build.is_local:
        channel = LocalChannel(boot_command(build.root, digest, len(archive), sys.executable, read_only=read_only))
    else:
        command = boot_command(build.root, digest, len(archive), read_only=read_only)
        channel = (connecting or Connecting(build)).channel(command)
    return channel, boot(channel, build, archive)


def boot(channel: Channel, build: "Build", archive: bytes) -> Callable[[], bytes]:
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
            elif word.startswith("unsafe "):
                channel.end(SHORT_FAREWELL_SECONDS)
                sentence, hint = json.loads(word.partition(" ")[2])
                raise ConnectionFailed(f"{where} can't be used safely: {sentence}", hint=hint)
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
            hint="check whether it is overloaded, or a login script there waits for input",
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


#: exit status → what it says of a build server, and what to do; `{root}` is build.root
_REFUSALS: Mapping[int, tuple[str, str]] = {
    Refusal.NO_PYTHON: (
        "{where} has no Python 3.8 or newer in its PATH",
        "install python3 there (on Debian: `apt install python3`)",
    ),
    Refusal.NO_ROOT: (
        "the work area {root} can't be created on {where}",
        "choose another `build.root`, or fix the permissions there",
    ),
    Refusal.NO_SPACE: (
        "the work area {root} can't be written on {where}: no space left on the device",
        "free some space or raise the quota there (see `df -h {quoted}` and `df -i`), or choose another `build.root`",
    ),
    Refusal.NOT_WRITABLE: (
        "the work area {root} can't be written on {where}",
        "fix the permissions there, or choose another `build.root`",
    ),
    Refusal.NO_MEMORY_FILE: (
        "the worker fits neither into memory nor into a temporary file on {where}",
        "free some memory there, or some space in TMPDIR",
    ),
}


def _refused(build: "Build", status: int | None, words: tuple[str, ...]) -> DeployError:
    """Why the worker did not start, from its exit status."""
    where = f"the build server {build.server}"
    if status is None:
        return ConnectionFailed(f"the connection to {where} broke before the worker started", tail=words)
    if status == Refusal.BAD_TRANSFER:
        return ConnectionFailed(
            f"the worker arrived incomplete on {where}", tail=words, hint="run the same command again"
        )
    if status in _REFUSALS:
        known = {"where": where, "root": build.root, "quoted": shlex.quote(build.root)}
        message, hint = (text.format_map(known) for text in _REFUSALS[status])
        return StepError(message, tail=words, hint=hint)
    return StepError(f"the worker did not start on {where}: exit status {status}", tail=words)
