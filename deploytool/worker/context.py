"""What a worker holds for its operator: settings of the run, secrets, locks, running processes, store and bus."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

from deploytool.text import ids
from deploytool.text.masking import Masking

from . import compressors, locks, ownership, steps, wire
from .bus import Bus
from .consul import Consul
from .directory_bus import DirectoryBus
from .directory_store import DirectoryStore
from .processes import Groups, started_at
from .s3_store import S3Store
from .store import Store

#: What a request tells before its answer: one of `wire.EVENTS`.
Tell = Callable[[Any], None]


class Context:
    """One operator's. `hello` is what the request of that name has said."""

    def __init__(self, *, read_only: bool) -> None:
        self.hello: wire.Greeting
        self.read_only = read_only
        #: the work area of the application
        self.root = ""
        self.masking = Masking()
        self.locks: Dict[str, locks.Lock] = {}
        self.groups = Groups(self._note_groups)
        self.log: Optional[steps.Log] = None
        self.compressor = compressors.Compressor("none", None)
        #: None until it was first needed
        self.store_client: Optional[Store] = None
        self._bus_client: Optional[Bus] = None
        #: key → text of the manifests that were put into the store
        self.stored: Dict[str, str] = {}
        #: whether the store is this application's, or nobody's yet; None until it was looked at
        self._store_owned: Optional[bool] = None
        #: what is made at its first use is made once, though several requests may need it at the same time
        self._store_guard, self._bus_guard, self._log_guard = threading.Lock(), threading.Lock(), threading.Lock()

    @property
    def bus(self) -> Bus:
        return self.open_bus()

    def open_bus(self) -> Bus:
        with self._bus_guard:
            if self._bus_client is None:
                settings = self.hello.consul
                if settings.address is not None and settings.address.startswith("file:"):
                    self._bus_client = DirectoryBus(settings.address, settings.receiver or [])
                else:
                    consul = Consul(settings)
                    self.masking.learn(consul.secrets)
                    self._bus_client = consul
            return self._bus_client

    @property
    def python_directory(self) -> str:
        """Where the worker keeps packages of its own."""
        return os.path.join(os.path.dirname(self.root), ".worker")

    @property
    def store(self) -> Store:
        """The store, for reading: this application's, or nobody's yet. Raises Failure if it is another's."""
        with self._store_guard:
            if self.store_client is None:
                self.store_client = self._open_store(read_only=self.read_only)
            if self._store_owned is None:
                self._store_owned = ownership.is_owned(self.store_client, *self._store_and_application)
            return self.store_client

    @property
    def own_store(self) -> Store:
        """The store, for writing and deleting: from now on this application's."""
        store = self.store
        with self._store_guard:
            if not self._store_owned:
                ownership.claim(store, *self._store_and_application)
                self._store_owned = True
        return store

    @property
    def _store_and_application(self) -> Tuple[str, str]:
        return self.hello.store.url, self.hello.application

    def _open_store(self, *, read_only: bool) -> Store:
        if self.hello.store.url.startswith("file:"):
            return DirectoryStore(self.hello.store.url)
        return S3Store(self.hello.store, self.python_directory, self.groups, read_only=read_only)

    def prepare_store(self) -> None:
        """Have the client ready when the first request for the store comes: boto3 takes a while to import.

        What goes wrong is tried again then, and told; boto3 is installed then as well, if it has to be.
        """
        with self._store_guard:
            if self.store_client is None:
                with contextlib.suppress(Exception):
                    self.store_client = self._open_store(read_only=True)

    @property
    def prefix(self) -> str:
        return "deploytool/{}/{}".format(self.hello.application, self.hello.environment)

    def lock_path(self, name: str) -> str:
        return os.path.join(self.root, "locks", name)

    def holder(self) -> Dict[str, Any]:
        return {
            "operator": self.hello.operator,
            "environment": self.hello.environment,
            "purpose": self.hello.purpose,
            "since": ids.recorded(ids.now()),
            "pid": os.getpid(),
            "started": started_at(os.getpid()),
        }

    def _note_groups(self, running: List[List[Any]]) -> None:
        for lock in list(self.locks.values()):
            lock.note_groups(running)

    def current_log(self) -> steps.Log:
        with self._log_guard:
            if self.log is None:
                name = "{}-{}-{}".format(ids.compact(ids.now()), self.hello.environment, os.getpid())
                self.log = steps.Log(os.path.join(self.root, "logs"), name, self.masking)
            return self.log
