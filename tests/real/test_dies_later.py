"""A release that dies after its proof: every end says so within the next look; a host of an open rollout goes back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import forget
from tests.support.truth import HOSTS, Truth

LATER = Application("later", (PlaygroundRole("web", HOSTS),))


@pytest.fixture
def later(playground: Playground, tmp_path: Path) -> Iterator[Truth]:
    forget(playground, LATER)
    made = Truth(playground, tmp_path, LATER)
    # What `init` proposed so far, and no more: the process runs.
    made.role("web")["verify"] = {"pid_file": "pids/web.pid"}
    made.settings["store"]["url"] += f"/{tmp_path.name}"
    made.write()
    yield made
    for host in HOSTS:
        end_application(made, host)
    made.retire()


def end_application(later: Truth, host: str) -> None:
    script = 'pid=$(cat "$0" 2>/dev/null) && kill -KILL "$pid"; rm -f "$0"; exit 0'
    pid_file = later.playground.deploy_to(role="web", application="later") / "shared/pids/web.pid"
    later.playground.run_on_host(host, ["sh", "-c", script, str(pid_file)])


def test_release_that_dies_after_its_proof_is_told_by_status_plan_and_the_next_deploy(later: Truth) -> None:
    deployed = later.deploy().json
    assert {each["proof"] for each in deployed["hosts"]} == {"listening"}
    assert later.fab("playground", "status").code == 0
    end_application(later, "app2")
    later.playground.catch_up("app2", "web", "later").check_returncode()
    status = later.fab("playground", "status")
    assert status.code == 8
    assert "no longer verified" in status.out
    assert "app2 (web): " in status.out
    assert "pids/web.pid" in status.out
    assert "app2 (web) runs" in later.fab("playground", "plan").out.replace("behind: ", "")
    again = later.fab("playground", "deploy", "--json")
    assert again.code == 0, again.err
    assert f"app2 (web) no longer runs {deployed['release']}" in again.err
    assert later.fab("playground", "status").code == 0


def test_status_probe_finds_what_no_look_has_found_yet_and_what_is_back(later: Truth) -> None:
    deployed = later.deploy().json
    whole = later.fab("playground", "status", "--probe", "--json")
    assert whole.code == 0, whole.out
    end_application(later, "app3")
    assert later.fab("playground", "status").code == 0
    probed = later.fab("playground", "status", "--probe", "--json")
    assert probed.code == 8
    (bad,) = [host for host in probed.json["hosts"] if host["behind"]]
    assert (bad["host"], bad["release"], bad["verified"]) == ("app3", deployed["release"], False)
    assert "web.pid" in bad["reason"]
    # From then on everybody knows.
    assert later.fab("playground", "status").code == 8
    later.playground.run_on_host(
        "app3", ["sh", str(later.playground.deploy_to(role="web", application="later") / "current/bin/web"), "reload"]
    )
    assert later.fab("playground", "status", "--probe").code == 0
    assert later.fab("playground", "status").code == 0


def test_canary_that_dies_while_its_rollout_is_paused_goes_back_by_itself(later: Truth) -> None:
    old = str(later.deploy().json["release"])
    later.settings["rollout"] = {"waves": [1, "100%"], "pause_after": 1}
    later.write()
    later.commit_new()
    paused = later.deploy().json
    assert paused["paused"]
    (canary,) = [host for host in HOSTS if later.current(host) != old]
    end_application(later, canary)
    later.playground.catch_up(canary, "web", "later").check_returncode()
    assert later.current(canary) == old
    word = later.last_word(f"{canary}/web")
    assert (word["release"], word["verified"]) == (old, True)
    status = later.fab("playground", "status")
    assert status.code == 8
    assert canary in status.out


def test_application_that_listens_no_more_is_not_verified_whatever_its_pid_file_says(later: Truth) -> None:
    old = later.deploy().json
    sleeps = "sleep 600 </dev/null >/dev/null 2>&1 & echo $! >pids/web.pid"
    later.repository.commit({"bin/web": f'cd "$(dirname "$0")/.." && cd -P . && kill $(cat pids/web.pid); {sleeps}\n'})
    later.settings["wait"]["hook_seconds"] = 3
    later.write()
    result = later.failing_deploy()
    for host in HOSTS:
        assert "the release before listened on" in later.host_result(result, f"{host}/web")["reason"]
        assert later.current(host) == old["release"]


def test_check_and_plan_say_how_strong_the_proof_of_each_role_is(later: Truth) -> None:
    later.deploy()
    checked = later.fab("playground", "check")
    assert "proof of web: its processes run" in checked.out
    assert "proof app1 (web): the role listens on 127.0.0.1:" in checked.out
    assert "proof of web: its processes run" in later.fab("playground", "plan").out
    later.role("web")["verify"] = {"url": "http://127.0.0.1:1/", "expect": "{{ revision }}"}
    later.write()
    assert "proof of web: its URL answers with this release" in later.fab("playground", "plan").out
