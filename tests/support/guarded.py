"""A playground with ACLs on, default deny, and S3 keys that may do nothing else: each end has the rights that
`fab ENV app-server` prints, and no others."""

import contextlib
import json
import shlex
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from deploytool.hosts import app_server
from deploytool.playground.configs import Keys
from deploytool.playground.host import receive_command
from deploytool.playground.playground import ENVIRONMENT, Playground
from deploytool.settings import load_settings
from tests.support.project import TINY
from tests.support.waiting import until

MANAGER = str(uuid.uuid4())


def rules(*policies: str) -> dict[str, str]:
    """The rules of Consul policies by what they are about; each stands on a line."""
    found: dict[str, list[str]] = {}
    for line in dict.fromkeys(line for text in policies for line in text.splitlines() if not line.startswith("#")):
        kind, words = line.split(" ")[0], line.split("/")
        name = words[3].rstrip('" {') if kind.startswith("key") and len(words) > 3 and words[3][0] != '"' else kind
        found.setdefault(name, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


class Guarded(Playground):
    """A playground whose Consul and S3 deny what nobody has allowed."""

    tokens: dict[str, str]
    builder = Keys("BUILDER0000000001", "b" * 40)
    #: as the builder, but for deleting
    keeper = Keys("KEEPER00000000001", "k" * 40)
    host = Keys("HOST0000000000001", "h" * 40)

    def policies(self, node: str | None = None) -> Mapping[str, Mapping[str, str]]:
        """role → what `app-server` prints as policies, for one host if it is named"""
        project = self.directory / "policies"
        (project / "config").mkdir(parents=True, exist_ok=True)
        (project / "config/deploy.yml").touch()
        said = self.settings_for(TINY, self.repository)
        (project / f"config/{ENVIRONMENT}.yml").write_text(yaml.safe_dump(said))
        settings = load_settings(project, ENVIRONMENT, {})
        return {role: app_server.policies(settings, role, node) for role in settings.roles}

    def host_rules(self, host: str) -> dict[str, str]:
        """Of a host that has all roles: `event`, `agent_prefix`, `wanted`, `deployments`, `reports`, `serving`."""
        return rules(*(each["consul-app-server.hcl"] for each in self.policies(host).values()))

    def allow_hosts(self, *, without: str | None = None) -> None:
        """Give each host's own token what `app-server` prints for that host, from now on."""
        for host in self.hosts:
            self.allow(host, self.host_rules(host), without=without)

    @property
    def build_server_rules(self) -> dict[str, str]:
        """`event`, `key_prefix`, `node_prefix`."""
        return rules(self.policies()["web"]["consul-build-server.hcl"])

    def _prepare(self) -> None:
        super()._prepare()
        said = self.policies()["web"]
        build_server = json.loads(said["s3-build-server.json"])
        without_deleting = json.loads(said["s3-build-server.json"])
        without_deleting["Statement"][0]["Action"].remove("s3:DeleteObject")
        documents = {
            "builder": (self.builder, build_server),
            "keeper": (self.keeper, without_deleting),
            "host": (self.host, json.loads(said["s3-app-server.json"])),
        }
        place = self.directory / "s3.json"
        config = json.loads(place.read_text())
        config["policies"] = [
            {"name": name, "content": json.dumps(document)} for name, (_, document) in documents.items()
        ]
        config["identities"] += [
            {
                "name": name,
                "credentials": [{"accessKey": keys.access_key, "secretKey": keys.secret_key}],
                "actions": [],
                "policyNames": [name],
            }
            for name, (keys, _) in documents.items()
        ]
        place.write_text(json.dumps(config))

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
        return {**super().host_environment(host), **_aws(self.host), "CONSUL_HTTP_TOKEN": self.token(host)}

    def build_server_environment(self) -> dict[str, str]:
        return {**super().build_server_environment(), **_aws(self.builder)}

    def token(self, name: str) -> str:
        """The secret of a token; chosen by us, so that it can be written down before Consul runs."""
        if not hasattr(self, "tokens"):
            self.tokens = {}
        return self.tokens.setdefault(name, str(uuid.uuid4()))

    _consul_headers: ClassVar[Mapping[str, str]] = {"X-Consul-Token": MANAGER}

    def seen(self, path: str) -> Any:
        """An answer of the server's, with all rights."""
        return self._consul_get("consul-server", path)

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

    def keys_below(self, prefix: str) -> list[str]:
        """Consul's keys below a prefix, seen with all rights."""
        return [key for key in self._consul_get("consul-server", "/v1/kv/?keys") if key.startswith(prefix)]

    def consul_entries(self) -> dict[str, object]:
        """All of Consul's keys with their values, seen with all rights."""
        return {each["Key"]: each["Value"] for each in self._consul_get("consul-server", "/v1/kv/?recurse")}

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

    @contextlib.contextmanager
    def watching_with(self, host: str, **environment: str) -> Iterator[None]:
        """The host's watch for tiny's role web has these variables; the playground's own takes its place again."""
        watch = self.host_directory(host) / "watches/tiny-web-playground"
        line = watch.read_text()
        receive = receive_command(line, self.host_home, str(self.directory / "bin/receive.sh"), "event")
        handler = shlex.join(["env", *(f"{name}={value}" for name, value in environment.items()), *receive])
        command = ["timeout", "60", str(self.consul), "watch", "-type=event", "-name=deploy_tiny_web_playground"]
        running = threading.Thread(target=self.run_on_host, args=(host, [*command, handler]))
        watch.unlink()
        try:
            until(lambda: not self.watch_of(host), "its watch has ended")
            running.start()
            until(lambda: self.watch_of(host), "the other one has begun")
            yield
        finally:
            self.run_on_host(host, ["sh", "-c", "kill $(pgrep -x timeout)"])
            running.join()
            watch.write_text(line)

    def watch_of(self, host: str) -> str:
        """The command line of what listens there; empty if nothing does."""
        return self.run_on_host(host, ["pgrep", "-af", "^[^ ]*consul watch.*name=deploy_tiny_web"]).stdout

    def _launch_host(self, host: str) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.allow(host, self.host_rules(host))
                break
            except (OSError, urllib.error.HTTPError):
                assert time.monotonic() < deadline
                time.sleep(0.2)
        super()._launch_host(host)


def _aws(keys: Keys) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
