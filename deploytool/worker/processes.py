"""Processes on the build server: each in a group of its own, so that all of it can be ended at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

from .failure import Cancelled

#: Between SIGTERM and SIGKILL, so that a build tool can put its files in order.
GRACE_SECONDS = 5.0


def started_at(pid: int) -> Optional[str]:
    """When the process began, in the kernel's ticks since boot; None if there is no such process.

    Together with the pid it names a process for good: pids are used again.
    """
    try:
        with open("/proc/{}/stat".format(pid)) as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def end_group(group: int, grace_seconds: float = GRACE_SECONDS) -> None:
    """End every process of the group: SIGTERM first, SIGKILL when the grace is over. No such group: nothing to do."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(group, number)
            deadline = time.monotonic() + grace_seconds
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                if not _alive(group):
                    return
                time.sleep(0.05)


def _alive(group: int) -> bool:
    """False if all that is left of the group are zombies, which nobody can end."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/{}/stat".format(entry)) as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[2] == str(group) and fields[0] not in "ZX":
                return True
    return False


class Groups:
    """The process groups that are running now. Ending them is what Ctrl-C, SIGTERM and a lost connection come to.

    `changed` is called with pairs of group and start time whenever one begins or ends; the lock's file keeps them.
    """

    def __init__(self, changed: Callable[[List[List[Any]]], None]) -> None:
        self._changed = changed
        self._running: Dict[int, Optional[str]] = {}
        self._guard = threading.Lock()
        self.cancelled = threading.Event()
        self._why = ""

    def start(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
        """A process as the leader of a group of its own.

        The caller says `finished(process)` afterwards. stdin is closed unless one is given: the worker's own stdin is
        the operator's line.
        """
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(list(argv), start_new_session=True, **options)
        with self._guard:
            self._running[process.pid] = started_at(process.pid)
            self._changed(self._pairs())
            late = self.cancelled.is_set()
        if late:
            # It began while all was being ended, and is not on that list.
            end_group(process.pid)
        return process

    def finished(self, process: "subprocess.Popen[bytes]") -> None:
        with self._guard:
            self._running.pop(process.pid, None)
            self._changed(self._pairs())

    def _pairs(self) -> List[List[Any]]:
        return [[group, start] for group, start in self._running.items()]

    def refuse_if_cancelled(self, doing: str) -> None:
        """Raises Cancelled once `cancel` was called."""
        if self.cancelled.is_set():
            raise Cancelled(doing, self._why)

    def cancel(self, why: str) -> None:
        """End all that runs now; whatever waits for it raises Cancelled."""
        self._why = self._why or why
        self.cancelled.set()
        with self._guard:
            running = self._pairs()
        for group, _ in running:
            end_group(group)
