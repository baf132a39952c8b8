"""A project with pretend hosts: the embedded default."""

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support import fab
from tests.support.fab import FAB, Result
from tests.support.project import FABFILE, Repository

HOSTS = ("app1", "app2", "app3")


class Local:
    """A project in a folder with a space in its name, whose world is its own `var/`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "my project"
        (self.directory / "config").mkdir(parents=True)
        (self.directory / "fabfile.py").write_text(FABFILE)
        self.repository = Repository(self.directory / "var/repository")
        self.repository.commit({"VERSION": "1"})
        self.settings: dict[str, Any] = {
            "application": "tiny",
            "repository": "${DEPLOYTOOL_PROJECT}/var/repository",
            "deploy_to": "/pretend/host/tiny",
            "build": {"server": "local", "root": "${DEPLOYTOOL_PROJECT}/var/build"},
            "store": {"url": "file://${DEPLOYTOOL_PROJECT}/var/store"},
            "consul": {"address": "file://${DEPLOYTOOL_PROJECT}/var/consul"},
            "roles": {"web": {"hosts": {"nodes": list(HOSTS)}}},
            "wait": {"fetch_seconds": 30, "activate_seconds": 30, "hook_seconds": 10, "stable_seconds": 0},
        }
        self.write()

    def write(self) -> None:
        (self.directory / "config/deploy.yml").write_text(yaml.safe_dump(self.settings))
        (self.directory / "config/local.yml").write_text("")

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [FAB, *arguments],
            cwd=self.directory,
            env={**self.environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fab(self, *arguments: str, env: dict[str, str] | None = None) -> Result:
        ended = fab.run(arguments, self.directory, {**self.environment(), **(env or {})}, 120)
        assert "Traceback" not in ended.err, ended.err
        return ended

    def host(self, name: str) -> Path:
        return self.directory / "var/hosts" / name / "tiny"

    def served(self) -> dict[str, str | None]:
        links = {name: self.host(name) / "current" for name in HOSTS}
        return {name: (link / "VERSION").read_text() if link.is_symlink() else None for name, link in links.items()}
