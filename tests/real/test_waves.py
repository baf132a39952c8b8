"""Rollouts in waves, by the whole `fab` command on the playground with the real stretcher.

Canary, pause, halt, rollback; and an operator, or the worker itself, that is killed between two waves.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until
from tests.support.waves import HOSTS, WAVES, Waves


def test_all_waves_end_like_a_deployment_at_once(waves: Waves) -> None:
    result = waves.fab_json("deploy").json
    assert waves.serve(*[result["release"]] * 3)
    assert waves.wanted_deployments() == {"web": result["deployment"]}
    assert (result["paused"], result["halted"], result["rollbacks"]) == (False, False, [])
    assert "promote" not in waves.status()


def test_canary_that_fails_leaves_the_other_two_as_they_were(waves: Waves) -> None:
    waves.rollout(canary={"nodes": ["app2"]})
    waves.break_on("app2")
    others, wanted = waves.state_of("app1", "app3"), waves.wanted()
    result = waves.fab_json("deploy", code=8)
    assert result.verdicts() == {"app2/web": "failed", "app1/web": "aborted", "app3/web": "aborted"}
    assert result.json["halted"] is True
    assert "halted after 1 of 3 hosts; not verified: app2 (web) failed" in result.json["error"]["message"]
    assert waves.state_of("app1", "app3") == others
    # It went back by itself, and nobody is wanted to run anything else than before.
    assert waves.serve(*[waves.old] * 3)
    assert waves.wanted() == wanted
    waves.status()
    # They are ready for the next event at once.
    waves.mend("app2")
    again = waves.fab_json("deploy").json
    assert again["reused"] is True
    assert waves.serve(*[again["release"]] * 3)


def test_halted_rollout_leaves_what_has_switched_and_says_what_comes_next(waves: Waves) -> None:
    waves.break_on("app2")
    result = waves.fab("playground", "deploy")
    assert result.code == 8, result.err
    assert "HALTED" in result.out
    assert "let go on 2 of 3 hosts of playground; not verified: 1; unchanged: 1" in result.out
    assert "next: fab playground promote" in result.out
    new = waves.served_by("app1") or ""
    assert new != waves.old
    assert waves.serve(new, waves.old, waves.old)
    assert f"{new} is expected on app1 (web), and not on every host" in waves.status()
    waves.mend("app2")
    first = waves.state_of("app1")
    promoted = waves.fab_json("promote")
    assert promoted.verdicts() == {"app2/web": "verified", "app3/web": "verified"}
    assert waves.serve(new, new, new)
    assert waves.state_of("app1") == first


def test_second_wave_that_fails_takes_both_waves_back(waves: Waves) -> None:
    waves.rollout(on_failure="rollback")
    waves.break_on("app2")
    last, wanted = waves.state_of("app3"), waves.wanted_deployments()
    result = waves.fab_json("deploy", code=8)
    assert result.verdicts() == {"app1/web": "verified", "app2/web": "failed", "app3/web": "aborted"}
    [undone] = result.json["rollbacks"]
    assert (undone["release"], undone["exit_code"]) == (waves.old, 0)
    assert [(host["host"], host["verdict"]) for host in undone["hosts"]] == [("app1", "verified")]
    assert waves.serve(*[waves.old] * 3)
    assert waves.state_of("app3") == last
    assert waves.wanted_deployments() == {**wanted, "web/app1": undone["deployment"]}
    waves.status()
    releases = waves.fab("playground", "releases").out
    assert "bad: its deployment" in releases
    # Before the old release there is none, and the one that was halted is no target.
    back = waves.fab("playground", "rollback")
    assert (back.code, "has no release to go back to" in back.err) == (2, True), back.err
    waves.mend("app2")
    again = waves.fab_json("deploy").json
    assert waves.serve(*[again["release"]] * 3)
    assert waves.wanted_deployments() == {"web": again["deployment"]}


def test_freeze_between_two_waves_does_not_keep_a_halted_rollout_from_going_back(waves: Waves) -> None:
    waves.rollout(on_failure="rollback")
    fab = shlex.quote(f"{Path(sys.executable).parent}/fab")
    waves.settings["hooks"] = {"after_wave": f"{fab} playground freeze --why 'look first'"}
    waves.write()
    waves.break_on("app2")
    result = waves.fab_json("deploy", code=8)
    [undone] = result.json["rollbacks"]
    assert (undone["release"], undone["exit_code"], result.json["not_rolled_back"]) == (waves.old, 0, [])
    assert waves.serve(*[waves.old] * 3)
    assert "look first; a freeze does not stop a rollback" in result.err
    assert waves.fab("playground", "thaw").code == 0


def test_both_stories_are_told_to_people(waves: Waves) -> None:
    waves.rollout(on_failure="rollback")
    waves.break_on("app2")
    result = waves.fab("playground", "deploy")
    assert result.code == 8
    assert "it does not start" in result.out
    assert f"rolled back to {waves.old}: verified on 1 of 1 host" in result.out


def test_pause_then_promote(waves: Waves) -> None:
    waves.rollout(pause_after=1)
    paused = waves.fab("playground", "deploy", "--json")
    assert paused.code == 0, paused.err
    document = paused.json
    assert document["paused"] is True
    new = document["release"]
    assert waves.serve(new, waves.old, waves.old)
    assert f"{new} is expected on app1 (web), and not on every host" in waves.status()
    first = waves.state_of("app1")
    promoted = waves.fab_json("promote")
    assert promoted.json["release"] == new
    assert promoted.verdicts() == {"app2/web": "verified", "app3/web": "verified"}
    assert promoted.json["spared"] == [{"role": "web", "host": "app1"}]
    assert waves.serve(new, new, new)
    assert waves.state_of("app1") == first
    assert waves.wanted_deployments() == {
        "web": promoted.json["deployment"],
        "web/app1": document["deployment"],
    }
    assert "promote" not in waves.status()
    again = waves.fab("playground", "promote")
    assert again.code == 2
    assert "no rollout of playground is unfinished" in again.err
    # Both deployments together have verified it, and from here a rollback goes to the one before.
    back = waves.fab_json("rollback").json
    assert back["release"] == waves.old
    assert waves.serve(*[waves.old] * 3)


def test_promotion_where_all_hosts_have_it_already_only_says_so(waves: Waves) -> None:
    waves.rollout(pause_after=1)
    new = waves.fab_json("deploy").json["release"]
    chosen = waves.fab_json("deploy", "--release", new, "--nodes", "app2,app3").json
    assert waves.serve(new, new, new)
    assert "and not on every host" in waves.status()
    before = waves.state_of(*HOSTS)
    promoted = waves.fab("playground", "promote")
    assert promoted.code == 0, promoted.err
    assert f"{new} is verified on all 3 hosts of playground, 3 of which had it before" in promoted.out
    assert waves.state_of(*HOSTS) == before
    wanted = waves.wanted_deployments()
    assert wanted["web"] > chosen["deployment"]
    assert "promote" not in waves.status()


def test_pause_then_rollback(waves: Waves) -> None:
    waves.rollout(pause_after=1)
    paused = waves.fab("playground", "deploy")
    assert paused.code == 0, paused.err
    assert "is verified on 1 of 3 hosts of playground; 2 hosts wait" in paused.out
    assert "next: fab playground promote" in paused.out
    back = waves.fab_json("rollback").json
    assert back["release"] == waves.old
    assert waves.serve(*[waves.old] * 3)
    assert waves.wanted_deployments() == {"web": back["deployment"]}


def worker_of(waves: Waves) -> int:
    """The process that holds the environment's lock, which has another number on the build server than here."""
    held = json.loads((waves.playground.build_root / WAVES.name / "locks" / "playground").read_text())
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            numbers = re.search(r"^NSpid:.*\s(\d+)$", status.read_text(), re.MULTILINE)
            command = (status.parent / "cmdline").read_text(errors="replace")
            if numbers and int(numbers[1]) == held["pid"] and str(waves.playground.build_root) in command:
                return int(status.parent.name)
    raise AssertionError(f"no process is {held}")


def kill_between_two_waves(waves: Waves, *, worker: bool) -> tuple[str, str]:
    """Kill the operator, and the worker as well, once app1 may go and before app2 may. Returns deployment and release.

    app1 proves the new release for some seconds before the second wave goes.
    """
    waves.rollout(min_healthy_seconds=4)
    process = waves.start("playground", "deploy", "--json")

    def deployment() -> str | None:
        return waves.wanted_deployments().get("web/app1")

    def goes() -> list[str]:
        keys = waves.consul_keys(f"deployments/{deployment()}/web/go") if deployment() else {}
        return [value for value in keys.values() if value.startswith("go app1 +")]

    until(goes, "the first wave may go", seconds=90)
    name = deployment()
    assert name is not None
    if worker:
        os.kill(worker_of(waves), signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    until(lambda: "app1" in waves.reports(name, "verified"), "app1 finishes by itself")
    release = waves.served_by("app1")
    assert release not in (None, waves.old)
    return name, str(release)


@pytest.mark.parametrize("then", ["promote", "rollback"])
def test_operator_killed_between_two_waves_then(waves: Waves, then: str) -> None:
    others, wanted = waves.state_of("app2", "app3"), waves.wanted_deployments()
    deployment, new = kill_between_two_waves(waves, worker=False)
    until(lambda: waves.reports(deployment, "aborted") == {"app2", "app3"}, "the others leave the barrier")
    assert waves.state_of("app2", "app3") == others
    assert waves.wanted_deployments() == {**wanted, "web/app1": deployment}
    assert f"{new} is expected on app1 (web), and not on every host" in waves.status()
    go_on(waves, then, new)


@pytest.mark.parametrize("then", ["promote", "rollback"])
def test_worker_killed_between_two_waves_then(waves: Waves, then: str) -> None:
    others = waves.state_of("app2", "app3")
    deployment, new = kill_between_two_waves(waves, worker=True)
    # Nobody has put anything back, and the others wait for a word until they give up, or somebody goes on.
    assert waves.state_of("app2", "app3") == others
    told = waves.status(code=8)
    assert f"the operator of deployment {deployment} is gone" in told
    assert f"{new} is expected on app1 (web), app2 (web), app3 (web), and not on every host" in told
    assert waves.reports(deployment, "verified") == {"app1"}
    go_on(waves, then, new)
    # What was reported went with the next deployment, and nobody else has reported it since.
    assert waves.reports(deployment, "verified") == set()


def go_on(waves: Waves, then: str, new: str) -> None:
    """By this command, until all hosts run one release."""
    first = waves.state_of("app1")
    result = waves.fab_json(then)
    if then == "promote":
        assert result.verdicts() == {"app2/web": "verified", "app3/web": "verified"}
        assert waves.serve(new, new, new)
        assert waves.state_of("app1") == first
    else:
        assert result.verdicts() == {f"{host}/web": "verified" for host in HOSTS}
        assert waves.serve(*[waves.old] * 3)
    assert waves.wanted_deployments()["web"] == result.json["deployment"]
    assert "promote" not in waves.status()


def test_nothing_is_built_for_a_canary_that_is_not_there(waves: Waves) -> None:
    waves.rollout(canary={"nodes": ["app9"]})
    wanted = waves.wanted()
    refused = waves.fab("playground", "deploy")
    assert (refused.code, "no canary is up: app9 (any role)" in refused.err) == (7, True), refused.err
    assert waves.wanted() == wanted
    assert [each["release"] for each in waves.fab_json("releases").json["releases"]] == [waves.old]
