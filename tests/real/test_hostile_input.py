"""Hostile neighbours, met by the real `fab`: a repository, references, hosts and records that try to run something, to
move the operator's cursor, to forge a line.

Whatever they try to run would make a file, the canary. CI's runner reads stdout and stderr, so both are looked at.
"""

import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploytool.cli.completion import SCRIPTS
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.github_commands import commands
from tests.support.hostile import NASTY, is_sound
from tests.support.project import Project

HOSTILE = Application("hostile", (PlaygroundRole("web", ("app1", "app2")),))
ACTIONS = {"GITHUB_ACTIONS": "true"}
#: all that looks and changes nothing
LOOKS = (["status"], ["releases"], ["releases", "--deployments"], ["plan"])


@dataclass(frozen=True, slots=True)
class Seen:
    """How a command ended, and what it wrote, to the byte."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Iterator[Project]:
    playground.add_application(HOSTILE)
    made = Project(playground, tmp_path, HOSTILE)
    yield made
    made.retire()


def see(project: Project, *arguments: str, environment: str = "playground") -> Seen:
    """`fab playground ARGUMENTS` in a step of GitHub's, which must not end as a bug, nor write what is not its own."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "fab"), environment, *arguments],
        cwd=project.directory,
        env={**project.environment(), **ACTIONS, "GITHUB_STEP_SUMMARY": str(project.directory / "summary.md")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )
    seen = Seen(done.returncode, done.stdout.decode(), done.stderr.decode())
    said = f"fab {arguments}:\n{seen.out}\n{seen.err}"
    assert seen.code != 1, said
    assert "Traceback" not in seen.err, said
    for text in (seen.out, seen.err):
        assert is_sound(text), said
        # Our own annotations of an error, and nothing else that a runner obeys.
        assert all(found.startswith("::error title=fab ") or " (web) " in found for found in commands(text)), said
    if "--json" in arguments:
        assert isinstance(seen.json, dict)
    return seen


def consul(project: Project, key: str, value: bytes) -> None:
    url = f"{project.playground.consul_address()}/v1/kv/deploytool/{HOSTILE.name}/playground/{key}"
    urllib.request.urlopen(urllib.request.Request(url, data=value, method="PUT"), timeout=10).close()


# --- the repository


def test_repository_that_tries_to_run_something_and_to_forge_lines(project: Project, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    run = f"$(touch${{IFS}}{canary})"
    names = {
        f"$(touch {canary.name})",
        "--checkpoint-action=exec=touch canary",
        "-rf",
        "a\nb\tc",
        "';touch canary;'",
        '"`touch canary`"',
        "\x1b[2J\u202e",
        "{{ env `HOME` }}",
        "*",
    }
    project.deploy()
    project.repository.git("config", "user.name", f"\x1b[2J{run}\u2028revision\t{'0' * 40}")
    branch = f"feature/{run}';x&&{{{{y}}}}\u202e"[:-1]
    project.repository.git("switch", "--quiet", "--create", branch)
    for number, nasty in enumerate(
        (*NASTY, f"\u2028revision\t{'0' * 40}\u2028known\tno", "\x85kind\theads\x1dproblem\tx")
    ):
        message = f"{nasty} {run}".replace("\0", "").encode("utf-8", "surrogateescape")
        files = {f"db/migrate/{number}": "x"} | (dict.fromkeys(names, "x") if number == 0 else {})
        for name, content in files.items():
            path = project.repository.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        project.repository.git("add", "--all")
        git = ["git", "-C", str(project.repository.directory), "commit", "--quiet", "--file=-"]
        subprocess.run(git, input=message, check=True)
    planned = see(project, "plan", "--branch", branch)
    assert planned.code == 0, planned
    assert f"brings {len(NASTY) + 2} commits since" in planned.out
    revision = project.repository.git("rev-parse", "HEAD")
    deployed = see(project, "deploy", "--branch", branch, "--json")
    assert deployed.code == 0, deployed
    assert deployed.json["revision"] == revision
    for host in ("app1", "app2"):
        there = os.fsencode(project.file(host, "current"))
        assert {os.fsdecode(name) for name in os.listdir(there)} >= names
    for look in LOOKS:
        assert see(project, *look).code == 0
    shown = see(project, "releases").out.splitlines()
    assert len(shown) == 4, "a line for each release between the head and the verdict"
    assert tabbed(project, branch[:12]) == [branch]
    assert not canary.exists()
    assert not [path for path in tmp_path.rglob("canary") if path.is_file()]


def tabbed(project: Project, typed: str) -> list[str]:
    """What bash makes of the names that it completes, as words of a command."""
    script = SCRIPTS["bash"] + (
        'COMP_WORDS=(fab playground deploy --branch "$1") COMP_CWORD=4\n'
        '_deploytool_fab "$2"\n'
        'for each in "${COMPREPLY[@]}"; do eval "printf \'%s\\0\' $each"; done\n'
    )
    program = str(Path(sys.executable).parent / "fab")
    git = {"GIT_DIR": str(project.repository.directory / ".git")}
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", typed, program],
        cwd=project.directory,
        env={**project.environment(), **git},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    return [word.decode() for word in done.stdout.split(b"\0")[:-1]]


@pytest.mark.parametrize(
    "branch",
    [
        *("--upload-pack=touch canary", "main;touch${IFS}canary", "$(touch${IFS}canary)", "main\n::error::x"),
        *("\x1b[2Jmain", "main:refs/heads/evil", "main~1"),
    ],
)
def test_reference_is_a_name_and_nothing_else(project: Project, tmp_path: Path, branch: str) -> None:
    before = project.repository.git("for-each-ref")
    seen = see(project, "plan", f"--branch={branch}")
    assert seen.code in (2, 4), seen
    assert project.repository.git("for-each-ref") == before
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize(
    "repository",
    ["--upload-pack=touch canary", "ext::sh -c touch% canary", "ssh://-oProxyCommand=touch canary/x", "a\x1b[2J"],
)
def test_repository_is_a_place_and_nothing_else(project: Project, tmp_path: Path, repository: str) -> None:
    project.change(lambda settings: settings.update(repository=repository))
    seen = see(project, "plan", "--json")
    assert seen.code in (2, 4), seen
    assert not list(tmp_path.rglob("canary"))


# --- hosts, and whoever writes to Consul and to the store


def test_what_anybody_writes_to_consul_and_the_store_is_shown_and_not_obeyed(project: Project, tmp_path: Path) -> None:
    document = project.deploy().json
    release, deployment = document["release"], document["deployment"]
    evil = "".join(NASTY).replace("\udcff", "")
    odd = json.dumps({"release": evil, "time": evil, "deployment": evil, "verified": True, "releases": [evil, 7, None]})
    for key, value in {
        "serving/web/app1": odd.encode(),
        "serving/web/app2": b"[" * 100_000,
        "serving/web/app1/app2": odd.encode(),
        "serving/web/##[error]x": b"\xff\xfe",
        f"reports/web/app1/{deployment}/failed": b'{"reason": NaN, "log": "\\u001b[2J"}',
        "reports/web/x/y/z/a": b"",
        "wanted/web/app2": f"{evil} s3://evil".encode(),
        f"wanted/web/{'x' * 100}": b"\xff",
        f"deployments/{deployment}/web/go": evil.encode(),
    }.items():
        consul(project, urllib.parse.quote(key), value)
    client = project.playground.s3_client()

    def put(key: str, content: bytes) -> None:
        client.put_object(Bucket=project.playground.bucket, Key=f"{HOSTILE.name}/{key}", Body=content)

    place = "environments/playground/deployments"
    records = [
        *(
            b"",
            b"null",
            b"[]",
            b"7",
            b'"x"',
            b"NaN",
            b"\xff\xfe\x00",
            b"[" * 100_000,
            b'{"a":' * 200 + b"1" + b"}" * 200,
        ),
        b'{"phases": {"a": 1e999, "b": NaN}, "exit_code": 0}',
        json.dumps(
            {"error": evil, "exit_code": 4, "operator": evil, "hosts": [{"role": [], "host": evil}, 7]}
        ).encode(),
        json.dumps({"release": release, "exit_code": 0, "hosts": {}, "expected": 5, "phases": [], "from": {}}).encode(),
    ]
    for number, content in enumerate(records):
        name = f"20200101T0000{number:02d}Zaaaa"
        put(f"{place}/{name}.json", content)
        put(f"{place}/{name}/begun.json", records[-number])
        put(f"environments/playground/marks/{release}/{name}.json", content)
        put(f"releases/202001{number + 10}T000000Z-aaaaaaa/release.json", content)
        put(f"builds/{number:064x}.json", content)
    put("environments/\x7fevil\u202e/deployments/x", b"")
    put("releases/x", b"")
    for look in LOOKS:
        seen = see(project, *look)
        assert seen.code in ((8,) if look == ["status"] else (0,)), seen
        see(project, *look, "--json")
    assert "app2  up" in see(project, "status").out
    # Everything is written that a command could stumble over; a deploy goes on all the same.
    project.repository.commit({"README": "again"})
    assert see(project, "deploy", "--json").code == 0
    consul(project, "frozen", odd.replace('"release"', '"why"').encode())
    assert see(project, "deploy").code == 3
    assert see(project, "thaw").code == 0
    for content in (b"{}", b"[" * 100_000, b'{"application": "\\u001b[2J"}', b'{"application": NaN}'):
        put("application.json", content)
        assert see(project, "releases").code == 6
    put("application.json", b'{"application": "other"}')
    assert see(project, "releases").code == 2
    client.close()
