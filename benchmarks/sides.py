"""Who is measured: `fab` with our settings, and the peer. Each deploys one repository, up to its event.

Nobody hears the events of these applications, so that no host takes the machine's time: `--no-wait`.
"""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from benchmarks import peer
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.watching import Clock, Deploy, watched
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project, Repository

HOSTS = ("app1", "app2", "app3")
#: tells whoever watches how far it is
Say = Callable[[str], None]

COLD, UNCHANGED, CHANGED, SAME = "cold", "unchanged", "one file changed", "same commit again"
CASES = (COLD, UNCHANGED, CHANGED, SAME)
PEER, TUNED_PEER = "peer", "peer, zstd -T0 -1"


class Side(Protocol):
    """One of those that are compared."""

    label: str
    #: the cases in which it is of interest
    cases: tuple[str, ...]

    @property
    def compressor(self) -> str:
        """What compresses its archives, with its version."""

    def forget(self) -> None:
        """Remove all that it keeps on the build server."""

    def deploy(self, clock: Clock) -> Deploy:
        """Deploy the branch's newest commit. Raises CommandFailed."""


class Ours:
    """`fab playground deploy`, with one kind of compression."""

    cases: tuple[str, ...] = CASES

    def __init__(self, playground: Playground, directory: Path, app: App, repository: Repository, compression: str):
        self.label = f"fab {compression}"
        self.name = f"{app.name}-{compression}"
        self.playground = playground
        application = Application(self.name, (PlaygroundRole("web", HOSTS),))
        self.project = Project(playground, directory / self.name, application)
        self.project.settings["repository"] = repository_url(repository)
        self.project.settings["build"]["compression"] = compression
        self.project.write()

    @property
    def compressor(self) -> str:
        """As `check` has it, which installs the worker's own if need be: no build is measured with that."""
        checks = self.project.fab("playground", "check", "--json").json["checks"]
        return next(str(check["text"]) for check in checks if check["name"] == "compressor")

    def forget(self) -> None:
        shutil.rmtree(self.playground.build_root / self.name, ignore_errors=True)
        for worker in (self.playground.build_root / ".worker").glob("*.pyz"):
            worker.unlink()

    def start(self) -> "subprocess.Popen[str]":
        return self.project.start("playground", "deploy", "--no-wait", "--no-migrate", "--json")

    def deploy(self, clock: Clock) -> Deploy:
        event = f"deploy_{self.name}_web_playground"
        return watched(self.start, playground=self.playground, clock=clock, event=event, ours=True)


class Theirs:
    """`cap production stretcher:deploy`."""

    def __init__(self, playground: Playground, directory: Path, app: App, repository: Repository, *, tuned: bool):
        self.label = TUNED_PEER if tuned else PEER
        # Tuned, it differs only in how it packs: two cases show that.
        self.cases: tuple[str, ...] = (UNCHANGED, CHANGED) if tuned else CASES
        self.playground = playground
        name = f"{app.name}-peer-{'tuned' if tuned else 'plain'}"
        archiver = peer.TUNED if tuned else peer.PLAIN
        self.compressor = peer.version(archiver)
        self.peer = peer.Peer(playground, directory / name, name, repository_url(repository), archiver)

    def forget(self) -> None:
        self.peer.forget()

    def deploy(self, clock: Clock) -> Deploy:
        return watched(self.peer.start, playground=self.playground, clock=clock, event=self.peer.event, ours=False)


def repository_url(repository: Repository) -> str:
    """A URL and no path: git would take a short cut with a path, which a real repository does not offer."""
    return f"file://{repository.directory}"


def note_deploy(measurements: Measurements, name: str, deploy: Deploy, stored_mb: float) -> None:
    """Write down what was seen of a deploy, below the name of its case and side."""
    measurements.add(name, deploy.until_event_seconds)
    measurements.add(f"{name}/whole command", deploy.whole_seconds)
    measurements.add(f"{name}/SSH channels", deploy.wire.channels, "")
    if deploy.wire.kilobytes is not None:
        measurements.add(f"{name}/SSH traffic", deploy.wire.kilobytes, "kB")
    measurements.add(f"{name}/uploaded", stored_mb, "MB")
    for who, megabytes in deploy.peaks_mb.items():
        measurements.add(f"{name}/peak memory/{who}", megabytes, "MB")
    if deploy.peaks_mb:
        for phase, seconds in json.loads(deploy.out)["phases"].items():
            measurements.add(f"{name}/phase/{phase}", seconds)


class Bucket:
    """The playground's bucket: what a command has put there, and how to empty it of archives."""

    def __init__(self, playground: Playground) -> None:
        self._playground = playground
        self._known: set[str] = set()
        self.new_mb()

    def new_mb(self) -> float:
        """The size of all that is new since the last time."""
        objects = self._objects()
        new = sum(size for key, size in objects.items() if key not in self._known)
        self._known = set(objects)
        return new / 1e6

    def remove_archives(self) -> None:
        """Give their room back: the playground's S3 server has 6 GB."""
        client = self._playground.s3_client()
        for key in self._objects():
            if key.endswith((".tar", ".tar.gz", ".tar.zst")) or key.startswith("floor/"):
                client.delete_object(Bucket=self._playground.bucket, Key=key)
        client.close()
        master = f"http://127.0.0.1:{self._playground.ports['weed-master']}"
        # The playground's own server.
        with urllib.request.urlopen(f"{master}/vol/vacuum?garbageThreshold=0.001", timeout=300) as answer:  # noqa: S310
            answer.read()
        self.new_mb()

    def _objects(self) -> dict[str, int]:
        client = self._playground.s3_client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._playground.bucket)
        found = {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}
        client.close()
        return found
