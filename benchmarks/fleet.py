"""What it costs to listen to a large fleet: thousands of hosts report to a real Consul server within ten seconds.

The worker and the operator's side are the real ones, the worker as a process of its own. The hosts are light: threads
that write the reports a host would write. Between worker and Consul stands a proxy that counts.

    .venv/bin/python -m benchmarks.fleet [HOSTS…]
"""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from deploytool.connection.boot import start_worker
from deploytool.connection.build_server import BuildServer
from deploytool.connection.bus import BusClient
from deploytool.connection.client import WorkerClient
from deploytool.model.fleet import Fleet
from deploytool.playground import configs, parts, processes
from deploytool.rollout.listening import Listening
from deploytool.screen.console import Console
from deploytool.worker import wire

SECONDS = 10.0
WRITERS = 16
DEPLOYMENT = "20260101T000000Zaaaa"
PREFIX = "deploytool/bench/bench"
REPORT = json.dumps({"time": "2026-01-01T00:00:00Z", "reason": "waiting for the operator's go", "log": "x" * 400})


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. Memory in MB, times in seconds."""

    hosts: int
    heard: int
    writing_seconds: float
    #: from the last write until the operator knows of it
    lag_seconds: float
    wakes_per_second: float
    received_mb: float
    worker_peak_mb: float
    operator_peak_mb: float
    worker_cpu_seconds: float
    operator_cpu_seconds: float


class CountingProxy:
    """Forwards to Consul; counts questions and the bytes of answers."""

    def __init__(self, port: int) -> None:
        self.asked = 0
        self.answered_bytes = 0
        self._target = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(self._target)
            threading.Thread(target=self._forward, args=(client, upstream, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(upstream, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, question: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if question:
                    self.asked += data.count(b"GET /v1/kv/")
                else:
                    self.answered_bytes += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._server.close()


def put(connection: http.client.HTTPConnection, key: str, value: str) -> None:
    connection.request("PUT", f"/v1/kv/{key}", body=value.encode())
    connection.getresponse().read()


def write_reports(port: int, hosts: list[str]) -> None:
    """Every host's `fetched`, spread evenly over SECONDS."""
    begin = time.monotonic()

    def write(share: list[tuple[int, str]]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for number, host in share:
            due = begin + SECONDS * number / len(hosts)
            time.sleep(max(0.0, due - time.monotonic()))
            put(connection, f"{PREFIX}/reports/web/{host}/{DEPLOYMENT}/fetched", REPORT)
        connection.close()

    numbered = list(enumerate(hosts))
    threads = [threading.Thread(target=write, args=(numbered[first::WRITERS],)) for first in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(port: int, count: int, directory: Path) -> Measured:
    hosts = [f"host{number:05d}" for number in range(count)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("DELETE", f"/v1/kv/{PREFIX}?recurse")
    connection.getresponse().read()
    put(connection, f"{PREFIX}/deployments/{DEPLOYMENT}/web/go", "wait 0")
    proxy = CountingProxy(port)
    build: Any = SimpleNamespace(is_local=True, root=str(directory / "root"), server="local")
    channel, read = start_worker(build)
    worker = WorkerClient(channel, read, "local")
    greeting = wire.Greeting(
        root=str(directory / "root"),
        application="bench",
        environment="bench",
        store=wire.StoreSettings(f"file://{directory}/store", None, None, None),
        consul=wire.ConsulSettings(f"http://127.0.0.1:{proxy.port}"),
        secrets=[],
        operator="bench",
        purpose="bench",
        read_only=False,
        compression="none",
    )
    pid = BuildServer(worker).greet(greeting).answer().pid
    fleet = Fleet({"web": hosts})
    with open("/dev/null", "w") as nowhere:
        session: Any = SimpleNamespace(console=Console(as_json=True, progress=nowhere))
        listening = Listening(session, fleet, BusClient(worker).watch(DEPLOYMENT, "", {"web": hosts}))
        peaks = {"worker": 0, "operator": 0}
        processes_seen = {"worker": psutil.Process(pid), "operator": psutil.Process()}
        cpu = {name: sum(process.cpu_times()[:2]) for name, process in processes_seen.items()}
        # The writers would count as the operator's work: they are a process of their own.
        begin = time.monotonic()
        writer = subprocess.Popen([sys.executable, "-m", "benchmarks.fleet", "write", str(port), str(count)])
        ended: float | None = None
        while True:
            listening.for_seconds(0.2)
            for name, process in processes_seen.items():
                peaks[name] = max(peaks[name], process.memory_info().rss)
            if ended is None and writer.poll() is not None:
                ended = time.monotonic()
            heard = count - len(fleet.waiting_for(fetched=True))
            if heard == count or (ended is not None and time.monotonic() - ended > 30):
                break
        now = time.monotonic()
        last = ended if ended is not None else now
        if ended is None:
            writer.wait()
            last = now
    spent = {name: sum(process.cpu_times()[:2]) - cpu[name] for name, process in processes_seen.items()}
    worker.close()
    proxy.close()
    return Measured(
        hosts=count,
        heard=heard,
        writing_seconds=round(last - begin, 1),
        lag_seconds=round(max(0.0, now - last), 2),
        wakes_per_second=round(proxy.asked / (now - begin), 2),
        received_mb=round(proxy.answered_bytes / 1e6, 1),
        worker_peak_mb=round(peaks["worker"] / 1e6, 1),
        operator_peak_mb=round(peaks["operator"] / 1e6, 1),
        worker_cpu_seconds=round(spent["worker"], 2),
        operator_cpu_seconds=round(spent["operator"], 2),
    )


def measured(counts: Sequence[int], directory: Path) -> list[Measured]:
    """One run for each number of hosts, against a Consul server of their own."""
    ports = processes.free_ports(["http", "serf_lan", "server"])
    config = configs.consul_agent(
        node_name="bench",
        data_dir=directory / "data",
        ports=ports,
        server_serf_port=ports["serf_lan"],
        is_server=True,
    )
    (directory / "consul.json").write_text(config)
    found = parts.find_or_install(print)
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(found.consul), "agent", f"-config-file={directory}/consul.json"], stdout=log, stderr=log
        )
        try:
            wait_for_leader(ports["http"])
            return [measure(ports["http"], count, directory) for count in counts]
        finally:
            server.terminate()
            server.wait(20)


def main(counts: Sequence[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = measured(counts, Path(name))
    names = list(asdict(rows[0]))
    width = max(len(each) for each in names)
    for each in names:
        print(each.ljust(width), *(f"{asdict(row)[each]!s:>10}" for row in rows))
    print(json.dumps([asdict(row) for row in rows]))


def wait_for_leader(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("PUT", f"/v1/kv/{PREFIX}/ready", body=b"1")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit("the Consul server did not start")
        time.sleep(0.2)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", port, count]:
            write_reports(int(port), [f"host{number:05d}" for number in range(int(count))])
        case given:
            main([int(each) for each in given] or [2000, 5000])
