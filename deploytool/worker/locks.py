"""The locks of the build server: a flock held by this very process, so that none is ever stale.

The lock's file says who holds it, from where, since when and for what, and which process groups run under it: should
the worker itself be killed, the next holder ends those first.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from typing import Any, Callable, Dict, List, Optional

from deploytool.text.untrusted import read_json

from .failure import Failure
from .processes import end_group, started_at

#: Whoever looks who holds a lock takes it for a moment: nobody is refused for that.
GLANCE_SECONDS = 0.2


def sentence(holder: Dict[str, Any]) -> str:
    """The holder in words: who, from where, since when, for what."""
    return "{who} since {since}, for: {purpose} (process {pid} on the build server)".format(
        who=holder.get("operator", "somebody"),
        since=holder.get("since", "an unknown time"),
        purpose=holder.get("purpose", "an unknown purpose"),
        pid=holder.get("pid", "?"),
    )


def read_holder(path: str) -> Optional[Dict[str, Any]]:
    """What the lock's file says while the lock is held; None if it is free."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _content(descriptor)
        return None
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> Dict[str, Any]:
    # The holder rewrites the file in place while it holds the lock, so a reader may meet half of it.
    for _ in range(20):
        try:
            content = read_json(os.pread(descriptor, 65536, 0))
            if isinstance(content, dict):
                return content
        except ValueError:
            time.sleep(0.02)
    return {}


class Lock:
    """One held lock. Let go by `release`, or by the end of this process."""

    def __init__(self, path: str, descriptor: int, holder: Dict[str, Any]) -> None:
        self.path = path
        self._descriptor = descriptor
        self._holder = holder

    def note_groups(self, groups: List[List[Any]]) -> None:
        """Write down which process groups run under this lock now (pairs of group and start time)."""
        text = json.dumps({**self._holder, "groups": groups}).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def release(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def acquire(path: str, holder: Dict[str, Any], *, waiting: Optional[Callable[[Dict[str, Any]], bool]] = None) -> Lock:
    """The lock at `path`.

    Without `waiting`, a held lock is a Failure of kind `locked` that names the holder. With it, `waiting(holder)` is
    called about once a second until the lock is free; it returns False to give up.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    glance_ends = time.monotonic() + GLANCE_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waiting is None and time.monotonic() < glance_ends:
                    time.sleep(0.02)
                    continue
                current = _content(descriptor)
            if waiting is None or not waiting(current):
                raise Failure(
                    "locked",
                    "{} is locked by {}".format(os.path.basename(path), sentence(current)),
                    hint="wait for it to end; if it hangs, `fab ENV unlock` shows the holder and ends it",
                )
            time.sleep(1)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            for group, start in read_json(os.pread(descriptor, 65536, 0))["groups"]:
                if start is not None and started_at(group) == start:
                    end_group(group)
        lock = Lock(path, descriptor, holder)
        lock.note_groups([])
        return lock
    except BaseException:
        os.close(descriptor)
        raise


def break_lock(path: str, grace_seconds: float = 15.0) -> Optional[Dict[str, Any]]:
    """End the process that holds the lock, and all that runs under it; returns what it was, None if the lock was free.

    The holder is asked first (SIGTERM: it ends its steps, aborts what it announced, lets go), then killed.
    """
    holder = read_holder(path)
    if holder is None:
        return None
    pid = holder.get("pid")
    if not isinstance(pid, int) or started_at(pid) != holder.get("started"):
        raise Failure(
            "locked",
            "the lock {} is held, but its file does not name a living process".format(path),
            hint="find the holder on the build server with `fuser {}`".format(path),
        )
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline:
        if read_holder(path) is None:
            return holder
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for group, start in holder.get("groups", []):
        if start is not None and started_at(group) == start:
            end_group(group)
    return holder
