"""The fleet's truth: whatever goes wrong on hosts, the verdicts, the exit code and what is served afterwards agree.

The whole `fab` command on the real sshd, S3 server, Consul cluster and stretcher, with a small web server as the
application. Numbers in brackets are those of the cases that the tool promises to tell right.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploytool.hosts.scripts import receive_script
from deploytool.playground.playground import Playground
from tests.support.fab import Result
from tests.support.truth import ALL, HOSTS, OTHER, ROOT, TRUTH, Truth, commands_on, put_in_order
from tests.support.waiting import until


@pytest.fixture
def truth(playground: Playground, tmp_path: Path) -> Iterator[Truth]:
    playground.add_application(TRUTH)
    try:
        yield Truth(playground, tmp_path)
    finally:
        put_in_order(playground, TRUTH, OTHER)


# --- what must go well


def until_replayed(truth: Truth, host: str, deployment: str, times: int) -> None:
    until(lambda: truth.replays(host, deployment) == times, f"{host} has heard {deployment} {times} times")


def test_all_good_and_every_host_serves_it(truth: Truth) -> None:
    """(1)"""
    truth.deploy_old()
    new = truth.commit_new()
    result = truth.deploy()
    assert result.json["exit_code"] == 0
    assert result.verdicts() == truth.all("verified")
    assert truth.served() == truth.all(result.json["release"])
    assert truth.answers() == truth.all(new)
    assert truth.fab("playground", "status").code == 0


def test_restart_that_leaves_a_daemon_is_no_reason_to_wait_for_it(truth: Truth) -> None:
    """(23)"""
    truth.role("web")["restart"] += ["sleep 600 & echo $! >pids/daemon.pid"]
    truth.write()
    truth.deploy_old()
    daemons = {host: truth.file(host, "shared/pids/daemon.pid").read_text() for host in HOSTS}
    new = truth.commit_new()
    result = truth.deploy()
    assert result.verdicts() == truth.all("verified")
    assert result.json["phases"]["activate"] < 60
    assert truth.answers() == truth.all(new)
    for host, pid in daemons.items():
        alive = truth.playground.run_on_host(host, ["sh", "-c", 'kill -0 "$0"', pid.strip()])
        assert alive.returncode == 0, f"the daemon of {host} is gone"


def test_two_roles_on_one_host_and_two_applications_with_a_role_of_one_name(truth: Truth, tmp_path: Path) -> None:
    """(24)"""
    truth.playground.add_application(OTHER)
    other = Truth(truth.playground, tmp_path / "other", OTHER)
    old = truth.deploy_old()
    theirs = other.deploy().json
    assert other.answers() == {"app1/web": theirs["revision"]}
    assert truth.answers() == truth.all(old["revision"])
    pids = other.pids()
    new = truth.commit_new("fails", on="app3")
    result = truth.failing_deploy()
    assert result.verdicts() == {**truth.all("verified"), "app3/web": "failed"}
    assert truth.answers() == {**truth.all(new), "app3/web": old["revision"]}
    assert (other.pids(), other.answers()) == (pids, {"app1/web": theirs["revision"]})


# --- a host fails


def assert_only_app2_failed(truth: Truth, result: Result, old: dict[str, Any], new: str, *words: str) -> None:
    """app2 failed for this reason and serves, proven, the old release again; all others serve the new one."""
    assert result.verdicts() == {**truth.all("verified"), "app2/web": "failed"}
    reason = truth.host_result(result, "app2/web")["reason"]
    for word in (*words, f"put back to {old['release']}, which is proven to serve again"):
        assert word in reason
    assert truth.answers() == {**truth.all(new), "app2/web": old["revision"]}
    assert truth.served() == {**truth.all(result.json["release"]), "app2/web": old["release"]}
    last = truth.last_word("app2/web")
    assert (last["release"], last["verified"]) == (old["release"], True)
    assert truth.fab("playground", "status").code == 8


def test_post_hook_that_fails_on_one_host(truth: Truth) -> None:
    """(2)"""
    old = truth.deploy_old()
    new = truth.commit_new(on="app2")
    truth.role("web")["hooks"] = {"post": ["[ ! -e {{ shared_path }}/affected ] || { echo it broke; exit 9; }"]}
    truth.write()
    result = truth.failing_deploy()
    assert_only_app2_failed(truth, result, old, new, "hooks.post[0] failed with exit status 9")
    assert any("it broke" in line for line in truth.host_result(result, "app2/web")["log"])


def test_post_hook_that_fails_after_it_has_restarted_the_app(truth: Truth) -> None:
    """(21)"""
    old = truth.deploy_old()
    new = truth.commit_new(on="app2")
    hook = "[ ! -e {{ shared_path }}/affected ] || { sh bin/web reload && sh bin/web check {{ revision }} && exit 5; }"
    truth.role("web")["hooks"] = {"post": [hook]}
    truth.write()
    result = truth.failing_deploy()
    assert_only_app2_failed(truth, result, old, new, "hooks.post[0] failed with exit status 5")
    assert truth.releases_in_use("app2") == {old["release"]}


def test_reload_that_leaves_the_old_process_alive(truth: Truth) -> None:
    """(7)"""
    truth.settings["wait"]["hook_seconds"] = 5
    truth.write()
    old = truth.deploy_old()
    new = truth.commit_new("stale", on="app2")
    result = truth.failing_deploy()
    assert_only_app2_failed(truth, result, old, new, "still runs in", f"releases/{old['release']}")


def test_reload_that_starts_a_process_that_dies_after_a_second(truth: Truth) -> None:
    """(8)"""
    truth.settings["wait"] |= {"hook_seconds": 10, "stable_seconds": 2}
    truth.write()
    old = truth.deploy_old()
    new = truth.commit_new("dies", on="app2")
    result = truth.failing_deploy()
    assert_only_app2_failed(truth, result, old, new, "does not run")
    assert truth.releases_in_use("app2") == {old["release"]}


def test_application_that_answers_with_the_old_revision(truth: Truth) -> None:
    """(9)"""
    truth.settings["wait"]["hook_seconds"] = 5
    truth.write()
    old = truth.deploy_old()
    new = truth.commit_new("lies", on="app2")
    result = truth.failing_deploy()
    assert_only_app2_failed(truth, result, old, new, f"answers {old['revision']}")


def test_old_revision_at_a_url_that_is_to_answer_with_the_new_one(truth: Truth) -> None:
    """(9), by `verify.url`: a port that all hosts share is needed, so only one host is asked."""
    truth.only_web()
    port = truth.playground.app_port("app2", "web", "truth")
    truth.role("web")["verify"] = {"url": f"http://127.0.0.1:{port}/healthz", "expect": "{{ revision }}"}
    truth.role("web")["hosts"] = {"nodes": ["app2"], "node_meta": None, "service": None}
    truth.settings["wait"]["hook_seconds"] = 5
    truth.write()
    old = truth.deploy().json
    new = truth.commit_new("lies", on="app2")
    result = truth.failing_deploy()
    assert result.verdicts() == {"app2/web": "failed"}
    reason = truth.host_result(result, "app2/web")["reason"]
    assert f"answers without '{new}'" in reason
    assert "which is proven to serve again" in reason
    assert truth.answer("app2/web") == old["revision"]


def test_disk_that_is_too_small_on_one_host_stops_all_before_any_switch(truth: Truth) -> None:
    """(19), found before `go`"""
    old = truth.deploy_old()
    wanted = truth.wanted()
    truth.repository.commit({"big": "x" * 3_000_000})
    mounted = truth.playground.run_on_host("app2", ["mount", "-t", "tmpfs", "-o", "size=1m", "none", "tmp"])
    assert mounted.returncode == 0, mounted.stderr
    # It hears last: once it has failed, nobody is waited for long.
    with truth.heard_last_by("app2") as process:
        pass
    result = truth.finish(process)
    assert result.code == 8, result.err
    assert result.verdicts() == {**truth.all("aborted"), "app2/web": "failed"}
    assert "is too small" in truth.host_result(result, "app2/web")["reason"]
    assert (truth.answers(), truth.wanted()) == (truth.all(old["revision"]), wanted)
    assert truth.served() == truth.all(old["release"])


def test_disk_that_fills_up_after_go_on_one_host(truth: Truth) -> None:
    """(19), too late to be found before `go`"""
    old = truth.deploy_old()
    new = truth.repository.commit({"big": "x" * 3_000_000})
    truth.file("app2", "shared/affected").touch()
    mounted = truth.playground.run_on_host("app2", ["mount", "-t", "tmpfs", "-o", "size=8m", "none", "tmp"])
    assert mounted.returncode == 0, mounted.stderr
    fill = '[ ! -e {{ shared_path }}/affected ] || head -c 9000000 /dev/zero >"$TMPDIR/full" || :'
    truth.role("web")["hooks"] = {"pre": [fill]}
    truth.write()
    result = truth.failing_deploy()
    assert result.verdicts() == {**truth.all("verified"), "app2/web": "failed"}
    assert "No space left on device" in "\n".join(truth.host_result(result, "app2/web")["log"])
    assert truth.answers() == {**truth.all(new), "app2/web": old["revision"]}
    assert truth.last_word("app2/web")["release"] == old["release"]


# --- the store


def test_archive_that_is_corrupted_in_the_store(truth: Truth) -> None:
    """(3)"""
    old = truth.deploy_old()
    wanted, pids = truth.wanted(), truth.pids()
    truth.commit_new()
    release = truth.fab("playground", "build", "--json").json["release"]
    client = truth.playground.s3_client()
    key = f"truth/releases/{release}/truth.tar.gz"
    body = client.get_object(Bucket=truth.playground.bucket, Key=key)["Body"].read()
    client.put_object(Bucket=truth.playground.bucket, Key=key, Body=body[:-100] + bytes(100))
    client.close()
    result = truth.failing_deploy("--release", release, "--force", "to see what happens")
    assert set(result.verdicts().values()) <= {"failed", "aborted", "silent"}
    assert "failed" in result.verdicts().values()
    assert "hecksum" in result.out
    assert (truth.wanted(), truth.pids()) == (wanted, pids)
    assert truth.served() == truth.all(old["release"])
    assert truth.answers() == truth.all(old["revision"])


def test_manifest_that_is_missing_in_the_store_is_missed_by_nobody(truth: Truth) -> None:
    """(4): hosts have it from Consul."""
    truth.deploy_old()
    new = truth.commit_new()
    with truth.heard_last_by("app2") as process:
        deployment = truth.wanted()["wanted/web"].split()[0]
        assert truth.delete_objects(f"deployments/{deployment}/web.yml")
    assert truth.finish(process).code == 0
    assert truth.answers() == truth.all(new)


def test_manifest_that_is_missing_in_consul(truth: Truth) -> None:
    """(4): without its manifest a host runs nothing; it says why."""
    old = truth.deploy_old()
    wanted, pids = truth.wanted(), truth.pids()
    truth.commit_new()
    truth.settings["wait"]["fetch_seconds"] = 8
    truth.write()
    with truth.heard_last_by("app2") as process:
        deployment = truth.wanted()["wanted/web"].split()[0]
        truth.delete(f"deployments/{deployment}/.manifests/web")
    result = truth.finish(process)
    assert result.code == 8, result.err
    assert result.verdicts() == {**truth.all("aborted"), "app2/web": "failed"}
    assert "Consul does not give deploytool/truth/playground/deployments/" in result.json["error"]["message"]
    assert (truth.wanted(), truth.pids(), truth.answers()) == (wanted, pids, truth.all(old["revision"]))


def test_manifest_that_is_changed_in_consul_on_its_way(truth: Truth) -> None:
    """(4): it is not what `wanted` names, so nobody runs it; the operator hears why."""
    old = truth.deploy_old()
    wanted, pids = truth.wanted(), truth.pids()
    truth.commit_new()
    with truth.heard_last_by("app2") as process:
        deployment = truth.wanted()["wanted/web"].split()[0]
        truth.put(f"deployments/{deployment}/.manifests/web", "commands: {pre: [touch /tmp/owned]}")
    result = truth.finish(process)
    assert result.code == 8, result.err
    assert result.verdicts() == {**truth.all("aborted"), "app2/web": "failed"}
    assert "the manifest that Consul has for it is another one" in result.json["error"]["message"]
    assert (truth.wanted(), truth.pids(), truth.answers()) == (wanted, pids, truth.all(old["revision"]))


# --- Consul


def test_host_whose_agent_is_down_is_listed_apart_and_catches_up(truth: Truth) -> None:
    """(5): noticed before the event"""
    old = truth.deploy_old()
    new = truth.commit_new()
    truth.playground.stop_agent("app2")
    until(lambda: not truth.is_seen("app2"), "Consul sees that app2 is down")
    result = truth.deploy()
    assert result.json["down"] == [{"role": "web", "host": "app2"}]
    assert result.verdicts() == {place: "verified" for place in ALL if place != "app2/web"}
    assert truth.answers() == {**truth.all(new), "app2/web": old["revision"]}
    truth.playground.start_agent("app2")
    assert truth.fab("playground", "status").code == 8
    truth.playground.catch_up("app2", "web", "truth").check_returncode()
    until(lambda: truth.answers() == truth.all(new), "app2 serves the new release")
    assert truth.fab("playground", "status").code == 0


def test_host_that_loses_its_agent_before_it_hears_go_is_silent_and_catches_up(truth: Truth) -> None:
    """(5): not noticed in time"""
    old = truth.deploy_old()
    new = truth.commit_new()
    truth.settings["wait"] |= {"activate_seconds": 20, "hook_seconds": 8}
    process = truth.start_to_the_barrier()
    truth.playground.stop_agent("app2")
    truth.go_on()
    result = truth.finish(process)
    assert result.code == 8, result.err
    assert result.verdicts() == {**truth.all("verified"), "app2/web": "silent"}
    assert truth.host_result(result, "app2/web")["state"] == "fetched"
    assert truth.answers() == {**truth.all(new), "app2/web": old["revision"]}
    truth.playground.start_agent("app2")

    def caught_up() -> bool:
        truth.playground.catch_up("app2", "web", "truth")
        return truth.answer("app2/web") == new

    until(caught_up, "app2 serves the new release", seconds=90)


def test_host_without_its_watch_is_silent_and_stops_all_before_any_switch(truth: Truth) -> None:
    """(6): it stays away"""
    old = truth.deploy_old()
    wanted, pids = truth.wanted(), truth.pids()
    truth.commit_new()
    truth.settings["wait"]["fetch_seconds"] = 4
    truth.write()
    (truth.playground.host_directory("app2") / "watches/truth-web-playground").unlink()
    until(lambda: "deploy_truth_web" not in commands_on(truth.playground, "app2"), "the watch has ended")
    result = truth.failing_deploy()
    assert result.verdicts() == {**truth.all("aborted"), "app2/web": "silent"}
    assert (truth.wanted(), truth.pids(), truth.answers()) == (wanted, pids, truth.all(old["revision"]))


def test_watch_that_is_killed_at_the_barrier_and_restarted_still_verifies(truth: Truth) -> None:
    """(6): `Restart=always` brings it back, and Consul replays the event"""
    truth.deploy_old()
    new = truth.commit_new()
    process = truth.start_to_the_barrier()
    kill = "pkill -9 -f '^[^ ]*consul watch .*-name=deploy_truth_web_playground'"
    assert truth.playground.run_on_host("app2", ["sh", "-c", kill]).returncode == 0
    truth.go_on()
    result = truth.finish(process)
    assert (result.code, result.verdicts()) == (0, truth.all("verified")), result.out + result.err
    assert truth.answers() == truth.all(new)


def test_event_that_is_fired_twice_changes_nothing(truth: Truth) -> None:
    """(10)"""
    document = truth.deploy_old()
    before = (truth.pids(), truth.consul_keys(), truth.served())
    url = truth.wanted()["wanted/web"].split()[1].partition("#")[0]
    truth.playground.fire("truth", "web", url)
    for host in HOSTS:
        until_replayed(truth, host, document["deployment"], 1)
    assert (truth.pids(), truth.consul_keys(), truth.served()) == before


def test_old_event_that_is_replayed_after_a_newer_deployment_changes_nothing(truth: Truth) -> None:
    """(11)"""
    truth.deploy_old()
    url = truth.wanted()["wanted/web"].split()[1].partition("#")[0]
    new = truth.commit_new()
    deployment = truth.deploy().json["deployment"]
    before = (truth.pids(), truth.consul_keys(), truth.served())
    truth.playground.fire("truth", "web", url)
    for host in HOSTS:
        until_replayed(truth, host, deployment, 1)
    assert (truth.pids(), truth.consul_keys(), truth.served()) == before
    assert truth.answers() == truth.all(new)


def test_restarted_watch_neither_restarts_nor_undoes_even_with_the_archive_gone(truth: Truth) -> None:
    """(12)"""
    truth.deploy_old()
    new = truth.commit_new()
    deployment = truth.deploy().json["deployment"]
    before = (truth.pids(), truth.consul_keys(), truth.served())
    for times in (1, 2):
        for host in HOSTS:
            truth.playground.restart_watches(host)
        for host in HOSTS:
            until_replayed(truth, host, deployment, times)
        assert (truth.pids(), truth.consul_keys(), truth.served()) == before
        assert truth.answers() == truth.all(new)
        truth.delete_objects(r"truth\.tar\.gz")


def test_server_that_restarts_between_fetched_and_go_is_borne(truth: Truth) -> None:
    """(16)"""
    truth.deploy_old()
    new = truth.commit_new()
    process = truth.start_to_the_barrier()
    truth.playground.kill_consul_server()
    truth.playground.start_consul_server()
    truth.go_on()
    result = truth.finish(process)
    assert (result.code, result.verdicts()) == (0, truth.all("verified")), result.out + result.err
    assert truth.answers() == truth.all(new)


# --- the operator


def test_second_deploy_right_after_the_first_operator_was_killed_at_the_barrier(truth: Truth) -> None:
    """(13)"""
    truth.deploy_old()
    truth.commit_new()
    process = truth.start_to_the_barrier()
    first = truth.wanted()["wanted/web"].split()[0]
    process.kill()
    process.communicate()
    new = truth.commit_new()
    truth.settings["build"]["migrate"] = []
    truth.write()
    result = truth.deploy()
    assert result.verdicts() == truth.all("verified")
    assert truth.answers() == truth.all(new)
    said = {key.rpartition("/")[2] for key in truth.consul_keys("reports/") if f"/{first}/" in key}
    assert said <= {"fetched", "aborted", "superseded"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c (14)", "kill -9 (15)"])
def test_operator_that_goes_at_the_barrier_leaves_everything_as_it_was(truth: Truth, number: signal.Signals) -> None:
    old = truth.deploy_old()
    before = (truth.pids(), truth.wanted(), truth.served())
    truth.commit_new()
    process = truth.start_to_the_barrier()
    deployment = truth.wanted()["wanted/web"].split()[0]
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130, err
        assert Result(130, out, err).verdicts() == truth.all("aborted")
    until(lambda: truth.wanted() == before[1], "wanted is what it was", seconds=45)

    def all_have_left() -> bool:
        keys = truth.consul_keys("reports/")
        left = {key for key in keys if key.endswith(f"/{deployment}/aborted")}
        return len(left) == len(ALL)

    until(all_have_left, "every host has left the barrier")
    assert (truth.pids(), truth.wanted(), truth.served()) == before
    assert truth.answers() == truth.all(old["revision"])
    until(lambda: truth.fab("playground", "status").code == 0, "nothing is under way")


# --- late joiners and returning hosts


def test_what_receives_is_read_by_plain_shells() -> None:
    for shell in ("sh", "dash", "bash"):
        if shutil.which(shell):
            assert subprocess.run([shell, "-n"], input=receive_script().encode(), capture_output=True).returncode == 0


def test_host_that_is_added_after_the_deploy_reaches_it_at_its_boot(truth: Truth) -> None:
    """(17)"""
    truth.only_web()
    truth.role("web")["hosts"] = {"nodes": None, "node_meta": {"role": "web"}, "service": None}
    truth.write()
    truth.playground.stop_host("app3")
    until(lambda: not truth.is_seen("app3"), "app3 has left the cluster")
    result = truth.deploy()
    assert result.verdicts() == {"app1/web": "verified", "app2/web": "verified"}
    assert truth.current("app3") is None
    truth.playground.start_host("app3")
    until(lambda: truth.answer("app3/web") == result.json["revision"], "app3 serves the release", seconds=90)
    until(lambda: truth.fab("playground", "status").code == 0, "status sees it")


def test_host_that_was_down_during_the_deploy_comes_back_to_it(truth: Truth) -> None:
    """(18)"""
    truth.deploy_old()
    new = truth.commit_new()
    truth.kill_host("app2")
    result = truth.deploy()
    assert result.json["down"] == [{"role": "web", "host": "app2"}]
    assert truth.answer("app2/web") is None
    truth.playground.start_host("app2")
    until(lambda: truth.answers() == truth.all(new), "app2 serves the new release", seconds=90)
    until(lambda: truth.last_word("app2/web").get("release") == result.json["release"], "app2 says so")
    assert truth.served() == truth.all(result.json["release"])


def start_and_cut_off_app2(truth: Truth) -> "subprocess.Popen[str]":
    """Deploy; app2 is killed right after its switch, before it has restarted or proven anything."""
    truth.settings["wait"] |= {"activate_seconds": 200, "hook_seconds": 90}
    hook = "[ ! -e {{ shared_path }}/affected ] || { rm {{ shared_path }}/affected; sleep 80; }"
    truth.role("web")["hooks"] = {"post": [hook]}
    truth.write()
    truth.file("app2", "shared/affected").touch()
    process = truth.start("playground", "deploy", "--json")
    until(lambda: not truth.file("app2", "shared/affected").exists(), "app2 has switched", seconds=90)
    truth.kill_host("app2")
    return process


def test_switch_that_a_reboot_cut_off_is_finished_at_the_boot(truth: Truth) -> None:
    """(22)"""
    truth.deploy_old()
    new = truth.commit_new()
    process = start_and_cut_off_app2(truth)
    assert truth.file("app2", ".deploytool/switch").exists()
    truth.playground.start_host("app2")
    result = truth.finish(process)
    assert (result.code, result.verdicts()) == (0, truth.all("verified")), result.out + result.err
    assert truth.answers() == truth.all(new)
    assert not truth.file("app2", ".deploytool/switch").exists()


def cut_off_and_interrupted(truth: Truth) -> str:
    """app2 is down in the middle of a switch, and the operator has gone; returns the deployment."""
    process = start_and_cut_off_app2(truth)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert Result(130, out, err).verdicts()["app2/web"] == "silent"
    return str(json.loads(out)["deployment"])


def test_switch_that_was_cut_off_is_undone_if_the_old_release_is_wanted_again(truth: Truth) -> None:
    old = truth.deploy_old()
    wanted = truth.wanted()["wanted/web"]
    truth.commit_new()
    deployment = cut_off_and_interrupted(truth)
    truth.put("wanted/web", wanted)
    truth.playground.start_host("app2")
    until(lambda: truth.answer("app2/web") == old["revision"], "app2 serves the old release again", seconds=90)
    until(lambda: truth.last_word("app2/web").get("deployment") == deployment, "app2 says so")
    word = truth.last_word("app2/web")
    assert (word["release"], word["verified"]) == (old["release"], True)
    assert truth.current("app2") == old["release"]
    report = json.loads(truth.consul_keys("reports/web/app2")[f"reports/web/app2/{deployment}/failed"])
    assert "was cut off" in report["reason"]
    assert truth.playground.catch_up("app2", "web", "truth").stdout == ""


def test_switch_that_was_cut_off_is_undone_if_the_wanted_archive_is_gone(truth: Truth) -> None:
    old = truth.deploy_old()
    truth.commit_new()
    cut_off_and_interrupted(truth)
    truth.commit_new()
    latest = truth.deploy().json
    assert truth.delete_objects(f"{latest['release']}/truth.tar.gz")
    truth.playground.start_host("app2")
    until(lambda: truth.answer("app2/web") == old["revision"], "app2 serves the old release again", seconds=90)
    until(lambda: truth.last_word("app2/web").get("release") == old["release"], "app2 says so")
    assert truth.fab("playground", "status").code == 8


def test_chosen_hosts_then_a_whole_deploy_then_the_third_comes_back(truth: Truth) -> None:
    """(25)"""
    truth.only_web()
    old = truth.deploy().json
    truth.kill_host("app3")
    truth.commit_new()
    middle = truth.deploy("--nodes", "app1,app2")
    assert middle.verdicts() == {"app1/web": "verified", "app2/web": "verified"}
    assert truth.current("app3") == old["release"]
    new = truth.commit_new()
    last = truth.deploy()
    assert last.verdicts() == {"app1/web": "verified", "app2/web": "verified"}
    assert set(truth.wanted()) == {"wanted/web"}
    truth.playground.start_host("app3")
    until(lambda: truth.answer("app3/web") == new, "app3 serves the last release", seconds=90)
    assert {truth.answer(f"{host}/web") for host in HOSTS} == {new}
    until(lambda: truth.fab("playground", "status").code == 0, "status sees it")


def test_chosen_host_that_comes_back_gets_its_own_release_and_others_keep_theirs(truth: Truth) -> None:
    truth.only_web()
    old = truth.deploy().json
    new = truth.commit_new()
    truth.deploy("--nodes", "app2")
    truth.kill_host("app2")
    truth.playground.run_on_host("app1", ["true"])
    shutil.rmtree(truth.file("app2", "releases"))
    truth.file("app2", ".deploytool/last").unlink()
    truth.playground.start_host("app2")
    until(lambda: truth.answer("app2/web") == new, "app2 serves its own release", seconds=90)
    for host in ("app1", "app3"):
        done = truth.playground.catch_up(host, "web", "truth")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert truth.answer(f"{host}/web") == old["revision"]


def test_host_with_nothing_to_do_does_not_even_start_stretcher(truth: Truth) -> None:
    truth.deploy_old()
    before = (truth.pids(), truth.consul_keys())
    for host, role in (place.split("/") for place in ALL):
        done = truth.playground.catch_up(host, role, "truth")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not truth.file(host, ".deploytool/tried", role).exists()
    assert (truth.pids(), truth.consul_keys()) == before


def test_host_that_failed_before_its_switch_is_tried_again_but_not_at_once(truth: Truth) -> None:
    old = truth.deploy_old()
    new = truth.commit_new(on="app2")
    truth.role("web")["hooks"] = {"pre": ["[ ! -e {{ shared_path }}/affected ]"]}
    truth.write()
    result = truth.failing_deploy()
    assert result.verdicts() == {**truth.all("verified"), "app2/web": "failed"}
    assert "hooks.pre[0]" in truth.playground.catch_up("app2", "web", "truth").stdout
    truth.file("app2", "shared/affected").unlink()
    assert truth.playground.catch_up("app2", "web", "truth").stderr == ""
    assert truth.answer("app2/web") == old["revision"]
    truth.file("app2", ".deploytool/tried").unlink()
    truth.playground.catch_up("app2", "web", "truth")
    assert truth.answers() == truth.all(new)


def test_report_that_was_lost_is_said_by_the_next_run_without_a_restart(truth: Truth) -> None:
    truth.deploy_old()
    new = truth.commit_new(on="app2")
    # One more command after ours: stretcher is killed before it comes to `success`, and the watch that would bring the
    # event again is taken away.
    manifest = (ROOT / "templates/manifest.yml.j2").read_text()
    home = truth.playground.host_home
    death = f'[ ! -e {{{{ shared_path }}}}/affected ] || {{ rm "{home}/watches/truth-web-playground"; kill -9 $PPID; }}'
    post = '    - {{ host_script("post") | yaml(6) }}\n'
    assert post in manifest
    own = truth.directory / "templates/manifest.yml.j2"
    own.parent.mkdir()
    own.write_text(manifest.replace(post, f"{post}    - >-\n      {death}\n"))
    truth.settings["wait"] |= {"activate_seconds": 20, "hook_seconds": 8}
    truth.write()
    result = truth.failing_deploy()
    document = result.json
    assert result.verdicts() == {**truth.all("verified"), "app2/web": "silent"}
    assert truth.host_result(result, "app2/web")["state"] == "activated"
    assert truth.answers() == truth.all(new)
    assert truth.fab("playground", "status").code == 8
    pids = truth.pids()
    truth.playground.catch_up("app2", "web", "truth").check_returncode()
    word = truth.last_word("app2/web")
    assert (word["release"], word["deployment"], word["verified"]) == (
        document["release"],
        document["deployment"],
        True,
    )
    assert f"reports/web/app2/{document['deployment']}/verified" in truth.consul_keys()
    assert (truth.pids(), truth.answers()) == (pids, truth.all(new))
    assert truth.fab("playground", "status").code == 0
