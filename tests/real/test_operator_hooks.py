"""The operator's own hooks, and tasks of a fabfile around ours, by the whole `fab` command."""

import json
import os
import re
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from deploytool.hooks.local import LONGEST_LINE, Ended, run_command
from deploytool.text.masking import Masking
from tests.support.local import HOSTS, Local
from tests.support.project import FABFILE
from tests.support.waiting import until
from tests.support.waves import Waves

DOCS = Path(__file__).parents[2] / "docs/rollouts.md"
MOMENTS = (
    *("before_build", "after_publish", "before_announce", "after_fetch", "before_go", "after_wave"),
    *("after_deploy", "after_rollback", "on_failure"),
)
TELL = "cat >>told; [ ! -e object-$DEPLOYTOOL_HOOK ] || { echo 'not today'; exit 3; }"


class Hooked(Local):
    """A project on this machine whose hooks write down the records that they get, and fail if told to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.settings["hooks"] = dict.fromkeys(MOMENTS, TELL)
        self.write()

    def records(self) -> list[dict[str, Any]]:
        """Those since the last call."""
        told = self.directory / "told"
        lines = told.read_text().splitlines() if told.exists() else []
        told.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def names(self) -> list[str]:
        return [record["hook"] for record in self.records()]

    def object_to(self, moment: str) -> Path:
        mark = self.directory / f"object-{moment}"
        mark.touch()
        return mark


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    return Hooked(tmp_path)


def test_hooks_get_the_record_as_it_grows(hooked: Hooked) -> None:
    result = hooked.fab("local", "deploy", "--json")
    assert result.code == 0, result.err
    records = hooked.records()
    assert [record["hook"] for record in records] == [*MOMENTS[:6], "after_deploy"]
    by_name = {record["hook"]: record for record in records}
    document = result.json
    for record in records:
        assert (record["application"], record["environment"], record["branch"]) == ("tiny", "local", "main")
        assert record["revision"] == document["revision"]
        assert "@" in record["operator"]
    assert by_name["before_build"]["release"] is None
    assert by_name["after_publish"]["release"] == document["release"]
    assert by_name["before_announce"]["deployment"] == document["deployment"]
    assert {host["state"] for host in by_name["before_go"]["hosts"]} == {"fetched"}
    assert {host["verdict"] for host in by_name["after_wave"]["hosts"]} == {"verified"}
    assert (by_name["before_go"]["exit_code"], by_name["before_go"]["phase"]) == (None, "fetch")
    assert (by_name["after_deploy"]["exit_code"], by_name["after_deploy"]["error"]) == (0, None)
    # A release that exists is not built.
    assert hooked.fab("local", "deploy").code == 0
    assert hooked.names() == [*MOMENTS[2:6], "after_deploy"]


def test_rollback_and_build_have_their_own_hooks(hooked: Hooked) -> None:
    assert hooked.fab("local", "build").code == 0
    assert hooked.names() == ["before_build", "after_publish"]
    hooked.fab("local", "deploy")
    hooked.repository.commit({"VERSION": "2"})
    hooked.fab("local", "deploy")
    hooked.records()
    assert hooked.fab("local", "rollback").code == 0
    records = hooked.records()
    assert [record["hook"] for record in records] == [*MOMENTS[2:6], "after_rollback"]
    assert {record["kind"] for record in records} == {"rollback"}


@pytest.mark.parametrize("moment", MOMENTS[:5])
def test_hook_that_fails_before_go_switches_no_host_and_is_told(hooked: Hooked, moment: str) -> None:
    hooked.object_to(moment)
    result = hooked.fab("local", "deploy", "--json")
    assert result.code == 4
    error = result.json["error"]
    assert error["message"] == f"hooks.{moment}[0] failed with exit status 3, on this machine"
    assert (error["kind"], error["tail"], error["hint"]) == ("hook", ["not today"], "no host was switched")
    assert f"hooks.{moment}[0] | not today" in result.err
    assert hooked.served() == dict.fromkeys(HOSTS)
    last = hooked.records()[-1]
    assert (last["hook"], last["exit_code"], last["error"]["message"]) == ("on_failure", 4, error["message"])


def test_wave_that_the_operator_objects_to_is_taken_back(hooked: Hooked) -> None:
    assert hooked.fab("local", "deploy").code == 0
    hooked.repository.commit({"VERSION": "2"})
    hooked.settings["rollout"] = {"waves": [1, "100%"], "on_failure": "rollback"}
    hooked.write()
    hooked.object_to("after_wave")
    hooked.records()
    result = hooked.fab("local", "deploy")
    assert result.code == 8
    assert "hooks.after_wave[0] failed with exit status 3, on this machine" in result.out
    assert "HALTED" in result.out
    assert hooked.served() == dict.fromkeys(HOSTS, "1")
    *_, wave, failure = hooked.records()
    assert (wave["hook"], failure["hook"], failure["exit_code"]) == ("after_wave", "on_failure", 8)
    assert [undone["exit_code"] for undone in failure["rollbacks"]] == [0]


@pytest.mark.parametrize("moment", ["after_deploy", "on_failure"])
def test_hook_at_the_end_changes_nothing_of_the_verdict(hooked: Hooked, moment: str) -> None:
    hooked.object_to(moment)
    if moment == "on_failure":
        hooked.settings["build"]["assets"] = "exit 9"
        hooked.write()
    result = hooked.fab("local", "deploy", "--json")
    code = 0 if moment == "after_deploy" else 4
    assert (result.code, result.json["exit_code"]) == (code, code)
    told = f"hooks.{moment}[0] failed with exit status 3, on this machine; the result of deploy stays as it is"
    assert told in result.err


def test_deploy_that_was_refused_has_not_failed(hooked: Hooked) -> None:
    assert hooked.fab("local", "deploy", "--release", "nonsense").code == 2
    assert hooked.fab("local", "freeze", "--why", "a holiday").code == 0
    assert hooked.fab("local", "deploy").code == 3
    assert hooked.names() == []


def test_secret_reaches_the_hook_and_no_screen_and_no_list_of_processes(hooked: Hooked) -> None:
    secret = "kept-under-the-mat"
    hooked.settings["hooks"] = {
        "before_build": "echo 'token=${TOKEN}'; cat /proc/$$/cmdline; printf '%s' '${TOKEN}' >got"
    }
    hooked.write()
    result = hooked.fab("local", "build", "--json", env={"TOKEN": secret})
    assert result.code == 0, result.err
    assert (hooked.directory / "got").read_text() == secret
    assert "hooks.before_build[0] | token=***" in result.err
    assert secret not in result.err + result.out
    assert "/bin/sh" in result.err
    assert "***/bin" not in result.err
    shown = hooked.fab("local", "settings", env={"TOKEN": secret})
    assert "token=***" in shown.out
    assert result.json["release"]


def test_plan_names_the_hooks_that_a_deploy_would_come_to(hooked: Hooked) -> None:
    assert f"hooks on this machine: {', '.join([*MOMENTS[:6], 'after_deploy'])}" in hooked.fab("local", "plan").out
    assert hooked.names() == []
    hooked.fab("local", "build")
    assert hooked.fab("local", "plan", "--json").json["hooks"] == [*MOMENTS[2:6], "after_deploy"]


def test_interrupted_hook_is_ended_with_all_that_it_started(hooked: Hooked) -> None:
    hooked.settings["hooks"] = {
        "before_go": "sleep 300 & echo $! >child; echo $$ >leader; wait",
        "on_failure": "cat >failed",
    }
    hooked.write()
    process = hooked.start("local", "deploy", "--json")
    child = hooked.directory / "child"
    until(lambda: (hooked.directory / "leader").exists() and child.read_text().strip(), "the hook runs", seconds=90)
    pid = int(child.read_text())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["exit_code"] == 130
    assert not is_running(pid)
    assert hooked.served() == dict.fromkeys(HOSTS)
    assert json.loads((hooked.directory / "failed").read_text())["exit_code"] == 130


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# one command


def run(command: str, directory: Path, timeout_seconds: float = 30, **record: Any) -> tuple[Ended, list[str]]:
    lines: list[str] = []
    masking = Masking(["top-secret"])
    ended = run_command(
        command, record, directory=directory, timeout_seconds=timeout_seconds, masking=masking, tell=lines.append
    )
    return ended, lines


def test_command_that_does_not_read_its_record_gets_it_all_the_same(tmp_path: Path) -> None:
    ended, _ = run("true", tmp_path, hosts=["x" * 1000] * 1000)
    assert ended == Ended(0, False, ())
    ended, lines = run("wc -c", tmp_path, hosts=["x" * 1000] * 1000)
    assert int(lines[0]) > 1_000_000


def test_line_without_an_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        ended, lines = run("echo one; head -c 50000000 /dev/zero | tr '\\0' x; echo; echo two", tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (ended.exit_status, lines) == (0, ["one", "x" * LONGEST_LINE, "two"])
    assert peak < 5_000_000


def test_first_line_that_fails_is_the_last(tmp_path: Path) -> None:
    ended, lines = run("echo one\nfalse\necho two", tmp_path)
    assert (ended.exit_status, lines) == (1, ["one"])


def test_environment_says_what_is_known(tmp_path: Path) -> None:
    _, lines = run('echo "$DEPLOYTOOL_RELEASE,$DEPLOYTOOL_DEPLOYMENT,$PWD"', tmp_path, release="r1")
    assert lines == [f"r1,,{tmp_path}"]


def test_output_is_masked_and_of_a_progress_bar_the_end_is_shown(tmp_path: Path) -> None:
    ended, lines = run("printf 'a top-secret thing\\n10%%\\r100%%\\n'; echo err >&2", tmp_path)
    assert lines == ["a *** thing", "100%", "err"]
    assert ended.tail == ("a *** thing", "100%", "err")


def test_time_that_is_over_ends_what_ignores_it_as_well(tmp_path: Path) -> None:
    ended, _ = run("trap '' TERM\nsh -c 'echo $$ >deaf; trap \"\" TERM; sleep 300' &\nwait\nwait", tmp_path, 0.5)
    assert ended.timed_out
    assert not is_running(int((tmp_path / "deaf").read_text()))


def test_daemon_left_behind_is_not_waited_for(tmp_path: Path) -> None:
    ended, lines = run("sleep 300 & echo $! >daemon; echo done", tmp_path, 30)
    daemon = int((tmp_path / "daemon").read_text())
    try:
        assert (ended, lines) == (Ended(0, False, ("done",)), ["done"])
        assert is_running(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


# on the playground


def test_wave_on_real_hosts_waits_for_the_operators_word(waves: Waves) -> None:
    waves.settings["hooks"] = {
        "after_wave": 'grep -o \'"host": "app.", "verdict": "verified"\' >>seen || exit 5; echo >>seen',
        "after_deploy": "cat >done",
    }
    waves.write()
    result = waves.fab_json("deploy")
    waved = (waves.directory / "seen").read_text().split("\n\n")
    assert [part.count("verified") for part in waved if part] == [1, 2, 3]
    assert json.loads((waves.directory / "done").read_text())["deployment"] == result.json["deployment"]
    waves.repository.commit({"VERSION": "3"})
    waves.settings["hooks"]["after_wave"] = "exit 7"
    waves.write()
    halted = waves.fab_json("deploy", code=8)
    assert "halted after 1 of 3 hosts; hooks.after_wave[0] failed with exit status 7" in halted.json["error"]["message"]
    assert waves.serve(halted.json["release"], result.json["release"], result.json["release"])


# in Python


def examples() -> dict[str, str]:
    """The fabfiles in the docs, by the task that each has of its own."""
    blocks = re.findall(r"(?s)```python\n(.*?)```", DOCS.read_text().partition("### In Python")[2])
    return {re.findall(r"(?m)^def (\w+)", block)[0]: block for block in blocks}


def with_fabfile(local: Local, task: str) -> None:
    (local.directory / "fabfile.py").write_text(examples()[task])


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def test_task_before_deploy_can_end_it(local: Local) -> None:
    with_fabfile(local, "test")
    makefile = local.directory / "Makefile"
    makefile.write_text("test:\n\t@echo tested; exit 6\n")
    failed = local.fab("local", "deploy", "--json")
    assert failed.code != 0
    assert (failed.out, "tested" in failed.err) == ("", True)
    assert local.served() == dict.fromkeys(HOSTS)
    makefile.write_text("test:\n\t@echo tested\n")
    result = local.fab("local", "deploy", "--json")
    assert result.code == 0, result.err
    assert result.json["release"]
    assert "Run the tests" in local.fab("--list").out
    assert local.fab("test").code == 0


def test_task_after_deploy_knows_its_result_and_runs_only_if_it_went_well(local: Local) -> None:
    with_fabfile(local, "ticket")
    programs = local.directory / "bin"
    programs.mkdir()
    (programs / "open-ticket").write_text('#!/bin/sh\nprintf "%s\\n" "$@" >>tickets\n')
    (programs / "open-ticket").chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    local.settings["build"]["migrate"] = "exit 1"
    local.write()
    assert local.fab("local", "deploy", env=path).code == 4
    assert not (local.directory / "tickets").exists()
    local.settings["build"]["migrate"] = []
    local.write()
    result = local.fab("local", "deploy", "--json", env=path)
    assert result.code == 0, result.err
    release = result.json["release"]
    assert (local.directory / "tickets").read_text() == f"--title\n{release} is live in local\n"


def test_task_after_deploy_can_be_interrupted(local: Local) -> None:
    (local.directory / "fabfile.py").write_text(
        f"{FABFILE}from invoke import task\n"
        "from deploytool.tasks import deploy\n\n\n"
        "@task\ndef wait(context):\n    open('waiting', 'w').close()\n    import time\n    time.sleep(300)\n\n\n"
        "deploy.post.append(wait)\n"
    )
    process = local.start("local", "deploy")
    until((local.directory / "waiting").exists, "the task runs", seconds=90)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
