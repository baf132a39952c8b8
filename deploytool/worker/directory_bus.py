"""A directory in place of Consul, for pretend hosts on one machine: keys are files, and an event starts the receivers.

The key `a/b` is the file `a/b.value`, so that `a/b/c` has room beside it. Hosts write theirs by themselves (see
templates/host/directory.sh), so a file's identity is all that tells a change.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import time
from typing import Dict, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from .bus import KEYS_BYTES, Entry, Value, is_below_something
from .failure import Failure
from .findings import Findings
from .wire import Selector

#: What `deploy_to` of a pretend host begins with; the receiver puts the host's own directory in its place.
PRETEND_HOST = "/pretend/host"
LOOK_SECONDS = 0.05
#: Longer than anybody takes from making a file to giving it its name.
WRITING_SECONDS = 60.0
SUFFIX = ".value"


class DirectoryBus:
    """The same few calls as `Consul`. Pretend hosts are directories, by name, in `hosts/` beside the bus."""

    def __init__(self, address: str, receiver: List[str]) -> None:
        self.address = address
        self._root = urlsplit(address).path
        self._hosts = os.path.join(os.path.dirname(self._root), "hosts")
        self._receiver = receiver
        self._states: Dict[str, Tuple[Dict[str, int], int]] = {}
        #: how often keys were read; and key → its version at the last time, and when that was read first
        self._reads = 0
        self._seen: Dict[str, Tuple[int, int]] = {}

    def _path(self, key: str) -> str:
        return os.path.join(self._root, *key.split("/")) + SUFFIX

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            os.makedirs(self._root, exist_ok=True)
            descriptor = os.open(os.path.join(self._root, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Failure(
                "consul", "the directory {} can't be used as the bus: {}".format(self._root, error.strerror)
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def get(self, key: str) -> Optional[Entry]:
        try:
            with open(self._path(key), errors="replace") as file:
                state = os.fstat(file.fileno())
                return Entry(key, file.read().rstrip("\n"), _version(state))
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> List[Entry]:
        return [entry for key in self._keys(prefix) for entry in [self.get(key)] if entry is not None]

    def wait(self, prefix: str, *, index: int, wait_seconds: float) -> int:
        deadline = time.monotonic() + wait_seconds
        while (now := self._index(prefix)) == index and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        return now

    def _index(self, prefix: str) -> int:
        """A number that grows whenever a key below is another than when it was asked for last."""
        known, now = self._states.get(prefix, ({}, 0))
        versions = {}
        for key in self._keys(prefix):
            with contextlib.suppress(FileNotFoundError):
                versions[key] = _version(os.stat(self._path(key)))
        if versions != known or now == 0:
            now += 1
            self._states[prefix] = (versions, now)
        return now

    def keys(self, prefix: str) -> Optional[Tuple[List[str], int]]:
        index = self._index(prefix)
        names = sorted(self._states[prefix][0])
        return (names, index) if sum(map(len, names)) <= KEYS_BYTES else None

    def read(self, keys: Sequence[str], *, most_bytes: int) -> List[Value]:
        """When a key was written shows in when it was first read: clocks may be set back meanwhile."""
        self._reads += 1
        found = []
        for key in keys:
            with contextlib.suppress(FileNotFoundError), open(self._path(key), errors="replace") as file:
                state = os.fstat(file.fileno())
                version, written = self._seen.get(key, (0, 0))
                if version != _version(state):
                    written = self._reads
                    self._seen[key] = (_version(state), written)
                value = file.read().rstrip("\n") if state.st_size <= most_bytes else None
                found.append(Value(key, value, written))
        return found

    def _keys(self, prefix: str) -> List[str]:
        top = os.path.join(self._root, *prefix.split("/")[:-1])
        found = []
        for directory, _, files in os.walk(top):
            for name in files:
                if name.endswith(SUFFIX):
                    key = os.path.relpath(os.path.join(directory, name), self._root)[: -len(SUFFIX)]
                    if key.startswith(prefix):
                        found.append(key)
        return sorted(found)

    def put(self, key: str, value: str, *, expected_index: Optional[int] = None) -> bool:
        with self._alone():
            if not self._is_expected(key, expected_index):
                return False
            self._write(key, value)
            return True

    def put_all(self, writes: List[Tuple[str, str, int]]) -> bool:
        with self._alone():
            if not all(self._is_expected(key, expected_index) for key, _, expected_index in writes):
                return False
            for key, value, _ in writes:
                self._write(key, value)
            return True

    def _write(self, key: str, value: str) -> None:
        path = self._path(key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(path))
        with os.fdopen(descriptor, "w") as file:
            file.write(value)
        os.rename(beside, path)

    def delete(self, key: str, *, expected_index: Optional[int] = None) -> bool:
        with self._alone():
            if not self._is_expected(key, expected_index):
                return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(key))
            return True

    def names(self, prefix: str) -> List[str]:
        found = set()
        try:
            with os.scandir(os.path.join(self._root, *prefix.split("/"))) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        found.add(entry.name)
                    elif entry.name.endswith(SUFFIX):
                        found.add(entry.name[: -len(SUFFIX)])
        except (FileNotFoundError, NotADirectoryError):
            pass
        return sorted(found)

    def delete_all(self, prefix: str) -> None:
        """As in Consul; emptied directories go as well, but for one in which a host is writing at this moment.

        A host that made its directory just before it goes finds it gone: it reports once more, as it does to Consul.
        """
        if not is_below_something(prefix):
            raise ValueError("{!r} is no place below which all may be deleted".format(prefix))
        top = os.path.join(self._root, *prefix.split("/"))
        with self._alone():
            for directory, _, files in os.walk(top, topdown=False):
                for name in files:
                    path = os.path.join(directory, name)
                    with contextlib.suppress(FileNotFoundError):
                        # What is no value yet belongs to whoever is about to give it its name, unless he died over it.
                        if name.endswith(SUFFIX) or time.time() - os.lstat(path).st_mtime > WRITING_SECONDS:
                            os.unlink(path)
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def delete_places(self, prefixes: List[str]) -> None:
        for prefix in prefixes:
            self.delete_all(prefix)

    def delete_keys(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def _is_expected(self, key: str, expected_index: Optional[int]) -> bool:
        if expected_index is None:
            return True
        current = self.get(key)
        return (current.modified if current else 0) == expected_index

    def hosts(self, selector: Selector) -> Tuple[List[str], List[str]]:
        """Pretend hosts are up, and are named in the settings."""
        if not selector.nodes:
            chosen = {name: value for name, value in selector._asdict().items() if value}
            raise Failure(
                "consul",
                "pretend hosts have names and nothing else: {} chooses none".format(chosen),
                hint="with consul.address: file:///…, set roles.….hosts.nodes: [app1, app2]",
            )
        return sorted(selector.nodes), []

    def fire(self, name: str, payload: str, hosts: List[str]) -> str:
        """Start a receiver on each host. It outlives the worker, as a real host would."""
        for host in hosts:
            home = os.path.join(self._hosts, host)
            try:
                for directory in ("log", "tmp"):
                    os.makedirs(os.path.join(home, directory), exist_ok=True)
                with open(os.path.join(home, "log", name + ".log"), "ab") as log:
                    process = subprocess.Popen(
                        [*self._receiver, "--map", "{}={}".format(PRETEND_HOST, home)],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        cwd="/",
                        env={**os.environ, "DEPLOYTOOL_NODE": host, "TMPDIR": os.path.join(home, "tmp")},
                        start_new_session=True,
                    )
                assert process.stdin is not None
                process.stdin.write(payload.encode() + b"\n")
                process.stdin.close()
            except OSError as error:
                raise Failure(
                    "consul", "the receiver of the pretend host {} did not start: {}".format(host, error)
                ) from error
        return name

    def check(self, findings: Findings, prefix: str, probe: str, events: List[str], services: List[str]) -> None:
        def usable() -> str:
            with self._alone():
                return "directory {}, pretend hosts in {}".format(self._root, self._hosts)

        findings.attempt("Consul", usable)


def _version(state: os.stat_result) -> int:
    """A number that changes whenever the file is replaced; never 0, which stands for no file."""
    return hash((state.st_ino, state.st_mtime_ns, state.st_size)) or 1
