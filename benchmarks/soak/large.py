"""One large release: built, uploaded, deployed to two hosts, and taken back to; right to the last byte.

Two hosts, as each has two releases, an archive and a copy under way on one disk.
"""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from benchmarks.sides import Say, repository_url
from benchmarks.soak import make_files
from benchmarks.soak.findings import Findings
from benchmarks.soak.running import Finished, run
from benchmarks.watching import CommandFailed
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

NAME = "large"
HOSTS = ("app1", "app2")
PEAK_MB = 150
#: A rollback is to be a switch, not a deployment.
ROLLBACK = 0.5
WAIT = {"fetch_seconds": 1_800, "activate_seconds": 1_800, "hook_seconds": 120, "stable_seconds": 0}


def expected(files: int, size_bytes: int) -> str:
    return _digest(make_files.contents(files, size_bytes))


def found_in(directory: Path) -> tuple[int, str]:
    """How many files there are, and one checksum over all names and contents."""
    paths = sorted(path for path in directory.rglob("*") if not path.is_dir())
    return len(paths), _digest((str(path.relative_to(directory)), path.read_bytes()) for path in paths)


def _digest(named: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in named:
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def measure(directory: Path, files: int, megabytes: int, say: Say) -> Findings:
    """Two releases of `files` files, `megabytes` in all, and a rollback to the first. Raises CommandFailed."""
    size_bytes = megabytes * 1_000_000 // files
    with Playground(directory / "playground", ()) as playground:
        application = Application(NAME, (PlaygroundRole("web", HOSTS),))
        playground.add_application(application)
        project = Project(playground, directory / NAME, application)
        shutil.copy(make_files.__file__, project.repository.directory)
        project.settings["repository"] = repository_url(project.repository)
        project.settings["wait"] = WAIT
        project.settings["build"] |= {
            "assets": [f"rm -rf data; python3 make_files.py data {files} {size_bytes}"],
            "assets_inputs": ["make_files.py"],
            "compression": "gzip",
        }
        project.write()
        found = Findings()
        case = f"{megabytes:,} MB in {files:,} files"
        wanted = expected(files, size_bytes)

        def step(what: str, *arguments: str) -> Finished:
            finished = run(project, "playground", *arguments, "--json")
            say(f"large, {what}: {finished.seconds:.1f} s")
            release = finished.json["release"]
            wrong = 0
            for host in HOSTS:
                if project.current(host) != release:
                    raise CommandFailed(f"{what}: {host} serves {project.current(host)}, not {release}")
                wrong += found_in(project.file(host, f"releases/{release}/data")) != (files, wanted)
            found.within(f"{case}, {what}: hosts with a wrong file", wrong, 0)
            found.within(f"{case}, {what}: peak memory, fab", finished.operator_peak_mb, PEAK_MB, "MB")
            found.within(f"{case}, {what}: peak memory, worker", finished.worker_peak_mb, PEAK_MB, "MB")
            phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in finished.json["phases"].items())
            found.show(f"{case}, {what}: whole command", finished.seconds, "s", phases)
            found.show(f"{case}, {what}: processor time, worker and its programs", finished.worker_cpu_seconds)
            return finished

        project.repository.commit({"VERSION": "1\n"}, "the first")
        first = step("deploy", "deploy")
        project.repository.commit({"VERSION": "2\n"}, "the second")
        second = step("deploy of a small change", "deploy")
        back = step("rollback", "rollback")
        if back.json["release"] != first.json["release"]:
            raise CommandFailed(f"the rollback went to {back.json['release']}, not to {first.json['release']}")
        found.ratio(f"{case}: the rollback", back.seconds, ROLLBACK, second.seconds, "the deploy that it undoes")
        stored = project.playground.s3_client()
        record = stored.head_object(
            Bucket=playground.bucket, Key=f"{NAME}/releases/{first.json['release']}/{NAME}.tar.gz"
        )
        stored.close()
        found.show(f"{case}: the archive", record["ContentLength"] / 1e6, "MB")
    return found
