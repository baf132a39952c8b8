"""What is removed from Consul and from the build server because nobody needs it any more.

What to keep is decided by the operator's side; here it is made sure that nothing goes that is in use this very moment,
whatever was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from deploytool.text import ids

from . import locks, orders
from .announcement import deployment_of, is_open, refuse_impossible
from .bus import Bus
from .failure import Failure
from .inside import leads_out
from .own_isal import MARKER
from .reports import Fate, clear_reports
from .wire import Freed

#: Younger deployments and logs may be somebody's who is at it right now.
YOUNG_SECONDS = 3600.0
#: Manifests are large, and Consul keeps all of its keys in memory: those of a deployment that is over go after this.
MANIFEST_SECONDS = 600.0
#: An upload that takes longer is nobody's any more.
UPLOAD_SECONDS = 86400.0
#: The worker's file is touched whenever it is started.
WORKER_FILE_SECONDS = 30 * 86400.0

#: the worker's file, the same compiled by some version of Python, and what is left of one that was cut off half-way
WORKER_FILE = re.compile(r"[0-9a-f]{64}(\.[a-z0-9-]+)?\.pyz(\.\d+)?")


# --- Consul


def prune_deployments(
    bus: Bus, prefix: str, keep: Sequence[str], *, now: float, go_on: Callable[[], None]
) -> List[str]:
    """Remove the keys of deployments that are not in `keep`, not wanted by any host, and older than an hour.

    The manifests of those that no host wants go sooner. Returns the ids of those that were removed. None are while a
    wanted deployment still stands at its barrier: if it is aborted, an older one is wanted again. `now` is in seconds
    of this machine's clock; `go_on` raises to stop it.
    """
    names = bus.names(prefix + "/deployments/")
    wanted = _wanted(bus, prefix, keep, datetime.fromtimestamp(now, timezone.utc))
    if wanted is None:
        return []
    removed = []
    for name in sorted(names):
        age = _age_seconds(name, now)
        if age is None or name in wanted:
            continue
        go_on()
        if age > MANIFEST_SECONDS:
            bus.delete_all(orders.place(prefix, name))
        if age <= YOUNG_SECONDS or name in keep:
            continue
        bus.delete_all("{}/deployments/{}/".format(prefix, name))
        removed.append(name)
    return removed


def prune_reports(bus: Bus, prefix: str, keep: Sequence[str], *, now: float) -> Optional[str]:
    """Remove what hosts have reported of other deployments than those in `keep` and young ones, and what is no report.

    Returns a sentence about hosts that had filled their places, if there were any.
    """

    def fate(name: str) -> Fate:
        age = _age_seconds(name, now)
        if name in keep:
            return "stays"
        if age is None or age < -ids.AHEAD_SECONDS:
            return "foreign"
        return "stays" if age <= YOUNG_SECONDS else "over"

    return clear_reports(bus, prefix, fate)


def _wanted(bus: Bus, prefix: str, keep: Sequence[str], now: datetime) -> Optional[Set[str]]:
    """The deployments that hosts are meant to have, exceptions included; None while one of them may be taken back.

    Raises Failure for one that nobody can have made and the history, of which `keep` is the end, does not know.
    """
    # A list leaves out what the token may not read, without a word. This is refused, with a sentence.
    bus.get(prefix + "/wanted/.readable")
    top = prefix + "/wanted/"
    wanted = set()
    for entry in bus.list(top):
        if deployment_of(entry) not in keep:
            refuse_impossible(entry, now)
        name = entry.value.split(" ")[0].strip()
        wanted.add(name)
        role = entry.key[len(top) :].split("/")[0]
        go = bus.get("{}/deployments/{}/{}/go".format(prefix, name, role)) if ids.DEPLOYMENT.fullmatch(name) else None
        if go is not None and (is_open(go.value) or not go.value.startswith(("go ", "only "))):
            return None
    return wanted


def _age_seconds(deployment: str, now: float) -> Optional[float]:
    """How long ago the deployment began, by its id; None for what is no id."""
    if ids.DEPLOYMENT.fullmatch(deployment) is None:
        return None
    try:
        return now - ids.moment_of(deployment).timestamp()
    except ValueError:
        return None


# --- the build server


class Sweep:
    """Removes files, and counts what that frees. What can't be removed stops nothing else; `finish` tells of it."""

    def __init__(self) -> None:
        self.removed: List[str] = []
        self.freed_bytes = 0
        self._trouble: List[OSError] = []

    def is_inside(self, tree: str, path: str) -> bool:
        """Whether the path lies inside of the tree, links followed; a link that leads out is trouble."""
        found = leads_out(tree, path)
        if found is not None:
            reason = "a link leads to {}, out of {}, and is not followed".format(found[1], tree)
            self._trouble.append(OSError(errno.ELOOP, reason, found[0]))
        return found is None

    def file(self, path: str) -> None:
        with self._noting():
            size = os.lstat(path).st_size
            os.unlink(path)
            self.removed.append(path)
            self.freed_bytes += size

    def tree(self, path: str) -> None:
        with self._noting():
            if os.path.islink(path):
                # Not ours; what it leads to still less.
                os.unlink(path)
                self.removed.append(path)
                return
            size = 0
            for directory, directories, files in os.walk(path):
                for name in directories:
                    below = os.path.join(directory, name)
                    # An application's own directories may be closed to writing; links lead elsewhere.
                    if not os.path.islink(below):
                        os.chmod(below, stat.S_IRWXU)
                size += sum(os.lstat(os.path.join(directory, name)).st_size for name in files)
            shutil.rmtree(path)
            self.removed.append(path)
            self.freed_bytes += size

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            # Somebody else sweeps as well.
            pass
        except OSError as error:
            self._trouble.append(error)

    def finish(self) -> Freed:
        """What was removed and how many bytes that freed. Raises Failure if something could not be removed."""
        if self._trouble:
            first = self._trouble[0]
            more = len(self._trouble) - 1
            raise Failure(
                "step",
                "{}{} can't be removed on the build server: {}".format(
                    first.filename, " and {} more".format(more) if more else "", first.strerror or first
                ),
                hint="mend the rights there, or remove it by hand; all else that was due has been removed",
            )
        return Freed(self.removed, self.freed_bytes)


def prune_logs(sweep: Sweep, directory: str, keep: Sequence[str], newest: int, *, now: float) -> None:
    """Remove logs beyond the newest ones, but for those of releases in `keep`, young ones and ones being written."""
    for modified, path in sorted(_files(directory, ".log"), reverse=True)[max(newest, 0) :]:
        name = os.path.basename(path)[: -len(".log")]
        if name not in keep and now - modified > YOUNG_SECONDS and not _is_being_written(path):
            sweep.file(path)


def prune_worker_files(sweep: Sweep, directory: str, *, now: float) -> None:
    """Remove the worker's file of versions that nobody has started for 30 days, and compressors as old."""
    for modified, path in sorted(_files(directory, "")):
        if WORKER_FILE.fullmatch(os.path.basename(path)) and now - modified > WORKER_FILE_SECONDS:
            sweep.file(path)
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        # The marker is touched whenever it is chosen.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if now - os.stat(os.path.join(directory, name, MARKER)).st_mtime > WORKER_FILE_SECONDS:
                sweep.tree(os.path.join(directory, name))


def prune_unpacked(sweep: Sweep, directory: str, lock_path: str, holder: Optional[Dict[str, Any]]) -> None:
    """Remove what an interrupted migration left, if no other operator's is under way.

    `holder` is who takes the environment's lock for it; None if this worker holds it already.
    """
    if not os.path.lexists(directory):
        return
    if holder is None:
        sweep.tree(directory)
        return
    try:
        lock = locks.acquire(lock_path, holder)
    except Failure:
        return
    try:
        sweep.tree(directory)
    finally:
        lock.release()


def _files(directory: str, suffix: str) -> Iterator[Tuple[float, str]]:
    """When each was last written, in seconds, and its path."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(directory, name)
        with contextlib.suppress(FileNotFoundError):
            state = os.lstat(path)
            if name.endswith(suffix) and stat.S_ISREG(state.st_mode):
                yield state.st_mtime, path


def _is_being_written(path: str) -> bool:
    """Whoever writes a log holds a lock on it: a step may be silent for hours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # Then whatever stands in the way is told when it is removed.
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
