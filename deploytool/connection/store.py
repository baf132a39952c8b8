"""The store, as a command reaches it: through the worker, a method for each request."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploytool.connection.client import Asked, Pending, Worker
from deploytool.worker import wire


@dataclass(frozen=True, slots=True)
class StoreClient:
    """Each method asks without waiting: what is asked in a row costs one round trip together. See `Worker.start`."""

    _worker: Worker

    def get(self, key: str) -> Pending[wire.Content]:
        return self._worker.start("store_get", key=key, kind=wire.Content)

    def read(self, keys: Sequence[str]) -> Pending[wire.Contents]:
        return self._worker.start("store_read", keys=list(keys), kind=wire.Contents)

    def exists(self, key: str, *, after: Asked | None = None) -> Pending[wire.Exists]:
        """What comes after this is done only if it exists."""
        return self._worker.start("store_exists", key=key, after=after, expect={"exists": True}, kind=wire.Exists)

    def put(self, entries: Sequence[tuple[str, str]], *, after: Asked | None = None) -> Pending[wire.Existed]:
        """Write each key with its text, in this order; what exists already stays as it is."""
        return self._worker.start("store_put", entries=list(entries), after=after, kind=wire.Existed)

    def put_new(self, key: str, text: str) -> Pending[wire.Existed]:
        """The same for one key. What comes after this is done only if it is new."""
        return self._worker.start("store_put", entries=[(key, text)], expect={"existed": []}, kind=wire.Existed)

    def list(self, prefix: str, beyond: str = "", *, after: Asked | None = None) -> Pending[wire.Keys]:
        """The keys below a prefix; with `beyond`, those only that come after it."""
        return self._worker.start("store_list", prefix=prefix, beyond=beyond, after=after, kind=wire.Keys)

    def directories(self, prefix: str, *, after: Asked | None = None) -> Pending[wire.Names]:
        """The names right below a prefix that have keys below them."""
        return self._worker.start("store_directories", prefix=prefix, after=after, kind=wire.Names)

    def newest(
        self,
        prefix: str,
        patterns: Sequence[tuple[str, int | None]],
        since: Sequence[str],
        *,
        read: bool = True,
        after: Asked | None = None,
    ) -> Pending[wire.Newest]:
        """See `StoreRequests.store_newest`."""
        return self._worker.start(
            "store_newest",
            prefix=prefix,
            patterns=[list(each) for each in patterns],
            since=list(since),
            read=read,
            after=after,
            kind=wire.Newest,
        )

    def built(self, key: str) -> Pending[wire.BuiltRecord]:
        return self._worker.start("store_built", key=key, kind=wire.BuiltRecord)

    def delete(self, keys: Sequence[str], *, after: Asked | None = None) -> Pending[wire.Deleted]:
        """Delete each key, in this order and one after the other. One that is gone already is no error."""
        return self._worker.start("store_delete", keys=list(keys), after=after, kind=wire.Deleted)

    def prune_uploads(self) -> Pending[wire.RemovedUploads]:
        return self._worker.start("prune_uploads", kind=wire.RemovedUploads)
