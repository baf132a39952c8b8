"""A user's project in a folder of its own, with a repository, deployed to the playground by the real `fab`."""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploytool.playground.parts import PartMissing
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support import fab
from tests.support.fab import FAB, Result

CHECKOUT = Path(__file__).parents[2]

TINY = Application("tiny", (PlaygroundRole("web", ("app1", "app2", "app3")), PlaygroundRole("batch", ("app3",))))

FABFILE = "from deploytool.tasks import namespace\n"

Change = Callable[[dict[str, Any]], None]


class Repository:
    """A git repository that a test writes to."""

    def __init__(self, directory: Path, *, names: str = "sha1") -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", f"--object-format={names}")
        self.git("config", "user.name", "Tester")
        self.git("config", "user.email", "tester@localhost")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.directory), *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str], message: str = "a change") -> str:
        """Write the files and commit; returns the revision."""
        for name, content in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")


def as_root() -> list[str]:
    """Options of `unshare` with which whoever is not root may mount."""
    return [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


def part(find: Callable[[], Path]) -> Path:
    """What `find` finds. A machine that can't have it leaves the test out, and says why; not so CI."""
    try:
        return find()
    except PartMissing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


def copy_checkout(directory: Path) -> None:
    """The files of this checkout that git would give, without those that it ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, directory / name)


def forget(playground: Playground, application: Application) -> None:
    """On its hosts and in Consul nothing is left of an application, which goes on: the next test finds it new."""
    for host in {host for role in application.roles for host in role.hosts}:
        home = playground.host_home / application.name
        playground.run_on_host(host, ["sh", "-c", f'rm -rf -- "{home}"/*/* "{home}"/*/.deploytool'])
    url = f"{playground.consul_address()}/v1/kv/deploytool/{application.name}/?recurse"
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
    playground.add_application(application)


class Project:
    """A folder with `fabfile.py` and `config/`, for an application of the playground."""

    #: False where a process of its own, with its command line, is what is looked at
    forks = True

    def __init__(
        self, playground: Playground, directory: Path, application: Application = TINY, repository: Path | None = None
    ) -> None:
        self.playground = playground
        self.application = application
        self.directory = directory / "project"
        (self.directory / "config").mkdir(parents=True)
        (self.directory / "fabfile.py").write_text(FABFILE)
        (self.directory / "config/deploy.yml").write_text("")
        self.repository = Repository(repository or directory / "repository")
        self.revision = self.repository.commit({"README": "hello\n"}, "first")
        settings = playground.settings_for(application, self.repository.directory)
        settings["wait"] = {"fetch_seconds": 30, "activate_seconds": 60, "hook_seconds": 10, "stable_seconds": 0}
        settings["linked_files"] = []
        self.settings: dict[str, Any] = settings
        self.write()

    def write(self, environment: str = "playground") -> None:
        text = yaml.safe_dump(self.settings, sort_keys=False, allow_unicode=True)
        (self.directory / "config" / f"{environment}.yml").write_text(text)

    def change(self, change: Change) -> None:
        """Change the settings by a function, and write them."""
        change(self.settings)
        self.write()

    def role(self, name: str) -> dict[str, Any]:
        role = self.settings["roles"][name]
        assert isinstance(role, dict)
        return role

    def environment(self) -> dict[str, str]:
        # The operator's machine has no S3 keys and no Consul: they must not come from there.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CONSUL_"))}
        return {**kept, "COLUMNS": "200"}

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """`fab ARGUMENTS`, running."""
        return subprocess.Popen(
            [FAB, *arguments],
            cwd=self.directory,
            env={**self.environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def fab(self, *arguments: str, env: Mapping[str, str] | None = None, timeout_seconds: float = 180) -> Result:
        """`fab ARGUMENTS`, to its end. A traceback is a failure of the test, whatever the exit code."""
        run = fab.run if self.forks else fab.execute
        ended = run(arguments, self.directory, {**self.environment(), **(env or {})}, timeout_seconds)
        assert "Traceback" not in ended.err, ended.err
        return ended

    def retire(self) -> None:
        """No host listens for it any more: each that does wakes up for every event of all others."""
        self.playground.add_application(replace(self.application, roles=()))

    def deploy(self, *arguments: str) -> Result:
        """A deploy that must go well."""
        result = self.fab("playground", "deploy", "--json", *arguments)
        assert result.code == 0, f"{result.out}\n{result.err}"
        return result

    # what the world looks like

    def current(self, host: str, role: str = "web") -> str | None:
        """The release that `current` points to on a host; None if there is none."""
        link = self.playground.deploy_to_outside(host, role, self.application.name) / "current"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else None

    def served(self) -> dict[str, str | None]:
        """host/role → release, as it is on the hosts' disks"""
        return {
            f"{host}/{role.name}": self.current(host, role.name)
            for role in self.application.roles
            for host in role.hosts
        }

    def file(self, host: str, path: str, role: str = "web") -> Path:
        """A file below a host's deploy_to, as seen from outside."""
        return self.playground.deploy_to_outside(host, role, self.application.name) / path

    def consul_keys(self, below: str = "") -> dict[str, str]:
        """Keys of this application and environment with their values, without the prefix."""
        import base64
        import urllib.error
        import urllib.request

        prefix = f"deploytool/{self.application.name}/playground/{below}"
        # A server that has only just become the leader may not have read all that it has written.
        url = f"{self.playground.consul_address()}/v1/kv/{prefix}?recurse&consistent"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                entries = json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return {}
        return {
            entry["Key"].removeprefix(f"deploytool/{self.application.name}/playground/"): base64.b64decode(
                entry["Value"] or ""
            ).decode()
            for entry in entries
        }

    def wanted(self) -> dict[str, str]:
        return self.consul_keys("wanted")

    def objects(self) -> set[str]:
        """Keys in the store, without the prefix."""
        client = self.playground.s3_client()
        prefix = f"{self.application.name}/"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.playground.bucket, Prefix=prefix)
        found = {entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", [])}
        client.close()
        return found
