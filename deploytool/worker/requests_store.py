"""Requests about the store."""

from __future__ import annotations

import hashlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional, Sequence, Tuple

from deploytool.text.untrusted import read_json

from . import retention, wire
from .archive import CHUNK_BYTES
from .context import Context, Tell
from .failure import Failure
from .findings import Findings
from .store import Store

#: So many records are read from the store side by side.
READERS = 8
#: What deployments have written, which nobody ever writes again; and of how many objects a worker remembers the text.
WRITTEN_ONCE = re.compile(r"environments/[^/]+/deployments/.+\.json$")
REMEMBERED = 1000
#: how the key of a manifest ends
MANIFEST = ".yml"


def newest(keys: Sequence[str], patterns: Sequence[Sequence[Any]]) -> List[str]:
    """Of each (pattern, count): the keys that match, and whose first group is among the `count` greatest; None: all."""
    chosen: List[str] = []
    for pattern, count in patterns:
        named = {key: found.group(1) for key in keys for found in [re.fullmatch(pattern, key)] if found}
        names = set(sorted(set(named.values()), reverse=True)[:count])
        chosen += [key for key, name in named.items() if name in names]
    return chosen


def has_enough(keys: Sequence[str], patterns: Sequence[Sequence[Any]]) -> bool:
    """Whether for each (pattern, count) there are that many first groups among the keys."""
    return all(
        len({found.group(1) for key in keys for found in [re.fullmatch(pattern, key)] if found}) >= count
        for pattern, count in patterns
        if count is not None
    )


def named_release(text: Optional[str]) -> Optional[str]:
    """The release that a record for reuse names; None for what is no such record."""
    try:
        name = read_json(text or "")["release"]
    except (ValueError, LookupError, TypeError):
        return None
    # It becomes part of keys; whether it is an id, the operator's side knows.
    return name if isinstance(name, str) and re.fullmatch("[0-9A-Za-z-]+", name) else None


class StoreRequests:
    """Each public method is the request of its name."""

    def __init__(self, here: Context) -> None:
        self._here = here
        #: key → text
        self._remembered: Dict[str, str] = {}
        #: prefix → a key before those that were newest when they were last asked for
        self._late: Dict[str, str] = {}

    def store_get(self, tell: Tell, key: str) -> wire.Content:
        return wire.Content(self._text(key))

    def _text(self, key: str) -> Optional[str]:
        """None if there is none. What is written once is asked for once, as a deploy looks back more than once."""
        if key in self._remembered:
            return self._remembered[key]
        content = self._here.store.get(key)
        if content is None:
            return None
        text: str = content.decode("utf-8", "replace")
        if WRITTEN_ONCE.match(key) and len(self._remembered) < REMEMBERED:
            self._remembered[key] = text
        return text

    def store_read(self, tell: Tell, keys: List[str]) -> wire.Contents:
        """The text of each key, None where there is none."""
        contents: Dict[str, Optional[str]] = {}
        if not keys:
            return wire.Contents(contents)
        with ThreadPoolExecutor(READERS) as readers:
            asked = {key: readers.submit(self._text, key) for key in dict.fromkeys(keys)}
            try:
                for key, answer in asked.items():
                    contents[key] = answer.result()
                    self._here.groups.refuse_if_cancelled("reading the store")
            except BaseException:
                # Of a store that can't be reached no other keys are asked for.
                for answer in asked.values():
                    answer.cancel()
                raise
        return wire.Contents(contents)

    def store_newest(
        self, tell: Tell, prefix: str, patterns: List[List[Any]], since: List[str], read: bool = True
    ) -> wire.Newest:
        """The keys below a prefix, and with them the texts of the `newest`; `whole`: whether these are all its keys.

        Where there are very many keys, those after the first of `since` will do that have as many as the patterns ask
        for. So it does not take longer with every key that was ever written. Asked again, those will do that come after
        where the newest began.
        """
        keys, whole = self._recent(prefix, patterns, since)
        chosen = newest(keys, patterns)
        if not whole and chosen and (before := keys[: keys.index(min(chosen))]):
            self._late[prefix] = before[-1]
        return wire.Newest(keys, whole, self.store_read(tell, chosen if read else []).contents)

    def _recent(self, prefix: str, patterns: Sequence[Sequence[Any]], since: Sequence[str]) -> Tuple[List[str], bool]:
        """Keys below the prefix among which are the newest of the patterns, and whether these are all."""
        store = self._here.store
        if late := self._late.get(prefix):
            keys = store.list(prefix, late)
            if has_enough(keys, patterns):
                return keys, False
        first, whole = store.first(prefix)
        if whole:
            return first, True
        for beyond in since:
            keys = [key for key in first if key > beyond] + store.list(prefix, max(beyond, first[-1]))
            if has_enough(keys, patterns):
                return keys, False
        return first + store.list(prefix, first[-1]), True

    def store_built(self, tell: Tell, key: str) -> wire.BuiltRecord:
        """The release that a record for reuse names, the text of that one's own record, and its keys.

        All is empty if it names none.
        """
        name = named_release(self._text(key))
        if name is None:
            return wire.BuiltRecord(None, None, [])
        below = "releases/{}/".format(name)
        return wire.BuiltRecord(name, self._text(below + "release.json"), self._here.store.list(below))

    def store_exists(self, tell: Tell, key: str) -> wire.Exists:
        return wire.Exists(self._here.store.exists(key))

    def store_digest(self, tell: Tell, key: str) -> wire.Digest:
        """Read the whole object, and keep none of it."""
        store = self._here.store
        if not store.exists(key):
            return wire.Digest(None, 0)
        digest, size_bytes = hashlib.sha256(), 0
        with store.open(key) as stream:
            for block in iter(lambda: stream.read(CHUNK_BYTES), b""):
                self._here.groups.refuse_if_cancelled("reading {}".format(key))
                digest.update(block)
                size_bytes += len(block)
        return wire.Digest(digest.hexdigest(), size_bytes)

    def store_put(self, tell: Tell, entries: List[List[str]]) -> wire.Existed:
        """Write each [key, content] in this order; names that exist already are given back, untouched."""
        store = self._here.own_store
        self._here.stored.update((key, content) for key, content in entries if key.endswith(MANIFEST))
        return wire.Existed([key for key, content in entries if not store.put_new(key, content.encode())])

    def store_list(self, tell: Tell, prefix: str, beyond: str = "") -> wire.Keys:
        """The keys below a prefix; with `beyond`, those only that come after it."""
        return wire.Keys(self._here.store.list(prefix, beyond))

    def store_directories(self, tell: Tell, prefix: str) -> wire.Names:
        """The names right below a prefix that have keys below them."""
        return wire.Names(self._here.store.directories(prefix))

    def store_delete(self, tell: Tell, keys: List[str]) -> wire.Deleted:
        """Delete each key, strictly in this order and one after the other: whatever points to another goes first.

        One that is gone already is no error.
        """
        for key in keys:
            if any(part in ("", ".", "..") for part in key.split("/")):
                raise Failure(
                    "bug",
                    "{!r} is no key of the store that could be deleted".format(key),
                    hint="this is a bug in deploytool; please report it with the command that you gave",
                )
        store = self._here.own_store
        for key in keys:
            self._here.groups.refuse_if_cancelled("deleting {} from the store".format(key))
            store.delete(key)
        return wire.Deleted(len(keys))

    def prune_uploads(self, tell: Tell) -> wire.RemovedUploads:
        """Remove uploads of archives that began more than a day ago and never ended, whoever began them.

        A right that is missing for it is told: it must not make anything fail.
        """
        try:
            before = time.time() - retention.UPLOAD_SECONDS
            return wire.RemovedUploads(self._here.own_store.remove_unfinished("releases/", before), None)
        except Failure as failure:
            return wire.RemovedUploads([], self._here.masking.text(failure.message))

    def check_store(self, tell: Tell) -> wire.Findings:
        """Try every right on the store."""
        findings = Findings(self._here.masking)
        trouble: Optional[Failure] = None
        store: Optional[Store] = None
        try:
            store = self._here.store
        except Failure as failure:
            store, trouble = self._here.store_client, failure
        # Nothing is tried in a store that is another application's.
        if store is not None and (trouble is None or trouble.kind != "usage"):
            store.check(findings)
        # A right that is missing, or a bucket, is named by then.
        if trouble is not None and not findings.any_failed:
            findings.failed("store", trouble)
        return wire.Findings(findings.all)
