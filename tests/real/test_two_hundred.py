"""Two hundred hosts on a real Consul server, one of them bad: who ever switched, and where all of them end.

The operator's side is the whole `fab` command. The hosts are light ones, all in this process: each is registered in the
catalog, and does with `wanted` and the barrier what the host scripts do, but for archive and switch.
"""

import base64
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploytool.playground import configs, parts, processes
from tests.support.fab import Result
from tests.support.project import FABFILE, Repository

COUNT = 200
NAMES = tuple(f"host{number:03d}" for number in range(COUNT))
#: One host, ten, a quarter: 50. The bad one is of the third wave.
WAVES = [1, 10, "25%", "100%"]
REACHED = set(NAMES[:50])
BAD = NAMES[30]
TOP = "deploytool/tiny/fleet"
#: How many of them speak to Consul at once.
WRITERS = 8


class Kv:
    """Consul's HTTP interface."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(self, method: str, path: str, body: str | None = None) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, f"/v1/{path}", body=body)
            answer = connection.getresponse()
            content = answer.read()
        assert answer.status in (200, 404), (method, path, content)
        return json.loads(content) if answer.status == 200 else None

    def put(self, key: str, value: str) -> None:
        assert self.call("PUT", f"kv/{TOP}/{key}", value) is True

    def below(self, key: str) -> dict[str, str]:
        """Keys below the application's own place, without that, and their values."""
        entries = self.call("GET", f"kv/{TOP}/{key}?recurse") or []
        return {
            entry["Key"].removeprefix(f"{TOP}/"): base64.b64decode(entry["Value"] or "").decode() for entry in entries
        }


@dataclass(slots=True)
class LightHost:
    """One pretend app server. It is asked again and again to look at what is wanted of it, and at its barrier."""

    name: str
    kv: Kv
    bad: bool = False
    #: the releases that `current` has ever pointed to, one after the other
    served: list[str] = field(default_factory=list)
    #: the deployment that it has switched for last
    last: str = ""
    #: the deployment at whose barrier it waits, and its release
    at: tuple[str, str] | None = None
    #: those that it left without a switch
    left: set[str] = field(default_factory=set)

    def look(self, wanted: Mapping[str, str], barriers: Mapping[str, str]) -> None:
        """One look at Consul; `barriers` is what stands at those of the deployments."""
        deployment, _, url = wanted.get(f"web/{self.name}", wanted.get("web", "")).partition(" ")
        if self.at is None:
            if deployment > self.last and deployment not in self.left and not self._is_closed(barriers[deployment]):
                self.at = (deployment, release_in(url))
                self._report("fetched")
            return
        waiting, release = self.at
        if self._lets_go(barriers[waiting]):
            self.at = None
            self._switch(waiting, release)
        elif self._is_closed(barriers[waiting]) or deployment > waiting:
            self._report("superseded" if deployment > waiting else "aborted")
            self.left.add(waiting)
            self.at = None

    def _lets_go(self, word: str) -> bool:
        return word == "go all" or (word.startswith(("go ", "only ")) and self.name in word.split()[1:])

    def _is_closed(self, word: str) -> bool:
        return word == "abort" or (word.startswith("only ") and not self._lets_go(word))

    def _switch(self, deployment: str, release: str) -> None:
        before, self.last = self.served[-1:], deployment
        self.served.append(release)
        fails = self.bad and bool(before)
        if fails:
            self.served += before
        word = {
            "release": self.served[-1],
            "deployment": deployment,
            "time": "2026-01-01T00:00:00Z",
            "verified": True,
            "releases": sorted(set(self.served)),
        }
        self.kv.put(f"serving/web/{self.name}", json.dumps(word))
        self._report("failed" if fails else "verified", deployment, "it does not start" if fails else "")

    def _report(self, state: str, deployment: str = "", reason: str = "") -> None:
        name = deployment or (self.at[0] if self.at is not None else "")
        content = json.dumps({"time": "2026-01-01T00:00:00Z", "reason": reason, "log": ""})
        self.kv.put(f"reports/web/{self.name}/{name}/{state}", content)


def release_in(url: str) -> str:
    """The release that the manifest there brings."""
    text = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).read_text()
    found = re.search(r"/releases/([^/]+)/", text)
    assert found is not None, text
    return found[1]


class LightFleet:
    """All of them, alive as long as the `with` block."""

    def __init__(self, port: int) -> None:
        self.kv = Kv(port)
        self.hosts = {name: LightHost(name, self.kv) for name in NAMES}
        self._ended = threading.Event()
        self._trouble: list[BaseException] = []
        self._living = threading.Thread(target=self._live)

    def register(self) -> None:
        """Make them known, and healthy. A leader forgets about once a minute those that no gossip tells of."""
        for name in NAMES:
            node = {
                "Node": name,
                "Address": "127.0.0.1",
                "NodeMeta": {"role": "web"},
                "Check": {"CheckID": "serfHealth", "Name": "alive", "Status": "passing"},
            }
            self.kv.call("PUT", "catalog/register", json.dumps(node))

    def __enter__(self) -> "LightFleet":
        self._living.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._living.join(60)
        assert self._trouble == []

    def _live(self) -> None:
        try:
            with ThreadPoolExecutor(WRITERS) as writers:
                while not self._ended.wait(0.05):
                    wanted = {key.removeprefix("wanted/"): value for key, value in self.kv.below("wanted").items()}
                    names = {value.split(" ")[0] for value in wanted.values()}
                    names |= {host.at[0] for host in self.hosts.values() if host.at is not None}
                    said = {name: self.kv.below(f"deployments/{name}/web/go") for name in names}
                    barriers = {name: next(iter(found.values()), "") for name, found in said.items()}
                    list(writers.map(LightHost.look, self.hosts.values(), repeat(wanted), repeat(barriers)))
        except BaseException as error:
            self._trouble.append(error)
            raise

    def serving(self) -> set[str]:
        return {host.served[-1] for host in self.hosts.values()}


@pytest.fixture
def consul_port(tmp_path: Path) -> Iterator[int]:
    """A Consul server that has just begun: it will not look for nodes without gossip within the next minute."""
    ports = processes.free_ports(["http", "serf_lan", "server"])
    config = configs.consul_agent(
        node_name="server",
        data_dir=tmp_path / "data",
        ports=ports,
        server_serf_port=ports["serf_lan"],
        is_server=True,
    )
    (tmp_path / "consul.json").write_text(config)
    with (tmp_path / "consul.log").open("wb") as log:
        server = subprocess.Popen(
            [str(parts.find_or_install(print).consul), "agent", f"-config-file={tmp_path}/consul.json"],
            stdout=log,
            stderr=log,
        )
        try:
            wait_for_leader(ports["http"], tmp_path / "consul.log")
            yield ports["http"]
        finally:
            server.terminate()
            server.wait(30)


def wait_for_leader(port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            Kv(port).put("ready", "yes")
            return
        except (OSError, AssertionError):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


class Operator:
    """A project whose build server is this machine, whose store is a directory, and whose hosts go in waves."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory / "project"
        (self.directory / "config").mkdir(parents=True)
        (self.directory / "fabfile.py").write_text(FABFILE)
        self.repository = Repository(directory / "repository")
        self.repository.commit({"VERSION": "1"})
        settings = {
            "application": "tiny",
            "repository": str(self.repository.directory),
            "deploy_to": "/var/www/tiny",
            "build": {"server": "local", "root": str(directory / "build")},
            "store": {"url": f"file://{directory}/store"},
            "consul": {"address": f"http://127.0.0.1:{port}"},
            "roles": {"web": {"hosts": {"node_meta": {"role": "web"}}}},
            "wait": {"fetch_seconds": 60, "activate_seconds": 60, "hook_seconds": 10, "stable_seconds": 0},
            "rollout": {"waves": WAVES, "on_failure": "rollback"},
        }
        (self.directory / "config/deploy.yml").write_text("")
        (self.directory / "config/fleet.yml").write_text(yaml.safe_dump(settings))

    def fab(self, *arguments: str) -> Result:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "fab"), "fleet", *arguments],
            cwd=self.directory,
            env={name: value for name, value in os.environ.items() if not name.startswith("CONSUL_")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)


def test_bad_host_in_the_third_wave_of_two_hundred(tmp_path: Path, consul_port: int) -> None:
    operator = Operator(tmp_path, consul_port)
    with LightFleet(consul_port) as fleet:
        fleet.register()
        first = operator.fab("deploy", "--json")
        assert first.code == 0, first.err
        old = first.json["release"]
        assert {tuple(host.served) for host in fleet.hosts.values()} == {(old,)}

        fleet.hosts[BAD].bad = True
        operator.repository.commit({"VERSION": "2"})
        fleet.register()
        halted = operator.fab("deploy", "--json")
        assert halted.code == 8, halted.err
        new = halted.json["release"]
        # Exactly the hosts of waves 1 to 3 ever switched, and all of them are back; the others never left.
        assert {name for name, host in fleet.hosts.items() if new in host.served} == REACHED
        assert {tuple(host.served) for name, host in fleet.hosts.items() if name in REACHED} == {(old, new, old)}
        assert {tuple(host.served) for name, host in fleet.hosts.items() if name not in REACHED} == {(old,)}
        # And the verdicts say so.
        verdicts = {host["host"]: host["verdict"] for host in halted.json["hosts"]}
        assert {name for name, verdict in verdicts.items() if verdict == "verified"} == REACHED - {BAD}
        assert {name for name, verdict in verdicts.items() if verdict == "failed"} == {BAD}
        assert {name for name, verdict in verdicts.items() if verdict == "aborted"} == set(NAMES) - REACHED
        [undone] = halted.json["rollbacks"]
        assert (undone["release"], undone["exit_code"]) == (old, 0)
        assert {host["host"] for host in undone["hosts"] if host["verdict"] == "verified"} == REACHED - {BAD}
        wanted = {key: value.split(" ")[0] for key, value in fleet.kv.below("wanted").items()}
        singles = {f"wanted/web/{name}": undone["deployment"] for name in REACHED - {BAD}}
        assert wanted == {"wanted/web": first.json["deployment"], **singles}

        # All of them are ready for the next one.
        fleet.hosts[BAD].bad = False
        fleet.register()
        again = operator.fab("deploy", "--json")
        assert again.code == 0, again.err
        assert (again.json["release"], fleet.serving()) == (new, {new})
        assert set(fleet.kv.below("wanted")) == {"wanted/web"}
