"""Many deploys in a row, each of a new commit: what grows, and whether the last ones take longer than the first.

Retention spares what is younger than a day or an hour, so that somebody's who is at it stays. In a soak everything is
that young. So the tool that is measured here is a copy in which these ages are ten seconds; nothing else is changed.

The first deploys and the last can't take turns, and the machine has other work, which comes and goes. So before each
deploy that is compared something is done that stays the same, `fab --list` and a clone of a repository that nobody
writes to, and what deploys take is counted in that: the yardstick.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import apps
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.sides import Say, repository_url
from benchmarks.soak import census
from benchmarks.soak.findings import Findings, Windows
from benchmarks.soak.running import Finished, run
from benchmarks.watching import CommandFailed
from deploytool.playground.parts import CHECKOUT
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

HOSTS = ("app1", "app2", "app3")
ROLES = (PlaygroundRole("web", HOSTS), PlaygroundRole("batch", ("app3",)))
SOAKED = App("soaked", 60, 4_000)
#: Retention is in its steady state after these: the build server keeps the newest 50 logs.
WINDOWS = Windows(warm_up=60, length=20)
AGE_SECONDS = 10
#: module, what it says, and what it says in the copy
AGES = (
    ("model/retention.py", "UNTOUCHED = timedelta(hours=24)", f"UNTOUCHED = timedelta(seconds={AGE_SECONDS})"),
    ("worker/retention.py", "YOUNG_SECONDS = 3600.0", f"YOUNG_SECONDS = {AGE_SECONDS}.0"),
)
#: more than are built in those ten seconds, so that how many there are does not depend on the machine's pace
KEEP_ON_HOSTS, KEEP_IN_STORE = 3, 12

#: One daemon for each role and host, a new one after each switch.
DAEMON = "if [ -s pids/app.pid ]; then kill $(cat pids/app.pid); fi; sleep 36000 & echo $! >pids/app.pid"

#: what a deployment leaves in the store for good, by design
RECORDS = re.compile(r"environments/[^/]+/deployments/[^/]+(\.json|/begun\.json)")
#: of these it is known what they grow by, and why
LIMIT_MIRROR_KB, LIMIT_RECORDS, LIMIT_RECORD_KB = 40.0, 2.0, 8.0
LIMIT_TIME = 1.2
#: a file system's blocks, and logs whose lines say how long something took
LIMIT_ROOM = 1.02
LIMIT_MEMORY = 1.05
#: of a worker at its end: its line, its log, its locks, and what boto3 keeps open
LIMIT_WORKER_FILES = 40


def hasty_copy(directory: Path) -> Path:
    """The package with shorter ages, in a directory for PYTHONPATH."""
    package = directory / "deploytool"
    shutil.copytree(CHECKOUT / "deploytool", package, ignore=shutil.ignore_patterns("__pycache__", "templates"))
    shutil.copytree(CHECKOUT / "templates", package / "templates")
    for name, said, says in AGES:
        text = (package / name).read_text()
        if text.count(said) != 1:
            raise CommandFailed(f"deploytool/{name} does not say `{said}` any more: see {__name__}")
        (package / name).write_text(text.replace(said, says))
    return directory


class SoakPlayground(Playground):
    """One whose build server has a TMPDIR of its own, so that it can be seen what stays there."""

    @property
    def build_server_tmp(self) -> Path:
        return self.directory / "build-server-tmp"

    def build_server_environment(self) -> dict[str, str]:
        self.build_server_tmp.mkdir(exist_ok=True)
        return {**super().build_server_environment(), "TMPDIR": str(self.build_server_tmp)}


def project_of(playground: Playground, directory: Path) -> Project:
    """The application, with every kind of step, daemons on its hosts, and little that is kept."""
    application = Application(SOAKED.name, ROLES)
    playground.add_application(application)
    project = Project(playground, directory, application)
    project.settings.update(
        repository=repository_url(project.repository), keep_releases=KEEP_ON_HOSTS, linked_dirs=["pids"]
    )
    project.settings["store"]["keep_releases"] = KEEP_IN_STORE
    project.settings["build"] |= {
        "dependencies": ["mkdir -p vendor; cp LOCK vendor/lock"],
        "dependencies_inputs": ["LOCK"],
        "assets": ["mkdir -p public; sha256sum VERSION >public/digest"],
        "assets_inputs": ["VERSION"],
        "migrate": ["sha256sum --check public/digest"],
    }
    for role in ROLES:
        project.role(role.name)["restart"] = [DAEMON]
        project.role(role.name)["verify"] = {"pid_file": "pids/app.pid"}
    project.write()
    apps.write(SOAKED, project.repository.directory)
    return project


class Deploys:
    """The application on a playground of its own, and what is noted after each deploy."""

    def __init__(self, playground: SoakPlayground, directory: Path) -> None:
        self.playground = playground
        self.project = project_of(playground, directory / "soaked")
        self.found = Measurements()
        self._operator = directory / "operator"
        for name in ("tmp", "cache"):
            (self._operator / name).mkdir(parents=True)
        self._env = {
            "PYTHONPATH": str(hasty_copy(directory / "hasty")),
            "TMPDIR": str(self._operator / "tmp"),
            "XDG_CACHE_HOME": str(self._operator / "cache"),
        }
        self._resting = self._on_build_server()
        self._unchanging = directory / "unchanging"
        subprocess.run(["git", "clone", "--quiet", self.project.repository.directory, self._unchanging], check=True)

    def deploy(self, number: int, *, compared: bool) -> Finished:
        """Deploy one more commit, and count what there is then. Raises CommandFailed if that did not go well."""
        # Dependencies change now and then.
        self.project.repository.commit({"VERSION": f"{number}\n", "LOCK": f"{number // 10}\n"}, f"version {number}")
        if compared:
            self._note_yardstick()
        finished = run(self.project, "playground", "deploy", "--json", env=self._env)
        if set(self.project.served().values()) != {finished.json["release"]}:
            raise CommandFailed(f"deploy {number}: exit code 0, but {self.project.served()}")
        self._note_costs(finished)
        census.until(self._is_quiet)
        self._note_disks()
        self._note_store_and_consul()
        self._note_processes(finished.pid)
        return finished

    def _on_build_server(self) -> int:
        return len(census.below(self.playground, "sshd"))

    def _stretchers(self) -> int:
        running = [each for host in HOSTS for each in census.below(self.playground, host)]
        return sum(command.startswith(str(self.playground.stretcher)) for command in map(census.command_of, running))

    def _is_quiet(self) -> bool:
        return self._on_build_server() <= self._resting and self._stretchers() == 0

    def _note_yardstick(self) -> None:
        fab, clone = Path(sys.executable).parent / "fab", self._unchanging.with_name("clone")
        words = 'set -e; cd "$1"; "$2" --list; git clone --quiet "file://$3" "$4"; rm -r "$4"'
        before, begin = os.times(), time.monotonic()
        subprocess.run(
            ["bash", "-c", words, "bash", self.project.directory, fab, self._unchanging, clone],
            env={**self.project.environment(), **self._env},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = os.times()
        self.found.add("yardstick/wall clock", time.monotonic() - begin)
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        self.found.add("yardstick/processor", spent)

    def _note_costs(self, finished: Finished) -> None:
        add = self.found.add
        add("time/wall clock", finished.seconds)
        add("time/processor, fab", finished.operator_cpu_seconds)
        add("time/processor, worker and its programs", finished.worker_cpu_seconds)
        add("memory/fab, peak of a deploy", finished.operator_peak_mb, "MB")
        add("memory/worker, peak of a deploy", finished.worker_peak_mb, "MB")
        add("open files/worker at its end", finished.worker_open_files, "")

    def _note_disks(self) -> None:
        home = self.playground.build_root / SOAKED.name
        hosts = [self.playground.host_directory(host) for host in HOSTS]
        kept = {f"build server: {place.name}": [place] for place in home.iterdir() if place.is_dir()}
        places: Mapping[str, list[Path]] = {
            **{name: kept[name] for name in sorted(kept)},
            "build server: .worker": [self.playground.build_root / ".worker"],
            "build server: HOME": [self.playground.directory / "build-server-home"],
            "build server: TMPDIR": [self.playground.build_server_tmp],
            "hosts: deploy_to": [host / SOAKED.name for host in hosts],
            "hosts: HOME": [host / "home" for host in hosts],
            "hosts: TMPDIR": [host / "tmp" for host in hosts],
            "operator: project": [self.project.directory],
            "operator: cache": [self._operator / "cache"],
            "operator: TMPDIR": [self._operator / "tmp"],
        }
        for name, paths in places.items():
            found = census.room(*paths)
            self.found.add(f"disk/{name}", found.kilobytes, "kB")
            self.found.add(f"files/{name}", found.files, "")

    def _note_store_and_consul(self) -> None:
        stored = census.objects(self.playground, SOAKED.name)
        records = {key: size for key, size in stored.items() if RECORDS.fullmatch(key)}
        keys = census.consul_keys(self.playground, SOAKED.name)
        add = self.found.add
        add("records/objects", len(records), "")
        add("records/kilobytes", sum(records.values()) / 1e3, "kB")
        add("store/objects but for records", len(stored) - len(records), "")
        add("store/kilobytes but for records", (sum(stored.values()) - sum(records.values())) / 1e3, "kB")
        add("Consul/keys", len(keys), "")
        add("Consul/kilobytes", sum(keys.values()) / 1e3, "kB")

    def _note_processes(self, fab: int) -> None:
        add = self.found.add
        on_hosts = [each for host in HOSTS for each in census.below(self.playground, host)]
        watches = [each for each in on_hosts if " watch " in census.command_of(each)]
        # The first process of each host's namespaces.
        first = [each for each in on_hosts if "host.py" in census.command_of(each)]
        sshd = census.below(self.playground, "sshd")
        for name, group in (("sshd", sshd), ("hosts' watches", watches), ("hosts' first processes", first)):
            found = census.living(group)
            add(f"processes/{name}", found.count, "")
            add(f"open files/{name}", found.open_files, "")
            add(f"memory/{name}", found.memory_mb, "MB")
        add("processes/all on hosts", len(on_hosts), "")
        add("left/stretcher", self._stretchers(), "")
        add("left/on the build server", max(self._on_build_server() - self._resting, 0), "")
        add("left/of fab", len(census.of_session(fab)), "")


def judged(found: Measurements, windows: Windows = WINDOWS) -> Findings:
    """Every series: the last stretch beside the first after the warm-up."""
    judged = Findings()
    count = len(found.figures["time/wall clock"])
    early_name = windows.early_name
    between = count - windows.warm_up - windows.length
    # The yardstick was laid beside those deploys only.
    yardsticks = Windows(0, windows.length)
    for name, series in found.figures.items():
        kind, _, what = name.partition("/")
        side = yardsticks if kind == "yardstick" else windows
        unit, early, late = found.units[name], side.early(series), side.late(series)
        case = f"{count} deploys: {kind}, {what}"
        if kind == "yardstick":
            judged.show(case, late, unit, f"{early_name}: {early:.2f}")
        elif kind == "left":
            judged.within(f"{case}, most at any time", max(series), 0)
        elif what == "worker at its end":
            judged.within(f"{case}, most at any time", max(series), LIMIT_WORKER_FILES)
        elif kind == "time":
            judged.show(case, late, unit, f"{early_name}: {early:.2f}")
            measure = found.figures[f"yardstick/{what.partition(',')[0]}"]
            late, early = late / yardsticks.late(measure), early / yardsticks.early(measure)
            judged.ratio(f"{case}, in yardsticks", late, LIMIT_TIME, early, early_name, "")
            # What a user sees. The very first makes what all others find.
            first = Windows(1, windows.length)
            judged.ratio(case, windows.late(series), LIMIT_TIME, first.early(series), first.early_name, unit)
        elif kind == "memory":
            judged.ratio(case, late, LIMIT_MEMORY, early, early_name, unit)
        elif kind == "records" or name == "disk/build server: repository.git":
            # What is to stay: so much for each deploy.
            limit = {"objects": LIMIT_RECORDS, "kilobytes": LIMIT_RECORD_KB}.get(what, LIMIT_MIRROR_KB)
            judged.within(f"{case}, growth for each deploy", (late - early) / between, limit, unit)
        elif name == "files/build server: repository.git":
            judged.show(case, late, unit, f"{early_name}: {early:g}")
        elif unit == "kB" and early:
            judged.ratio(case, late, LIMIT_ROOM, early, early_name, unit)
        else:
            judged.more(case, late, 0, early, early_name, unit)
    return judged


def measure(directory: Path, count: int, output: Path, say: Say) -> Findings:
    """`count` deploys; the whole series is written to `output` as well. Raises CommandFailed."""
    with SoakPlayground(directory / "playground", ()) as playground:
        deploys = Deploys(playground, directory)
        for number in range(count):
            finished = deploys.deploy(number, compared=WINDOWS.have(number, count))
            if number % 10 == 9 or not number:
                say(f"deploy {number + 1} of {count}: {finished.seconds:.2f} s")
                (output / "deploys.json").write_text(json.dumps(deploys.found.as_json(), indent=1))
        found = judged(deploys.found)
        mirror = playground.build_root / SOAKED.name / "repository.git"
        before = census.room(mirror)
        subprocess.run(["git", "-C", str(mirror), "gc", "--quiet"], check=True)
        after = census.room(mirror)
        # git does that by itself from 6,700 loose objects on: that bounds what is lost in blocks of a file system.
        found.show(
            f"{count} deploys: the mirror after `git gc`",
            after.kilobytes,
            "kB",
            f"{after.files} files; before: {before.kilobytes:.0f} kB, {before.files} files",
        )
        return found
