"""A git repository and a build server's work area, on which the stages' scripts run as the worker runs them."""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deploytool.build.stages import Fetched, checkout, fetch, fetched
from deploytool.connection.paths import Place
from deploytool.connection.step import Step, explain
from deploytool.model.release import Revision
from deploytool.worker.wire import StepEnd
from tests.support.stage_settings import build_defaults

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    **{f"GIT_{who}_{what}": "a@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def ended(
    exit_code: int,
    results: Sequence[str] = (),
    tail: Sequence[str] = (),
    *,
    log: str | None = None,
    timed_out: bool = False,
) -> StepEnd:
    return StepEnd(exit_code, list(results), list(tail), timed_out, log)


@dataclass(frozen=True, slots=True)
class Outcome:
    step: Step
    exit_code: int
    results: tuple[str, ...]
    output: str

    @property
    def message(self) -> str:
        return explain(self.step, ended(self.exit_code, self.results, self.output.splitlines())).message


def run(step: Step | None, wrapper: Sequence[str] = (), **environ: str) -> Outcome:
    """Run a step as the worker does: the script through a descriptor, results on descriptor 3, nothing on stdin."""
    assert step is not None
    with tempfile.TemporaryFile() as script, tempfile.TemporaryFile() as results:
        script.write(step.script.encode())
        script.seek(0)
        # Neither may be number 3, which becomes the results.
        descriptors = [fcntl.fcntl(file.fileno(), fcntl.F_DUPFD, 10) for file in (results, script)]
        launch = ["bash", "-c", 'exec 3>&"$1"; exec bash -euo pipefail "/dev/fd/$2"', "bash", *map(str, descriptors)]
        try:
            process = subprocess.run(
                [*wrapper, *launch],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
                env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", **environ},
                start_new_session=True,
                check=False,
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        results.seek(0)
        lines = tuple(results.read().decode().splitlines())
    return Outcome(step, process.returncode, lines, process.stdout.decode("utf-8", "replace"))


class Repository:
    """A git repository to be deployed from."""

    def __init__(self, path: Path, *, names: str = "sha1") -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main", f"--object-format={names}")

    def git(self, *arguments: str, **environ: str) -> str:
        command = ["git", "-c", "protocol.file.allow=always", "-C", str(self.path), *arguments]
        done = subprocess.run(command, env={**os.environ, **GIT, **environ}, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, files: dict[str, str], message: str = "a change", **environ: str) -> Revision:
        for name, content in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message, **environ)
        return Revision(self.git("rev-parse", "HEAD"))


class Server:
    """A build server's work area, and the stages run in it one after the other."""

    def __init__(self, root: Path, repository: str, *, subdirectory: str = ".", **build: Any) -> None:
        self.place = Place(str(root), "shop", "production", subdirectory)
        self.root = root
        self.build: dict[str, Any] = {
            **build_defaults(),
            "env": {"GIT_ALLOW_PROTOCOL": "file:http"},
            "timeout_seconds": 60,
            **build,
        }
        self.values: dict[str, Any] = {
            "repository": repository,
            "subdirectory": subdirectory,
            "linked_dirs": (),
            "linked_files": (),
        }

    @property
    def settings(self) -> Any:
        return SimpleNamespace(build=SimpleNamespace(**self.build), **self.values)

    @property
    def tree(self) -> Path:
        return Path(self.place.work_tree)

    def fetch(self, reference: str = "main") -> Outcome:
        return run(fetch(self.settings, self.place, reference))

    def found(self, reference: str = "main") -> Fetched:
        outcome = self.fetch(reference)
        assert outcome.exit_code == 0, outcome.output
        return fetched(outcome.results)

    def checkout(self, reference: str = "main", wrapper: Sequence[str] = ()) -> Outcome:
        return run(checkout(self.settings, self.place, self.found(reference)), wrapper)

    def files(self, reference: str = "main") -> dict[str, str]:
        """Check out, and read back all that a pack would see."""
        outcome = self.checkout(reference)
        assert outcome.exit_code == 0, outcome.output
        return {
            str(path.relative_to(self.tree)): path.read_text()
            for path in sorted(self.tree.rglob("*"))
            if path.is_file() and ".git" not in path.relative_to(self.tree).parts
        }
