"""Packing, hashing and uploading alone, beside the raw compression pipe and the raw upload of what it gives."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import apps, floors
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.sides import Bucket, Say
from deploytool.connection.boot import start_worker
from deploytool.connection.build_server import BuildServer
from deploytool.connection.client import WorkerClient
from deploytool.connection.store import StoreClient
from deploytool.playground.playground import Playground
from deploytool.worker import wire

SUFFIXES = {"gzip": "tar.gz", "zstd": "tar.zst"}
EPOCH = 1_700_000_000


def measure(app: App, playground: Playground, directory: Path, found: Measurements, runs: int, say: Say) -> None:
    """The worker's own packing of one tree; pipes and uploads take turns with it."""
    tree = directory / f"{app.name}-tree"
    tree.mkdir()
    apps.write(app, tree)
    archives = {each: _archive(each, tree, directory / f"archive.{suffix}") for each, suffix in SUFFIXES.items()}
    bucket = Bucket(playground)

    def note(name: str, seconds: float) -> None:
        found.add(f"{app.name}/{name}", seconds)
        say(f"{app.name}, {name}: {seconds:.2f} s")

    with ExitStack() as stack:
        workers = {each: stack.enter_context(_worker(playground, directory, each, found)) for each in SUFFIXES}
        for number in range(runs):
            for compression, worker in workers.items():
                # What was uploaded raw before is nothing that the worker packed.
                bucket.new_mb()
                note(
                    f"pack, hash, upload/{compression}",
                    floors.timed(_packing(worker, tree, f"{number}.{SUFFIXES[compression]}")),
                )
                found.add(f"{app.name}/pack, hash, upload/{compression}, archive", bucket.new_mb(), "MB")
                for how, upload in (("boto3", floors.upload_by_boto3), ("one PUT", floors.upload_by_put)):
                    note(f"floor/upload by {how}, {compression}", upload(playground, archives[compression]))
            for name in floors.pipes():
                note(f"floor/{name}", floors.pipe(name, tree))
            bucket.remove_archives()


def _packing(worker: WorkerClient, tree: Path, key: str) -> floors.Act:
    return lambda: worker.start(
        "publish_archive", wire.Packed, directory=str(tree), exclude=[], epoch=EPOCH, key=key
    ).answer()


@contextmanager
def _worker(playground: Playground, directory: Path, compression: str, found: Measurements) -> Iterator[WorkerClient]:
    """A worker that packs in this way, and has spoken to its store already, as one that builds has."""
    root = directory / f"root-{compression}"
    build: Any = SimpleNamespace(is_local=True, root=str(root), server="local")
    worker = WorkerClient(*start_worker(build), "local")
    keys = playground.deploy_keys
    try:
        greeting = wire.Greeting(
            root=str(root),
            application="packing",
            environment="bench",
            store=wire.StoreSettings(
                f"s3://{playground.bucket}/packing",
                playground.endpoint_url,
                playground.region,
                wire.Credentials(keys.access_key, keys.secret_key, None),
            ),
            consul=wire.ConsulSettings(playground.consul_address()),
            secrets=[],
            operator="bench",
            purpose="bench",
            read_only=False,
            compression=compression,
        )
        build_server = BuildServer(worker)
        build_server.greet(greeting).answer()
        found.compressors[f"fab {compression}"] = build_server.install_compressor(again=True).answer().name
        StoreClient(worker).exists("nothing").answer()
        yield worker
    finally:
        worker.close()


def _archive(compression: str, tree: Path, path: Path) -> Path:
    """What is uploaded raw: made by the last of the pipes that are here, which are the quick ones."""
    name = [each for each in floors.COMPARABLE[compression] if each in floors.pipes()][-1]
    floors.pipe(name, tree, path)
    return path
