"""The sample shop (Django), whose build installs packages and collects assets, until its event.

Its floors are the commands alone: `git`, and `venv` with `pip` from the same cache.
"""

import shutil
import sys
from pathlib import Path

import yaml

from benchmarks import floors
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.rollback import CONFIG, UNWANTED
from benchmarks.sides import CASES, CHANGED, COLD, SAME, Bucket, Ours, Say, note_deploy, repository_url
from benchmarks.watching import event_clock
from deploytool.playground import configs
from deploytool.playground.playground import Playground
from tests.support.project import Repository

#: The sizes are its own: it is not made from a seed.
DJANGO = App("django", 0, 0)
LOCK_FILE_CHANGED = "lock file changed"


def measure(playground: Playground, directory: Path, found: Measurements, runs: int, say: Say) -> None:
    repository = Repository(directory / DJANGO.name)
    shutil.copytree(
        playground.source, repository.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*UNWANTED)
    )
    repository.commit({}, "the shop")
    side = Ours(playground, directory, DJANGO, repository, "gzip")
    shared = yaml.safe_load((CONFIG / "deploy.yml").read_text())
    # The time until the event is measured. With --no-migrate alone, it would hold the question what is pending.
    build = {"recipe": "django", "migrate": [], "env": shared["build"]["env"], "linked_files": [".env"]}
    side.project.settings["build"].update(build)
    side.project.write()
    found.compressors[side.label] = side.compressor
    clock, bucket = event_clock(playground), Bucket(playground)
    tree, requirements = directory / "django-floor", repository.directory / "requirements.txt"
    for number in range(runs):
        for case in (*CASES, LOCK_FILE_CHANGED):
            if case == CHANGED:
                repository.commit({"catalog/changed.py": f"CHANGED = {number}\n"}, case)
            elif case == LOCK_FILE_CHANGED:
                repository.commit({"requirements.txt": f"{requirements.read_text()}# {number}\n"}, case)
            elif case != SAME:
                repository.commit({}, f"{case}, {number}")
            if case == COLD:
                side.forget()
                _link(side)
            deploy = side.deploy(clock)
            note_deploy(found, f"django/{case}/{side.label}", deploy, bucket.new_mb())
            say(f"django {number + 1}, {case}: {deploy.until_event_seconds:.2f} s")
        found.add("django/floor/git, fresh", floors.git_fresh(repository_url(repository), tree))
        found.add("django/floor/venv and pip alone", _install(playground, tree))
    clock.close()


def _link(side: Ours) -> None:
    """What an administrator prepares on the build server."""
    shared = side.playground.build_root / side.name / "shared/playground"
    shared.mkdir(parents=True)
    values = {"PORT": 8000, "BIND": "127.0.0.1:8000", "DATABASE": shared / "shop.sqlite3"}
    (shared / ".env").write_text(configs.dotenv("", values))


def _install(playground: Playground, tree: Path) -> float:
    python = Path(sys.base_prefix) / "bin/python3"
    environment = {**playground.build_server_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    install = '"$0" -m venv venv && venv/bin/python -m pip install --quiet --no-compile --requirement requirements.txt'
    return floors.command(["sh", "-c", install, str(python)], cwd=tree, env=environment)
