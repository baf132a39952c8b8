"""Runs one step of a build: a script under `bash -euo pipefail`, its whole output in the log, its end on the screen."""

from __future__ import annotations

import codecs
import collections
import contextlib
import fcntl
import os
import selectors
import subprocess
import tempfile
import time
from typing import Callable, Deque, List, Tuple, Union

from deploytool.text import ids
from deploytool.text.masking import Masking

from .failure import Failure
from .processes import Groups, end_group
from .wire import StepEnd

TAIL_LINES = 20
#: So much of a line is shown; the log has all of it.
SHOWN_CHARACTERS = 500
#: A line longer than this is shown and masked in pieces; it bounds the worker's memory.
LINE_BYTES = 64 * 1024
#: Lines travel to the operator's screen at most this often: 50 MB of output must not cross the wire.
PROGRESS_SECONDS = 0.2
#: A daemon that a step left behind may hold its output open; once the step has ended, it is waited for this long.
LINGER_SECONDS = 1.0


class Log:
    """The log of one run of deploytool, `logs/<release>.log` once the release has a name. All of it is masked."""

    def __init__(self, directory: str, name: str, masking: Masking) -> None:
        os.makedirs(directory, exist_ok=True)
        self._directory = directory
        self.masking = masking
        self.path = os.path.join(directory, name + ".log")
        self._file = os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb")
        # Says to retention that it is in use, for as long as we live.
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def rename(self, name: str) -> None:
        path = os.path.join(self._directory, name + ".log")
        os.rename(self.path, path)
        self.path = path

    def write(self, line: str) -> None:
        """Append one line."""
        self.append(self.masking.text(line) + "\n")

    def append(self, masked: str) -> None:
        """Append whole lines, which are masked already."""
        self._file.write(masked.encode("utf-8", "replace"))

    def flush(self) -> None:
        self._file.flush()


class NoLog:
    """In place of a log where nothing may be written."""

    path = None

    def __init__(self, masking: Masking) -> None:
        self.masking = masking

    def write(self, line: str) -> None:
        """Nothing is kept."""

    def append(self, masked: str) -> None:
        """Nothing is kept."""

    def flush(self) -> None:
        """Nothing waits."""


class Lines:
    """Bytes in, whole masked lines out, as one text; half a character or half a line waits for the rest.

    As one text, since a command may print millions of lines in a second: nothing is done for each of them.
    A line that grows too long is cut, and never inside a secret: what might be the beginning of one waits as well.
    """

    def __init__(self, masking: Masking) -> None:
        self._masking = masking
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes, final: bool = False) -> str:
        """The lines that are whole with these bytes, each with its end; empty if none is."""
        # Progress bars draw over themselves with a carriage return: each drawing is a line.
        text = self._rest + self._decoder.decode(data, final).replace("\r\n", "\n").replace("\r", "\n")
        whole, end, self._rest = text.rpartition("\n")
        if final and self._rest:
            whole, end, self._rest = text, "\n", ""
        masked = self._masking.text(whole) + end
        if len(self._rest) > LINE_BYTES + self._masking.longest:
            rest = self._masking.text(self._rest)
            cut = len(rest) - max(self._masking.longest - 1, 0)
            masked += rest[:cut] + "\n"
            self._rest = rest[cut:]
        return masked


class Tail:
    """The last lines of a step's output, for the operator's screen: few, and none of them long."""

    def __init__(self) -> None:
        self._lines: Deque[str] = collections.deque(maxlen=TAIL_LINES)

    def add(self, lines: str) -> None:
        """Whole lines, each with its end."""
        if lines:
            self._lines.extend(lines[:-1].rsplit("\n", TAIL_LINES)[-TAIL_LINES:])

    @property
    def lines(self) -> List[str]:
        return [
            line if len(line) <= SHOWN_CHARACTERS else "{} … ({} characters)".format(line[:SHOWN_CHARACTERS], len(line))
            for line in self._lines
        ]


def _above_ten(descriptor: int) -> int:
    """The same file under a number that can't collide with the step's own 3."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


def _nameless_file(called: str) -> int:
    """A file in memory; on the disk where Python was built without that."""
    try:
        return os.memfd_create(called)
    except AttributeError:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def run_step(
    name: str,
    script: str,
    *,
    timeout_seconds: float,
    log: Union[Log, NoLog],
    groups: Groups,
    progress: Callable[[str], None],
) -> StepEnd:
    """Run the script and wait for it.

    Raises Cancelled if the operator interrupted, Failure if bash or the disk is missing.
    """
    log.write("==> {} {}".format(ids.recorded(ids.now()), name))
    said = _Said(log, progress)
    process, results = _launch(name, script, groups)
    try:
        timed_out = _follow(process, results, said, timeout_seconds)
    finally:
        os.close(results)
    exit_code = process.wait()
    groups.finished(process)
    if exit_code < 0:
        exit_code = 128 - exit_code
    log.write("<== {} ended with exit status {}".format(name, exit_code))
    log.flush()
    groups.refuse_if_cancelled("running the step {}".format(name))
    return StepEnd(exit_code, _result_lines(said.results), said.tail.lines, timed_out, log.path)


def _launch(name: str, script: str, groups: Groups) -> "Tuple[subprocess.Popen[bytes], int]":
    """The script's process, and where its results are read."""
    # The script goes in through a file of no name: on a command line every user of the machine could read it.
    source = _above_ten(_nameless_file("deploytool-" + name))
    with os.fdopen(os.dup(source), "wb") as file:
        file.write(script.encode())
    result_read, write_end = os.pipe()
    result_write = _above_ten(write_end)
    try:
        launcher = 'exec 3>&"$1"; exec bash -euo pipefail "/dev/fd/$2"'
        process = groups.start(
            ["bash", "-c", launcher, "bash", str(result_write), str(source)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(result_write, source),
            # Debian's bash reads ~/.bashrc when it seems to be the first shell under sshd; ours is not the first.
            env={**os.environ, "SHLVL": "2"},
        )
    except FileNotFoundError:
        os.close(result_read)
        raise Failure("step", "bash is not installed on the build server", hint="install bash there") from None
    finally:
        os.close(result_write)
        os.close(source)
    return process, result_read


class _Said:
    """What a step has said so far, and whoever is shown it."""

    def __init__(self, log: Union[Log, NoLog], progress: Callable[[str], None]) -> None:
        self.tail = Tail()
        self.results = bytearray()
        self._log = log
        self._progress = progress
        self._lines = Lines(log.masking)
        self._shown = 0.0

    def take(self, data: bytes, final: bool = False) -> None:
        """Some of its output."""
        whole = self._lines.feed(data, final=final)
        self._log.append(whole)
        self.tail.add(whole)

    def show(self, now: float) -> None:
        if now - self._shown >= PROGRESS_SECONDS and self.tail.lines:
            self._shown = now
            self._log.flush()
            self._progress(self.tail.lines[-1])


def _follow(process: "subprocess.Popen[bytes]", results: int, said: _Said, timeout_seconds: float) -> bool:
    """Read all that the step says, until it has ended or its time is over; returns whether it was."""
    assert process.stdout is not None
    begin, ended, timed_out = time.monotonic(), None, False
    with process.stdout, selectors.DefaultSelector() as selector:
        for descriptor in (process.stdout.fileno(), results):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(timeout=0.1):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == results:
                    said.results += data
                else:
                    said.take(data)
            now = time.monotonic()
            said.show(now)
            if ended is None and process.poll() is not None:
                ended = now
            if ended is not None and now - ended > LINGER_SECONDS:
                break
            if ended is None and not timed_out and now - begin > timeout_seconds:
                timed_out = True
                end_group(process.pid)
    said.take(b"", final=True)
    return timed_out


def _result_lines(results: bytearray) -> List[str]:
    """The lines of what a script said. A line feed ends one and nothing else does: Unicode has more such characters,
    and a commit's subject may hold them, which must not say a result of its own.
    """
    return results.decode("utf-8", "replace").split("\n")[: -1 if results.endswith(b"\n") else None]
