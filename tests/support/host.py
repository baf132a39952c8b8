"""A host of the scripts' own, without stretcher: it runs what a manifest's commands say."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploytool.hosts.manifest import manifest_url, render
from deploytool.hosts.manifest_check import check_manifest
from deploytool.hosts.role_manifest import HostCommand, Phase, RoleManifest
from deploytool.model.release import DeploymentId, Release, ReleaseId, Revision
from deploytool.playground.parts import Parts

PREFIX = "deploytool/shop/production"
OLD, NEW = "20261123T060000Z-aaaaaaa", "20261123T070000Z-bbbbbbb"
FIRST, SECOND, THIRD = "20261123T060100Zaaaa", "20261123T070100Zbbbb", "20261123T080100Zcccc"
#: Stops the app's process and starts another one from the release: what a real restart does, in three lines.
RESTART = """kill "$(cat ../../shared/app.pid 2>/dev/null)" 2>/dev/null
sleep 300 >/dev/null 2>&1 &
echo $! >../../shared/app.pid"""
#: as the host's scripts read it
NOTHING_VERIFIED = {"pid_file": "", "url": "", "expect": "", "command": "", "port": "", "as_before": "yes"}


@dataclass(slots=True)
class Run:
    """What one run of stretcher left behind."""

    log: str
    exit_status: int
    reports: dict[str, dict[str, Any]]


@dataclass(slots=True)
class Host:
    """A pretend app server with its own deploy_to, store and bus."""

    home: Path
    parts: Parts
    deploy_to: Path
    environment: dict[str, str]
    changes: dict[str, Any] = field(default_factory=dict)
    templates: Path | None = None
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    tree: dict[str, str] = field(default_factory=lambda: {"app.py": "print('hello')\n", "config/app.yml": "a: 1\n"})

    # the bus

    def key(self, key: str) -> Path:
        return Path(self.environment["FAKE_CONSUL"]) / f"{PREFIX}/{key}".replace("/", "%")

    def put(self, key: str, value: str) -> None:
        beside = self.home / "beside"
        beside.write_text(value)
        beside.rename(self.key(key))

    def go(self, deployment: str, value: str) -> None:
        self.put(f"deployments/{deployment}/web/go", value)

    def want(self, deployment: str) -> None:
        self.put("wanted/web", f"{deployment} file:///somewhere")

    def mark(self, name: str) -> Path:
        return Path(self.environment["FAKE_CONSUL"]) / name

    def reports(self, deployment: str) -> dict[str, dict[str, Any]]:
        start = f"{PREFIX}/reports/web/app1/{deployment}/".replace("/", "%")
        kv = Path(self.environment["FAKE_CONSUL"])
        return {p.name.removeprefix(start): json.loads(p.read_text()) for p in kv.iterdir() if p.name.startswith(start)}

    # stretcher

    def manifest(self, deployment: str, release: str) -> RoleManifest:
        archive = self.home / "store" / release / "shop.tar.gz"
        if not archive.exists():
            archive.parent.mkdir(parents=True)
            with tarfile.open(archive, "w:gz") as tar:
                for name, text in {"REVISION": release[-7:], **self.tree}.items():
                    info = tarfile.TarInfo(f"./{name}")
                    info.size = len(text.encode())
                    tar.addfile(info, io.BytesIO(text.encode()))
        content = archive.read_bytes()
        manifest = RoleManifest(
            application="shop",
            environment="production",
            role="web",
            release=Release(
                id=ReleaseId(release),
                application="shop",
                revision=Revision(release[-7:] + "0" * 33),
                branch="main",
                built_at="2026-11-23T06:00:00Z",
                built_by="test",
                build_key="0" * 64,
                compression="gzip",
                checksum=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
                unpacked_bytes=1000,
            ),
            deployment=DeploymentId(deployment),
            src=manifest_url(f"file://{self.home}/store", f"{release}/shop.tar.gz"),
            deploy_to=str(self.deploy_to),
            keep_releases=2,
            linked_dirs=(),
            linked_files=(),
            restart=(),
            hooks={"pre": (), "post": (), "success": (), "failure": ()},
            verify=NOTHING_VERIFIED,
            hook_seconds=4,
            stable_seconds=1,
            bus_directory="",
        )
        verify = {name: text for name, text in self.changes.items() if name.startswith("verify_")}
        rest = {name: value for name, value in self.changes.items() if name not in verify}
        asked = {name.removeprefix("verify_"): str(text) for name, text in verify.items()}
        return replace(manifest, verify=NOTHING_VERIFIED | asked, **rest)

    def log_of(self, number: int) -> Path:
        return self.home / f"{number}.log"

    def start(self, deployment: str, release: str) -> "subprocess.Popen[bytes]":
        manifest = self.manifest(deployment, release)
        text = render(manifest, self.templates)
        check_manifest(text, kept=manifest.kept)
        path = self.home / f"{deployment}.yml"
        path.write_text(text)
        event = self.home / f"{deployment}.event"
        event.write_text(manifest_url(f"file://{self.home}", path.name) + "\n")
        # A file: a pipe that nobody reads yet would stop stretcher, which logs more than a pipe holds.
        with event.open() as stdin, self.log_of(len(self.started)).open("w") as log:
            process = subprocess.Popen(
                [self.parts.stretcher],
                stdin=stdin,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.home,
            )
        self.started.append(process)
        return process

    def finish(self, process: "subprocess.Popen[bytes]", deployment: str) -> Run:
        process.wait(60)
        log = self.log_of(self.started.index(process)).read_text(errors="replace")
        return Run(without_scripts(log), process.returncode, self.reports(deployment))

    def run(self, deployment: str, release: str) -> Run:
        return self.finish(self.start(deployment, release), deployment)

    def deploy(self, deployment: str, release: str) -> Run:
        """A whole deployment, as an operator without --wait announces it."""
        self.go(deployment, "go all")
        self.want(deployment)
        return self.run(deployment, release)

    # what came of it

    @property
    def current(self) -> str | None:
        link = self.deploy_to / "current"
        return os.readlink(link) if link.is_symlink() else None

    @property
    def releases(self) -> list[str]:
        return sorted(path.name for path in (self.deploy_to / "releases").iterdir())

    @property
    def last_word(self) -> dict[str, Any]:
        """What the host says of what it serves."""
        return dict(json.loads(self.key("serving/web/app1").read_text()))

    @property
    def told(self) -> list[str]:
        """The releases that the host says it has."""
        return sorted(self.last_word["releases"])

    @property
    def last(self) -> str:
        return (self.deploy_to / ".deploytool/last").read_text().strip()

    @property
    def app(self) -> int:
        return int((self.deploy_to / "shared/app.pid").read_text())

    def has_switch_record(self) -> bool:
        return (self.deploy_to / ".deploytool/switch").exists()


def make_host(home: Path, parts: Parts, name: str) -> Host:
    (home / "kv").mkdir()
    (home / "tmp").mkdir()
    (home / "bin").mkdir()
    shutil.copy(Path(__file__).parents[1] / "fixtures/consul", home / "bin/consul")
    (home / "bin/rsync").symlink_to(parts.rsync)
    environment = {
        "PATH": f"{home}/bin:{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "FAKE_CONSUL": str(home / "kv"),
        "DEPLOYTOOL_NODE": "app1",
        "DEPLOYTOOL_SILENCE_SECONDS": "3",
        "DEPLOYTOOL_REPORT_SECONDS": "1",
        "DEPLOYTOOL_LOCK_SECONDS": "2",
    }
    return Host(home, parts, home / name, environment)


def without_scripts(log: str) -> str:
    """stretcher's log without the texts of commands, which hold every word that a test may look for."""
    log = re.sub(r"(?m)^.* Executing manifest .*$", "", log)
    return re.sub(r"(?ms)^[^\n]*# deploytool \S+ [a-z]+ begin$.*?^# deploytool \S+ [a-z]+ end", "<script>", log)


def end_app(host: Host) -> None:
    for process in host.started:
        if process.poll() is None:
            process.kill()
            process.wait()
    for file in host.home.glob("*/shared/*.pid"):
        with suppress(ValueError, ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGTERM)
    # A master's workers live on without it.
    for directory in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if Path(os.readlink(directory)).is_relative_to(host.home):
                os.kill(int(directory.parent.name), signal.SIGKILL)


def command(text: str, label: str = "roles.web.hooks.x[0]") -> tuple[HostCommand, ...]:
    return (HostCommand(label, text),)


def hooks(**given: str) -> dict[Phase, tuple[HostCommand, ...]]:
    none: dict[Phase, tuple[HostCommand, ...]] = {"pre": (), "post": (), "success": (), "failure": ()}
    phases: tuple[Phase, ...] = ("pre", "post", "success", "failure")
    return none | {name: command(given[name], f"roles.web.hooks.{name}[0]") for name in phases if name in given}


def consul(host: Host, *arguments: str) -> str:
    run = [str(host.parts.consul), "kv", *arguments]
    return subprocess.run(run, env=host.environment, capture_output=True, text=True, check=True).stdout
