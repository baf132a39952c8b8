"""ACLs on, default deny: the least rights do, and a right that is missing is named, also where Consul denies silently.

The rights are those of docs/app-servers.md and of `fab ENV check`'s hints.
"""

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground import Playground
from tests.integration.project import TINY, Project

pytestmark = pytest.mark.integration

MANAGER = str(uuid.uuid4())

BUILD_SERVER = {
    "events": 'event_prefix "deploy_" { policy = "write" }',
    "keys": 'key_prefix "deploytool/" { policy = "write" }',
    "nodes": 'node_prefix "" { policy = "read" }',
    "services": 'service_prefix "" { policy = "read" }',
}
#: Enough for a look.
READER = {
    "keys": 'key_prefix "deploytool/" { policy = "read" }',
    "nodes": BUILD_SERVER["nodes"],
    "services": BUILD_SERVER["services"],
}
HOST = {
    "events": 'event_prefix "deploy_" { policy = "read" }',
    "agent": 'agent_prefix "" { policy = "read" }',
    "wanted": 'key_prefix "deploytool/tiny/playground/wanted" { policy = "read" }',
    "deployments": 'key_prefix "deploytool/tiny/playground/deployments" { policy = "write" }',
    "serving": 'key_prefix "deploytool/tiny/playground/serving" { policy = "write" }',
}


class Guarded(Playground):
    """A playground whose Consul denies what no token allows."""

    tokens: dict[str, str]

    def _consul_config(self, node: str, data_dir: Path) -> str:
        config = json.loads(super()._consul_config(node, data_dir))
        # The agents' own dealings with each other are not what is tried here.
        config["acl"] = {
            "enabled": True,
            "default_policy": "deny",
            "tokens": {"master": MANAGER, "agent": MANAGER},
        }
        return json.dumps(config)

    def host_environment(self, host: str) -> dict[str, str]:
        return {**super().host_environment(host), "CONSUL_HTTP_TOKEN": self.token("host")}

    def token(self, name: str) -> str:
        """The secret of a token; chosen by us, so that it can be written down before Consul runs."""
        if not hasattr(self, "tokens"):
            self.tokens = {}
        return self.tokens.setdefault(name, str(uuid.uuid4()))

    def _consul_get(self, node: str, path: str) -> Any:
        request = urllib.request.Request(self.consul_address(node) + path, headers={"X-Consul-Token": MANAGER})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def manage(self, path: str, content: dict[str, Any]) -> Any:
        """A call with all rights."""
        request = urllib.request.Request(
            self.consul_address() + path,
            data=json.dumps(content).encode(),
            method="PUT",
            headers={"X-Consul-Token": MANAGER},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def allow(self, name: str, rights: dict[str, str], *, without: str | None = None) -> None:
        """Give a token these rights, and no others, from now on."""
        rules = "\n".join(rule for right, rule in rights.items() if right != without)
        policy = self.manage("/v1/acl/policy", {"Name": f"p{uuid.uuid4().hex[:12]}", "Rules": rules})["ID"]
        secret = self.token(name)
        known = self._consul_get("consul-server", "/v1/acl/tokens")
        content: dict[str, Any] = {"Description": name, "Policies": [{"ID": policy}]}
        accessor = next((token["AccessorID"] for token in known if token.get("Description") == name), None)
        if accessor is None:
            self.manage("/v1/acl/token", {**content, "SecretID": secret})
        else:
            self.manage(f"/v1/acl/token/{accessor}", {**content, "AccessorID": accessor})

    def _launch_host(self, host: str) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.allow("host", HOST)
                break
            except (OSError, urllib.error.HTTPError):
                assert time.monotonic() < deadline
                time.sleep(0.2)
        super()._launch_host(host)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with Guarded(tmp_path_factory.mktemp("guarded") / "state", (TINY,)) as running:
        yield running


@pytest.fixture
def project(guarded: Guarded, tmp_path: Path) -> Iterator[Project]:
    guarded.allow("host", HOST)
    guarded.allow("build_server", BUILD_SERVER)
    made = Project(guarded, tmp_path)
    (tmp_path / "token").write_text(guarded.token("build_server") + "\n")
    made.settings["consul"]["token_file"] = str(tmp_path / "token")
    made.settings["wait"] = {"fetch_seconds": 10, "activate_seconds": 60, "hook_seconds": 10, "stable_seconds": 0}
    made.write()
    yield made
    guarded.allow("host", HOST)
    # A token's rights are remembered by the agents for a while.
    time.sleep(0.5)


def until(project: Project, code: int, words: str) -> str:
    """Deploy until the agents have noticed that a right is gone; returns what was said."""
    deadline = time.monotonic() + 60
    while True:
        result = project.fab("playground", "deploy", "--json")
        said = result.out + result.err
        if result.code == code and words in said:
            return said
        assert time.monotonic() < deadline, said
        time.sleep(1)


def test_least_rights_do(project: Project) -> None:
    result = project.deploy()
    assert set(result.verdicts().values()) == {"verified"}
    assert project.fab("playground", "check").code == 0
    assert project.fab("playground", "status").code == 0


def test_plan_needs_no_right_to_write(project: Project, guarded: Guarded, tmp_path: Path) -> None:
    live = project.deploy().json["release"]
    project.repository.commit({"VERSION": "planned"}, "Sell more")
    guarded.allow("reader", READER)
    (tmp_path / "token").write_text(guarded.token("reader") + "\n")
    project.settings["store"]["credentials"] = "operator"
    project.write()
    keys = {
        "AWS_ACCESS_KEY_ID": guarded.reader_keys.access_key,
        "AWS_SECRET_ACCESS_KEY": guarded.reader_keys.secret_key,
    }
    result = project.fab("playground", "plan", env=keys)
    assert result.code == 0, result.out + result.err
    assert f"brings 1 commit since {live}:" in result.out
    assert "hosts of web: app1, app2, app3" in result.out
    assert "nothing stands in the way of: fab playground deploy --branch main" in result.out
    # And those rights do not do for more.
    assert project.fab("playground", "freeze", "--why", "to see", env=keys).code == 7
    assert project.fab("playground", "deploy", env=keys).code in (6, 7)


def test_no_token_at_all_is_told_from_no_hosts(project: Project) -> None:
    project.settings["consul"]["token_file"] = None
    project.write()
    result = project.fab("playground", "deploy")
    assert result.code == 7
    assert "the token lacks a right" in result.err
    assert 'it needs key_prefix "deploytool/"' in result.err


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ("events", 'event \\"deploy_\\" write'),
        ("keys", 'key_prefix \\"deploytool/\\"'),
        ("nodes", "node"),
    ],
)
def test_right_that_the_build_server_lacks_is_named(project: Project, guarded: Guarded, right: str, words: str) -> None:
    project.deploy()
    project.repository.commit({"VERSION": right})
    before = project.served()
    guarded.allow("build_server", BUILD_SERVER, without=right)
    said = until(project, 7, words)
    assert guarded.token("build_server") not in said
    assert project.served() == before


def test_host_that_may_not_read_what_is_wanted_names_the_right(project: Project, guarded: Guarded) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "unwanted"})
    before = project.served()
    guarded.allow("host", HOST, without="wanted")
    said = until(project, 8, "key_prefix read")
    assert guarded.token("host") not in said
    assert project.served() == before


def test_host_that_may_not_report_stays_silent_and_unchanged(project: Project, guarded: Guarded) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "unreported"})
    before = project.served()
    guarded.allow("host", {**HOST, "deployments": HOST["deployments"].replace("write", "read")})
    said = until(project, 8, "did not fetch")
    assert "silent" in said
    assert project.served() == before
