"""What `fab` answers to what is typed wrongly, and to signals at the wrong moment."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground.playground import Playground
from tests.support.project import FABFILE, TINY, Project
from tests.support.waiting import until

#: A task of the user's own that sends its process a signal.
HIT = """
import os, signal
from invoke import task

@task
def hit(context):
    os.kill(os.getpid(), signal.{signal})

namespace.add_task(hit)
"""


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Project:
    playground.add_application(TINY)
    return Project(playground, tmp_path)


# --- usage


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("plaground deploy --json", "Did you mean playground?"),
        ("playground deplyo --json", "Did you mean deploy?"),
        ("playground deploy --brnch x --json", "`deploy` has no flag --brnch. Did you mean --branch? Its flags: "),
        ("playground deploy --json --branch", "--branch needs a value"),
        ("playground --json", "but flags follow a command"),
        ("deploy --json", "where ENV is one of: playground"),
        ("playground staging deploy --json", "several environments in one command: playground, staging"),
    ],
)
def test_usage_error_has_its_json_document(project: Project, typed: str, words: str) -> None:
    project.write("staging")
    result = project.fab(*typed.split())
    assert result.code == 2
    assert result.json["exit_code"] == 2
    assert result.json["error"]["kind"] == "usage"
    assert words in result.json["error"]["message"]
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_environment_alone_is_told_what_is_missing(project: Project) -> None:
    result = project.fab("playground")
    assert (result.code, result.out) == (2, "")
    assert "playground is an environment, and a command is missing. Commands: app-server, build, check, " in result.err


def test_list_and_help_and_completion_need_no_whole_command(project: Project) -> None:
    listed = project.fab("--list", env={"COLUMNS": "80"})
    lines = listed.out.splitlines()
    assert lines[:4] == [lines[0], "", "Environments:", "  playground   config/playground.yml"]
    assert all(line.startswith("  ") and line[2] != " " for line in lines[3:-1] if line and line[-1] != ":"), "wrapped"
    for typed in ("playground --help", "deploy --help", "--help deploy", "playground --list"):
        assert project.fab(*typed.split()).code == 0
    completed = project.fab("--complete", "--", "fab", "playground", "deploy", "--br")
    assert (completed.code, "--branch" in completed.out) == (0, True)


def test_environment_with_an_underscore_is_typed_as_its_file_is_named(project: Project) -> None:
    project.write("my_env")
    for typed in ("my_env", "my-env"):
        assert project.fab(typed, "settings", "--json").code == 0


def test_environment_named_workspace_is_refused_instead_of_waiting_for_itself(project: Project) -> None:
    project.write("workspace")
    result = project.fab("workspace", "build", "--json")
    assert result.code == 2
    assert "config/workspace.yml can't be an environment" in result.json["error"]["message"]
    result = project.fab("playground", "build", "--json")
    assert result.code == 2
    assert "config/workspace.yml: can't be an environment" in result.json["error"]["tail"][0]


def test_failed_check_is_told_as_such_in_json(project: Project) -> None:
    project.change(lambda settings: settings["store"].update(url="s3://no-such-bucket/tiny"))
    result = project.fab("playground", "check", "--json")
    assert (result.code, result.json["exit_code"]) == (6, 6)
    assert result.json["error"]["kind"] == "store"
    assert "no-such-bucket" in result.json["error"]["message"]
    assert len(result.json["checks"]) > 5


# --- signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("before", ["loading", "a task"])
def test_signal_before_the_command_has_begun_is_an_interruption(project: Project, name: str, before: str) -> None:
    own = (
        f"import os, signal\nos.kill(os.getpid(), signal.{name})\n" if before == "loading" else HIT.format(signal=name)
    )
    (project.directory / "fabfile.py").write_text(FABFILE + own)
    result = project.fab("playground", *(["hit"] if before == "a task" else []), "settings", "--json")
    assert result.code == 130
    assert result.json["error"]["kind"] == "interrupted"
    assert result.err == "interrupted before anything started\n"


def test_task_that_follows_a_command_can_be_interrupted(project: Project) -> None:
    (project.directory / "fabfile.py").write_text(FABFILE + HIT.format(signal="SIGTERM"))
    result = project.fab("playground", "settings", "hit")
    assert (result.code, "application" in result.out) == (130, True)


def test_hangup_does_not_end_what_was_started_with_nohup(project: Project) -> None:
    (project.directory / "fabfile.py").write_text(FABFILE + HIT.format(signal="SIGHUP"))
    project.forks = False
    ours = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert project.fab("playground", "hit", "settings").code == 0
    finally:
        signal.signal(signal.SIGHUP, ours)


def ignores_signals(process: "subprocess.Popen[str]") -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = int(status.partition("SigIgn:")[2].split()[0], 16)
    return bool(mask >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize(("command", "code"), [("settings", 0), ("build", 130)])
def test_signals_while_the_end_is_told_lose_neither_document_nor_exit_code(
    project: Project, tmp_path: Path, command: str, code: int
) -> None:
    project.change(lambda settings: settings["build"].update(assets=[f"touch {tmp_path}/begun; sleep 300"]))
    read, write = os.pipe()
    room = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write, b" " * room)
    with (
        open(read) as out,
        subprocess.Popen(
            [str(Path(sys.executable).parent / "fab"), "playground", command, "--json"],
            cwd=project.directory,
            env=project.environment(),
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        os.close(write)
        try:
            if code == 130:
                until((tmp_path / "begun").exists)
                process.send_signal(signal.SIGINT)
            # It can't write its document: the pipe is full.
            until(lambda: ignores_signals(process), seconds=20)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                process.send_signal(number)
                time.sleep(0.05)
            document = json.loads(out.read())
            assert process.wait(30) == code
            assert document["exit_code"] == code
        finally:
            process.kill()


def test_second_ctrl_c_gets_out_while_the_first_puts_things_in_order(project: Project, tmp_path: Path) -> None:
    project.change(lambda settings: settings["build"].update(assets=[f"touch {tmp_path}/begun; sleep 300"]))
    process = project.start("playground", "build", "--json")
    until((tmp_path / "begun").exists)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert "Traceback" not in err


def test_ctrl_c_after_go_with_all_hosts_verified_in_time_says_that_they_are(project: Project) -> None:
    for role in ("web", "batch"):
        project.role(role)["hooks"] = {"post": ["sleep 0.5"]}
    project.write()

    def interrupted() -> dict[str, Any]:
        known = set(project.consul_keys("deployments"))

        def let_go() -> bool:
            values = project.consul_keys("deployments").items()
            return any(value == "go all" for key, value in values if key not in known)

        process = project.start("playground", "deploy", "--json")
        until(let_go)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        return dict(json.loads(out))

    # In time is within five seconds, which hosts of a busy machine may miss.
    for _ in range(4):
        document = interrupted()
        if {host["verdict"] for host in document["hosts"]} == {"verified"}:
            break
    assert {host["verdict"] for host in document["hosts"]} == {"verified"}
    assert document["error"]["kind"] == "interrupted"
    assert document["error"]["message"] == "interrupted after `go`, but every host is verified"


# --- unlock


def test_unlock_leaves_another_environments_build_alone(project: Project, tmp_path: Path) -> None:
    project.write("staging")
    project.settings["build"]["assets"] = [f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/end ]; do sleep 0.1; done"]
    project.write()
    building = project.start("playground", "build", "--json")
    try:
        until((tmp_path / "begun").exists)
        result = project.fab("staging", "unlock", "--json")
        assert result.code == 0, result.err
        assert result.json["ended"] == []
        assert result.json["left"][0]["holder"]["environment"] == "playground"
        shown = project.fab("staging", "unlock").out
        assert "the lock of staging is free; the workspace is in use by" in shown
        assert "`fab playground unlock` would end it" in shown
    finally:
        (tmp_path / "end").touch()
        _, err = building.communicate(timeout=120)
    assert building.returncode == 0, err


def test_list_is_cut_short_by_head_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "fabfile.py").write_text("from deploytool.tasks import namespace\n")
    fab = Path(sys.executable).parent / "fab"
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" --list | head -c 1', fab], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "T", "")
