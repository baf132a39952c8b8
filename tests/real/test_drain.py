"""Hosts that leave the traffic for a switch and come back: the whole `fab` command, the real stretcher and Consul.

What the scripts do in each single case is in `test_host_scripts.py`.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.fab import Result
from tests.support.project import Project, forget
from tests.support.waiting import until

HOSTS = ("app1", "app2")
DRAINED = Application("drained", (PlaygroundRole("web", HOSTS),))

#: Each step tells itself, with the release that serves and whether Consul sends anybody here.
TELL = """say() {
  service=$(consul maint | grep -q 'for a deploy' && echo out || echo in)
  echo "$1 $(basename "$(readlink '{{ current_path }}')") $service" >>'{{ shared_path }}/told'
}
"""
#: Fails, or hangs, on hosts that have a file of this name.
TRY = """[ ! -e '{{{{ shared_path }}}}/break-{step}' ] || {{ echo 'no {step} here'; exit 9; }}
[ ! -e '{{{{ shared_path }}}}/hang-{step}' ] || {{
  echo "$$ $(cut -d ' ' -f 4 /proc/$PPID/stat) $(readlink '{{{{ deploy_to }}}}/.deploytool/lock' | cut -d : -f 1)" \
    >'{{{{ shared_path }}}}/hung'
  exec sleep 60
}}
"""


def step(name: str, command: str) -> list[str]:
    return [TELL + TRY.format(step=name) + command + f"\nsay {name}"]


class Drained(Project):
    """Two hosts with a service in Consul that goes into maintenance for a switch; deployed once, without all that."""

    def __init__(self, playground: Playground, directory: Path) -> None:
        super().__init__(playground, directory, DRAINED)
        self.settings["store"]["url"] += f"/{directory.name}"
        self.write()
        self.old = str(self.deploy().json["release"])
        role = self.role("web")
        role["hooks"] = {
            "drain": step("drain", "consul maint -enable -service=shop -reason='for a deploy'"),
            "undrain": step("undrain", "consul maint -disable -service=shop"),
        }
        role["restart"] = step("restart", ":")
        role["verify"] = {"command": step("verify", ":")[0]}
        self.write()
        self.repository.commit({"VERSION": "2"})

    def told(self, host: str) -> list[str]:
        """What has happened on a host, step by step; proofs once, however often they were looked at."""
        text = self.file(host, "shared/told").read_text().replace(self.old, "OLD")
        lines = [
            line if " OLD " in line else " ".join([line.split()[0], "NEW", line.split()[2]])
            for line in text.splitlines()
        ]
        return [line for before, line in zip(["", *lines], lines, strict=False) if line != before]

    def is_in_service(self, host: str) -> bool:
        """Whether Consul says nothing against sending anybody there."""
        return "for a deploy" not in self.playground.run_on_host(host, ["consul", "maint"]).stdout

    def touch(self, host: str, name: str) -> Path:
        path = self.file(host, f"shared/{name}")
        path.touch()
        return path

    def failed(self, result: Result, host: str) -> str:
        """The reason of a host that failed, the only one."""
        assert result.code == 8, f"{result.out}\n{result.err}"
        assert {name for name, verdict in result.verdicts().items() if verdict != "verified"} == {f"{host}/web"}
        return str(next(each["reason"] for each in result.json["hosts"] if each["host"] == host))


@pytest.fixture
def drained(playground: Playground, tmp_path: Path) -> Iterator[Drained]:
    playground.add_application(DRAINED)
    for host in HOSTS:
        register = playground.run_on_host(host, ["consul", "services", "register", "-name=shop"])
        assert register.returncode == 0, register.stderr
    try:
        yield Drained(playground, tmp_path)
    finally:
        for host in HOSTS:
            playground.run_on_host(host, ["consul", "services", "deregister", "-id=shop"])
        forget(playground, DRAINED)


def test_service_is_out_for_the_switch_and_in_again_after_the_proof(drained: Drained) -> None:
    drained.deploy()
    for host in HOSTS:
        assert drained.told(host) == ["drain OLD out", "restart NEW out", "verify NEW out", "undrain NEW in"]
        assert drained.is_in_service(host)
    back = drained.fab("playground", "rollback", "--json")
    assert back.code == 0, back.err
    assert drained.told("app1")[-4:] == ["drain NEW out", "restart OLD out", "verify OLD out", "undrain OLD in"]
    assert drained.is_in_service("app1")


@pytest.mark.parametrize("where", ["drain", "restart", "verify"])
def test_drain_is_undone_after_a_failing(drained: Drained, where: str) -> None:
    drained.touch("app2", f"break-{where}")
    reason = drained.failed(drained.fab("playground", "deploy", "--json"), "app2")
    assert reason.endswith("; undrained")
    if where != "drain":
        assert f"put back to {drained.old}, which is proven to serve again" in reason
    assert drained.current("app2") == drained.old
    assert drained.told("app2")[-1] == "undrain OLD in"
    assert drained.is_in_service("app2")
    assert drained.told("app1")[-1] == "undrain NEW in"


@pytest.mark.parametrize("where", ["drain", "restart"])
def test_host_killed_while_it_is_drained_is_brought_back_by_the_next_deploy(drained: Drained, where: str) -> None:
    hang = drained.touch("app2", f"hang-{where}")
    process = drained.start("playground", "deploy", "--json")
    hung = drained.file("app2", "shared/hung")
    until(lambda: hung.exists() and len(hung.read_text().split()) == 3, "app2 hangs", seconds=90)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    # stretcher first: none of its hooks may clear up.
    for pid in reversed(hung.read_text().split()):
        drained.playground.run_on_host("app2", ["sh", "-c", 'kill -9 "$0"', pid])
    hang.unlink()
    if where == "restart":
        assert not drained.is_in_service("app2")
    assert drained.file("app2", ".deploytool/drained").is_dir()
    until(lambda: drained.fab("playground", "status", "--json").json["lock"] is None, "the lock is free")
    drained.repository.commit({"VERSION": "3"})
    new = drained.deploy().json["release"]
    assert drained.served() == {f"{host}/web": new for host in HOSTS}
    assert drained.told("app2")[-1] == "undrain NEW in"
    assert drained.is_in_service("app2")
    assert not drained.file("app2", ".deploytool/drained").exists()


def test_host_that_can_not_be_brought_back_is_told_until_it_is(drained: Drained) -> None:
    broken = drained.touch("app2", "break-undrain")
    reason = drained.failed(drained.fab("playground", "deploy", "--json"), "app2")
    assert f"put back to {drained.old}, which is proven to serve again" in reason
    assert "NOT undrained, so it may get no traffic: hook roles.web.hooks.undrain[0] failed with exit" in reason
    assert not drained.is_in_service("app2")
    status = drained.fab("playground", "status")
    assert status.code == 8, status.out
    broken.unlink()
    drained.playground.catch_up("app2", "web", DRAINED.name)
    assert drained.is_in_service("app2")
    assert drained.current("app2") == drained.old
    assert drained.consul_keys("serving/web/app2")["serving/web/app2"].count('"verified": true') == 1
