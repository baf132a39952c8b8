"""What must hold after every fault, looked at from outside: the store, the cluster and the hosts' disks as they are."""

import base64
import hashlib
import json
import os
import re
import tarfile
import threading
import time
import urllib.request
from io import BytesIO
from types import TracebackType
from typing import Any, Self

import yaml

from tests.faults.world import HOSTS, World
from tests.integration.project import Result

#: They say that no host was switched, whatever else they say.
NOBODY_SWITCHED = (2, 3, 4)


class Store:
    """The application's objects, as they are now."""

    def __init__(self, world: World) -> None:
        self._client = world.playground.s3_client()
        self._bucket, self._prefix = world.playground.bucket, f"{world.project.application.name}/"
        self.keys = world.project.objects()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def read(self, key: str) -> bytes:
        content = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        assert isinstance(content, bytes)
        return content

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
        while not self._ended.wait(0.005):
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
            archive = store.read(f"releases/{record['id']}/{name}.tar")
            assert hashlib.sha256(archive).hexdigest() == record["checksum"], key
            assert len(archive) == record["size_bytes"], key
        elif key.startswith("builds/"):
            assert f"releases/{json.loads(store.read(key))['release']}/release.json" in store.keys, key
        elif re.fullmatch(r"environments/[^/]+/deployments/[^/]+\.json", key):
            assert json.loads(store.read(key))["release"], key


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


def what_was_announced_can_be_fetched(world: World, store: Store, name: str) -> None:
    urls = [value.split(" ", 1)[1] for value in world.project.wanted().values()]
    address = f"{world.playground.consul_address()}/v1/event/list?name=deploy_{name}_web_playground"
    with urllib.request.urlopen(address, timeout=10) as answer:
        events = json.load(answer)
    newest = [base64.b64decode(event["Payload"]).decode() for event in events][-1:]
    for url in (*urls, *newest):
        key = url.split(f"/{name}/", 1)[1]
        assert key in store.keys, f"{url} was announced and is not there"
        manifest = yaml.safe_load(store.read(key))
        archive = manifest["src"].split(f"/{name}/", 1)[1]
        assert archive in store.keys, f"{manifest['src']}, of what was announced, is not there"
        assert hashlib.sha256(store.read(archive)).hexdigest() == manifest["checksum"]


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
        if host["verdict"] == "verified":
            assert after[f"{host['host']}/{host['role']}"] == document["release"], host


def nothing_is_left(world: World, store: Store) -> None:
    """No process, no lock, no unfinished upload and no temporary file."""
    world.until(lambda: not world.workers(), f"processes on the build server end: {world.workers()}", 30)
    world.until(lambda: not world.stretchers(), "hosts are done")
    assert store.uploads() == []
    assert temporary_files(world) == []
    status = world.project.fab("playground", "status", "--json")
    assert status.json["lock"] is None, status.out


def temporary_files(world: World) -> list[str]:
    """What lies where only what is under way may lie."""
    root = world.playground.build_root / world.project.application.name
    found = [*world.playground.temporary.iterdir(), *root.glob("uploads/*"), *root.glob("unpacked/*")]
    for host in HOSTS:
        found += world.playground.host_directory(host).glob("tmp/*")
        found += world.project.file(host, "incoming").glob("*")
    return [str(path) for path in found]


def all_hold(world: World) -> None:
    name = world.project.application.name
    with Store(world) as store:
        records_point_to_whole_objects(store, name)
        hosts_serve_what_was_wanted(world, store, name)
        what_was_announced_can_be_fetched(world, store, name)


def hosts_are_quiet(world: World, seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while world.stretchers():
        assert time.monotonic() < deadline, f"hosts are still at it after {seconds:g} s"
        time.sleep(0.05)
