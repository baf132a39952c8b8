"""A secret of its own in every place that takes one, every task run on real parts, and then a search of all that was
written anywhere: by the tasks and the build server, in the store, in Consul, on hosts' disks, in lists of processes.

Each canary has a core that no quoting changes. A secret is found if its core is, also in base64 and in archives.
"""

import base64
import binascii
import contextlib
import fnmatch
import gzip
import http.server
import io
import json
import os
import re
import secrets
import subprocess
import sys
import tarfile
import threading
import urllib.parse
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground.configs import Keys
from deploytool.playground.playground import HOSTS as HOSTS_OF_THE_PLAYGROUND
from deploytool.tasks import make_namespace
from tests.support.fab import Result
from tests.support.guarded import Guarded
from tests.support.project import TINY, Project

# The first test waits until all tasks have run.
pytestmark = pytest.mark.timeout(600)

#: What quoting of any kind changes, around the core.
ODD = "x\"y\\z/+ '&$<é"


#: All that a host's hook has, as it is, and as part of URLs.
HOST_HOOK = "env; env | sed -e s:/:%2F:g -e s/+/%2B/g -e s/=/%3D/g"


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret, and the part of it that is the same however it is quoted."""

    secret: str
    core: bytes


def canary(before: str = "", after: str = "") -> Canary:
    core = f"kanari{secrets.token_hex(8)}"
    return Canary(f"{before}{core}{after}", core.encode())


def token() -> Canary:
    secret = str(uuid.uuid4())
    return Canary(secret, secret.encode())


TOKENS_OF_HOSTS = tuple(f"{host}'s Consul token" for host in HOSTS_OF_THE_PLAYGROUND)

#: Where a secret can be given: name → canary. The operator's SSH key joins them once there is one.
CANARIES: dict[str, Canary] = {
    # ${NAME} in settings
    "build.env": canary(ODD, ODD),
    "store.region": canary("us-"),
    "notify.webhook": canary("services/T0/B0/"),
    "build.gateway": canary("gateway-"),
    "hooks": canary("Bearer "),
    "repository": canary("p%40ss-"),
    # other ways to give one
    "literal password of a URL": canary(),
    "operator's S3 key": canary("op/", "+x"),
    "operator's S3 session": canary("session/"),
    "operator's refused S3 key": canary("no/"),
    "operator's own hooks": canary(ODD),
    "CI job": canary("ghs_"),
    "build server's S3 key": canary("build/", "+x"),
    "build server's Consul token": token(),
    "build server's CONSUL_HTTP_TOKEN": token(),
    "refused Consul token": token(),
    "build server's environment": canary(ODD),
    "build.linked_files": canary(),
    "hosts' S3 key": canary("host/", "+x"),
    **{name: token() for name in TOKENS_OF_HOSTS},
    "hosts' linked_files": canary(),
}

OPERATORS = {
    *("build.env", "store.region", "notify.webhook", "build.gateway", "hooks", "repository", "SSH key", "CI job"),
    *("operator's S3 key", "operator's S3 session", "operator's refused S3 key", "operator's own hooks"),
}
BUILD_SERVERS = {
    *("build server's S3 key", "build server's CONSUL_HTTP_TOKEN", "build server's environment"),
    # An environment for the steps is what it is.
    *("build.env", "literal password of a URL"),
    # git's, and its helper's, so that it stands on no command line; no command of the user's has it (see STEP).
    "repository",
}
HOSTS = {"hosts' S3 key", *TOKENS_OF_HOSTS}

#: Whose process it is → what its environment may hold: what its owner has put there.
ENVIRONMENTS: Mapping[str, set[str]] = {
    "operator": OPERATORS,
    "build": BUILD_SERVERS,
    "host": HOSTS,
    "": set(),
}

#: Files that may hold a secret, below the directory of all → which, and why.
GIVEN_THERE: Mapping[str, tuple[set[str], str]] = {
    "state/build/tiny/shared/playground/master.key": (
        {"build.linked_files"},
        "the file in which it is given",
    ),
    "state/hosts/*/tiny/*/shared/.env": ({"hosts' linked_files"}, "the file in which it is given"),
    "token": ({"build server's Consul token"}, "the file that consul.token_file names"),
    "refused-token": ({"refused Consul token"}, "the file that consul.token_file names"),
    "project/config/playground.yml": ({"literal password of a URL"}, "the user has written it there"),
    "ssh_config": ({"build.gateway"}, "the user's own ssh_config names the host"),
    "state/ssh/id_ed25519": ({"SSH key"}, "the operator's key"),
    "state/ssh/sshd_config": (BUILD_SERVERS, "the playground's way to give the build server its environment"),
    "state/s3.json": (
        {"operator's S3 key", "build server's S3 key", "hosts' S3 key"},
        "the S3 server has to know its users' keys",
    ),
    "state/consul/*": (
        {"build server's Consul token", *TOKENS_OF_HOSTS},
        "Consul has to know its tokens",
    ),
    "state/hosts/*/tiny/*/.deploytool/log/*": (
        HOSTS,
        "a hook of the user's that prints its environment has printed it on its own host, for its own user (0600)",
    ),
}

#: A build step that gives away all that it can.
STEP = """\
test -z "${DEPLOYTOOL_GIT_PASSWORD+there}" || exit 99
if [ -e FAIL ]; then
  sleep 0.3
  env
  export -p
  python3 -c 'import json, os; print(json.dumps(dict(os.environ)))'
  python3 -c 'import os, urllib.parse as u; print(u.urlencode(os.environ), u.quote(os.environ["API_TOKEN"], safe=""))'
  printf 'me:%s' "$API_TOKEN" | base64 -w0
  cat "$CONSUL_TOKEN_FILE"
  printf '%q\n' "$API_TOKEN" "$BUILD_PASSWORD"
  set
  set -x
  : "$API_TOKEN" "$BUILD_PASSWORD"
  LC_ALL=C
  : "$API_TOKEN" "$BUILD_PASSWORD"
  false
fi
"""


# --- the search


def found_in(data: bytes, *, depth: int = 3) -> set[str]:
    """The canaries in these bytes: as they are, in base64, in what is compressed, and in archives."""
    found = {name for name, each in CANARIES.items() if each.core in data}
    if depth == 0:
        return found
    for inner in (*_in_base64(data), *_unpacked(data)):
        found |= found_in(inner, depth=depth - 1)
    return found


def _in_base64(data: bytes) -> Iterator[bytes]:
    for run in re.findall(rb"[A-Za-z0-9+/_-]{24,}", data.replace(b"%2B", b"+").replace(b"%2F", b"/")):
        digits = run.replace(b"-", b"+").replace(b"_", b"/")
        decoded = []
        for begin in range(4):
            rest = digits[begin:]
            with contextlib.suppress(binascii.Error):
                # One digit alone is less than a byte.
                rest = rest[:-1] if len(rest) % 4 == 1 else rest
                decoded.append(base64.b64decode(rest + b"=" * (-len(rest) % 4)))
        # Most runs are hexadecimal numbers and names: one look at all four.
        joined = b"\n".join(decoded)
        if any(each.core in joined for each in CANARIES.values()):
            yield joined


def _unpacked(data: bytes) -> Iterator[bytes]:
    if data[:2] == b"\x1f\x8b":
        with contextlib.suppress(OSError, EOFError, zlib.error):
            plain = gzip.decompress(data)
            yield plain
            with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(plain)) as archive:
                for member in archive:
                    if (content := archive.extractfile(member)) is not None:
                        yield content.read()
    # A loose object of git's.
    elif data[:1] == b"\x78":
        with contextlib.suppress(zlib.error):
            yield zlib.decompress(data)


def found_below(directory: Path) -> dict[str, set[str]]:
    """path below the directory → the canaries in that file, its name and its link; without what may be there."""
    found = {}
    for place, directories, files in os.walk(directory):
        for name in (*files, *directories):
            path = Path(place, name)
            there = found_in(os.fsencode(name))
            if path.is_symlink():
                there |= found_in(os.fsencode(os.readlink(path)))
            elif path.is_file():
                # It may be gone by now.
                with contextlib.suppress(FileNotFoundError):
                    there |= found_in(path.read_bytes())
            relative = str(path.relative_to(directory))
            allowed = {
                each
                for pattern, (names, _) in GIVEN_THERE.items()
                if fnmatch.fnmatch(relative, pattern)
                for each in names
            }
            if there - allowed:
                found[relative] = there - allowed
    return found


def found_in_store(world: "World") -> dict[str, set[str]]:
    """object → the canaries in its name, its metadata and its content"""
    client = world.s3_client(world.owner_keys)
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=world.bucket):
        for entry in page.get("Contents", []):
            answer = client.get_object(Bucket=world.bucket, Key=entry["Key"])
            with answer["Body"] as body:
                metadata = json.dumps(answer["Metadata"])
                there = found_in(entry["Key"].encode()) | found_in(metadata.encode()) | found_in(body.read())
            if there:
                found[entry["Key"]] = there
    client.close()
    return found


def found_in_consul(world: "World") -> dict[str, set[str]]:
    """key, or event → the canaries in its name and its content"""
    found = {}
    for entry in world._consul_get("consul-server", "/v1/kv/?recurse"):
        there = found_in(entry["Key"].encode()) | found_in(base64.b64decode(entry["Value"] or ""))
        if there:
            found[entry["Key"]] = there
    for event in world._consul_get("consul-server", "/v1/event/list"):
        there = found_in(json.dumps(event).encode()) | found_in(base64.b64decode(event["Payload"] or ""))
        if there:
            found[f"event {event['Name']}"] = there
    return found


class Processes:
    """Looks at all processes of the machine, again and again, and keeps what may not be there."""

    def __init__(self) -> None:
        self.in_argv: dict[str, set[str]] = {}
        self.in_environment: dict[str, set[str]] = {}
        #: whose processes were seen → how many different command lines
        self.seen: dict[str, set[bytes]] = {}
        #: of the processes whose command line and environment are known, which did not change since
        self._known: set[tuple[str, bytes]] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Processes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(0.01)

    def look(self) -> None:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                argv = Path("/proc", pid, "cmdline").read_bytes()
                if (pid, argv) in self._known:
                    continue
                environment = Path("/proc", pid, "environ").read_bytes()
                # Between fork and exec it is still its parent.
                if argv == Path("/proc", pid, "cmdline").read_bytes():
                    self._known.add((pid, argv))
                    self._judge(argv, environment)

    def _judge(self, argv: bytes, environment: bytes) -> None:
        world = re.search(rb"(?:^|\0)CANARY_WORLD=(\w+)", environment)
        whose = world[1].decode() if world else ""
        self.seen.setdefault(whose, set()).add(argv)
        shown = argv.replace(b"\0", b" ")[:300].decode(errors="replace")
        if there := found_in(argv, depth=1):
            self.in_argv[shown] = there
        if there := found_in(environment, depth=1) - ENVIRONMENTS[whose]:
            self.in_environment[f"{whose}: {shown}"] = there


# --- the world


class World(Guarded):
    """A playground with ACLs on, whose keys and tokens are canaries."""

    builder = Keys("BUILDERCANARY0001", CANARIES["build server's S3 key"].secret)
    host = Keys("HOSTCANARY0000001", CANARIES["hosts' S3 key"].secret)
    operator = Keys("OPERATORCANARY001", CANARIES["operator's S3 key"].secret)

    @property
    def root(self) -> Path:
        return self.directory.parent

    def token(self, name: str) -> str:
        return CANARIES["build server's Consul token" if name == "build_server" else f"{name}'s Consul token"].secret

    def _prepare(self) -> None:
        (self.root / "tmp").mkdir()
        super()._prepare()
        place = self.directory / "s3.json"
        config = json.loads(place.read_text())
        credentials = [{"accessKey": self.operator.access_key, "secretKey": self.operator.secret_key}]
        config["identities"].append(
            {"name": "operator", "credentials": credentials, "actions": [], "policyNames": ["builder"]}
        )
        place.write_text(json.dumps(config))

    def host_environment(self, host: str) -> dict[str, str]:
        return {**super().host_environment(host), "CANARY_WORLD": "host"}

    def build_server_environment(self) -> dict[str, str]:
        return {
            **super().build_server_environment(),
            "CANARY_WORLD": "build",
            "TMPDIR": str(self.root / "tmp"),
            # sshd splits its SetEnv at spaces and knows quotes.
            "BUILD_PASSWORD": CANARIES["build server's environment"].secret,
            "CONSUL_HTTP_TOKEN": CANARIES["build server's CONSUL_HTTP_TOKEN"].secret,
        }


class Webhook:
    """Takes nothing, and answers with the path that it was asked for, as some do."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        webhook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.heard.append(self.rfile.read(int(self.headers["Content-Length"])))
                answer = f"Cannot POST {self.path}".encode()
                self.send_response(404)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/{CANARIES['notify.webhook'].secret}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def git_over_http(directory: Path) -> Iterator[str]:
    """host:port of a server that has what is below the directory, for who knows the password of `repository`."""
    password = urllib.parse.unquote(CANARIES["repository"].secret)
    wanted = "Basic " + base64.b64encode(f"ci:{password}".encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") == wanted:
                super().do_GET()
                return
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    def handler(*arguments: Any) -> Handler:
        return Handler(*arguments, directory=str(directory))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


# --- what is run


@dataclass(slots=True)
class Evidence:
    """All commands that were run, and where to look."""

    world: World
    project: Project
    webhook: Webhook
    processes: Processes
    #: what was typed → how it ended
    results: dict[str, Result] = field(default_factory=dict)

    def run(self, expected: int, *arguments: str, label: str = "", env: Mapping[str, str] | None = None) -> Result:
        """`fab playground ARGUMENTS`; it must end with that exit code."""
        result = self.project.fab("playground", *arguments, env={**self.environment(), **(env or {})})
        name = " ".join((*arguments, label)).strip()
        assert result.code == expected, f"{name}: {result.code}\n{result.out}\n{result.err}"
        self.results[name] = result
        return result

    def environment(self) -> dict[str, str]:
        """The operator's: a job of CI's."""
        return {
            "CANARY_WORLD": "operator",
            "XDG_CACHE_HOME": str(self.world.root / "cache"),
            "HOME": str(self.world.root / "operator-home"),
            "TMPDIR": str(self.world.root / "operator-tmp"),
            "GITHUB_ACTIONS": "true",
            "GITHUB_STEP_SUMMARY": str(self.world.root / "summary.md"),
            "GITHUB_TOKEN": CANARIES["CI job"].secret,
            "DEPLOY_SSH_KEY": self.world.identity_file.read_text(),
            "HOOK_TOKEN": CANARIES["operator's own hooks"].secret,
            "S_BUILD": CANARIES["build.env"].secret,
            "S_REGION": CANARIES["store.region"].secret,
            "S_WEBHOOK": self.webhook.url,
            "S_GATEWAY": CANARIES["build.gateway"].secret,
            "S_HOOK": CANARIES["hooks"].secret,
            "S_GIT": CANARIES["repository"].secret,
        }

    def commit(self, **files: str) -> None:
        self.project.repository.commit(files)
        self.project.repository.git("update-server-info")

    def change(self, change: Callable[[dict[str, Any]], None]) -> None:
        change(self.project.settings)
        self.project.write()


def set_up(world: World, project: Project, git: str) -> None:
    """Settings with a secret wherever there can be one."""
    root = world.root
    for name in ("operator-home", "operator-tmp"):
        (root / name).mkdir()
    (root / "token").write_text(CANARIES["build server's Consul token"].secret + "\n")
    (root / "refused-token").write_text(CANARIES["refused Consul token"].secret + "\n")
    (world.build_root / "tiny/shared/playground/master.key").write_text(CANARIES["build.linked_files"].secret)
    password = CANARIES["hosts' linked_files"].secret
    for role in TINY.roles:
        for host in role.hosts:
            project.file(host, "shared/.env", role.name).write_text(f"PASSWORD={password}\n")
    gateway = CANARIES["build.gateway"].secret
    text = world.ssh_config.read_text().replace("Host playground", f"Host {gateway} playground")
    (root / "ssh_config").write_text(text)
    settings = project.settings
    settings["repository"] = f"http://ci:${{S_GIT}}@{git}/repository/.git"
    settings["linked_files"] = [".env"]
    settings["build"] |= {
        "gateway": "${S_GATEWAY}",
        "ssh_config": str(root / "ssh_config"),
        "env": {
            "API_TOKEN": "${S_BUILD}",
            "DATABASE_URL": f"postgres://app:{CANARIES['literal password of a URL'].secret}@db/shop",
            "CONSUL_TOKEN_FILE": str(root / "token"),
        },
        "dependencies": ["mkdir -p vendor && echo made >vendor/made"],
        "dependencies_inputs": ["README"],
        "assets": [STEP],
        "migrate": ['echo "migrating with $API_TOKEN"'],
        "linked_files": ["master.key"],
    }
    settings["store"]["region"] = "${S_REGION}"
    settings["consul"]["token_file"] = str(root / "token")
    settings["hooks"] = {
        "before_build": ["env; echo ${S_HOOK}; cat >record-of-hook.json"],
        "on_failure": ["env; cat >record-of-failure.json"],
    }
    settings["notify"] = {"webhook": "${S_WEBHOOK}", "command": ["env; cat >>notices.jsonl"]}
    for role in settings["roles"].values():
        role["hooks"] = {"post": [f'if [ -e "{{{{ release_path }}}}/FAIL_ON_HOST" ]; then {HOST_HOOK}; false; fi']}
    project.write()


def run_everything(evidence: Evidence) -> None:
    """Every task, well and badly, for people and as JSON."""
    world, run = evidence.world, evidence.run
    run(4, "deploy", "--json", label="without anything to fetch", env={"S_GIT": "p%40ss-wrong-password"})
    evidence.commit(FAIL="yes")
    run(4, "deploy")
    run(4, "deploy", "--json")
    evidence.project.repository.git("rm", "--quiet", "FAIL")
    evidence.commit(VERSION="1")
    run(0, "check")
    run(0, "check", "--json")
    run(0, "plan", "--json")
    run(0, "plan")
    first = run(0, "deploy", "--json").json["release"]
    evidence.commit(FAIL_ON_HOST="yes")
    assert "| HOME=" in run(8, "deploy", label="failing on hosts").err, "the hook's output is shown"
    evidence.project.repository.git("rm", "--quiet", "FAIL_ON_HOST")
    evidence.commit(VERSION="2")
    evidence.change(lambda settings: settings["store"].update(credentials="operator"))
    operator = {"AWS_ACCESS_KEY_ID": world.operator.access_key, "AWS_SECRET_ACCESS_KEY": world.operator.secret_key}
    second = run(0, "deploy", env=operator, label="with the operator's keys")
    assert first not in second.out
    refused = {
        "AWS_ACCESS_KEY_ID": world.operator.access_key,
        "AWS_SECRET_ACCESS_KEY": CANARIES["operator's refused S3 key"].secret,
        "AWS_SESSION_TOKEN": CANARIES["operator's S3 session"].secret,
    }
    evidence.commit(VERSION="3")
    run(6, "deploy", env=refused, label="with a refused key")
    run(6, "check", "--json", env=refused, label="with a refused key")
    evidence.change(lambda settings: settings["store"].update(credentials="build_server"))
    run(0, "build")
    run(0, "build", "--json")
    run(0, "mark", "--release", first, "--good", "--why", "seen by a person")
    run(2, "promote", label="where nothing waits")
    run(0, "unlock", "--json", label="where nobody holds anything")
    run(0, "rollback")
    run(0, "rollback", "--json", "--release", first)
    run(0, "migrate", "--json", "--release", first)
    run(0, "freeze", "--why", "until the password is changed")
    run(2, "app-server", "--role", "web", label="with a secret in it")
    run(2, "app-server", "--role", "web", "--shared-token", "--json", label="with a secret in it")
    evidence.change(lambda settings: settings["store"].update(region=world.region))
    asking = [
        ("settings",),
        ("settings", "--json"),
        ("status",),
        ("status", "--json"),
        ("releases",),
        ("releases", "--json"),
        ("app-server", "--role", "web"),
        ("app-server", "--role", "web", "--format", "cloud-init"),
        ("app-server", "--role", "web", "--node", "app1", "--json"),
        ("app-server", "--role", "web", "--node", "app1", "--output", str(world.root / "app-server")),
    ]
    with ThreadPoolExecutor(4) as together:
        for each in [together.submit(run, 0, *arguments) for arguments in asking]:
            each.result()
    # Else it is no secret, and the hooks print all that they have.
    evidence.change(lambda settings: settings["store"].update(region="${S_REGION}"))
    run(0, "thaw")
    run(0, "cleanup")
    run(0, "cleanup", "--json")
    evidence.change(lambda settings: settings["consul"].update(token_file=str(world.root / "refused-token")))
    run(7, "deploy", "--json", label="with a refused token")
    run(7, "check", label="with a refused token")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """All is run, once, and then looked at."""
    root = tmp_path_factory.mktemp("canaries")
    webhook = Webhook()
    with World(root / "state", (TINY,)) as world, git_over_http(root) as git, Processes() as processes:
        key = world.identity_file.read_text()
        CANARIES["SSH key"] = Canary(key, key.splitlines()[3].encode())
        world.allow("build_server", world.build_server_rules)
        project = Project(world, root)
        project.forks = False
        made = Evidence(world, project, webhook, processes)
        set_up(world, project, git)
        made.commit()
        run_everything(made)
        yield made
    webhook.close()


# --- what was found


def test_the_tasks_printed_no_secret(evidence: Evidence) -> None:
    said = {name: found_in(f"{result.out}\n{result.err}".encode()) for name, result in evidence.results.items()}
    assert {name: found for name, found in said.items() if found} == {}
    assert len(said) > 25


def test_nobody_was_told_a_secret(evidence: Evidence) -> None:
    assert len(evidence.webhook.heard) > 6
    assert found_in(b"\n".join(evidence.webhook.heard)) == set()


def test_no_file_holds_a_secret_but_those_in_which_they_are_given(evidence: Evidence) -> None:
    root = evidence.world.root
    for name in (
        *("summary.md", "project/record-of-hook.json", "project/record-of-failure.json", "project/notices.jsonl"),
        *("cache/deploytool", "app-server", "state/build/tiny/logs", "state/build/tiny/kept/dependencies"),
        *("state/build/tiny/workspace/vendor/made", "state/build-server-home", "state/hosts/app1/log", "tmp"),
    ):
        assert (root / name).exists(), "what is searched is there"
    assert found_below(root) == {}


def test_the_store_holds_no_secret(evidence: Evidence) -> None:
    assert any(key.endswith(".tar.gz") for key in evidence.project.objects())
    assert found_in_store(evidence.world) == {}


def test_consul_holds_no_secret(evidence: Evidence) -> None:
    assert found_in_consul(evidence.world) == {}


def test_every_task_was_run(evidence: Evidence) -> None:
    tasks = set(make_namespace(()).task_names)
    assert tasks
    assert tasks == {name.split()[0] for name in evidence.results}


def test_no_command_line_ever_held_a_secret(evidence: Evidence) -> None:
    """As far as is seen by looking at all processes a hundred times a second."""
    assert {whose: len(seen) > 20 for whose, seen in evidence.processes.seen.items() if whose} == {
        "operator": True,
        "build": True,
        "host": True,
    }
    # The name of a host opens nothing, and ssh has to be called with it, on the operator's own machine.
    of_ssh = {
        line
        for line, held in evidence.processes.in_argv.items()
        if held == {"build.gateway"} and re.match(r"(/bin/sh -c .*)?(\S*/)?ssh(-keygen)? ", line)
    }
    assert of_ssh
    assert evidence.processes.in_argv.keys() - of_ssh == set()


def test_environments_held_the_secrets_of_their_owners_only(evidence: Evidence) -> None:
    assert evidence.processes.in_environment == {}


def test_what_a_failing_step_printed_is_in_its_log_without_the_secrets(evidence: Evidence) -> None:
    logs = [path.read_text() for path in (evidence.world.build_root / "tiny/logs").iterdir()]
    (log, *_) = [text for text in logs if "API_TOKEN=***" in text]
    for line in (
        "AWS_SECRET_ACCESS_KEY=***",
        "CONSUL_HTTP_TOKEN=***",
        "BUILD_PASSWORD=***",
        "postgres://app:***@db/shop",
    ):
        assert line in log


def test_files_that_may_hold_what_a_program_printed_are_their_users_alone(evidence: Evidence) -> None:
    world = evidence.world
    hosts = world.directory / "hosts"
    private = [
        *(world.build_root / "tiny/logs").iterdir(),
        *hosts.glob("*/tiny/*/.deploytool/log/*"),
        *world.root.glob("cache/deploytool/*/*"),
        world.directory / "s3.json",
        world.directory / "playground.json",
        world.directory / "ssh/sshd_config",
        world.identity_file,
    ]
    assert len(private) > 10
    assert [str(path) for path in private if path.stat().st_mode & 0o077] == []


def test_every_exception_is_needed(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "GIVEN_THERE", {})
    found = found_below(evidence.world.root)
    needed = {pattern for pattern in GIVEN_THERE if any(fnmatch.fnmatch(path, pattern) for path in found)}
    assert needed == set(GIVEN_THERE)


# --- the search itself


def shell_quoted(secret: str) -> str:
    return "'" + secret.replace("'", "'\"'\"'") + "'"


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": json.dumps,
    "URL": lambda secret: urllib.parse.quote(secret, safe=""),
    "shell": shell_quoted,
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 of a header": lambda secret: base64.b64encode(f"ci:{secret}\n".encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(f"?{secret}".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["build.env", TOKENS_OF_HOSTS[0]])
def test_the_search_finds_a_planted_secret(name: str, spelling: str, tmp_path: Path) -> None:
    text = f"before {SPELLINGS[spelling](CANARIES[name].secret)} after".encode()
    assert found_in(text) == {name}
    assert found_in(gzip.compress(text)) == {name}
    assert found_in(zlib.compress(b"blob 9\0" + text)) == {name}
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/file").write_bytes(text)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(tmp_path / "deep", "deep")
    assert found_in(packed.getvalue()) == {name}
    (tmp_path / "link").symlink_to(CANARIES["CI job"].secret)
    assert found_below(tmp_path) == {"deep/er/file": {name}, "link": {"CI job"}}


def test_the_search_finds_what_is_planted_in_the_store_and_in_consul(evidence: Evidence) -> None:
    world, secret = evidence.world, CANARIES["CI job"].secret
    client = world.s3_client(world.owner_keys)
    client.put_object(Bucket=world.bucket, Key="tiny/planted", Body=b"x", Metadata={"who": secret})
    world.manage("/v1/kv/deploytool/planted", {"log": secret})
    try:
        assert found_in_store(world) == {"tiny/planted": {"CI job"}}
        assert found_in_consul(world) == {"deploytool/planted": {"CI job"}}
    finally:
        client.delete_object(Bucket=world.bucket, Key="tiny/planted")
        client.close()


def test_the_search_finds_what_is_planted_in_a_process() -> None:
    secret = CANARIES["CI job"].secret
    env = {"CANARY_WORLD": "build", "STOLEN": secret, "API_TOKEN": CANARIES["build.env"].secret}
    process = subprocess.Popen(["/bin/sh", "-c", "read answer", "sh", secret], env=env, stdin=subprocess.PIPE)
    seen = Processes()
    try:
        seen.look()
    finally:
        process.communicate()
    command = f"/bin/sh -c read answer sh {secret} "
    assert seen.in_argv == {command: {"CI job"}}
    assert seen.in_environment == {f"build: {command}": {"CI job"}}
