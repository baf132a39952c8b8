"""What must hold after every fault, looked at from outside: the store, the cluster and the hosts' disks as they are."""

import base64
import fcntl
import functools
import hashlib
import json
import os
import re
import tarfile
import threading
import urllib.request
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import yaml

from tests.faults.world import HOSTS, World
from tests.support.fab import Result

#: git's locks and packs, what is written beside what it will replace, and Python's temporary files.
UNDER_WAY = re.compile(r"^tmp|\.lock$|\.(new|old)(\.|$)|\.pyz\.|^\.part-")
#: Of the store's objects larger ones are read again each time.
KEPT_BYTES = 100_000
#: They say that no host was switched, whatever else they say.
NOBODY_SWITCHED = (2, 3, 4)


class Store:
    """The application's objects, as they are now."""

    #: (key, what the server calls this content) → its sha256 and its size, or all of it if it is small: what was
    #: read once is not read again
    _known: ClassVar[dict[tuple[str, str], tuple[str, int]]] = {}
    _read: ClassVar[dict[tuple[str, str], bytes]] = {}

    def __init__(self, world: World) -> None:
        self._client, self._bucket = world.client, world.playground.bucket
        self._prefix = f"{world.project.application.name}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        #: key → what the server calls its content
        self.keys = {
            entry["Key"].removeprefix(self._prefix): f"{entry['ETag']} {entry['LastModified']}"
            for page in pages
            for entry in page.get("Contents", [])
        }

    def read(self, key: str) -> bytes:
        name = (self._prefix + key, self.keys[key])
        if (known := self._read.get(name)) is not None:
            return known
        content = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        assert isinstance(content, bytes)
        if len(content) <= KEPT_BYTES:
            self._read[name] = content
        return content

    def sha256_and_size(self, key: str) -> tuple[str, int]:
        name = (self._prefix + key, self.keys[key])
        if name not in self._known:
            content = self.read(key)
            self._known[name] = (hashlib.sha256(content).hexdigest(), len(content))
        return self._known[name]

    def uploads(self) -> list[str]:
        """Uploads that were begun and neither completed nor given up."""
        answer = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix)
        return [each["Key"] for each in answer.get("Uploads", [])]


class Watching:
    """Looks at `current` on every host all the time: it is never missing, and never leads to what is not there."""

    def __init__(self, world: World) -> None:
        self._links = [world.project.file(host, "current") for host in HOSTS]
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._ended = threading.Event()
        self.missing: list[str] = []
        self.looks = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for link in self._links:
                self.looks += 1
                try:
                    release = os.path.basename(os.readlink(link))
                except OSError as error:
                    self.missing.append(f"{link}: {error.strerror}")
                    continue
                if not (link.parent / "releases" / release / "VERSION").exists():
                    self.missing.append(f"{link} leads to {release}, which is not there")


def records_point_to_whole_objects(store: Store, name: str) -> None:
    for key in store.keys:
        if key.endswith("/release.json"):
            record = json.loads(store.read(key))
            archive = f"releases/{record['id']}/{name}.tar"
            assert archive in store.keys, f"{key}: its archive is not there"
            assert store.sha256_and_size(archive) == (record["checksum"], record["size_bytes"]), key
        elif key.startswith("builds/"):
            assert f"releases/{json.loads(store.read(key))['release']}/release.json" in store.keys, key
        elif re.fullmatch(r"environments/[^/]+/deployments/[^/]+\.json", key):
            assert json.loads(store.read(key))["release"], key
        elif re.fullmatch(r"environments/[^/]+/deployments/[^/]+/web\.yml", key):
            archive = read_manifest(store.read(key))["src"].split(f"/{name}/", 1)[1]
            assert archive in store.keys, f"{key}: its archive is not there"


def hosts_serve_what_was_wanted(world: World, store: Store, name: str) -> None:
    begun_keys = [key for key in store.keys if re.search(r"/deployments/[^/]+/begun\.json$", key)]
    begun = {json.loads(store.read(key))["release"] for key in begun_keys}
    for host in HOSTS:
        release = world.project.current(host)
        assert release in begun, f"{host} serves {release}, which no deployment wanted"
        directory = world.project.file(host, f"releases/{release}")
        key = f"releases/{release}/{name}.tar"
        # Retention may have removed the archive of what a host that was left behind still serves.
        if key in store.keys:
            with tarfile.open(fileobj=BytesIO(store.read(key))) as archive:
                for member in archive.getmembers():
                    file = directory / member.name
                    if member.isfile():
                        content = archive.extractfile(member)
                        assert content is not None
                        assert file.read_bytes() == content.read(), f"{host}: {member.name} of {release}"


@functools.cache
def read_manifest(content: bytes) -> Any:
    return yaml.safe_load(content)


def what_was_announced_can_be_fetched(world: World, store: Store, name: str) -> None:
    urls = [value.split(" ", 1)[1].partition("#")[0] for value in world.project.wanted().values()]
    address = f"{world.playground.consul_address()}/v1/event/list?name=deploy_{name}_web_playground"
    with urllib.request.urlopen(address, timeout=10) as answer:
        events = json.load(answer)
    newest = [base64.b64decode(event["Payload"]).decode() for event in events][-1:]
    for url in (*urls, *newest):
        key = url.split(f"/{name}/", 1)[1]
        assert key in store.keys, f"{url} was announced and is not there"
        manifest = read_manifest(store.read(key))
        archive = manifest["src"].split(f"/{name}/", 1)[1]
        assert archive in store.keys, f"{manifest['src']}, of what was announced, is not there"
        assert store.sha256_and_size(archive)[0] == manifest["checksum"]


def exit_code_agrees(world: World, result: Result | None, revision: str, before: dict[str, str | None]) -> None:
    """`result` is None for a command that was killed, which says nothing."""
    if result is None:
        return
    after = world.project.served()
    if result.code == 0:
        release = result.json["release"]
        assert result.json["revision"] == revision
        assert set(after.values()) == {release}, after
    elif result.code in NOBODY_SWITCHED:
        assert after == before, (result.code, before, after)
    document: dict[str, Any] = result.json
    for host in document.get("hosts") or []:
        place = f"{host['host']}/{host['role']}"
        if host["verdict"] == "verified":
            assert after[place] == document["release"], host
        elif host["verdict"] == "aborted":
            assert after[place] == before[place], host


def nobody_switches_before_go(world: World, before: dict[str, str | None], let_go: set[str]) -> None:
    """`let_go` is `World.let_go` from before the command. It is what Consul says, and not the command, that counts."""
    if not world.let_go() - let_go:
        after = world.project.served()
        assert after == before, f"hosts have switched that nobody let go: {after}, {world.project.consul_keys()}"


def nothing_is_left(world: World, *, journal: bool = True) -> None:
    """No process, no lock, no unfinished upload and no temporary file.

    `journal`: nor what the next command begins by removing: a word of an upload that was given up, whose last part may
    still arrive, and what was being unpacked for migrations.
    """
    world.until(lambda: not world.workers(), f"processes on the build server end: {world.workers()}", 30)
    world.until(lambda: not world.stretchers(), "hosts are done")
    assert Store(world).uploads() == []
    left = temporary_files(world, journal=journal)
    assert not left, left
    locks = list((world.playground.build_root / world.project.application.name / "locks").iterdir())
    assert locks
    for lock in locks:
        with lock.open() as file:
            # Raises BlockingIOError if somebody holds it.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def temporary_files(world: World, *, journal: bool) -> list[str]:
    """What lies where only what is under way may lie, or has the name of what is under way."""
    root = world.playground.build_root / world.project.application.name
    found = list(world.playground.temporary.iterdir())
    if journal:
        found += [*root.glob("uploads/*"), *root.glob("unpacked/*")]
    # Of the cache what is ours: a C compiler keeps locks there.
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "deploytool"
    for directory in (world.playground.build_root, cache):
        found += [file for file in directory.rglob("*") if UNDER_WAY.search(file.name)]
    # What the worker installs has a lock beside it for good.
    found = [file for file in found if not (file.suffix == ".lock" and file.parent.name == ".worker")]
    for host in HOSTS:
        found += world.playground.host_directory(host).glob("tmp/*")
        found += world.project.file(host, "incoming").glob("*")
    return [str(path) for path in found]


def all_hold(world: World) -> None:
    name, store = world.project.application.name, Store(world)
    records_point_to_whole_objects(store, name)
    hosts_serve_what_was_wanted(world, store, name)
    what_was_announced_can_be_fetched(world, store, name)


def hosts_are_quiet(world: World) -> None:
    world.until(lambda: not world.stretchers(), "hosts are done", 100)
