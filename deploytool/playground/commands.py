"""Runs one command to its end: within its time, and with its last lines of output."""

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

#: How often a command that takes long is reported.
BEAT_SECONDS = 15.0
TAIL_LINES = 8
#: Of a line that quotes a command.
LONGEST_COMMAND = 160


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    #: None if its time ran out
    exit_code: int | None
    output: str

    @property
    def tail(self) -> tuple[str, ...]:
        return tuple(line for line in self.output.splitlines() if line.strip())[-TAIL_LINES:]

    @property
    def last(self) -> str:
        return self.tail[-1].strip() if self.tail else ""


def run_to_end(
    command: Sequence[str],
    *,
    seconds: float,
    cwd: Path | None = None,
    beat: Callable[[float, str], None] | None = None,
) -> Ended:
    """Run it without input. `beat` gets the elapsed seconds and the last line of output, every BEAT_SECONDS.

    When its time runs out, and when this is interrupted, it ends with all processes that it started. Raises OSError if
    it can't be started.
    """
    begin = time.monotonic()
    exit_code = None
    # A file and no pipe: a process that the command leaves behind may keep it open.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd, start_new_session=True
        )
        try:
            while exit_code is None and (left := begin + seconds - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    exit_code = process.wait(min(left, BEAT_SECONDS))
                    continue
                if beat is not None:
                    beat(time.monotonic() - begin, Ended(None, _text(output)).last)
        finally:
            if exit_code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return Ended(exit_code, _text(output))


def _text(output: IO[bytes]) -> str:
    # Where the command writes next is not changed by that.
    return os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0).decode(errors="replace")


def quoted(command: Sequence[str]) -> str:
    """The command as a person would type it; cut where it is long."""
    text = shlex.join(command)
    return text if len(text) <= LONGEST_COMMAND else f"{text[:LONGEST_COMMAND]} …"


def duration(seconds: float) -> str:
    """`45 s`, `15 min`"""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
