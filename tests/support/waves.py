"""A project whose hosts go in waves."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.fab import Result
from tests.support.project import Project, forget

HOSTS = ("app1", "app2", "app3")
WAVES = Application("waves", (PlaygroundRole("web", HOSTS),))
#: Fails on hosts that have this file.
AFFECTED = "[ ! -e {{ shared_path }}/affected ] || { echo 'it does not start'; exit 9; }"


class Waves(Project):
    """A project whose three hosts go one by one, and that has been deployed once."""

    def __init__(self, playground: Playground, directory: Path) -> None:
        super().__init__(playground, directory, WAVES)
        # Without the history of the tests before.
        self.settings["store"]["url"] += f"/{directory.name}"
        self.settings["rollout"] = {"waves": [1, 2, "100%"]}
        self.role("web")["hooks"] = {"post": [AFFECTED]}
        self.write()
        self.old = str(self.deploy().json["release"])
        self.repository.commit({"VERSION": "2"})

    def rollout(self, **settings: Any) -> None:
        self.settings["rollout"].update(settings)
        self.write()

    def break_on(self, host: str) -> None:
        self.file(host, "shared/affected").touch()

    def mend(self, host: str) -> None:
        self.file(host, "shared/affected").unlink()

    def fab_json(self, *arguments: str, code: int = 0) -> Result:
        result = self.fab("playground", *arguments, "--json")
        assert result.code == code, f"{result.out}\n{result.err}"
        return result

    # looking

    def state_of(self, *hosts: str) -> Sequence[tuple[object, ...]]:
        """Whatever a switch, or only its attempt, would change on these hosts."""
        found = []
        for host in hosts:
            link, last = self.file(host, "current"), self.file(host, ".deploytool/last")
            found.append((host, os.readlink(link), link.lstat().st_mtime_ns, link.lstat().st_ino, last.read_text()))
        return found

    def served_by(self, host: str) -> str | None:
        return self.served()[f"{host}/web"]

    def serve(self, *releases: str) -> bool:
        return tuple(self.served_by(host) for host in HOSTS) == releases

    def wanted_deployments(self) -> dict[str, str]:
        """The deployment that is wanted: of the role, and of single hosts."""
        return {key.removeprefix("wanted/"): value.split(" ")[0] for key, value in self.wanted().items()}

    def reports(self, deployment: str, state: str) -> set[str]:
        """The hosts that have reported this state."""
        keys = self.consul_keys("reports/web/")
        return {key.split("/")[-3] for key in keys if key.endswith(f"/{deployment}/{state}")}

    def status(self, code: int = 0) -> str:
        result = self.fab("playground", "status")
        assert result.code == code, f"{result.out}\n{result.err}"
        return result.out


@contextlib.contextmanager
def left_as_found(playground: Playground) -> Iterator[None]:
    """The application's hosts, for one test."""
    playground.add_application(WAVES)
    try:
        yield
    finally:
        for host in HOSTS:
            # Whoever still waits at a barrier leaves, and nothing is left for the next test.
            playground.run_on_host(host, ["pkill", "-9", "-x", "stretcher"])
        forget(playground, WAVES)
