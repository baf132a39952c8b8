"""`make hosts`: an app server as people have it, a Debian of its own with systemd as pid 1, from setup to uninstall.

debootstrap makes the root and systemd-nspawn boots it, on this machine's network; Consul's server, the S3 server and
the build server are those of a playground. The application is a unit of its own; `restart` is the documented
`sudo systemctl restart`. The whole story is printed, with times, and ends at the first thing that is not as it should
be. All that was started ends with this program, however that ends; what was made is removed.

    python -m tools.hosts [--suite SUITE] [--minutes N] [--keep] [--root DIR]

Needs root, debootstrap and systemd-nspawn (Debian's package systemd-container). Exit code 1 if something is not as it
should be, 2 if the machine can't be made.
"""

import argparse
import contextlib
import functools
import hashlib
import http.server
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from deploytool.playground import configs, processes
from deploytool.playground.parts import CHECKOUT, PartMissing, debian_mirror
from deploytool.playground.playground import SERVER_NODE, Playground
from tests.support.certificates import own_certificate
from tests.support.project import FABFILE, Repository
from tools.bare import SYSTEM_FILES, checked, copy, copy_apt, debootstrap, registry_variables, temporary

NODE, USER = "booted1", "deploy"
DEPLOY_TO = "/srv/app"
WATCH, CATCH_UP = "deploy-app-web-production.service", "catch-up-app-web-production"
SUDOERS = "/etc/sudoers.d/deploy-app-web-production"
#: What a server's image has. The programs that deployments need are for the script to bring.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "sudo", "curl", "ca-certificates", "python3", "procps")

#: As HashiCorp's own package has it.
CONSUL_UNIT = """\
[Unit]
Description="HashiCorp Consul - A service mesh solution"
Documentation=https://www.consul.io/
Requires=network-online.target
After=network-online.target
ConditionFileNotEmpty=/etc/consul.d/consul.json

[Service]
Type=notify
EnvironmentFile=-/etc/consul.d/consul.env
User=consul
Group=consul
ExecStart=/usr/bin/consul agent -config-dir=/etc/consul.d/
ExecReload=/bin/kill --signal HUP $MAINPID
KillMode=process
KillSignal=SIGTERM
Restart=on-failure
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""

APP_UNIT = f"""\
[Unit]
Description=The application
After=network.target

[Service]
User={USER}
WorkingDirectory={DEPLOY_TO}/current
ExecStart=/usr/bin/python3 {DEPLOY_TO}/current/serve.py
Restart=on-failure
RestartSec=1

[Install]
WantedBy=multi-user.target
"""

#: Serves the revision that it was started from; a release with the file `slow` takes its time to start.
SERVE = """\
import http.server, pathlib, sys, time
here = pathlib.Path(__file__).resolve().parent
time.sleep(float((here / "slow").read_text()) if (here / "slow").exists() else 0)
said = (here / "REVISION").read_bytes()
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int((here / "port").read_text())), Page).serve_forever()
"""

BEGAN = time.monotonic()


class NotAsItShouldBe(Exception):
    """What is wrong, in a sentence, with what was seen on further lines."""


def say(line: str) -> None:
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {line}", flush=True)


def show(text: str) -> None:
    for line in text.rstrip().splitlines():
        print(f"           | {line}", flush=True)


def should(holds: bool, sentence: str, seen: str = "") -> None:
    if not holds:
        raise NotAsItShouldBe("\n".join([f"NOT AS IT SHOULD BE: {sentence}", *seen.rstrip().splitlines()]))
    say(f"ok: {sentence}")


def until(what: str, holds: Callable[[], bool], seconds: float) -> float:
    """Wait for it; how long that took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise NotAsItShouldBe(f"NOT AS IT SHOULD BE: after {seconds:.0f} s still not: {what}")
        time.sleep(0.2)
    return time.monotonic() - began


class Machine:
    """A root directory that can be booted."""

    def __init__(self, root: Path, records: Path) -> None:
        self.root = root
        self.records = records
        self.process: subprocess.Popen[bytes] | None = None
        self.leader: processes.Recorded | None = None
        self._groups = self._left_groups()

    @staticmethod
    def _left_groups() -> set[Path]:
        return {path for name in ("payload", "supervisor") for path in Path("/sys/fs/cgroup").glob(f"**/{name}")}

    def boot(self) -> None:
        """Start it, and come back when its systemd has started all units."""
        command = [
            *("setpriv", "--pdeathsig", "KILL", "--", "systemd-nspawn", "--quiet", "--keep-unit", "--register=no"),
            *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe", f"--machine={NODE}"),
            *(f"--directory={self.root}", "--boot"),
        ]
        environment = {"PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "warning"}
        self.process = processes.launch(
            command,
            name="nspawn",
            records=self.records,
            log=self.records.parent / "console.log",
            env=environment,
            directory=Path("/"),
        )
        until("the machine's systemd runs", self._has_leader, 30)
        until("the machine has booted", self._has_booted, 90)

    def _has_leader(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            tail = (self.records.parent / "console.log").read_text(errors="replace").splitlines()[-15:]
            raise PartMissing("systemd-nspawn ended at once", tail=tail)
        for child in processes.children(self.process.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    processes.record(self.records, "leader", child)
                    self.leader = processes.find(self.records, "leader")
        return self.leader is not None

    def _has_booted(self) -> bool:
        return self.run("systemctl is-system-running", check=False).strip() in ("running", "degraded")

    def cut(self) -> None:
        """The power goes: nothing in there has a chance to say goodbye."""
        assert self.process is not None
        if self.leader is not None:
            processes.send(self.leader, signal.SIGKILL)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(15)
        self.leader = None

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.cut()
        # What systemd-nspawn leaves in our own control groups, empty.
        for place in self._left_groups() - self._groups:
            for group in sorted(place.glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()

    def run(self, command: str, *, check: bool = True, user: str = "root", seconds: float = 120) -> str:
        """What a shell command prints there, errors too. Raises NotAsItShouldBe if it fails."""
        if self.leader is None:
            return ""
        enter = ["nsenter", "--target", str(self.leader.pid), "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
        variables = {**registry_variables(os.environ), "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"}
        as_user = [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        words = [*enter, "/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items()), *as_user]
        done = subprocess.run(
            [*words, "/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
        if check and done.returncode != 0:
            raise NotAsItShouldBe(
                f"NOT AS IT SHOULD BE: exit status {done.returncode} of: {command}\n{done.stdout.rstrip()}"
            )
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Also while it runs; a path with links in it must not lead out of the root."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def journal(self, unit: str, since: float = 0) -> str:
        """What the unit has written, each line with its time, in seconds since 1970."""
        self.run("journalctl --sync", check=False)
        lines = self.run(f"journalctl -q --no-pager -o short-unix -u {unit}").splitlines()
        return "\n".join(line for line in lines if float(line.split()[0]) >= since)


def make_root(root: Path, within: Path, suite: str) -> None:
    """A Debian as an image of a server has it. Raises PartMissing."""
    if not shutil.which("systemd-nspawn"):
        raise PartMissing("there is no systemd-nspawn here; on Debian it is in the package systemd-container")
    mirror, keyring = debian_mirror()
    command, environment = debootstrap(within)
    trust = [f"--keyring={keyring}"] if keyring else []
    checked(
        [*command, "--variant=minbase", *trust, f"--include={','.join(PACKAGES)}", suite, str(root), mirror],
        "making a Debian",
        env=environment,
    )


def prepare(machine: Machine, playground: Playground, ports: dict[str, int], suite: str) -> None:
    """What an administrator has on every machine: Consul's agent, the application's unit, where packages come from."""
    root = machine.root
    copy_apt(root)
    for path in (root / "etc/apt").glob("sources.list*"):
        # Of this machine's own suite.
        for file in [path] if path.is_file() else list(path.glob("*")):
            file.write_text(re.sub(r"\b(bullseye|bookworm|trixie)\b", suite, file.read_text()))
    for name in SYSTEM_FILES:
        copy(Path("/") / name, root / name)
    machine.write("etc/hostname", f"machine-of-{NODE}\n")
    machine.write("etc/hosts", f"127.0.0.1 localhost machine-of-{NODE}\n::1 localhost\n")
    (root / "var/log/journal").mkdir(exist_ok=True)
    shutil.copy(playground.consul.resolve(), root / "usr/bin/consul")
    config = configs.consul_agent(
        node_name=NODE,
        data_dir=Path("/opt/consul"),
        ports=ports,
        server_serf_port=playground.ports[f"{SERVER_NODE}-serf_lan"],
        is_server=False,
    )
    machine.write("etc/consul.d/consul.json", config)
    machine.write("usr/lib/systemd/system/consul.service", CONSUL_UNIT)
    machine.write("etc/systemd/system/app.service", APP_UNIT)
    for command in (
        ["useradd", "--system", "--home", "/opt/consul", "--shell", "/bin/false", "consul"],
        ["install", "-d", "-o", "consul", "-g", "consul", "/opt/consul"],
        ["systemctl", "enable", "consul.service"],
    ):
        checked(["chroot", str(root), *command], command[0])


class Operator:
    """Who deploys: a project with its repository."""

    def __init__(self, directory: Path, playground: Playground, port: int) -> None:
        self.directory = directory / "project"
        (self.directory / "config").mkdir(parents=True)
        (self.directory / "fabfile.py").write_text(FABFILE)
        (self.directory / "config/deploy.yml").touch()
        self.repository = Repository(directory / "repository")
        self.repository.commit({"serve.py": SERVE, "port": str(port)}, "first")
        settings = {
            "application": "app",
            "repository": str(self.repository.directory),
            "branch": "main",
            "deploy_to": DEPLOY_TO,
            "keep_releases": 2,
            "build": {
                "server": playground.build_server,
                "ssh_config": str(playground.ssh_config),
                "root": str(playground.build_root),
            },
            "store": {
                "url": f"s3://{playground.bucket}/app",
                "endpoint_url": playground.endpoint_url,
                "region": playground.region,
                "credentials": "build_server",
            },
            "consul": {"address": playground.consul_address()},
            "wait": {"fetch_seconds": 60, "activate_seconds": 90, "hook_seconds": 30, "stable_seconds": 1},
            "roles": {
                "web": {
                    "hosts": {"nodes": [NODE]},
                    "restart": "sudo systemctl restart app",
                    "verify": {"url": f"http://127.0.0.1:{port}/", "expect": "{{ revision }}"},
                }
            },
        }
        (self.directory / "config/production.yml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CONSUL_"))}
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "fab"), "production", *arguments],
            cwd=self.directory,
            env={**kept, "COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def fab(self, *arguments: str, expected: int = 0, shown: int = 8) -> str:
        say(f"$ fab production {shlex.join(arguments)}")
        return self.finish(self.start(*arguments), expected, shown)

    def finish(self, running: "subprocess.Popen[str]", expected: int = 0, shown: int = 8) -> str:
        with running:
            try:
                out, _ = running.communicate(timeout=300)
            except BaseException:
                running.kill()
                raise
        show("\n".join(out.splitlines()[-shown:]) if shown else "")
        should(running.returncode == expected, f"it ends with exit code {expected}", out)
        return out

    def status(self) -> dict[str, Any]:
        """What `fab status` says of the host."""
        with self.start("status", "--json") as running:
            out, _ = running.communicate(timeout=120)
        with contextlib.suppress(ValueError):
            for host in json.loads(out[out.index("{") :])["hosts"]:
                if host["host"] == NODE:
                    return dict(host)
        return {}

    def is_verified(self) -> bool:
        status = self.status()
        return bool(status) and not status["behind"] and bool(status["verified"])


@contextlib.contextmanager
def download_server(directory: Path, program: Path) -> Iterator[tuple[str, str, str]]:
    """The URL of stretcher over https, its sha256, and the certificate that vouches for it."""
    place = directory / "download"
    place.mkdir()
    shutil.copy(program, place / "stretcher")
    certificate, key = own_certificate(directory / "authority")

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(place)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"https://127.0.0.1:{server.server_port}/stretcher"
        yield url, hashlib.sha256((place / "stretcher").read_bytes()).hexdigest(), certificate.read_text()
    finally:
        server.shutdown()
        server.server_close()


class Story:
    """What becomes of the machine, one chapter after the other."""

    def __init__(self, machine: Machine, operator: Operator, playground: Playground, consul_port: int) -> None:
        self.machine, self.operator, self.playground, self.consul_port = machine, operator, playground, consul_port

    def tell(self, download: tuple[str, str, str]) -> None:
        self.machine.boot()
        say(f"booted: {self.machine.run('systemctl --version').splitlines()[0]}, pid 1 is systemd")
        self.set_up(*download)
        self.deploy_without_the_rule()
        self.deploy()
        self.deploy_again_and_go_back()
        self.idle()
        self.reboot_in_the_middle()
        self.lose_the_agent()
        self.catch_up_after_boot()
        self.catch_up_that_fails()
        self.journal_is_bounded()
        self.uninstall()

    # The chapters

    def set_up(self, url: str, checksum: str, certificate: str) -> None:
        say("--- app-server's script")
        out = self.operator.directory.parent / "made"
        words = ("--stretcher", url, "--stretcher-sha256", checksum, "--node", NODE, "--output", str(out))
        self.operator.fab("app-server", "--role", "web", *words, shown=3)
        self.script = (out / "setup.sh").read_text()
        self.machine.write("root/ca.pem", certificate)
        first = self._set_up()
        show(first)
        should("S3 credentials" in first, "it asks for S3 credentials", first)
        rules = re.findall(r"(?m)^\s*(\S+ ALL=\(root\) NOPASSWD: .*)$", first)
        should(rules == [f"{USER} ALL=(root) NOPASSWD: /usr/bin/systemctl restart app"], "it prints sudo's rule", first)
        self.rule = rules[0]
        left = self.machine.run("ls -d /tmp/tmp.* /tmp/*stretcher* 2>/dev/null", check=False)
        should(left == "", "it leaves nothing in /tmp", left)
        keys = self.playground.deploy_keys
        self.machine.run(
            f"cat >>/etc/deploytool/app-production.env <<'END'\nAWS_ACCESS_KEY_ID={keys.access_key}\n"
            f"AWS_SECRET_ACCESS_KEY={keys.secret_key}\nCONSUL_HTTP_ADDR=http://127.0.0.1:{self.consul_port}\nEND\n"
            f"systemctl enable app 2>/dev/null; systemctl restart {WATCH}"
        )
        for unit in ("consul.service", WATCH, f"{CATCH_UP}.timer"):
            should(self._is_active(unit), f"{unit} is up")
        until("Consul has the machine", lambda: self.operator.status().get("up") is True, 60)
        self.operator.fab("check", shown=30)

    def _set_up(self) -> str:
        self.machine.write("root/setup.sh", self.script)
        return self.machine.run("CURL_CA_BUNDLE=/root/ca.pem sh /root/setup.sh", seconds=300)

    def deploy_without_the_rule(self) -> None:
        say("--- the first deploy, before sudo's rule is there")
        out = self.operator.fab("deploy", expected=8, shown=20)
        should("sudo: a password is required" in out and "app-server" in out, "the reason says what sudo lacks", out)
        say("--- sudo's rule, as the script prints it")
        self.machine.run(f"umask 227; echo {shlex.quote(self.rule)} >{SUDOERS} && visudo -cf {SUDOERS}")
        again = self._set_up()
        show(again)
        should("NOPASSWD" not in again and "Written" not in again, "run again, the script is content", again)

    def deploy(self) -> None:
        say("--- the first deploy that can go well")
        self.operator.fab("deploy")
        should(self._serves(self.operator.repository.git("rev-parse", "HEAD")), "the application serves it")

    def deploy_again_and_go_back(self) -> None:
        say("--- a second deploy, and what it writes into the journal")
        since = time.time()
        first = self.operator.repository.git("rev-parse", "HEAD")
        second = self.operator.repository.commit({"README": "second"})
        self.operator.fab("deploy")
        should(self._serves(second), "the application serves the second")
        lines = self.machine.journal(WATCH, since)
        show(lines)
        count, size = len(lines.splitlines()), len(lines.encode())
        say(f"FIGURE: the deployment wrote {count} lines, {size} bytes, into the journal")
        should(count <= 60, "a deployment writes at most 60 lines into the journal")
        say("--- rollback")
        self.operator.fab("rollback")
        should(self._serves(first), "the application serves the first again")

    def idle(self) -> None:
        say("--- idle: how often catch-up looks")
        since = time.time()
        until("three looks", lambda: len(self._looks(since)) >= 3, 150)
        show(self.machine.journal(f"{CATCH_UP}.service"))
        looks = self._looks(since)
        between = [round(later - earlier, 1) for earlier, later in itertools.pairwise(looks)]
        say(f"FIGURE: catch-up looked {round(looks[0] - since, 1)} s after the last word, then every {between} s")
        should(max(between) <= 40, "idle, it looks every 30 to 35 s, and the time that a look takes")

    def reboot_in_the_middle(self) -> None:
        say("--- the power goes in the middle of a switch")
        revision = self.operator.repository.commit({"slow": "4", "README": "third"})
        before = self._current()
        running = self.operator.start("deploy")
        until("current is switched", lambda: self._current() != before, 60)
        self.machine.cut()
        say(f"the power went: current points to {self._current()}, which nobody has proven")
        out = self.operator.finish(running, expected=8, shown=12)
        should("silent" in out or "no final report" in out, "the operator hears that the host is silent", out)
        self._boot_and_be_verified(revision)

    def _boot_and_be_verified(self, revision: str) -> None:
        began = time.monotonic()
        began_at = time.time()
        self.machine.boot()
        say(f"booted again after {time.monotonic() - began:.1f} s")
        until("the host is verified again", self.operator.is_verified, 120)
        say(f"FIGURE: verified {time.monotonic() - began:.1f} s after power on")
        until("catch-up has begun", lambda: self._looks(began_at) != [], 30)
        looks = self._looks(began_at)
        say(f"FIGURE: catch-up began {looks[0] - began_at:.1f} s after power on")
        should(looks[0] - began_at <= 15, "catch-up began within 15 s of the boot")
        should(self._serves(revision), "the application serves what is wanted")

    def lose_the_agent(self) -> None:
        say("--- Consul's agent is killed in the middle of a deployment")
        revision = self.operator.repository.commit({"slow": "3", "README": "fourth"})
        before = self._current()
        running = self.operator.start("deploy")
        until("current is switched", lambda: self._current() != before, 60)
        self.machine.run("systemctl kill -s KILL consul")
        say("the agent was killed; systemd starts it again")
        self.operator.finish(running)
        should(self._serves(revision), "the application serves it")
        until("the watch is up", lambda: self._is_active(WATCH), 30)

    def catch_up_after_boot(self) -> None:
        say("--- a deployment that the machine does not hear, and a reboot")
        self.machine.run(f"systemctl stop {WATCH} {CATCH_UP}.timer")
        revision = self.operator.repository.commit({"slow": "0", "README": "fifth"})
        self.operator.fab("deploy", "--no-wait")
        should(not self._serves(revision), "the machine has not heard it")
        self.machine.cut()
        self._boot_and_be_verified(revision)

    def catch_up_that_fails(self) -> None:
        say("--- a catch-up that can't do its work")
        self.machine.run("systemctl stop consul")
        since = time.time()
        out = self.machine.run(f"systemctl start {CATCH_UP}.service", check=False)
        lines = self.machine.journal(f"{CATCH_UP}.service", since)
        show(lines)
        should("Consul can't be asked" in lines, "it says why", out + lines)
        self.machine.run("systemctl start consul")
        until("the host is verified", self.operator.is_verified, 60)

    def journal_is_bounded(self) -> None:
        say("--- what is in the journal, and its rotation")
        show(self.machine.run("journalctl --disk-usage"))
        self.machine.run("journalctl --rotate --vacuum-size=16M 2>/dev/null")
        self.operator.repository.commit({"README": "sixth"})
        since = time.time()
        self.operator.fab("deploy", shown=2)
        should("serves" in self.machine.journal(WATCH, since), "the journal goes on after its rotation")
        show(
            self.machine.run(f"ls -la {DEPLOY_TO}/.deploytool {DEPLOY_TO}/.deploytool/log; ls -a {DEPLOY_TO}/releases")
        )

    def uninstall(self) -> None:
        say("--- uninstall, as docs/app-servers.md says")
        self.machine.run(uninstall_commands())
        left = self.machine.run(
            "systemctl list-unit-files 'deploy-app*' 'catch-up-app*' --no-legend; pgrep -a receive.sh; "
            "pgrep -a stretcher; pgrep -a -f '^consul watch'; "
            "ls -d /etc/systemd/system/*app-web* /etc/tmpfiles.d/deploy-app* 2>/dev/null",
            check=False,
        )
        should(left == "", "no unit, process or file is left", left)
        should(self._serves(self.operator.repository.git("rev-parse", "HEAD")), "the application serves on")

    # What is looked at

    def _current(self) -> str:
        with contextlib.suppress(OSError):
            return os.readlink(self.machine.root / DEPLOY_TO.lstrip("/") / "current")
        return ""

    def _is_active(self, unit: str) -> bool:
        return self.machine.run(f"systemctl is-active {unit}", check=False).strip() == "active"

    def _serves(self, revision: str) -> bool:
        port = (self.operator.repository.directory / "port").read_text()
        return revision in self.machine.run(f"curl -s http://127.0.0.1:{port}/", check=False)

    def _looks(self, since: float = 0) -> list[float]:
        """When catch-up began, in seconds since 1970."""
        lines = self.machine.journal(f"{CATCH_UP}.service", since).splitlines()
        return [float(line.split()[0]) for line in lines if ": Starting " in line]


def uninstall_commands() -> str:
    """What the docs say, for this role."""
    text = (CHECKOUT / "docs/app-servers.md").read_text("utf-8")
    (block,) = re.findall(r"(?ms)^## Taking a role away\n.*?^```\n(.*?)^```", text)
    for name, value in (("application", "app"), ("role", "web"), ("environment", "production")):
        block = block.replace(f"<{name}>", value)
    return f"set -e\n{block}"


def work(given: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(temporary(None, given.keep))
        root = given.root or directory / "root"
        if not root.is_dir():
            say(f"a Debian {given.suite} in {root}")
            make_root(root, directory, given.suite)
        playground = stack.enter_context(Playground(directory / "playground", ()))
        say("the playground is up: build server, S3 server, Consul's server")
        machine = Machine(root, directory / "processes")
        stack.callback(machine.end)
        ports = processes.free_ports(["http", "serf_lan", "application"])
        application_port = ports.pop("application")
        agent_ports = {**ports, "server": playground.ports[f"{SERVER_NODE}-server"]}
        prepare(machine, playground, agent_ports, given.suite)
        download = stack.enter_context(download_server(directory, playground.stretcher.resolve()))
        operator = Operator(directory, playground, application_port)
        Story(machine, operator, playground, ports["http"]).tell(download)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.hosts", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="bookworm", choices=("bullseye", "bookworm", "trixie"))
    parser.add_argument("--minutes", type=int, default=20, help="how long all of it may take (default: 20)")
    parser.add_argument("--keep", action="store_true", help="leave the machine's directory for a look")
    parser.add_argument("--root", type=Path, metavar="DIR", help="a root that debootstrap made; it is changed")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("make hosts: debootstrap and systemd-nspawn need root", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))

    def too_long(number: int, frame: object) -> None:
        raise NotAsItShouldBe(f"NOT AS IT SHOULD BE: it takes longer than {given.minutes} minutes")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(given.minutes * 60)
    try:
        work(given)
    except NotAsItShouldBe as wrong:
        first, *rest = str(wrong).splitlines()
        show("\n".join(rest))
        say(first)
        return 1
    except PartMissing as missing:
        print("\n".join([f"make hosts: {missing}", *missing.tail]), file=sys.stderr)
        return 2
    say(f"all is as it should be, on a Debian {given.suite}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
