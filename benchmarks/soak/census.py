"""What there is at one moment: room on disks, objects, keys, processes, their open files and memory. Changes nothing.

The walls are seen from outside: nothing here asks the tool.
"""

import base64
import contextlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploytool.playground import processes
from deploytool.playground.playground import Playground

#: How long a command's last processes on the build server and on hosts may take to leave.
LEAVING_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Room:
    """What a directory takes."""

    kilobytes: float
    files: int


def room(*places: Path) -> Room:
    """What these directories take on disk, each file once, however many names it has."""
    seen: set[tuple[int, int]] = set()
    used = 0
    pending = [os.fspath(place) for place in places]
    while pending:
        # Whatever goes meanwhile takes no room.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    state = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    if (state.st_dev, state.st_ino) not in seen:
                        seen.add((state.st_dev, state.st_ino))
                        used += state.st_blocks * 512
    return Room(used / 1e3, len(seen))


def consul_keys(playground: Playground, application: str) -> Mapping[str, int]:
    """The application's keys in Consul, with their values' bytes."""
    url = f"{playground.consul_address()}/v1/kv/deploytool/{application}/?recurse"
    try:
        # The playground's own server.
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            entries = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 404:
            raise
        return {}
    return {entry["Key"]: len(base64.b64decode(entry["Value"] or "")) for entry in entries}


def objects(playground: Playground, application: str) -> Mapping[str, int]:
    """The application's objects in the store, without the prefix, with their bytes."""
    client = playground.s3_client()
    prefix = f"{application}/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=playground.bucket, Prefix=prefix)
    found = {entry["Key"].removeprefix(prefix): entry["Size"] for page in pages for entry in page.get("Contents", [])}
    client.close()
    return found


@dataclass(frozen=True, slots=True)
class Living:
    """Processes of one kind."""

    count: int
    open_files: int
    memory_mb: float


def below(playground: Playground, name: str) -> list[psutil.Process]:
    """What runs in a part of the playground, its first process included: all that was started through it."""
    outer = processes.find(playground.records, name)
    pending, found = [outer.pid] if outer is not None else [], []
    while pending:
        for pid in processes.children(pending.pop()):
            pending.append(pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def command_of(process: psutil.Process) -> str:
    """Its command line; empty if it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def living(found: Iterable[psutil.Process]) -> Living:
    count, files, memory = 0, 0, 0
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            files += process.num_fds()
            memory += process.memory_info().rss
            count += 1
    return Living(count, files, memory / 1e6)


def of_session(leader: int) -> list[int]:
    """The pids of what lives in the session of that process, which may be gone itself."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX" and int(fields[3]) == leader:
                    found.append(int(place.name))
    return found


def until(holds: Callable[[], bool], seconds: float = LEAVING_SECONDS) -> bool:
    """Wait for it; whether it came in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
