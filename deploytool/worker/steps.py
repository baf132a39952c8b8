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
from typing import Any, Callable, Deque, Dict, List, Optional, Union

from .failure import Failure
from .masking import Masking
from .processes import Groups, end_group

TAIL_LINES = 20
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

    def write(self, line: str) -> str:
        """Append one line; returns it as it was written, masked."""
        masked = self.masking.text(line)
        self._file.write(masked.encode("utf-8", "replace") + b"\n")
        return masked

    def flush(self) -> None:
        self._file.flush()


class NoLog:
    """In place of a log where nothing may be written: lines are masked all the same."""

    path = None

    def __init__(self, masking: Masking) -> None:
        self.masking = masking

    def write(self, line: str) -> str:
        return self.masking.text(line)

    def flush(self) -> None:
        """Nothing waits."""


class Lines:
    """Bytes in, whole masked lines out; half a character or half a line waits for the rest.

    A line that grows too long is cut, and never inside a secret: what might be the beginning of one waits as well.
    """

    def __init__(self, masking: Masking) -> None:
        self._masking = masking
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes, final: bool = False) -> List[str]:
        # Progress bars draw over themselves with a carriage return: each drawing is a line.
        text = self._rest + self._decoder.decode(data, final).replace("\r\n", "\n").replace("\r", "\n")
        *whole, self._rest = text.split("\n")
        lines = [self._masking.text(line) for line in whole]
        if final:
            if self._rest:
                lines.append(self._masking.text(self._rest))
            self._rest = ""
        elif len(self._rest) > LINE_BYTES + self._masking.longest:
            masked = self._masking.text(self._rest)
            cut = len(masked) - max(self._masking.longest - 1, 0)
            lines.append(masked[:cut])
            self._rest = masked[cut:]
        return lines


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
) -> Dict[str, Any]:
    """Run the script and wait for it.

    Returns exit_code (128 + the signal's number for one that was killed), results (what the script wrote to file
    descriptor 3, in lines), tail (the last lines of output), timed_out, seconds and the log's path (None
    without a log). Raises Cancelled if the operator interrupted, Failure if bash or the disk is missing.
    """
    begin = time.monotonic()
    log.write("==> {} {}".format(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), name))
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
    tail: Deque[str] = collections.deque(maxlen=TAIL_LINES)
    results = bytearray()
    timed_out = False
    shown = 0.0
    lines = Lines(log.masking)
    assert process.stdout is not None
    output = process.stdout.fileno()
    ended: Optional[float] = None
    with selectors.DefaultSelector() as selector:
        for descriptor in (output, result_read):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(timeout=0.1):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == result_read:
                    results += data
                else:
                    for line in lines.feed(data):
                        tail.append(log.write(line))
            now = time.monotonic()
            if tail and now - shown >= PROGRESS_SECONDS:
                shown = now
                log.flush()
                progress(tail[-1])
            if ended is None and process.poll() is not None:
                ended = now
            if ended is not None and now - ended > LINGER_SECONDS:
                break
            if ended is None and not timed_out and now - begin > timeout_seconds:
                timed_out = True
                end_group(process.pid)
    for line in lines.feed(b"", final=True):
        tail.append(log.write(line))
    exit_code = process.wait()
    groups.finished(process)
    process.stdout.close()
    os.close(result_read)
    if exit_code < 0:
        exit_code = 128 - exit_code
    log.write("<== {} ended with exit status {}".format(name, exit_code))
    log.flush()
    groups.refuse_if_cancelled("running the step {}".format(name))
    return {
        "exit_code": exit_code,
        "results": _result_lines(results),
        "tail": list(tail),
        "timed_out": timed_out,
        "seconds": round(time.monotonic() - begin, 3),
        "log": log.path,
    }


def _result_lines(results: bytearray) -> List[str]:
    """The lines of what a script said. A line feed ends one and nothing else does: Unicode has more such characters,
    and a commit's subject may hold them, which must not say a result of its own.
    """
    return results.decode("utf-8", "replace").split("\n")[: -1 if results.endswith(b"\n") else None]
