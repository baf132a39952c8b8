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
        return self._worker.start("store_get", wire.Content, key=key)

    def read(self, keys: Sequence[str]) -> Pending[wire.Contents]:
        return self._worker.start("store_read", wire.Contents, keys=keys)

    def exists(self, key: str, *, after: Asked | None = None) -> Pending[wire.Exists]:
        """What comes after this is done only if it exists."""
        return self._worker.start("store_exists", wire.Exists, key=key, after=after, expect={"exists": True})

    def put(self, entries: Sequence[tuple[str, str]], *, after: Asked | None = None) -> Pending[wire.Existed]:
        """Write each key with its text, in this order; what exists already stays as it is."""
        return self._worker.start("store_put", wire.Existed, entries=entries, after=after)

    def put_new(self, entries: Sequence[tuple[str, str]]) -> Pending[wire.Existed]:
        """The same. What comes after this is done only if all of them are new."""
        return self._worker.start("store_put", wire.Existed, entries=entries, expect={"existed": []})

    def digest(self, key: str) -> Pending[wire.Digest]:
        """The sha256 and size of what stands there, read on the build server."""
        return self._worker.start("store_digest", wire.Digest, key=key)

    def list(self, prefix: str, beyond: str = "", *, after: Asked | None = None) -> Pending[wire.Keys]:
        """The keys below a prefix; with `beyond`, those only that come after it."""
        return self._worker.start("store_list", wire.Keys, prefix=prefix, beyond=beyond, after=after)

    def directories(self, prefix: str, *, after: Asked | None = None) -> Pending[wire.Names]:
        """The names right below a prefix that have keys below them."""
        return self._worker.start("store_directories", wire.Names, prefix=prefix, after=after)

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
            wire.Newest,
            prefix=prefix,
            patterns=patterns,
            since=since,
            read=read,
            after=after,
        )

    def built(self, key: str) -> Pending[wire.BuiltRecord]:
        return self._worker.start("store_built", wire.BuiltRecord, key=key)

    def delete(self, keys: Sequence[str], *, after: Asked | None = None) -> Pending[wire.Deleted]:
        """Delete each key, in this order and one after the other. One that is gone already is no error."""
        return self._worker.start("store_delete", wire.Deleted, keys=keys, after=after)

    def check(self) -> Pending[wire.Findings]:
        """Try every right."""
        return self._worker.start("check_store", wire.Findings)

    def prune_uploads(self) -> Pending[wire.RemovedUploads]:
        return self._worker.start("prune_uploads", wire.RemovedUploads)
