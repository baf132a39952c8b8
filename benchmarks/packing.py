"""Packing, hashing and uploading alone, beside the raw compression pipe and the raw upload of what it gives."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import apps, floors
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.sides import Bucket, Say
from deploytool.build_server import start_worker
from deploytool.playground import Playground
from deploytool.worker_client import WorkerClient

SUFFIXES = {"gzip": "tar.gz", "zstd": "tar.zst"}


def measure(app: App, playground: Playground, directory: Path, found: Measurements, runs: int, say: Say) -> None:
    """The worker's own packing of one tree; pipes and uploads take turns with it."""
    tree = directory / f"{app.name}-tree"
    tree.mkdir()
    apps.write(app, tree)
    root = directory / "root"
    build: Any = SimpleNamespace(is_local=True, root=str(root), server="local")
    channel, read = start_worker(build)
    worker = WorkerClient(channel, read, "local")
    bucket = Bucket(playground)
    keys = playground.deploy_keys
    try:
        worker.ask(
            "hello",
            root=str(root),
            application="packing",
            environment="bench",
            store={
                "url": f"s3://{playground.bucket}/packing",
                "endpoint_url": playground.endpoint_url,
                "region": playground.region,
                "credentials": {"access_key": keys.access_key, "secret_key": keys.secret_key, "token": None},
            },
            consul={"address": playground.consul_address(), "token_file": None},
            secrets=[],
            operator="bench",
            purpose="bench",
        )
        # A build has spoken to the store before it packs: importing boto3 is no part of this.
        worker.ask("store_exists", key="warm")
        archives = {each: _archive(each, tree, directory / f"archive.{suffix}") for each, suffix in SUFFIXES.items()}
        for number in range(runs):
            for compression, suffix in SUFFIXES.items():
                begin = time.monotonic()
                worker.ask(
                    "publish_archive",
                    directory=str(tree),
                    exclude=[],
                    compression=compression,
                    epoch=1_700_000_000,
                    key=f"{number}.{suffix}",
                )
                seconds = time.monotonic() - begin
                found.add(f"{app.name}/pack, hash, upload/{compression}", seconds)
                found.add(f"{app.name}/pack, hash, upload/{compression}, archive", bucket.new_mb(), "MB")
                say(f"{app.name} {number + 1}, pack, hash, upload, {compression}: {seconds:.2f} s")
                for how, upload in (("boto3", floors.upload_by_boto3), ("one PUT", floors.upload_by_put)):
                    floor = upload(playground, archives[compression])
                    found.add(f"{app.name}/floor/upload by {how}, {compression}", floor)
            for name in floors.pipes():
                floor = floors.pipe(name, tree)
                found.add(f"{app.name}/floor/{name}", floor)
                say(f"{app.name} {number + 1}, {name}: {floor:.2f} s")
            bucket.remove_archives()
    finally:
        worker.close()


def _archive(compression: str, tree: Path, path: Path) -> Path:
    """What is uploaded raw: made by the last of the pipes that are here, which are the quick ones."""
    name = [each for each in floors.COMPARABLE[compression] if each in floors.pipes()][-1]
    floors.pipe(name, tree, path)
    return path
