"""A playground whose lines can be cut and held: relays before S3, Consul and sshd, small disks, and gates.

A gate holds whatever has just reached a point: the relay does not pass the answer on, or a command of the user's does
not end, until the test opens it.
"""

import base64
import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from deploytool.playground import processes
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.faults.clock import Clock, build_library
from tests.faults.relay import Relay, Request, Wire
from tests.support.project import Project

HOSTS = ("app1", "app2")
#: Its agent is the build server's: the cluster's server can go away, and the agent stay.
BUILD_NODE = "app3"
APPLICATION = Application("faults", (PlaygroundRole("web", HOSTS),))
#: A little more than one part of an upload, whose size is fixed: two parts. Where no part is meant, one request.
BIG_BYTES, SMALL_BYTES = 9 << 20, 1 << 10
PARTS = 2
BUILD_DISK_MB, HOST_DISK_MB = 400, 250
GATE_SECONDS = 60
#: Dozens of these wait side by side on two cores.
POLL_SECONDS = 0.1
#: Older deployments are taken out of the store before a case: every command of every case would read them.
KEPT_DEPLOYMENTS = 6

GATE = """#!/bin/sh
# gate DIRECTORY POINT: waits there if that is the point that is held.
[ "$(cat "$1/held" 2>/dev/null)" = "$2" ] || exit 0
: >"$1/reached"
tries=0
while [ ! -e "$1/open" ] && [ "$tries" -lt 1200 ]; do
  sleep 0.05
  tries=$((tries + 1))
done
"""

WRAPPER = """#!/bin/sh
# The real {program}, and a gate once it has done what names the point.
case " $* " in
  *" {word} "*) ;;
  *) exec {real} "$@" ;;
esac
{real} "$@" || exit
exec {gate} {gates} {point}
"""

MS_REC, MS_PRIVATE, CLONE_NEWNS = 16384, 1 << 18, 0x20000


def own_mounts() -> None:
    """From here on what this thread and its children mount is seen by nobody else, and gone when they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "a mount namespace can't be had: small disks need root")


class Gates:
    """Where things are held. One point at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)

    def hold(self, point: str) -> None:
        for name in ("reached", "open"):
            (self.directory / name).unlink(missing_ok=True)
        (self.directory / "held").write_text(point)

    def open(self) -> None:
        (self.directory / "open").touch()

    def reached(self) -> bool:
        return (self.directory / "reached").exists()

    def pass_through(self, point: str) -> None:
        """What a relay does at a point."""
        if (self.directory / "held").exists() and (self.directory / "held").read_text() == point:
            (self.directory / "reached").touch()
            deadline = time.monotonic() + GATE_SECONDS
            while not (self.directory / "open").exists() and time.monotonic() < deadline:
                time.sleep(0.02)


class FaultyPlayground(Playground):
    """The real parts, each behind a relay; the build server and app1 have small disks, and clocks of their own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "state", (APPLICATION,))
        self.gates = Gates(directory / "gates")
        library = build_library(directory / "clock.so")
        self.clock, self.host_clock = Clock(directory / "clock", library), Clock(directory / "host-clock", library)
        ports = processes.free_ports(["s3", "consul", "ssh", *HOSTS, BUILD_NODE])
        self.s3 = Relay(lambda: self.ports["s3"], ports["s3"], self._seen_s3)
        self.consul_relays = {
            name: Relay(partial(self._port_of, f"{node}-http"), ports[name], self._seen_consul)
            for name, node in (("consul", BUILD_NODE), *((host, host) for host in (*HOSTS, BUILD_NODE)))
        }
        self.ssh = Wire(lambda: self.ports["sshd"], ports["ssh"], lambda _request: None)
        self._reports: dict[str, int] = {}
        self._guard = threading.Lock()

    def _port_of(self, name: str) -> int:
        return int(self.ports[name])

    @property
    def relays(self) -> tuple[Relay, ...]:
        return (self.s3, *self.consul_relays.values(), self.ssh)

    def host_environment(self, host: str) -> dict[str, str]:
        return {
            **super().host_environment(host),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3.port}",
            "CONSUL_HTTP_ADDR": f"http://127.0.0.1:{self.consul_relays[host].port}",
            **(self.host_clock.environment() if host == HOSTS[0] else {}),
        }

    def build_server_environment(self) -> dict[str, str]:
        return {
            **super().build_server_environment(),
            "TMPDIR": str(self.temporary),
            **self.clock.environment(),
        }

    def _consul_config(self, node: str, data_dir: Path) -> str:
        # Consul's own pace of looking after each other: two dozen agents are side by side on two cores.
        config = json.loads(super()._consul_config(node, data_dir))
        config["gossip_lan"].update(probe_interval="1s", probe_timeout="500ms")
        return json.dumps(config, indent=2)

    @property
    def temporary(self) -> Path:
        """The build server's TMPDIR."""
        return self.directory / "build-server-home/tmp"

    @property
    def gate(self) -> str:
        """A command that takes the point's name."""
        return f"{self.directory}/bin/gate {self.gates.directory}"

    def _prepare(self) -> None:
        super()._prepare()
        self.temporary.mkdir()
        for name, text in (
            ("gate", GATE),
            ("git", self._wrapper("git", "fetch", "fetched")),
            ("tar", self._wrapper("tar", "--create", "packed")),
        ):
            program = self.directory / "bin" / name
            program.write_text(text)
            program.chmod(0o755)

    def _wrapper(self, program: str, word: str, point: str) -> str:
        real = next(path for path in ("/usr/bin", "/bin") if (Path(path) / program).exists())
        return WRAPPER.format(
            program=program,
            word=word,
            point=point,
            real=f"{real}/{program}",
            gate=f"{self.directory}/bin/gate",
            gates=self.gates.directory,
        )

    def _prepare_ssh(self) -> None:
        super()._prepare_ssh()
        text = self.ssh_config.read_text().replace(f"Port {self.ssh_port}", f"Port {self.ssh.port}")
        self.ssh_config.write_text(text)
        known = self.known_hosts.read_text()
        self.known_hosts.write_text(known + known.replace(f":{self.ssh_port}", f":{self.ssh.port}"))
        _small_disk(self.build_root, BUILD_DISK_MB)

    def _prepare_host(self, host: str) -> None:
        if host == HOSTS[0]:
            self.host_directory(host).mkdir(parents=True)
            _small_disk(self.host_directory(host), HOST_DISK_MB)
        super()._prepare_host(host)

    def restart_sshd(self) -> None:
        """sshd ends with all its sessions, as with the machine's restart, and comes back."""
        pair = [found for name in ("sshd.init", "sshd") if (found := processes.find(self.records, name))]
        processes.send(pair[0], signal.SIGKILL)
        assert not processes.wait_until_gone(pair, 15)
        for started in self._started:
            started.poll()
        self._start_sshd(self._server_environment)
        self._wait_for("sshd", self._answers_ssh, time.monotonic() + 30)

    # --- points

    def _seen_s3(self, request: Request) -> None:
        path, _, query = request.target.partition("?")
        if request.method == "POST" and query.startswith("uploadId="):
            self.gates.pass_through("archived")
        elif request.method == "PUT":
            if not query and path.endswith(f"/{APPLICATION.name}.tar"):
                self.gates.pass_through("archived")
            for pattern, point in (
                (r"partNumber=1&", "first_part"),
                (rf"partNumber={PARTS}&", "last_part"),
            ):
                if re.match(pattern, query):
                    self.gates.pass_through(point)
            for pattern, point in (
                (r"/release\.json$", "release_written"),
                (r"/builds/[^/]+\.json$", "reuse_written"),
                (r"/begun\.json$", "begun"),
                (r"/deployments/[^/]+/web\.yml$", "manifest"),
                (r"/deployments/[^/]+\.json$", "recorded"),
            ):
                if re.search(pattern, path):
                    self.gates.pass_through(point)

    def _seen_consul(self, request: Request) -> None:
        if request.method != "PUT":
            return
        path = request.target.partition("?")[0]
        if report := re.search(r"/reports/[^/]+/[^/]+/([^/]+)/(fetched|verified)$", path):
            with self._guard:
                # Deployment and state: how many hosts have reported.
                key = f"{report[1]} {report[2]}"
                self._reports[key] = self._reports.get(key, 0) + 1
                count = self._reports[key]
            self.gates.pass_through(f"{report[2]}_{'first' if count == 1 else 'last'}")
        elif path.endswith("/web/go"):
            self._seen_go(request.body)
        elif path.endswith("/wanted/web"):
            self.gates.pass_through("wanted")
        elif path.startswith("/v1/event/fire/"):
            self.gates.pass_through("event")
        elif path == "/v1/txn":
            for each in json.loads(request.body):
                if each.get("KV", {}).get("Key", "").endswith("/web/go"):
                    self._seen_go(base64.b64decode(each["KV"].get("Value") or ""))

    def _seen_go(self, value: bytes) -> None:
        if value == b"wait 0":
            self.gates.pass_through("claimed")
        elif value == b"go all":
            self.gates.pass_through("go")


def _small_disk(directory: Path, megabytes: int) -> None:
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)], check=True)


class World:
    """The playground and a project on it, whose every deployment passes every point."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.playground = FaultyPlayground(directory)
        self.gates = self.playground.gates
        self._stretcher = os.path.realpath(self.playground.stretcher)
        self.number = 0
        #: the file that says how much a build makes
        self.archive_bytes = directory / "archive-bytes"
        self.archive_bytes.write_text(str(SMALL_BYTES))
        #: whether the last case has left all as it should be
        self.is_well = True

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for relay in self.playground.relays:
                stack.enter_context(relay)
            stack.enter_context(self.playground)
            self.project = self._project()
            self.client = self.playground.s3_client()
            stack.callback(self.client.close)
            self.project.deploy()
            yield

    def _project(self) -> Project:
        project = Project(self.playground, self.directory, APPLICATION)
        gate = self.playground.gate
        settings = project.settings
        settings["store"]["endpoint_url"] = f"http://127.0.0.1:{self.playground.s3.port}"
        settings["consul"]["address"] = f"http://127.0.0.1:{self.playground.consul_relays['consul'].port}"
        settings["keep_releases"] = 3
        settings["store"]["keep_releases"] = 3
        settings["wait"].update(fetch_seconds=40, activate_seconds=40, hook_seconds=10)
        build = settings["build"]
        build["server"] = f"{self.playground.user}@{self.playground.ssh_host}:{self.playground.ssh.port}"
        build["compression"] = "none"
        build["dependencies"] = [f"{gate} checked_out"]
        build["assets"] = [
            f"{gate} dependencies",
            f'head -c "$(cat {self.archive_bytes})" /dev/zero >big',
            f"{gate} assets",
        ]
        build["migrate"] = [f"{gate} migrated"]
        role = project.role("web")
        role["hooks"] = {"post": [f"{gate} switched"]}
        role["restart"] = ["cp '{{ current_path }}/VERSION' '{{ shared_path }}/restarted'", f"{gate} restarted"]
        # What "runs" is what was last restarted.
        role["verify"] = {
            "command": f"{gate} verifying && cmp '{{{{ shared_path }}}}/restarted' '{{{{ current_path }}}}/VERSION'"
        }
        project.write()
        project.repository.commit({"VERSION": "0\n"})
        return project

    def begin_anew(self) -> None:
        """A case that failed is not the next one's fault."""
        if not self.is_well:
            self.until(lambda: not self.stretchers(), "hosts are done")
            self.commit()
            self.project.deploy()
        self.is_well = False
        self._forget()

    def _forget(self) -> None:
        """What the store tells of all but the last deployments. Each case ends with one that every host serves."""
        place = {
            "Bucket": self.playground.bucket,
            "Prefix": f"{APPLICATION.name}/environments/playground/deployments/",
        }
        told = [entry["Key"] for entry in self.client.list_objects_v2(**place).get("Contents", [])]
        by_deployment = itertools.groupby(told, key=lambda key: re.split(r"[/.]", key.removeprefix(place["Prefix"]))[0])
        deployments = [list(keys) for _, keys in by_deployment]
        if old := [{"Key": key} for keys in deployments[:-KEPT_DEPLOYMENTS] for key in keys]:
            self.client.delete_objects(Bucket=place["Bucket"], Delete={"Objects": old, "Quiet": True})

    def commit(self, archive_bytes: int = SMALL_BYTES) -> str:
        """A new revision, whose build makes so much."""
        self.number += 1
        self.archive_bytes.write_text(str(archive_bytes))
        return self.project.repository.commit({"VERSION": f"{self.number}\n"}, f"version {self.number}")

    def until(self, holds: Callable[[], object], what: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
            time.sleep(POLL_SECONDS)

    def broken(self) -> int:
        """How many requests the relays have answered, or left hanging, in a server's place."""
        return sum(relay.broken for relay in self.playground.relays)

    def let_go(self) -> set[str]:
        """The keys of the deployments whose hosts were let go."""
        return {key for key, value in self.project.consul_keys().items() if value == "go all"}

    def stretchers(self) -> list[int]:
        """Processes of stretcher under way on the hosts: below each host's first process."""
        found: list[int] = []
        for host in HOSTS:
            init = processes.find(self.playground.records, f"{host}.init")
            below = list(processes.children(init.pid)) if init else []
            while below:
                pid = below.pop()
                below += processes.children(pid)
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/exe") == self._stretcher:
                        found.append(pid)
        return found

    def workers(self) -> list[str]:
        """Processes on the build server that nobody should have left: command lines."""
        found = []
        root = str(self.playground.build_root).encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if root in (process / "cmdline").read_bytes() or os.readlink(process / "cwd").encode().startswith(root):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200])
        return found
