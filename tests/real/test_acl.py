"""ACLs on, default deny: the rights that `fab ENV app-server` prints do, for Consul and for S3, and a right that is
missing is named, also where Consul denies silently.
"""

import base64
import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3
from botocore.exceptions import ClientError

from tests.support.guarded import Guarded, rules
from tests.support.project import TINY, Project

TOP = "deploytool/tiny/playground"
#: Enough for a look.
READER = {
    "keys": 'key_prefix "deploytool/" { policy = "read" }',
    "nodes": 'node_prefix "" { policy = "read" }',
    "services": 'service_prefix "" { policy = "read" }',
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with Guarded(tmp_path_factory.mktemp("guarded") / "state", (TINY,)) as running:
        yield running


@pytest.fixture
def project(guarded: Guarded, tmp_path: Path) -> Iterator[Project]:
    guarded.allow_hosts()
    guarded.allow("build_server", guarded.build_server_rules)
    made = Project(guarded, tmp_path)
    (tmp_path / "token").write_text(guarded.token("build_server") + "\n")
    made.settings["consul"]["token_file"] = str(tmp_path / "token")
    made.settings["wait"] = {"fetch_seconds": 10, "activate_seconds": 60, "hook_seconds": 10, "stable_seconds": 0}
    made.write()
    yield made
    guarded.allow_hosts()
    # A token's rights are remembered by the agents for a while.
    time.sleep(0.5)


def until(project: Project, code: int, words: str) -> str:
    """Deploy until the agents have noticed that a right is gone; returns what was said."""
    deadline = time.monotonic() + 60
    while True:
        result = project.fab("playground", "deploy", "--json")
        said = result.out + result.err
        if result.code == code and words in said:
            return said
        assert time.monotonic() < deadline, said
        time.sleep(1)


def test_least_rights_do(project: Project) -> None:
    result = project.deploy()
    assert set(result.verdicts().values()) == {"verified"}
    assert project.fab("playground", "check").code == 0
    assert project.fab("playground", "status").code == 0


def test_app_server_reads_what_it_needs_from_the_store_and_nothing_else(project: Project, guarded: Guarded) -> None:
    release = project.deploy().json["release"]
    built = next(key for key in project.objects() if key.startswith("builds/"))
    client = guarded.s3_client(guarded.host)
    bucket = guarded.bucket
    client.get_object(Bucket=bucket, Key=f"tiny/releases/{release}/tiny.tar.gz")["Body"].close()
    attempts: tuple[Callable[[], object], ...] = (
        lambda: client.put_object(Bucket=bucket, Key=f"tiny/releases/{release}/more", Body=b"x"),
        lambda: client.delete_object(Bucket=bucket, Key=f"tiny/releases/{release}/release.json"),
        lambda: client.list_objects_v2(Bucket=bucket, Prefix="tiny/"),
        lambda: client.get_object(Bucket=bucket, Key=f"tiny/{built}"),
    )
    for refused in attempts:
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()
    client.close()


def test_build_server_keeps_to_its_prefix(project: Project, guarded: Guarded) -> None:
    client = guarded.s3_client(guarded.builder)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket=guarded.bucket, Key="other/x", Body=b"x")
    client.close()


def asked(guarded: Guarded, token: str, method: str, path: str) -> int:
    """The status of a call to Consul with that token."""
    request = urllib.request.Request(
        guarded.consul_address() + path,
        data=b"x" if method == "PUT" else None,
        method=method,
        headers={"X-Consul-Token": guarded.token(token)},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_app_server_keeps_to_its_role_and_fires_nothing(guarded: Guarded) -> None:
    for path in (
        "/v1/kv/deploytool/tiny/playground/serving/other/app1",
        "/v1/kv/deploytool/tiny/playground/reports/other/app1/x/failed",
        "/v1/kv/deploytool/other/playground/reports/web/app1/x/failed",
        "/v1/event/fire/deploy_tiny_web_playground",
    ):
        assert asked(guarded, "app1", "PUT", path) == 403, path


def test_build_server_keeps_to_its_events_and_keys_in_consul(project: Project, guarded: Guarded) -> None:
    for path in (
        "/v1/kv/deploytool/other/playground/wanted/web",
        "/v1/kv/deploytool/tiny/production/wanted/web",
        "/v1/event/fire/deploy_other_web_playground",
        "/v1/event/fire/deploy_tiny_web_playground2",
    ):
        assert asked(guarded, "build_server", "PUT", path) == 403, path
    assert asked(guarded, "build_server", "GET", "/v1/acl/tokens") == 403


def test_check_names_hosts_whose_token_can_speak_for_others(project: Project, guarded: Guarded) -> None:
    project.deploy()
    assert "can report for any host" not in project.fab("playground", "check").out
    guarded.allow("app2", {**guarded.host_rules("app2"), **rules(guarded.policies()["web"]["consul-app-server.hcl"])})
    time.sleep(0.5)
    result = project.fab("playground", "check")
    assert result.code == 0, result.out
    [line] = [line for line in result.out.splitlines() if "can report for any host" in line]
    assert line.startswith("ok   reports of web: the Consul token of app2 can report for any host of web")
    assert "`fab playground app-server --role web --node NAME --output DIR`" in line
    assert [key for key in guarded.keys_below(f"{TOP}/reports/web/") if key.endswith("/listens")] == []


def test_plan_needs_no_right_to_write(project: Project, guarded: Guarded, tmp_path: Path) -> None:
    live = project.deploy().json["release"]
    project.repository.commit({"VERSION": "planned"}, "Sell more")
    guarded.allow("reader", READER)
    (tmp_path / "token").write_text(guarded.token("reader") + "\n")
    project.settings["store"]["credentials"] = "operator"
    project.write()
    keys = {
        "AWS_ACCESS_KEY_ID": guarded.reader_keys.access_key,
        "AWS_SECRET_ACCESS_KEY": guarded.reader_keys.secret_key,
    }
    result = project.fab("playground", "plan", env=keys)
    assert result.code == 0, result.out + result.err
    assert f"brings 1 commit since {live}:" in result.out
    assert "hosts of web: app1, app2, app3" in result.out
    assert "next: fab playground deploy --branch main" in result.out
    # And those rights do not do for more.
    assert project.fab("playground", "freeze", "--why", "to see", env=keys).code == 7
    assert project.fab("playground", "deploy", env=keys).code in (6, 7)


def test_no_token_at_all_is_told_from_no_hosts(project: Project) -> None:
    project.settings["consul"]["token_file"] = None
    project.write()
    result = project.fab("playground", "deploy")
    assert result.code == 7
    assert "the token lacks a right" in result.err
    assert 'it needs key_prefix "deploytool/"' in result.err


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ("event", 'event \\"deploy_\\" write'),
        ("key_prefix", 'key_prefix \\"deploytool/\\"'),
        ("node_prefix", "node"),
    ],
)
def test_right_that_the_build_server_lacks_is_named(project: Project, guarded: Guarded, right: str, words: str) -> None:
    project.deploy()
    project.repository.commit({"VERSION": right})
    before = project.served()
    guarded.allow("build_server", guarded.build_server_rules, without=right)
    said = until(project, 7, words)
    assert guarded.token("build_server") not in said
    assert project.served() == before


def test_host_that_may_not_read_what_is_wanted_names_the_right(project: Project, guarded: Guarded) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "unwanted"})
    before = project.served()
    guarded.allow_hosts(without="wanted")
    said = until(project, 8, "key_prefix read")
    assert not any(guarded.token(host) in said for host in guarded.hosts)
    assert project.served() == before


def test_host_can_speak_for_no_other_and_let_nobody_go(project: Project, guarded: Guarded) -> None:
    document = project.deploy().json
    top, deployment = "deploytool/tiny/playground", document["deployment"]
    before = keys_and_values(guarded, top)
    address, headers = guarded.consul_address("app1"), {"X-Consul-Token": guarded.token("app1")}
    for place in (
        f"reports/web/app2/{deployment}/verified",
        f"reports/web/app2/{deployment}/failed",
        f"reports/web/app1/../app2/{deployment}/failed",
        "reports/web/app10/x/failed",
        f"reports/web/{deployment}",
        "reports/watched",
        "serving/web/app2",
        "serving/web/app10",
        "serving/web/app1/app2",
        "serving/web/",
        f"deployments/{deployment}/web/go",
        f"deployments/{deployment}/web/hosts/app2/verified",
        "wanted/web",
        "wanted/web/app2",
        "frozen",
    ):
        for method in ("PUT", "DELETE"):
            refused = urllib3.request(
                method, f"{address}/v1/kv/{top}/{place}", body=b'{"host": "app2"}', headers=headers, redirect=False
            )
            assert refused.status == 403, (method, place, refused.data)
    assert keys_and_values(guarded, top) == before
    # What it may write is about itself, whatever it says there.
    for place in (f"reports/web/app1/{deployment}/failed", f"reports/web/app1/{deployment}/web/app2/failed"):
        written = urllib3.request(
            "PUT", f"{address}/v1/kv/{top}/{place}", body=b'{"host": "app2", "reason": "x"}', headers=headers
        )
        assert written.status == 200
    lie = b'{"release": "none", "deployment": "none", "verified": true, "host": "app2", "node": "app2"}'
    assert urllib3.request("PUT", f"{address}/v1/kv/{top}/serving/web/app1", body=lie, headers=headers).status == 200
    hosts = {each["host"]: each for each in project.fab("playground", "status", "--json").json["hosts"]}
    assert {host for host, each in hosts.items() if each["behind"]} == {"app1"}
    assert hosts["app2"]["release"] == document["release"]
    project.repository.commit({"VERSION": "by itself"})
    assert set(project.deploy().verdicts().values()) == {"verified"}


def keys_and_values(guarded: Guarded, top: str) -> dict[str, object]:
    """Consul's keys below a place, seen with all rights."""
    found = guarded.consul_entries()
    return {key: value for key, value in found.items() if key.startswith(f"{top}/")}


def test_host_that_may_not_report_stays_silent_and_unchanged(project: Project, guarded: Guarded) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "unreported"})
    before = project.served()
    guarded.allow_hosts(without="reports")
    said = until(project, 8, "did not fetch")
    assert "silent" in said
    assert project.served() == before


#: What one host with 200 values of the largest size can do.
FLOOD, FLOOD_BYTES = 200, 500_000


def flood(guarded: Guarded, place: str) -> None:
    """app1 fills that place below its own, with its own token."""
    address, headers = guarded.consul_address("app1"), {"X-Consul-Token": guarded.token("app1")}
    for number in range(FLOOD):
        url = f"{address}/v1/kv/{TOP}/reports/web/app1/{place}/x{number}"
        assert urllib3.request("PUT", url, body=b"x" * FLOOD_BYTES, headers=headers).status == 200


def test_host_that_fills_its_place_delays_nobody_and_is_named(project: Project, guarded: Guarded) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "usual"})
    began = time.monotonic()
    project.deploy()
    usual = time.monotonic() - began
    flood(guarded, "99990101T000000Zaaaa")
    project.repository.commit({"VERSION": "flooded"})
    began = time.monotonic()
    result = project.deploy()
    assert set(result.verdicts().values()) == {"verified"}
    assert time.monotonic() - began < usual + 20
    assert "belongs to no deployment" in result.err
    assert "app1 (web): 200. Look what runs there" in result.err
    assert guarded.keys_below(f"{TOP}/reports/web/app1/9999") == []
    # Between two deployments it is `cleanup` that removes it, and says so.
    flood(guarded, "99990101T000000Zaaaa")
    cleaned = project.fab("playground", "cleanup")
    assert (cleaned.code, "app1 (web): 200." in cleaned.out + cleaned.err) == (0, True)
    assert guarded.keys_below(f"{TOP}/reports/web/app1/9999") == []


def test_host_that_fills_its_place_during_a_deploy_delays_nobody(project: Project, guarded: Guarded) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "held"})
    project.role("web")["hooks"] = {"pre": ["until [ -e {{ shared_path }}/flooded ]; do sleep 0.1; done"]}
    project.write()
    running = project.start("playground", "deploy", "--json")
    deadline = time.monotonic() + 60
    while not (fetched := [key for key in guarded.keys_below(f"{TOP}/reports/web/app1") if key.endswith("/fetched")]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # The one that has just been announced is the newest.
    flood(guarded, max(fetched).split("/")[-2])
    for host in guarded.hosts:
        project.file(host, "shared/flooded").touch()
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, out + err
    # What hosts wrote of that deployment is kept, and the rest is gone with the cleanup at its end.
    assert [key for key in guarded.keys_below(f"{TOP}/reports/web/app1") if "/x" in key] == []
    assert "app1 (web): 200." in err
    project.role("web")["hooks"] = {}


@pytest.mark.parametrize("moment", ["before it switched", "after it failed"])
def test_report_that_another_host_has_forged_is_no_success(project: Project, guarded: Guarded, moment: str) -> None:
    """Whoever has a token for all hosts of the role may write what he likes, but not when."""
    before = project.deploy().json["release"]
    guarded.allow("app1", {**guarded.host_rules("app1"), **rules(guarded.policies()["web"]["consul-app-server.hcl"])})
    project.repository.commit({"VERSION": moment})
    project.role("web")["hooks"] = {
        "post": [
            "[ ! -e {{ shared_path }}/bad ] || { until [ -e {{ shared_path }}/forged ]; do sleep 0.1; done; exit 9; }"
        ]
    }
    project.settings["wait"]["activate_seconds"] = 25
    project.write()
    shared = project.file("app2", "shared")
    shared.mkdir(exist_ok=True)
    (shared / "bad").touch()
    running = project.start("playground", "deploy", "--json")
    try:
        deadline = time.monotonic() + 60
        while not (shared.parent / ".deploytool/switch").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        reports = guarded.keys_below(f"{TOP}/reports/web/app2")
        place = max(key for key in reports if key.endswith("/fetched")).removesuffix("/fetched")
        if moment == "after it failed":
            (shared / "forged").touch()
            while f"{place}/failed" not in guarded.keys_below(place):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        address, headers = guarded.consul_address("app1"), {"X-Consul-Token": guarded.token("app1")}
        forged = urllib3.request("PUT", f"{address}/v1/kv/{place}/verified", body=b"{}", headers=headers)
        assert forged.status == 200, forged.data
        # All others have proved it long before this host fails.
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(4)
        (shared / "forged").touch()
        out, err = running.communicate(timeout=120)
    finally:
        (shared / "bad").unlink()
        (shared / "forged").unlink(missing_ok=True)
        project.role("web")["hooks"] = {}
        project.write()
    assert running.returncode == 8, out + err
    hosts = {each["host"]: each for each in json.loads(out)["hosts"] if each["role"] == "web"}
    assert {name: each["verdict"] for name, each in hosts.items()} == {
        "app1": "verified",
        "app2": "failed",
        "app3": "verified",
    }
    assert "exit" in hosts["app2"]["reason"]
    assert project.current("app2") == before


def test_report_of_a_host_that_is_silent_is_no_success_and_says_what_to_look_at(
    project: Project, guarded: Guarded
) -> None:
    project.deploy()
    guarded.allow("app1", {**guarded.host_rules("app1"), **rules(guarded.policies()["web"]["consul-app-server.hcl"])})
    project.repository.commit({"VERSION": "silent"})
    project.role("web")["hooks"] = {"post": ["[ ! -e {{ shared_path }}/slow ] || sleep 9"]}
    project.settings["wait"]["activate_seconds"] = 21
    project.write()
    shared = project.file("app2", "shared")
    (shared / "slow").touch()
    running = project.start("playground", "deploy", "--json")
    try:
        deadline = time.monotonic() + 60
        while not (shared.parent / ".deploytool/switch").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        guarded.run_on_host("app2", ["pkill", "-STOP", "-x", "stretcher|sh|timeout"])
        reports = guarded.keys_below(f"{TOP}/reports/web/app2")
        place = max(key for key in reports if key.endswith("/fetched")).removesuffix("/fetched")
        address, headers = guarded.consul_address("app1"), {"X-Consul-Token": guarded.token("app1")}
        assert urllib3.request("PUT", f"{address}/v1/kv/{place}/verified", body=b"{}", headers=headers).status == 200
        out, err = running.communicate(timeout=120)
    finally:
        (shared / "slow").unlink()
        guarded.run_on_host("app2", ["pkill", "-CONT", "-x", "stretcher|sh|timeout"])
    assert running.returncode == 8, out + err
    [bad] = [each for each in json.loads(out)["hosts"] if each["verdict"] != "verified"]
    assert (bad["host"], bad["verdict"]) == ("app2", "silent")
    assert "it reported verified, but its last word, `serving/web/app2` in Consul, does not agree" in bad["reason"]
    assert "which other tokens may write `reports/web/app2/`" in bad["reason"]


def test_id_of_the_year_9999_in_wanted_is_named_before_anything_is_done(project: Project, guarded: Guarded) -> None:
    before = project.deploy().json["release"]
    key = f"{TOP}/wanted/web"
    known = guarded.consul_entries()[key]
    url = f"{guarded.consul_address()}/v1/kv/{key}"
    headers = {"X-Consul-Token": guarded.token("build_server")}
    objects = project.objects()
    try:
        for name in ("99990101T000000Zaaaa", "99999999T999999Zaaaa"):
            assert urllib3.request("PUT", url, body=f"{name} s3://b/x".encode(), headers=headers).status == 200
            for command in ("deploy", "plan", "check", "cleanup"):
                result = project.fab("playground", command)
                assert result.code == 7, result.out + result.err
                assert f"{key} in Consul names the deployment {name}" in result.out + result.err
                assert f"`consul kv delete {key}`" in result.out + result.err
            assert project.fab("playground", "status").code in (0, 8)
        assert (project.objects(), project.current("app1")) == (objects, before)
    finally:
        urllib3.request("PUT", url, body=base64.b64decode(str(known)), headers=headers)
