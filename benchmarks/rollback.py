"""How long a rollback takes, compared with the deploy that it undoes: three hosts, real parts, proof on every host.

Two applications: a large one made from a seed (8,000 files, 300 MB) that restarts at once, and the sample shop
(Django), whose rollback is mostly its own start: gunicorn and a worker on three hosts of one machine. Each is deployed,
changed, deployed and rolled back; both sides of a ratio are from one run. The large one is measured with the proof held
for two seconds, the default of `wait.stable_seconds`, and for none; exit code 1 if the ratio of the latter is over 0.1.

    .venv/bin/python -m benchmarks.rollback [RUNS]
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import apps
from deploytool.playground.playground import SHOP, Application, Playground, PlaygroundRole
from tests.support.fab import Result
from tests.support.project import Project

CONFIG = Path(__file__).resolve().parent.parent / "config"
UNWANTED = ("__pycache__", "*.pyc", "*.sqlite3", "venv", ".venv", "staticfiles")
HOSTS = ("app1", "app2", "app3")
LARGE = Application("large", (PlaygroundRole("web", HOSTS),))
#: A process that its pid file names stands for the application: the proof is that it runs from the release.
DAEMON = "if [ -s pids/app.pid ]; then kill $(cat pids/app.pid); fi; sleep 3600 & echo $! >pids/app.pid"


def shop(playground: Playground, directory: Path) -> Project:
    """The sample application with its own settings, as `fab playground deploy` has them."""
    project = Project(playground, directory / "shop", SHOP)
    shutil.copytree(
        playground.source, project.repository.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*UNWANTED)
    )
    shutil.copy(CONFIG / "deploy.yml", project.directory / "config/deploy.yml")
    project.settings = dict(playground.settings_for(SHOP, project.repository.directory))
    project.write()
    project.repository.commit({}, "the shop")
    return project


def large(playground: Playground, directory: Path) -> Project:
    playground.add_application(LARGE)
    project = Project(playground, directory / "large", LARGE)
    apps.write(apps.LARGE, project.repository.directory)
    project.settings["linked_dirs"] = ["pids"]
    project.settings["wait"] = {"fetch_seconds": 600, "activate_seconds": 300, "hook_seconds": 120, "stable_seconds": 2}
    project.role("web").update(restart=[DAEMON], verify={"pid_file": "pids/app.pid"})
    project.write()
    return project


def timed(command: Callable[[], Result]) -> tuple[float, Result]:
    begin = time.monotonic()
    result = command()
    seconds = time.monotonic() - begin
    if result.code != 0:
        sys.exit(f"exit code {result.code}\n{result.out}\n{result.err}")
    return seconds, result


def measure(name: str, project: Project, runs: int) -> dict[str, object]:
    """Median seconds of a deploy and of the rollback that undoes it."""
    timed(lambda: project.fab("playground", "deploy", "--json", timeout_seconds=600))
    deploys, rollbacks, phases = [], [], []
    for number in range(runs):
        project.repository.commit({"VERSION": str(number)})
        seconds, _ = timed(lambda: project.fab("playground", "deploy", "--json", timeout_seconds=600))
        deploys.append(seconds)
        seconds, result = timed(lambda: project.fab("playground", "rollback", "--json"))
        assert set(result.verdicts().values()) == {"verified"}
        rollbacks.append(seconds)
        phases.append(result.json["phases"])
        print(f"{name} {number + 1}: deploy {deploys[-1]:.1f} s, rollback {rollbacks[-1]:.1f} s", flush=True)
    deploy, rollback = statistics.median(deploys), statistics.median(rollbacks)
    print(f"{name}: a rollback takes {rollback:.1f} s, 1/{deploy / rollback:.1f} of its deploy's {deploy:.1f} s")
    return {"application": name, "deploy": deploy, "rollback": rollback, "ratio": rollback / deploy, "phases": phases}


def main(runs: int) -> int:
    with tempfile.TemporaryDirectory() as name, Playground(Path(name) / "state") as playground:
        directory = Path(name)
        big = large(playground, directory)
        big.settings["wait"]["stable_seconds"] = 0
        big.write()
        found = [measure("large, held for 0 s", big, runs)]
        big.settings["wait"]["stable_seconds"] = 2
        big.write()
        found.append(measure("large, held for 2 s", big, runs))
        found.append(measure("shop, held for 2 s", shop(playground, directory), runs))
    print(json.dumps(found))
    ratio = found[0]["ratio"]
    return 0 if isinstance(ratio, float) and ratio < 0.1 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 3))
