"""What is seen of a command from outside: when its event reached Consul, how many SSH channels it took, its memory.

Nothing of this asks the measured program: each side is seen in the same way.
"""

import contextlib
import http.client
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploytool.playground.playground import Playground
from deploytool.playground.processes import children

LIMIT_SECONDS = 1_200
SAMPLE_SECONDS = 0.05
CLOSING_SECONDS = 1.0
#: what sshd logs for each channel that runs something
CHANNEL = re.compile(rb"^Starting session: ", re.MULTILINE)
OPENED = re.compile(rb"^Connection from ", re.MULTILINE)
CLOSED = re.compile(rb"^Closing connection to ", re.MULTILINE)
TRANSFERRED = re.compile(rb"^Transferred: sent (\d+), received (\d+) bytes", re.MULTILINE)


class CommandFailed(Exception):
    """A measured command did not do what it was to do: there is no figure."""


class Clock:
    """Notes when Consul has something new, to the millisecond: it asks with a question that Consul answers then.

    `names` takes Consul's answer apart: (what tells one thing from all others, its name).
    """

    def __init__(self, consul_address: str, question: str, names: Callable[[Any], Iterable[tuple[str, str]]]) -> None:
        where = urlsplit(consul_address)
        self._host, self._port = where.hostname or "", where.port or 0
        self._question = question
        self._names = names
        self._seen: dict[str, list[float]] = {}
        self._known: set[str] = set()
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        index = "0"
        while not self._ended:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=30)
            try:
                connection.request("GET", f"{self._question}index={index}&wait=10s")
                answer = connection.getresponse()
                content = answer.read()
                found = list(self._names(json.loads(content))) if answer.status == 200 else []
            except (OSError, ValueError, http.client.HTTPException):
                # Gone with its playground.
                time.sleep(0.1)
                continue
            finally:
                connection.close()
            now = time.monotonic()
            index = answer.headers.get("X-Consul-Index", "0")
            with self._changed:
                for identity, name in found:
                    if identity not in self._known:
                        self._known.add(identity)
                        self._seen.setdefault(name, []).append(now)
                self._changed.notify_all()

    def first(self, name: str, since: float, limit_seconds: float = 10) -> float:
        """When the first thing of that name after `since` was there. Raises CommandFailed if there is none."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: [moment for moment in self._seen.get(name, []) if moment >= since], limit_seconds
            )
        if not found:
            raise CommandFailed(f"Consul has no {name}")
        return float(found[0])

    def close(self) -> None:
        self._ended = True


def event_clock(playground: Playground) -> Clock:
    """Notes when an event was fired, by its name."""
    return Clock(
        playground.consul_address(), "/v1/event/list?", lambda events: [(each["ID"], each["Name"]) for each in events]
    )


def report_clock(playground: Playground, application: str) -> Clock:
    """Notes when a host's report was there, by the end of its key: `<role>/<host>/<deployment>/<state>`."""
    prefix = f"deploytool/{application}/playground/reports/"
    return Clock(
        playground.consul_address(),
        f"/v1/kv/{prefix}?keys&",
        lambda keys: [(key, key.removeprefix(prefix)) for key in keys],
    )


class ProcessWatch:
    """The highest resident memory of a `fab` command, of its worker, and of the largest program the worker runs; the
    worker's processor time, its programs' included, and the files that it has open.

    The kernel keeps peak and time of each process (VmHWM, utime, stime): reading them now and then misses only the last
    few milliseconds.
    """

    def __init__(self, operator_pid: int, build_root: Path) -> None:
        self.peaks_mb = {"operator": 0.0, "worker": 0.0, "programs": 0.0}
        self.worker_cpu_seconds = 0.0
        #: when they were counted last
        self.worker_open_files = 0
        self._operator = operator_pid
        self._mark = f"{build_root}/.worker/".encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        worker: int | None = None
        while not self._ended.wait(SAMPLE_SECONDS):
            self._note("operator", self._operator)
            if worker is None:
                worker = self._find_worker()
            if worker is not None:
                self._note("worker", worker)
                self._note_costs(worker)
                for child in children(worker):
                    self._note("programs", child)

    def _find_worker(self) -> int | None:
        for place in Path("/proc").iterdir():
            if place.name.isdecimal():
                with contextlib.suppress(OSError):
                    if self._mark in (place / "cmdline").read_bytes():
                        return int(place.name)
        return None

    def _note(self, who: str, pid: int) -> None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.peaks_mb[who] = max(self.peaks_mb[who], int(line.split()[1]) * 1024 / 1e6)

    def _note_costs(self, worker: int) -> None:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{worker}/stat").read_text(errors="replace").rpartition(")")[2].split()
            # utime, stime, and those of the children that it has waited for
            self.worker_cpu_seconds = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
            self.worker_open_files = len(os.listdir(f"/proc/{worker}/fd")) or self.worker_open_files

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Wire:
    """What sshd has logged of one command."""

    channels: int
    #: in both directions, as sshd counts them; None where it does not, since the line was cut
    kilobytes: float | None


class SshLog:
    """What the build server's sshd logs from now on."""

    def __init__(self, playground: Playground) -> None:
        self._path = playground.directory / "log" / "sshd.log"
        self._begin = self._path.stat().st_size

    def wire(self) -> Wire:
        """What it has logged, once it has noticed that the command's connections are closed."""
        deadline = time.monotonic() + CLOSING_SECONDS
        text = self._text()
        while len(CLOSED.findall(text)) < len(OPENED.findall(text)) and time.monotonic() < deadline:
            time.sleep(0.02)
            text = self._text()
        transferred = [int(sent) + int(received) for sent, received in TRANSFERRED.findall(text)]
        return Wire(len(CHANNEL.findall(text)), sum(transferred) / 1e3 if transferred else None)

    def connections(self) -> int:
        """How many have been opened."""
        return len(OPENED.findall(self._text()))

    def _text(self) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self._begin)
            return file.read()


@dataclass(frozen=True, slots=True)
class Deploy:
    """One deploy, as it was seen from outside. Times in seconds from the start of the command."""

    until_event_seconds: float
    whole_seconds: float
    wire: Wire
    #: operator, worker, programs → MB; empty where nobody looked
    peaks_mb: Mapping[str, float]
    #: what the command printed on stdout
    out: str
    #: by the clock of `time.monotonic`
    event_at: float


def watched(
    start: "Callable[[], subprocess.Popen[str]]", *, playground: Playground, clock: Clock, event: str, ours: bool
) -> Deploy:
    """Run a deploy to its end and see what it does. Raises CommandFailed."""
    # What others have written before must not be written to disk now.
    os.sync()
    log = SshLog(playground)
    begin = time.monotonic()
    process = start()
    memory = ProcessWatch(process.pid, playground.build_root) if ours else None
    try:
        out = finish(process, event)
    finally:
        whole = time.monotonic() - begin
        if memory is not None:
            memory.close()
    event_at = clock.first(event, begin)
    return Deploy(
        until_event_seconds=event_at - begin,
        whole_seconds=whole,
        wire=log.wire(),
        peaks_mb=memory.peaks_mb if memory is not None else {},
        out=out,
        event_at=event_at,
    )


def finish(process: "subprocess.Popen[str]", what: str) -> str:
    """Wait for the end of a command that must go well; its stdout. Raises CommandFailed."""
    try:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise CommandFailed(f"{what}: exit code {process.returncode}\n{out[-3_000:]}\n{err[-3_000:]}")
    return out
