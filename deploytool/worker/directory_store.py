"""A store in a directory of the build server, `file:///dir`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from typing import IO, Callable, Iterator, List, Optional, Tuple
from urllib.parse import unquote, urlsplit

from . import multipart
from .failure import Failure
from .findings import Findings
from .store import Begun, already_there

#: What is written at once.
WRITE_BYTES = 1 << 20
#: Beside the object that it is going to be.
PART = ".part-"


class DirectoryStore:
    """See `Store`, whose methods these are."""

    def __init__(self, url: str) -> None:
        self._root = unquote(urlsplit(url).path)

    def _path(self, key: str) -> str:
        return os.path.join(self._root, *key.split("/"))

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Failure(
                "store",
                "{} in the store {} failed: {}".format(doing, self._root, error.strerror or error),
                hint="free some space there" if error.errno == errno.ENOSPC else "look at the directory's rights",
            ) from error

    def get(self, key: str) -> Optional[bytes]:
        """The object's content, None if there is none."""
        with self._faults("reading {}".format(key)):
            try:
                with open(self._path(key), "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return None

    def exists(self, key: str) -> bool:
        return os.path.exists(self._path(key))

    def put_new(self, key: str, content: bytes) -> bool:
        with self._faults("writing {}".format(key)), self._beside(key) as (file, path):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            return self._appear(path, key)

    @contextlib.contextmanager
    def _beside(self, key: str) -> Iterator[Tuple[IO[bytes], str]]:
        directory = os.path.dirname(self._path(key))
        os.makedirs(self._root, exist_ok=True)
        with self._directories(fcntl.LOCK_SH):
            os.makedirs(directory, exist_ok=True)
            descriptor, path = tempfile.mkstemp(prefix=PART, dir=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                yield file, path
        finally:
            os.unlink(path)

    @contextlib.contextmanager
    def _directories(self, how: int) -> Iterator[None]:
        """Nobody removes a directory for being empty while somebody else is about to put a file into it."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Some network file systems can't lock a directory: there it stays with hoping.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _appear(self, path: str, key: str) -> bool:
        try:
            os.link(path, self._path(key))
        except FileExistsError:
            return False
        return True

    def upload(self, key: str, source: multipart.Source, begun: Begun, go_on: Callable[[], None]) -> None:
        with self._faults("writing {}".format(key)), self._beside(key) as (file, path):
            begun(path)
            buffer = bytearray(WRITE_BYTES)
            while True:
                length = multipart.fill(source, buffer)
                file.write(memoryview(buffer)[:length])
                if length < len(buffer):
                    break
                go_on()
            file.flush()
            os.fsync(file.fileno())
            if not self._appear(path, key):
                raise already_there(key)

    def give_up(self, key: str, path: str) -> None:
        inside = os.path.dirname(path) == os.path.dirname(self._path(key))
        if inside and os.path.basename(path).startswith(PART):
            with self._faults("removing what was left of {}".format(key)), contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._remove_empty_above(key)

    def remove_unfinished(self, prefix: str, before: float) -> List[str]:
        removed = []
        with self._faults("removing unfinished uploads"):
            for directory, _, files in os.walk(self._path(prefix.rstrip("/"))):
                for name in files:
                    path = os.path.join(directory, name)
                    with contextlib.suppress(FileNotFoundError):
                        if name.startswith(PART) and os.lstat(path).st_mtime < before:
                            os.unlink(path)
                            removed.append(os.path.relpath(path, self._root).replace(os.sep, "/"))
        for key in removed:
            self._remove_empty_above(key)
        return removed

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        with self._faults("reading {}".format(key)):
            file = open(self._path(key), "rb")  # noqa: SIM115
        with file:
            yield file

    def first(self, prefix: str) -> Tuple[List[str], bool]:
        return self.list(prefix), True

    def directories(self, prefix: str) -> List[str]:
        with self._faults("listing {}".format(prefix)):
            try:
                with os.scandir(self._path(prefix.rstrip("/"))) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except FileNotFoundError:
                return []

    def list(self, prefix: str, beyond: str = "") -> List[str]:
        top = self._path(prefix.rstrip("/"))
        found = []
        with self._faults("listing {}".format(prefix)):
            for directory, _, files in os.walk(top):
                for name in files:
                    if not name.startswith(PART):
                        path = os.path.join(directory, name)
                        found.append(os.path.relpath(path, self._root).replace(os.sep, "/"))
        return sorted(key for key in found if key > beyond)

    def delete(self, key: str) -> None:
        """Delete the object, and the directories that this leaves empty. One that is gone already is no error."""
        with self._faults("deleting {}".format(key)), contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))
        self._remove_empty_above(key)

    def _remove_empty_above(self, key: str) -> None:
        # Whatever is not empty, or gone already, ends it; the store itself stays.
        with contextlib.suppress(OSError), self._directories(fcntl.LOCK_EX):
            while "/" in key:
                key = key.rpartition("/")[0]
                os.rmdir(self._path(key))

    def check(self, findings: Findings) -> None:
        def usable() -> str:
            with self._faults("writing"):
                os.makedirs(self._root, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._root) as file:
                    file.write(b"deploytool")
                free = shutil.disk_usage(self._root).free
            return "directory {}, {} MB free".format(self._root, free >> 20)

        findings.attempt("store", usable)
