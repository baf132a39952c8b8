"""A project with two environments, and what lies in its store."""

import copy
import json
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

HOSTS = ("app1", "app2", "app3")
STAGES = Application("stages", (PlaygroundRole("web", HOSTS),))


def record_of(project: Project, deployment: str, environment: str = "playground") -> dict[str, Any]:
    client = project.playground.s3_client()
    key = f"{project.application.name}/environments/{environment}/deployments/{deployment}.json"
    content = json.loads(client.get_object(Bucket=project.playground.bucket, Key=key)["Body"].read())
    client.close()
    assert isinstance(content, dict)
    return content


class Stages(Project):
    """Two environments of one application: staging on app1, production on app2 and app3; one store."""

    def __init__(self, playground: Playground, directory: Path) -> None:
        super().__init__(playground, directory, STAGES)
        (self.directory / "config/playground.yml").unlink()
        self.each: dict[str, dict[str, Any]] = {}
        for name, hosts in (("staging", ["app1"]), ("production", ["app2", "app3"])):
            settings = copy.deepcopy(self.settings)
            settings["roles"]["web"]["hosts"]["nodes"] = hosts
            settings["roles"]["web"]["deploy_to"] += f"-{name}"
            for host in hosts:
                playground.watch(host, STAGES.name, "web", name)
            self.each[name] = settings
        self.write_all()

    def write_all(self) -> None:
        for name, settings in self.each.items():
            self.settings = settings
            self.write(name)

    def archive_on(self, host: str, environment: str) -> Mapping[str, str]:
        """The files of `current` on a host, by name, with their content."""
        current = self.playground.deploy_to_outside(host, f"web-{environment}", STAGES.name) / "current"
        return {str(path.relative_to(current)): path.read_text() for path in current.rglob("*") if path.is_file()}


def antedated(project: Project, release: str, number: int) -> str:
    """The same release as if it had been built, deployed and verified long ago; returns its id.

    Nothing that is younger than a day is ever removed, and nobody can wait for that here.
    """
    client, bucket, name = project.playground.s3_client(), project.playground.bucket, project.application.name
    old = f"20260101T0000{number:02}Z-{release[-7:]}"
    client.copy_object(
        Bucket=bucket,
        Key=f"{name}/releases/{old}/{name}.tar.gz",
        CopySource=f"{bucket}/{name}/releases/{release}/{name}.tar.gz",
    )
    record = json.loads(text_of(project, f"releases/{release}/release.json"))
    record |= {"id": old, "build_key": f"{number:064d}", "built_at": f"2026-01-01T00:00:{number:02}Z"}
    deployment = f"20260101T0001{number:02}Zaaaa"
    ended = ended_long_ago(old, record["revision"], number)
    for key, content in (
        (f"releases/{old}/release.json", json.dumps(record)),
        (f"releases/{old}/manifests/playground/web.yml", "src: x"),
        (f"builds/{record['build_key']}.json", json.dumps({"release": old})),
        (f"environments/playground/deployments/{deployment}/begun.json", json.dumps({"release": old})),
        (f"environments/playground/deployments/{deployment}/web.yml", f'src: "s3://x/releases/{old}/{name}.tar.gz"'),
        (f"environments/playground/deployments/{deployment}.json", json.dumps(ended)),
    ):
        client.put_object(Bucket=bucket, Key=f"{name}/{key}", Body=content.encode())
    client.close()
    put_key(project, f"deployments/{deployment}/web/go", "go all")
    return old


def stored(project: Project) -> set[str]:
    """The releases of which the store has anything."""
    return {key.split("/")[1] for key in project.objects() if key.startswith("releases/")}


def text_of(project: Project, key: str) -> str:
    return texts_of(project, [key])[key]


def ended_long_ago(release: str, revision: str, number: int) -> dict[str, Any]:
    """The record of a deployment that every host has proved."""
    return {
        "release": release,
        "revision": revision,
        "exit_code": 0,
        "let_go": True,
        "ended_at": f"2026-01-01T00:01:{number:02}Z",
        "hosts": [{"role": "web", "host": host, "verdict": "verified", "state": "verified"} for host in HOSTS],
    }


def put_key(project: Project, key: str, value: str) -> None:
    url = f"{project.playground.consul_address()}/v1/kv/deploytool/{project.application.name}/playground/{key}"
    request = urllib.request.Request(url, data=value.encode(), method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


def texts_of(project: Project, keys: Iterable[str]) -> dict[str, str]:
    client, found = project.playground.s3_client(), {}
    for key in keys:
        answer = client.get_object(Bucket=project.playground.bucket, Key=f"{project.application.name}/{key}")
        found[key] = answer["Body"].read().decode()
    client.close()
    return found
