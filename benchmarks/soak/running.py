"""Runs one `fab` command to its end; what it cost, as the kernel counts it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.watching import CommandFailed, ProcessWatch
from tests.support.project import Project

LIMIT_SECONDS = 3_600.0
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Finished:
    """One command. The operator's time by `wait4`; the worker, which is sshd's child, as it was last seen."""

    pid: int
    code: int
    out: str
    err: str
    seconds: float
    operator_cpu_seconds: float
    operator_peak_mb: float
    worker_cpu_seconds: float
    worker_peak_mb: float
    #: of what the worker runs, the largest
    programs_peak_mb: float
    #: what the worker had open when it was seen last
    worker_open_files: int

    @property
    def json(self) -> Mapping[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def screen_kilobytes(self) -> float:
        """What the operator had to read, on both streams."""
        return (len(self.out.encode()) + len(self.err.encode())) / 1e3


class Running:
    """A `fab` command under way."""

    def __init__(self, project: Project, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        # Files, not pipes: nobody has to read them while it runs.
        self._texts = [project.directory / f".{'-'.join(arguments[:2])}.{name}" for name in ("out", "err")]
        with self._texts[0].open("wb") as out, self._texts[1].open("wb") as err:
            self._begin = time.monotonic()
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / "fab"), *arguments],
                cwd=project.directory,
                env={**project.environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._arguments = arguments
        self._watch = ProcessWatch(self.pid, project.playground.build_root)

    @property
    def pid(self) -> int:
        return self._process.pid

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def screen(self) -> str:
        """What it has said on stderr so far."""
        return self._texts[1].read_text(errors="replace")

    def end(self, limit_seconds: float = LIMIT_SECONDS) -> Finished:
        """Wait for its end. Raises CommandFailed if that does not come."""
        deadline = time.monotonic() + limit_seconds
        try:
            while True:
                pid, status, spent = os.wait4(self.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() > deadline:
                    raise CommandFailed(f"fab {' '.join(self._arguments)} did not end:\n{self.screen()[-2_000:]}")
                time.sleep(POLL_SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            raise
        finally:
            seconds = time.monotonic() - self._begin
            self._watch.close()
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return Finished(
            pid=self.pid,
            code=self._process.returncode,
            out=self._texts[0].read_text(errors="replace"),
            err=self.screen(),
            seconds=seconds,
            operator_cpu_seconds=spent.ru_utime + spent.ru_stime,
            # Not `ru_maxrss`: that begins with what this process had when it was forked.
            operator_peak_mb=self._watch.peaks_mb["operator"],
            worker_cpu_seconds=self._watch.worker_cpu_seconds,
            worker_peak_mb=self._watch.peaks_mb["worker"],
            programs_peak_mb=self._watch.peaks_mb["programs"],
            worker_open_files=self._watch.worker_open_files,
        )


def run(project: Project, *arguments: str, env: Mapping[str, str] | None = None, code: int = 0) -> Finished:
    """`fab ARGUMENTS`, which must end with that exit code. Raises CommandFailed."""
    finished = Running(project, arguments, env).end()
    if finished.code != code or "Traceback" in finished.err:
        raise CommandFailed(
            f"fab {' '.join(arguments)}: exit code {finished.code}\n{finished.out[-3_000:]}\n{finished.err[-3_000:]}"
        )
    return finished
