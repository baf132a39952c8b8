"""Processes that the playground started, and free ports for them. Ends nothing that it has not recorded itself.

A pid alone is no name: the kernel gives it away again. So a record holds the pid and the process's start time, and a
process is only signalled while both still fit. Linux only, as the whole playground: it reads `/proc`.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: Below the range from which Linux takes the ports of outgoing connections (it begins at 32768), so that nothing
#: takes a port between the moment it was found free and the moment its server listens.
PORTS = range(12_000, 32_000)
#: One for each port that this process has drawn, to its end.
_reservations: list[socket.socket] = []


@dataclass(frozen=True, slots=True)
class Recorded:
    """A process as it was when it was started. `start_time` is in clock ticks since boot, field 22 of its `stat`."""

    name: str
    pid: int
    start_time: int


def start_time(pid: int) -> int | None:
    """When the process was started, in clock ticks since boot; None if there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in brackets may hold spaces and brackets itself: what counts begins after the last one.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def is_running(process: Recorded) -> bool:
    return start_time(process.pid) == process.start_time


def children(pid: int) -> tuple[int, ...]:
    """The pids of the children of this process, oldest first; empty if it is gone."""
    found: list[int] = []
    # It may go at any moment, its directory first.
    with contextlib.suppress(OSError):
        for listing in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in listing.read_text().split()]
    return tuple(sorted(found))


def launch(
    command: Sequence[str], *, name: str, records: Path, log: Path, env: Mapping[str, str], directory: Path
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, its output appended to `log`, and record it in `records`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(env),
            cwd=directory,
            start_new_session=True,
        )
    record(records, name, process.pid)
    return process


def record(records: Path, name: str, pid: int) -> None:
    """Write down the process; nothing if it has ended already."""
    started = start_time(pid)
    if started is not None:
        records.mkdir(parents=True, exist_ok=True)
        place = records / f"{name}.json"
        beside = place.with_suffix(".new")
        beside.write_text(json.dumps(asdict(Recorded(name, pid, started))), encoding="utf-8")
        beside.replace(place)


def recorded(records: Path) -> tuple[Recorded, ...]:
    """What was started and not yet forgotten, running or not; by name."""
    found = []
    for place in sorted(records.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found.append(Recorded(**json.loads(place.read_text(encoding="utf-8"))))
    return tuple(found)


def find(records: Path, name: str) -> Recorded | None:
    """The recorded process of that name, if it still runs."""
    return next((process for process in recorded(records) if process.name == name and is_running(process)), None)


def forget(records: Path, name: str) -> None:
    (records / f"{name}.json").unlink(missing_ok=True)


def send(process: Recorded, number: signal.Signals) -> None:
    """Signal the process, if it is still the one that was recorded."""
    if is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def wait_until_gone(processes: Iterable[Recorded], seconds: float) -> tuple[Recorded, ...]:
    """Wait for their end; those that still run after `seconds`."""
    left = tuple(processes)
    deadline = time.monotonic() + seconds
    while left := tuple(process for process in left if is_running(process)):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return ()


def end(processes: Iterable[Recorded], *, grace_seconds: float) -> tuple[Recorded, ...]:
    """Ask them to end, then kill; those that even so are still there after ten seconds more."""
    asked = tuple(processes)
    for process in asked:
        send(process, signal.SIGTERM)
    stubborn = wait_until_gone(asked, grace_seconds)
    for process in stubborn:
        send(process, signal.SIGKILL)
    return wait_until_gone(stubborn, 10)


def is_free(port: int) -> bool:
    """Whether nothing listens on this port of loopback, neither by TCP nor by UDP."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            # Not to be held up by connections that were closed a moment ago; a listener still makes it fail.
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind(("127.0.0.1", port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def _reserve(port: int) -> bool:
    """Whether no other process has drawn it that still runs: its server may listen later, or only now and then."""
    # A name without a file, of the same network namespace as the port; it is gone with the process.
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0deploytool-playground-port-{port}")
    except OSError:
        mark.close()
        return False
    _reservations.append(mark)
    return True


def free_ports(names: Sequence[str]) -> dict[str, int]:
    """A free port of loopback for each name, drawn at random, so that several playgrounds at once get along.

    It is kept free from others that draw until this process ends.
    """
    drawn = random.sample(PORTS, k=len(PORTS))
    free = (port for port in drawn if is_free(port) and _reserve(port))
    return {name: next(free) for name in names}
