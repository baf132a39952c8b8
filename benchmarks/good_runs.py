"""How often a good deploy is called a failure: many good deploys in a row, both roles, with other work on the machine.

The version of stretcher is that in PATH, or the one that STRETCHER names; run it once for each.

    .venv/bin/python -m benchmarks.good_runs [RUNS]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from deploytool.playground import parts
from deploytool.playground.playground import Playground
from tests.support.project import TINY, Project

#: Other work: as many busy loops as the machine has cores would leave nothing; one halves it.
LOAD = [sys.executable, "-c", "while True: sum(range(100_000))"]


def main(runs: int) -> int:
    found = parts.find_or_install(print)
    version = parts.versions(found)["stretcher"]
    failures = 0
    load = subprocess.Popen(LOAD)
    try:
        with (
            tempfile.TemporaryDirectory() as name,
            Playground(Path(name) / "state", (TINY,)) as playground,
        ):
            project = Project(playground, Path(name))
            project.settings["linked_dirs"] = ["pids"]
            daemon = "if [ -s pids/app.pid ]; then kill $(cat pids/app.pid); fi; sleep 3600 & echo $! >pids/app.pid"
            for role in ("web", "batch"):
                project.role(role)["restart"] = [daemon]
                project.role(role)["verify"] = {"pid_file": "pids/app.pid"}
            project.write()
            for number in range(runs):
                project.repository.commit({"VERSION": str(number)})
                result = project.fab("playground", "deploy", "--json")
                served = set(project.served().values())
                good = result.code == 0 and served == {result.json["release"]}
                failures += not good
                word = "" if good else "  FALSE FAILURE"
                print(f"{number + 1:3} {result.json['release']} exit code {result.code}{word}")
    finally:
        load.kill()
        load.wait()
    print(f"stretcher {version}: {failures} false failures in {runs} good deploys")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 30))
