"""A project whose hosts serve something that is looked at from outside."""

import contextlib
import json
import re
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support import fab
from tests.support.fab import Result
from tests.support.project import Project
from tests.support.waiting import until

HOSTS = ("app1", "app2", "app3")
TRUTH = Application("truth", (PlaygroundRole("web", HOSTS), PlaygroundRole("batch", ("app3",))))
#: A second application, with a role of the same name on the same host.
OTHER = Application("untruth", (PlaygroundRole("web", ("app1",)),))
ALL = ("app1/web", "app2/web", "app3/web", "app3/batch")
ROOT = Path(__file__).parents[2]


#: A web server that tells the revision it was started from. The file `behaviour` of a release says how it goes wrong,
#: on hosts with a file shared/affected.
SERVER = """
import http.server
import os
import sys
import threading
import time

port, behaviour = int(sys.argv[1]), sys.argv[2]
with open("REVISION") as file:
    revision = file.read().strip()
if behaviour == "lies":
    with open("pids/revision") as file:
        revision = file.read()
with open("pids/revision", "w") as file:
    file.write(revision)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(revision.encode())

    def log_message(self, *arguments):
        pass


# Bound before the start returns: whoever asks next gets an answer.
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
if os.fork():
    os._exit(0)
os.setsid()
with open("pids/web.new", "w") as file:
    file.write(str(os.getpid()))
os.rename("pids/web.new", "pids/web.pid")
if behaviour == "dies":
    if os.fork() == 0:
        # Outlives its master.
        time.sleep(600)
        os._exit(0)
    threading.Timer(1, os._exit, (1,)).start()
server.serve_forever()
"""


CHECK = """
import sys
import urllib.request

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
answer = opener.open("http://127.0.0.1:" + sys.argv[1] + "/healthz", timeout=5).read().decode()
if answer != sys.argv[2]:
    sys.exit("answers " + answer)
"""
WEB = """#!/bin/sh
# web start | stop | reload | check REVISION
cd "$(dirname "$0")/.." && cd -P . || exit 1
. ./.env
behaviour=
if [ -e ../../shared/affected ]; then
  behaviour=$(cat behaviour 2>/dev/null)
fi

stop() {
  # By their names: after a reboot the number in the pid file may be anybody's.
  for each in $(grep -lzx -e "$PORT" /proc/[0-9]*/cmdline 2>/dev/null); do
    each=${each%/cmdline}
    grep -qzx server.py "$each/cmdline" 2>/dev/null || continue
    kill -9 "${each#/proc/}"
    while [ -d "$each" ]; do sleep 0.02; done
  done
  rm -f pids/web.pid
}

start() {
  python3 -I -S server.py "$PORT" "$behaviour" </dev/null >>pids/web.log 2>&1
}

case $1:$behaviour in
  start:*) start ;;
  stop:*) stop ;;
  reload:stale) ;;
  reload:fails) echo 'the new configuration is no good'; exit 6 ;;
  reload:*) stop 2>/dev/null; start ;;
  check:*) exec python3 -I -S check.py "$PORT" "$2" ;;
esac
"""


class Truth(Project):
    """A project whose application can be asked over HTTP what it serves."""

    def __init__(self, playground: Playground, directory: Path, application: Application = TRUTH) -> None:
        super().__init__(playground, directory, application)
        self.work = directory
        self.settings["wait"] = {"fetch_seconds": 60, "activate_seconds": 90, "hook_seconds": 15, "stable_seconds": 0}
        self.settings["linked_dirs"] = ["pids"]
        self.settings["linked_files"] = [".env"]
        for role in application.roles:
            self.role(role.name).update(
                restart=['sh "{{ current_path }}/bin/web" reload'],
                verify={
                    "pid_file": "pids/web.pid",
                    "command": 'sh "{{ current_path }}/bin/web" check {{ revision }}',
                },
            )
        self.write()
        self.repository.commit({"bin/web": WEB, "server.py": SERVER, "check.py": CHECK})

    # doing

    def deploy_old(self) -> dict[str, Any]:
        """A good deployment, so that there is something to lose; the result's JSON."""
        document = self.deploy().json
        assert self.answers() == self.all(document["revision"])
        return document

    def commit_new(self, behaviour: str = "", *, on: str | None = None) -> str:
        """Commit a release that behaves like that on one host; returns the revision."""
        if on is not None:
            self.file(on, "shared/affected").touch()
        return self.repository.commit({"behaviour": behaviour, "VERSION": str(time.monotonic_ns())})

    def hold_at_the_barrier(self) -> None:
        """From now on migrations, which run while all hosts wait at the barrier, last until `go_on`."""
        work = shlex.quote(str(self.work))
        self.settings["build"]["migrate"] = [f"touch {work}/migrating; while [ ! -e {work}/on ]; do sleep 0.1; done"]
        self.write()

    def start_to_the_barrier(self) -> "subprocess.Popen[str]":
        self.hold_at_the_barrier()
        process = self.start("playground", "deploy", "--json")
        until((self.work / "migrating").exists, "all hosts wait at the barrier", seconds=90)
        return process

    @contextlib.contextmanager
    def heard_last_by(self, host: str) -> Iterator["subprocess.Popen[str]"]:
        """Deploy; until the end of the context the role web of that host does not hear of it, all others hold it."""
        before = self.wanted()["wanted/web"]
        watch = self.playground.host_directory(host) / "watches/truth-web-playground"
        text = watch.read_text()
        watch.unlink()
        until(lambda: "deploy_truth_web" not in commands_on(self.playground, host), "the watch has ended")
        process = self.start("playground", "deploy", "--json")
        until(lambda: self.wanted()["wanted/web"] != before, "the deployment is announced", seconds=90)
        deployment = self.wanted()["wanted/web"].split()[0]
        places = [place.split("/") for place in ALL if place != f"{host}/web"]
        fetched = {f"reports/{role}/{other}/{deployment}/fetched" for other, role in places}
        until(lambda: fetched <= set(self.consul_keys()), "all others hold the archive")
        yield process
        watch.write_text(text)

    def go_on(self) -> None:
        (self.work / "on").touch()

    def finish(self, process: "subprocess.Popen[str]", timeout_seconds: float = 180) -> Result:
        ended = fab.finish(process, timeout_seconds)
        assert "Traceback" not in ended.err, ended.err
        return ended

    def failing_deploy(self, *arguments: str) -> Result:
        result = self.fab("playground", "deploy", "--json", *arguments)
        assert result.code == 8, f"{result.out}\n{result.err}"
        assert result.json["exit_code"] == 8 or "error" in result.json
        return result

    def only_web(self) -> None:
        """Leave the role batch out, whose only host is app3."""
        del self.settings["roles"]["batch"]
        self.write()

    def put(self, key: str, value: str) -> None:
        url = f"{self.playground.consul_address()}/v1/kv/deploytool/truth/playground/{key}"
        with urllib.request.urlopen(urllib.request.Request(url, data=value.encode(), method="PUT"), timeout=10) as end:
            assert end.read().strip() == b"true"

    def delete(self, key: str) -> None:
        url = f"{self.playground.consul_address()}/v1/kv/deploytool/truth/playground/{key}"
        with urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10) as end:
            assert end.read().strip() == b"true"

    def delete_objects(self, pattern: str) -> list[str]:
        """Delete what the store holds under names that match; returns those."""
        found = [key for key in self.objects() if re.search(pattern, key)]
        client = self.playground.s3_client()
        for key in found:
            client.delete_object(Bucket=self.playground.bucket, Key=f"{self.application.name}/{key}")
        client.close()
        return found

    # looking

    def all(self, value: str) -> dict[str, str]:
        return {f"{host}/{role.name}": value for role in self.application.roles for host in role.hosts}

    def answer(self, place: str) -> str | None:
        """What the application at host/role says over HTTP; None if there is no answer."""
        host, role = place.split("/")
        port = self.playground.app_port(host, role, self.application.name)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError):
            return None
        assert isinstance(text, str)
        return text

    def answers(self) -> dict[str, str | None]:
        return {place: self.answer(place) for place in self.all("")}

    def pids(self) -> dict[str, str]:
        return {place: self.file(*_file(place, "shared/pids/web.pid")).read_text() for place in self.all("")}

    def last_word(self, place: str) -> dict[str, Any]:
        host, role = place.split("/")
        word = json.loads(self.consul_keys("serving").get(f"serving/{role}/{host}", "{}"))
        assert isinstance(word, dict)
        return word

    def host_result(self, result: Result, place: str) -> dict[str, Any]:
        found = next(each for each in result.json["hosts"] if f"{each['host']}/{each['role']}" == place)
        assert isinstance(found, dict)
        return found

    def watch_log(self, host: str, role: str = "web") -> str:
        name = f"watch-{self.application.name}-{role}-playground.log"
        return (self.playground.host_directory(host) / "log" / name).read_text(errors="replace")

    def replays(self, host: str, deployment: str, role: str = "web") -> int:
        """How often this host has taken an event in hand and found that it has come to this deployment already.

        -1 while a stretcher is at work, so that what it will do is not missed.
        """
        if self.playground.run_on_host(host, ["pgrep", "-x", "stretcher"]).returncode == 0:
            return -1
        # Said by the phase `failure`, the last one, which comes whether or not `pre` could run.
        said = f"deploytool: replay: this host has already switched for {deployment} "
        return self.watch_log(host, role).count(said)

    def releases_in_use(self, host: str) -> set[str]:
        """The releases that processes on this host have as their working directory."""
        script = 'for each in /proc/[0-9]*; do readlink "$each/cwd"; done'
        found = self.playground.run_on_host(host, ["sh", "-c", script]).stdout
        return set(re.findall(rf"/{self.application.name}/[a-z]+/releases/([^/\s]+)", found))

    def is_seen(self, host: str) -> bool:
        """Whether Consul takes this host for alive."""
        url = f"{self.playground.consul_address()}/v1/health/state/passing"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return host in {check["Node"] for check in json.load(answer) if check["CheckID"] == "serfHealth"}

    def kill_host(self, host: str) -> None:
        """A power cut, seen by Consul."""
        self.playground.kill_host(host)
        until(lambda: not self.is_seen(host), f"Consul sees that {host} is down")


def _file(place: str, path: str) -> tuple[str, str, str]:
    host, role = place.split("/")
    return host, path, role


CLEAR = """
umount -l tmp 2>/dev/null
pkill -9 -x stretcher
for each in /proc/[0-9]*; do
  case $(readlink "$each/cwd") in *truth/*/releases/*) kill -9 "${each#/proc/}" ;; esac
done
for each in "$@"; do
  [ -d "$each" ] || continue
  find "$each" -mindepth 2 -maxdepth 2 ! -name shared -exec rm -rf {} + || exit
  find "$each" -mindepth 3 -maxdepth 3 -path '*/shared/*' ! -name .env -exec rm -rf {} + || exit
done
"""


def bring_back(playground: Playground) -> None:
    """Start what a test has stopped of the cluster and its hosts, and has not started again."""
    if not playground_answers(playground):
        playground.start_consul_server()
    for host in HOSTS:
        (playground.host_directory(host) / "control/no-agent").unlink(missing_ok=True)
        if not playground.host_is_running(host):
            playground.start_host(host)
    until(playground.sees_all_nodes, "all hosts are healthy again")


def put_in_order(playground: Playground, *applications: Application) -> None:
    """Undo every fault of the tests here, and leave hosts as if these applications had never been deployed."""
    bring_back(playground)
    for application in applications:
        url = f"{playground.consul_address()}/v1/kv/deploytool/{application.name}/?recurse"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
    for host in HOSTS:
        homes = [str(playground.host_home / each.name) for each in applications if each in playground.applications]
        cleared = playground.run_on_host(host, ["sh", "-c", CLEAR, "sh", *homes])
        assert cleared.returncode == 0, cleared.stderr
    for application in applications:
        playground.add_application(application)


def playground_answers(playground: Playground) -> bool:
    try:
        urllib.request.urlopen(f"{playground.consul_address()}/v1/status/leader", timeout=5).close()
    except OSError:
        return False
    return True


def commands_on(playground: Playground, host: str) -> str:
    return playground.run_on_host(host, ["ps", "ax", "-o", "args"]).stdout
