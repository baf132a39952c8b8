"""`fab ENV check` with real faults: each has its line, its cure and its exit code, keeps nothing else from being tried,
and nothing is left behind."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground import processes
from tests.support.fab import Result
from tests.support.guarded import Guarded
from tests.support.project import TINY, Project
from tests.support.waiting import until

HOSTS = {"watch app1 (web)", "watch app2 (web)", "watch app3 (web)", "watch app3 (batch)"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with Guarded(tmp_path_factory.mktemp("guarded") / "state", (TINY,)) as running:
        yield running


@pytest.fixture
def project(guarded: Guarded, tmp_path: Path) -> Project:
    made = Project(guarded, tmp_path)
    made.settings["build"]["root"] = str(tmp_path / "root")
    made.settings["wait"] |= {"fetch_seconds": 5, "activate_seconds": 30}
    use_token(made, "build_server", guarded.build_server_rules)
    return made


def use_token(project: Project, name: str, rules: dict[str, str]) -> None:
    playground = project.playground
    assert isinstance(playground, Guarded)
    playground.allow(name, rules)
    place = project.directory / name
    place.write_text(playground.token(name) + "\n")
    project.change(lambda settings: settings["consul"].update(token_file=str(place)))


def check(project: Project, code: int, **options: Any) -> dict[str, dict[str, Any]]:
    """The lines of `check`, by name. The document's error is that of the first line."""
    result = project.fab("playground", "check", "--json", **options)
    assert result.code == code, result.out + result.err
    checks = result.json["checks"]
    if code:
        assert checks[0]["exit_code"] == code
        assert result.json["error"]["message"].startswith(checks[0]["name"])
    return {each["name"]: each for each in checks}


def bad(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, each in checks.items() if each["ok"] is False}


def left(project: Project) -> tuple[set[str], list[str]]:
    playground = project.playground
    assert isinstance(playground, Guarded)
    return project.objects(), playground.keys_below("deploytool/")


def test_all_is_well_with_a_template_of_the_projects_own_and_nothing_is_left(project: Project) -> None:
    (project.directory / "templates").mkdir()
    (project.directory / "templates/manifest.yml.j2").write_text(
        "{% if src %}src: {{ src | yaml }}\nchecksum: {{ checksum | yaml }}\ndest: {{ dest | yaml }}\n{% endif %}"
        'commands: {pre: ["touch {{ deploy_to }}/ran"]}\n'
    )
    before = left(project)
    checks = check(project, 0)
    assert all(each["ok"] for each in checks.values())
    assert "is reached by fabric (it can do what the configuration" in checks["build server"]["text"]
    assert checks.keys() >= HOSTS
    assert all("stretcher" in checks[name]["text"] for name in HOSTS)
    assert {name for name in checks if name.startswith("store: ")} == {
        f"store: {right}" for right in ("list", "put", "get", "delete", "uploads in parts", "unfinished uploads")
    }
    assert {"Consul: fire deploy_tiny_web_playground", "Consul: fire deploy_tiny_batch_playground"} <= checks.keys()
    assert left(project) == before
    assert not project.file("app1", "ran").exists()


def test_probe_that_is_replayed_to_a_host_does_nothing_and_a_deploy_after_it_is_heard(project: Project) -> None:
    project.deploy()
    served = project.served()
    check(project, 0)
    project.playground.restart_watches("app1")
    until(lambda: not bad(check(project, 0)))
    assert project.served() == served
    project.repository.commit({"VERSION": "after a check"})
    assert set(project.deploy().verdicts().values()) == {"verified"}
    assert project.fab("playground", "status").code == 0


def test_what_a_killed_check_has_left_in_the_store_goes_with_the_next(project: Project, guarded: Guarded) -> None:
    client = guarded.s3_client()
    key = "tiny/environments/playground/checks/20260101T000000Zaaaa/web.yml"
    client.put_object(Bucket=guarded.bucket, Key=key, Body=b"commands: {}\n")
    client.close()
    check(project, 0)
    assert key.removeprefix("tiny/") not in project.objects()


def test_wrong_host_key(project: Project, tmp_path: Path, guarded: Guarded) -> None:
    other = tmp_path / "other_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    known_hosts, config = tmp_path / "known_hosts", tmp_path / "ssh_config"
    known_hosts.write_text(f"[127.0.0.1]:{guarded.ssh_port} {other.with_name('other_key.pub').read_text()}")
    config.write_text(guarded.ssh_config.read_text().replace(str(guarded.known_hosts), str(known_hosts)))
    project.change(lambda settings: settings["build"].update(ssh_config=str(config)))
    checks = check(project, 5)
    assert "key" in checks["build server"]["text"]
    assert checks["build server"]["hint"]
    assert checks["settings"]["ok"]


def test_no_access_to_the_repository(project: Project, tmp_path: Path) -> None:
    project.change(lambda settings: settings.update(repository=str(tmp_path / "gone.git")))
    checks = check(project, 4)
    assert bad(checks) == {"repository"}
    assert "gone.git" in checks["repository"]["text"]
    assert "git ls-remote" in checks["repository"]["hint"]
    assert checks.keys() >= HOSTS


def test_key_of_the_store_that_may_not_delete(project: Project, guarded: Guarded) -> None:
    project.change(lambda settings: settings["store"].update(credentials="operator"))
    keys = {"AWS_ACCESS_KEY_ID": guarded.keeper.access_key, "AWS_SECRET_ACCESS_KEY": guarded.keeper.secret_key}
    checks = check(project, 6, env=keys)
    assert bad(checks) == {"store: delete", "watches"}
    assert "stays there" in checks["store: delete"]["text"]
    assert "s3:DeleteObject" in checks["store: delete"]["hint"]
    assert guarded.keeper.secret_key not in str(checks)


def test_token_that_may_not_fire_an_event(project: Project, guarded: Guarded) -> None:
    rules = guarded.build_server_rules
    events = [line for line in rules["event"].splitlines() if "batch" not in line]
    use_token(project, "no_batch", {**rules, "event": "\n".join(events)})
    checks = check(project, 7)
    assert bad(checks) == {"Consul: fire deploy_tiny_batch_playground"}
    assert 'event "deploy_tiny_batch_playground" write' in checks["Consul: fire deploy_tiny_batch_playground"]["hint"]
    assert checks["watch app3 (batch)"]["ok"] is None
    assert all(checks[name]["ok"] for name in HOSTS - {"watch app3 (batch)"})


@pytest.mark.parametrize(
    ("right", "name", "hint"),
    [
        ("key_prefix", "Consul: write keys", 'key_prefix "deploytool/" write'),
        ("node_prefix", "Consul: read nodes", 'node_prefix "" read'),
    ],
)
def test_other_rights_that_a_token_lacks(project: Project, guarded: Guarded, right: str, name: str, hint: str) -> None:
    rules = {kind: rule for kind, rule in guarded.build_server_rules.items() if kind != right}
    use_token(project, f"no_{right}", rules)
    checks = check(project, 7)
    assert name in bad(checks)
    assert hint in checks[name]["hint"]
    assert checks["Consul: fire deploy_tiny_web_playground"]["ok"]


def test_host_whose_watch_is_gone(project: Project, guarded: Guarded) -> None:
    (watch,) = (guarded.host_directory("app2") / "watches").glob("tiny-web-*")
    line = watch.read_text()
    watch.unlink()
    try:
        until(lambda: not watches_on(guarded, "app2"))
        checks = check(project, 8)
        assert bad(checks) == {"watch app2 (web)"}
        assert "did not answer" in checks["watch app2 (web)"]["text"]
        assert "systemctl status deploy-tiny-web-playground" in checks["watch app2 (web)"]["hint"]
    finally:
        watch.write_text(line)
    until(lambda: bool(watches_on(guarded, "app2")))


def watches_on(guarded: Guarded, host: str) -> str:
    return guarded.run_on_host(
        host, ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -a '[c]onsul watch'"]
    ).stdout


def test_host_that_lacks_what_a_deployment_needs(project: Project) -> None:
    project.deploy()
    project.change(lambda settings: settings.update(linked_files=["config/database.yml"]))
    checks = check(project, 8)
    assert bad(checks) == HOSTS
    assert "shared/config/database.yml on this host; put it there" in checks["watch app1 (web)"]["text"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_host_where_another_user_could_have_commands_run(project: Project) -> None:
    assert project.deploy().code == 0
    (place,) = {path.parent for path in project.playground.host_directory("app1").rglob("current")} & {
        path.parent for path in project.playground.host_directory("app1").rglob(".deploytool")
    }
    os.chown(place, 42424, 42424)
    try:
        result = project.fab("playground", "check")
        assert result.code == 8
        assert "belongs to UNKNOWN (42424), who could have commands run as root: type 'chown -h root " in result.out
        deployed = project.fab("playground", "deploy", "--json")
        assert (deployed.code, deployed.verdicts()["app1/web"]) == (8, "failed")
    finally:
        os.chown(place, 0, 0)
    assert project.deploy().code == 0


def test_host_that_can_not_read_the_store(project: Project, guarded: Guarded) -> None:
    project.deploy()
    before = left(project)
    with guarded.watching_with("app1", AWS_SECRET_ACCESS_KEY="wrong"):
        checks = check(project, 8)
    assert bad(checks) == {"watch app1 (web)"}
    assert "stretcher can't get an archive from the store: " in checks["watch app1 (web)"]["text"]
    assert "403" in checks["watch app1 (web)"]["text"]
    assert left(project) == before


def test_host_that_may_not_read_what_is_wanted(project: Project, guarded: Guarded) -> None:
    project.deploy()
    guarded.allow_hosts(without="wanted")
    try:
        words = 'deploytool/tiny/playground/wanted/web" read'
        until(lambda: words in project.fab("playground", "check").out)
    finally:
        guarded.allow_hosts()
    until(lambda: project.fab("playground", "check").code == 0)


def test_program_that_is_missing(project: Project) -> None:
    project.change(lambda settings: settings["build"].update(recipe="django", env={"PYTHON": "python9"}))
    checks = check(project, 4)
    assert bad(checks) == {"programs"}
    assert "the build needs python9, which can't be run" in checks["programs"]["text"]
    assert "build.path" in checks["programs"]["hint"]


def test_small_disk(project: Project, guarded: Guarded, tmp_path: Path) -> None:
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("small disks need root")
    root = tmp_path / "root"
    root.mkdir()
    sshd = processes.find(guarded.records, "sshd.init")
    assert sshd is not None
    inside = ["nsenter", "--target", str(sshd.pid), "--mount", "--pid", "--"]
    subprocess.run([*inside, "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(root)], check=True)
    try:
        checks = check(project, 4)
        assert bad(checks) == {"disk"}
        assert str(root) in checks["disk"]["text"]
        assert "build.root" in checks["disk"]["hint"]
        subprocess.run([*inside, "dd", "if=/dev/zero", f"of={root}/full", "bs=1M", "status=none"], check=False)
        checks = check(project, 4)
        assert "build server" in bad(checks) or "disk" in bad(checks)
    finally:
        subprocess.run([*inside, "umount", "--lazy", str(root)], check=True)


def test_hosts_are_left_alone_while_somebody_deploys(project: Project, tmp_path: Path) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "slow"})
    go_on = tmp_path / "go-on"
    project.change(lambda settings: settings["build"].update(migrate=[f"until [ -e '{go_on}' ]; do sleep 0.1; done"]))
    project.settings["wait"]["fetch_seconds"] = 120
    project.write()
    deploying = project.start("playground", "deploy", "--json")
    until(lambda: "deploy main" in project.fab("playground", "status").out)
    checks = check(project, 0)
    assert all(checks[name]["ok"] is None for name in HOSTS)
    assert "deploy main to playground" in checks["watch app1 (web)"]["text"]
    go_on.touch()
    out, err = deploying.communicate(timeout=120)
    assert deploying.returncode == 0, err
    assert set(Result(0, out, err).verdicts().values()) == {"verified"}


def test_hosts_that_are_still_at_a_deployment_are_left_alone(project: Project, tmp_path: Path) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "nobody waits"})
    go_on = project.playground.host_home / f"go-on-{tmp_path.name}"
    project.role("web")["hooks"] = {"post": [f"until [ -e '{go_on}' ]; do sleep 0.1; done"]}
    project.write()
    assert project.fab("playground", "deploy", "--no-wait").code == 0
    checks = check(project, 0)
    assert checks["watch app1 (web)"]["ok"] is None
    assert "still under way" in checks["watch app1 (web)"]["text"]
    for host in project.playground.hosts:
        (project.playground.host_directory(host) / go_on.name).touch()
    until(lambda: project.fab("playground", "status").code == 0)


def test_every_line_says_ok_or_bad_and_how_to_mend_it(project: Project, tmp_path: Path) -> None:
    project.change(lambda settings: settings.update(repository=str(tmp_path / "gone.git")))
    result = project.fab("playground", "check")
    assert result.code == 4
    lines = result.out.splitlines()
    assert lines[0].startswith("BAD  repository: ")
    assert "; hint: " in lines[0]
    assert all(line.startswith("ok   ") for line in lines[1:-1])
