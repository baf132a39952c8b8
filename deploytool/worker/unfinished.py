"""A journal of the uploads under way, in the work area: what a killed worker left in the store is removed by the next.

Each upload has a file, written before its first part. Whoever is at it holds a lock on that file, which the kernel
frees when he dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import Iterator, Optional

from deploytool.text.untrusted import read_json

from .failure import Failure
from .store import Store


class Journal:
    """The uploads from this work area to one store, which its `store` names."""

    def __init__(self, directory: str, store: str) -> None:
        self._directory = directory
        self._store = store

    @contextlib.contextmanager
    def entry(self) -> Iterator["Entry"]:
        """For one upload. Its file stays if that fails: the next publish makes sure that nothing is left of it."""
        entry = Entry(self._directory, self._store)
        try:
            yield entry
            entry.remove()
        finally:
            entry.close()

    def remove_left(self, store: Store) -> None:
        """Have the store forget the uploads of workers that are gone. What it refuses is tried again the next time."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            path = os.path.join(self._directory, name)
            with contextlib.suppress(OSError, Failure), open(path, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    told = read_json(file.read())
                    where, key, upload = told["store"], str(told["key"]), str(told["upload"])
                except (ValueError, LookupError, TypeError):
                    # Its writer died over it, before the first part.
                    os.unlink(path)
                    continue
                if where == self._store:
                    store.give_up(key, upload)
                    os.unlink(path)


class Entry:
    """One upload's file; there is none until it has begun."""

    def __init__(self, directory: str, store: str) -> None:
        self._directory = directory
        self._store = store
        self._path = os.path.join(directory, "{}-{}.json".format(os.getpid(), os.urandom(8).hex()))
        self._descriptor: Optional[int] = None

    def begin(self, key: str, upload: str) -> None:
        """Write down what the store calls the upload."""
        os.makedirs(self._directory, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        os.write(self._descriptor, json.dumps({"store": self._store, "key": key, "upload": upload}).encode())

    def remove(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
