"""The main job on real parts: `fab playground deploy`, from a commit to what runs on the hosts."""

import json
import os
import re
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import TINY, Project
from tests.support.waiting import until

ALL = {"app1/web", "app2/web", "app3/web", "app3/batch"}


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Iterator[Project]:
    """A project of the application `tiny`. Its hosts keep what earlier tests left there, as real hosts do."""
    playground.add_application(TINY)
    made = Project(playground, tmp_path)
    yield made
    for host in TINY.roles[0].hosts:
        for role in ("web", "batch"):
            for pid_file in made.file(host, "shared", role).rglob("*.pid"):
                playground.run_on_host(host, ["sh", "-c", 'kill "$1"', "sh", pid_file.read_text().strip()])
                pid_file.unlink()


def unchanged(project: Project, *arguments: str, env: dict[str, str] | None = None) -> Any:
    """Run a command that must fail, and see that hosts and `wanted` are what they were; returns its result."""
    before = (project.served(), project.wanted())
    result = project.fab(*arguments, env=env)
    assert result.code != 0, result.out
    assert (project.served(), project.wanted()) == before
    return result


# --- all goes well


def test_deploy_brings_the_commit_to_every_host(project: Project) -> None:
    revision = project.repository.commit({"VERSION": "1"})
    result = project.deploy()
    document = result.json
    assert document["revision"] == revision
    assert document["reused"] is False
    assert document["exit_code"] == 0
    assert result.verdicts() == dict.fromkeys(ALL, "verified")
    assert project.served() == dict.fromkeys(ALL, document["release"])
    for host in ("app1", "app2", "app3"):
        assert project.file(host, "current/REVISION").read_text() == revision + "\n"


def test_second_deploy_of_the_same_commit_builds_nothing(project: Project) -> None:
    project.repository.commit({"VERSION": "reuse me"})
    first = project.deploy().json
    second = project.deploy().json
    assert (second["release"], second["reused"]) == (first["release"], True)
    assert second["deployment"] > first["deployment"]


def test_branches_tags_and_shas_can_be_deployed(project: Project) -> None:
    on_main = project.repository.commit({"A": "main"})
    project.repository.git("tag", "--annotate", "v1", "--message", "one")
    project.repository.git("checkout", "--quiet", "-b", "feature/x")
    on_branch = project.repository.commit({"A": "branch"})
    project.repository.git("checkout", "--quiet", "main")
    for reference, revision in (("feature/x", on_branch), ("v1", on_main), (on_branch[:9], on_branch)):
        assert project.deploy("--branch", reference).json["revision"] == revision


def test_result_for_people_is_a_table_and_progress_goes_to_stderr(project: Project) -> None:
    project.repository.commit({"VERSION": "table"})
    result = project.fab("playground", "deploy")
    assert result.code == 0, result.err
    assert "verified" in result.out
    assert re.search(r"is verified on all 3 hosts of playground", result.out)
    assert "fetched after" in result.err
    assert "fetched after" not in result.out


def test_build_leaves_a_release_and_nothing_else(project: Project) -> None:
    project.deploy()
    (project.directory / "config/staging.yml").write_text((project.directory / "config/playground.yml").read_text())
    project.repository.commit({"VERSION": "built only"})
    before = (project.served(), project.consul_keys(), project.objects())
    result = project.fab("staging", "build", "--json")
    assert result.code == 0, result.err
    release = result.json["release"]
    assert (project.served(), project.consul_keys()) == before[:2]
    new = {re.sub("[0-9a-f]{64}", "KEY", key) for key in project.objects() - before[2]}
    assert new == {
        f"releases/{release}/tiny.tar.gz",
        f"releases/{release}/release.json",
        f"releases/{release}/provenance.json",
        f"releases/{release}/sbom.cdx.json",
        *(
            f"releases/{release}/manifests/{env}/{role}.yml"
            for env in ("playground", "staging")
            for role in ("web", "batch")
        ),
        "builds/KEY.json",
    }


def test_built_release_is_deployed_as_it_is(project: Project) -> None:
    project.repository.commit({"VERSION": "promote"})
    built = project.fab("playground", "build", "--json").json
    project.repository.commit({"VERSION": "later"})
    document = project.deploy("--release", built["release"], "--force", "straight from the build").json
    assert (document["release"], document["reused"]) == (built["release"], True)
    assert project.file("app1", "current/VERSION").read_text() == "promote"


def test_migrations_run_once_after_all_fetched_and_before_any_switch(project: Project, tmp_path: Path) -> None:
    project.repository.commit({"migrate": f"cat REVISION >> {tmp_path}/migrated; date +%s.%N > {tmp_path}/when\n"})
    project.settings["build"]["migrate"] = ["sh ./migrate"]
    project.role("web")["hooks"] = {"post": ["date +%s.%N > {{ deploy_to }}/switched"]}
    project.write()
    result = project.deploy()
    assert (tmp_path / "migrated").read_text() == result.json["revision"] + "\n"
    when = float((tmp_path / "when").read_text())
    for host in ("app1", "app2", "app3"):
        assert float(project.file(host, "switched").read_text()) > when
    assert not list((project.playground.build_root / "tiny/unpacked").iterdir())


def test_no_migrate_leaves_migrations_out(project: Project, tmp_path: Path) -> None:
    project.settings["build"]["migrate"] = [f"touch {tmp_path}/migrated"]
    project.write()
    project.deploy("--no-migrate")
    assert not (tmp_path / "migrated").exists()
    assert project.fab("playground", "migrate").code == 0
    assert (tmp_path / "migrated").exists()


def test_chosen_hosts_only(project: Project) -> None:
    old = project.deploy().json["release"]
    project.repository.commit({"VERSION": "for two"})
    result = project.deploy("--nodes", "app1,app2")
    new = result.json["release"]
    assert result.verdicts() == {"app1/web": "verified", "app2/web": "verified"}
    assert project.served() == {"app1/web": new, "app2/web": new, "app3/web": old, "app3/batch": old}
    assert project.deploy().verdicts() == dict.fromkeys(ALL, "verified")
    assert not [key for key in project.wanted() if key.count("/") == 2]


def test_no_wait_announces_and_says_that_nothing_is_verified(project: Project) -> None:
    project.repository.commit({"VERSION": "no wait"})
    result = project.fab("playground", "deploy", "--no-wait")
    assert result.code == 0, result.err
    assert "unverified" in result.out
    release = re.search(r"\d{8}T\d{6}Z-[0-9a-f]{7}", result.out)
    assert release is not None
    until(lambda: set(project.served().values()) == {release[0]})


def test_role_without_hooks_is_deployed_and_check_says_that_it_proves_little(project: Project) -> None:
    assert "hooks" not in project.role("web")
    project.deploy()
    result = project.fab("playground", "check")
    assert result.code == 0, result.out + result.err
    assert "proof of web: link only" in result.out


def test_linked_files_and_directories_come_from_shared(project: Project) -> None:
    project.settings["linked_dirs"] = ["log", "public/uploads"]
    project.settings["linked_files"] = [".env"]
    project.write()
    project.repository.commit({"public/uploads/tracked": "in the repository"})
    project.deploy()
    assert (project.file("app1", "current/log")).is_symlink()
    assert (
        "PORT="
        in project.playground.run_on_host(
            "app1", ["cat", f"{project.playground.deploy_to('web', 'tiny')}/current/.env"]
        ).stdout
    )


# --- bad input: each has its sentence and its exit code, and changes nothing


def test_unknown_environment_names_those_that_exist(project: Project) -> None:
    result = unchanged(project, "plaground", "deploy")
    assert result.code == 2
    assert "playground" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_no_environment_names_those_that_exist(project: Project) -> None:
    result = unchanged(project, "deploy")
    assert result.code == 2
    assert "where ENV is one of: playground" in result.err


def test_unknown_flag_is_one_clear_line(project: Project) -> None:
    result = unchanged(project, "playground", "deploy", "--brunch", "main")
    assert result.code == 2
    assert "--brunch" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_unknown_branch(project: Project) -> None:
    result = unchanged(project, "playground", "deploy", "--branch", "nowhere")
    assert result.code == 4
    assert "nowhere is not a branch, tag or commit of the repository" in result.err


def test_branch_that_looks_like_an_option(project: Project) -> None:
    result = unchanged(project, "playground", "deploy", "--branch=--upload-pack=x")
    assert result.code == 2
    assert "can't be the name of a branch" in result.err


def test_unreachable_repository(project: Project, tmp_path: Path) -> None:
    project.settings["repository"] = str(tmp_path / "gone")
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 4
    assert "could not fetch from the repository" in result.err
    assert "gone" in result.err


def test_unknown_host_key(project: Project, tmp_path: Path) -> None:
    config = project.playground.ssh_config.read_text().replace(
        str(project.playground.known_hosts), str(tmp_path / "empty")
    )
    (tmp_path / "empty").write_text("")
    (tmp_path / "ssh_config").write_text(config)
    project.settings["build"]["ssh_config"] = str(tmp_path / "ssh_config")
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 5
    assert "the host key of" in result.err
    assert "is unknown" in result.err
    assert (tmp_path / "empty").read_text() == ""


def test_changed_host_key(project: Project, tmp_path: Path) -> None:
    import subprocess

    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    port = project.playground.ssh_port
    key = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    config = project.playground.ssh_config.read_text().replace(
        str(project.playground.known_hosts), str(tmp_path / "known_hosts")
    )
    (tmp_path / "ssh_config").write_text(config)
    project.settings["build"]["ssh_config"] = str(tmp_path / "ssh_config")
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 5
    assert "has CHANGED" in result.err
    assert "SHA256:" in result.err


def test_unreachable_build_server(project: Project) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    project.settings["build"]["server"] = f"nobody@127.0.0.2:{port}"
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 5
    assert "can't be reached" in result.err


def test_failing_build_command_shows_the_end_of_its_output_and_the_log(project: Project) -> None:
    project.settings["build"]["assets"] = ["echo compiling; seq 1 100; echo no such loader >&2; exit 7"]
    project.write()
    before = project.objects()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 4
    assert "assets: command 1 failed on the build server with exit code 7" in result.err
    assert "| no such loader" in result.err
    assert "| compiling" not in result.err
    log = re.search(r"/\S+\.log", result.err)
    assert log is not None
    assert "compiling" in Path(log[0]).read_text()
    assert project.objects() == before


def test_build_command_that_prints_fifty_megabytes(project: Project) -> None:
    project.settings["build"]["assets"] = ["seq -f %049.0f 1 1000000"]
    project.write()
    result = project.deploy()
    assert len(result.err) < 100_000


def test_strange_characters_in_every_path(playground: Playground, project: Project, tmp_path: Path) -> None:
    odd = "a b'\"$(id)`id`;&|#é"
    strange = Project(playground, tmp_path / odd, repository=tmp_path / f"repo {odd}")
    strange.repository.commit(
        {f"sub {odd}/kept {odd}": "kept", f"sub {odd}/left {odd}/out": "out", "other": "not packed"}
    )
    shared = tmp_path / f"root {odd}" / "tiny/shared/playground"
    shared.mkdir(parents=True)
    (shared / f"key {odd}").write_text("secret key")
    programs = tmp_path / f"bin {odd}"
    programs.mkdir()
    (programs / "strange-tool").write_text('#!/bin/sh\ntest -s "key $1" && echo built > built\n')
    (programs / "strange-tool").chmod(0o755)
    (tmp_path / f"ssh {odd}").write_text(playground.ssh_config.read_text())
    (tmp_path / f"token {odd}").write_text("")
    settings = strange.settings
    settings["subdirectory"] = f"sub {odd}"
    settings["linked_dirs"] = [f"dir {odd}/deep"]
    settings["linked_files"] = [f"file {odd}"]
    settings["build"] |= {
        "root": str(tmp_path / f"root {odd}"),
        "ssh_config": str(tmp_path / f"ssh {odd}"),
        "path": [str(programs)],
        "linked_files": [f"key {odd}"],
        "exclude": [f"left {odd}"],
        "assets": [f"strange-tool {shlex.quote(odd)}"],
        "env": {"ODD": odd},
    }
    settings["consul"]["token_file"] = str(tmp_path / f"token {odd}")
    for role, hosts in (("web", ("app1", "app2", "app3")), ("batch", ("app3",))):
        strange.role(role)["deploy_to"] = f"{playground.host_home}/{odd}/{role}"
        for host in hosts:
            outside = playground.host_directory(host) / odd / role / "shared"
            outside.mkdir(parents=True)
            (outside / f"file {odd}").write_text("linked")
    strange.write()
    result = strange.fab("playground", "deploy", "--json")
    assert result.code == 0, result.err
    assert result.verdicts() == dict.fromkeys(ALL, "verified")
    current = playground.host_directory("app1") / odd / "web/current"
    assert sorted(path.name for path in current.iterdir()) == sorted(
        [f"kept {odd}", "built", "REVISION", f"dir {odd}", f"file {odd}"]
    )


def test_undefined_name_in_a_hook(project: Project) -> None:
    project.role("web")["hooks"] = {"post": ["echo {{ relaese }}"]}
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 2
    assert "roles.web.hooks.post" in result.err
    assert "relaese" in result.err


def test_undefined_name_in_the_users_own_template(project: Project) -> None:
    (project.directory / "templates").mkdir()
    (project.directory / "templates/manifest.yml.j2").write_text("src: {{ sorce }}\n")
    result = unchanged(project, "playground", "deploy")
    assert result.code == 2
    assert "sorce" in result.err


def test_manifest_url_too_long_for_an_event(project: Project) -> None:
    project.settings["store"]["url"] += "/" + "x" * 350
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 7
    assert re.search(r"the manifest's URL for the role web has \d+ bytes, the event \S+ holds \d+", result.err)


def test_missing_bucket(project: Project) -> None:
    project.settings["store"]["url"] = "s3://no-such-bucket/tiny"
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 6
    assert "the bucket no-such-bucket does not exist" in result.err


def test_store_denies_access(project: Project) -> None:
    project.settings["store"]["credentials"] = "operator"
    project.write()
    keys = project.playground.reader_keys
    result = unchanged(
        project,
        "playground",
        "deploy",
        env={"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key},
    )
    assert result.code == 6
    assert "was refused" in result.err
    assert keys.secret_key not in result.err


def test_operators_own_credentials_are_used_and_shown_nowhere(project: Project) -> None:
    project.settings["store"]["credentials"] = "operator"
    project.write()
    project.repository.commit({"VERSION": "operator's credentials"})
    keys = project.playground.deploy_keys
    result = project.fab(
        "playground",
        "deploy",
        "--json",
        env={"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key},
    )
    assert result.code == 0, result.err
    for path in (project.playground.build_root / "tiny/logs").iterdir():
        assert keys.secret_key not in path.read_text()


def test_consul_down(project: Project) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        project.settings["consul"]["address"] = f"http://127.0.0.1:{free.getsockname()[1]}"
    project.write()
    before = project.objects()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 7
    assert "does not answer" in result.err
    assert project.objects() == before


def test_role_without_a_host(project: Project) -> None:
    project.role("batch")["hosts"] = {"node_meta": {"role": "nobody"}, "service": None, "nodes": None}
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 7
    assert "the role batch has no host that could hear the event" in result.err


def test_role_with_an_unknown_node(project: Project) -> None:
    project.role("batch")["hosts"] = {"node_meta": None, "service": None, "nodes": ["app33"]}
    project.write()
    result = unchanged(project, "playground", "deploy")
    assert result.code == 7
    assert "Consul does not know the host app33" in result.err


def test_malformed_and_unknown_release(project: Project) -> None:
    for release, words in (("yesterday", "is not a release id"), ("20200101T000000Z-abcdef0", "has no release")):
        result = unchanged(project, "playground", "deploy", "--release", release)
        assert result.code == 2
        assert words in result.err


def test_all_settings_problems_at_once(project: Project) -> None:
    project.settings["aplication"] = project.settings.pop("application")
    project.settings["build"]["recipe"] = "djang"
    project.settings["keep_releases"] = "many"
    project.write()
    result = unchanged(project, "playground", "deploy", "--json")
    assert result.code == 2
    problems = "\n".join(result.json["error"]["tail"])
    for words in ("aplication", "build.recipe", "keep_releases", "config/playground.yml", "django"):
        assert words in problems


def test_second_deploy_at_the_same_time_names_the_first(project: Project, tmp_path: Path) -> None:
    project.settings["build"]["assets"] = [f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/end ]; do sleep 0.1; done"]
    project.write()
    first = project.start("playground", "deploy", "--json")
    try:
        until(lambda: (tmp_path / "begun").exists())
        result = project.fab("playground", "deploy")
        assert result.code == 3
        assert re.search(r"playground is locked by \S+@\S+ since \S+Z, for: deploy main to playground", result.err)
    finally:
        (tmp_path / "end").touch()
        out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert json.loads(out)["exit_code"] == 0


# --- failures before `go` leave the fleet as it was


def test_failed_migration_switches_no_host(project: Project) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "will not be"})
    project.settings["build"]["migrate"] = ["echo column exists already >&2; exit 3"]
    project.write()
    result = unchanged(project, "playground", "deploy", "--json")
    assert result.code == 4
    assert result.json["error"]["tail"][-1] == "column exists already"
    assert set(result.verdicts().values()) == {"aborted"}


def test_nobody_listening_is_no_success(project: Project) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "unheard"})
    project.settings["wait"]["fetch_seconds"] = 3
    project.write()
    watches = [project.playground.host_directory("app2") / "watches" / "tiny-web-playground"]
    texts = [path.read_text() for path in watches]
    for path in watches:
        path.unlink()
    try:
        until(
            lambda: "deploy_tiny_web" not in project.playground.run_on_host("app2", ["ps", "ax", "-o", "args"]).stdout
        )
        result = unchanged(project, "playground", "deploy", "--json")
    finally:
        for path, text in zip(watches, texts, strict=True):
            path.write_text(text)
    assert result.code == 8
    assert result.verdicts()["app2/web"] == "silent"
    assert result.verdicts()["app1/web"] == "aborted"
    assert "app2 (web)" in result.json["error"]["message"]


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
def test_ctrl_c_during_the_build_ends_it_on_the_server(project: Project, tmp_path: Path, transport: str) -> None:
    project.settings["build"]["transport"] = transport
    project.settings["build"]["assets"] = [f"sleep 300 & echo $! > {tmp_path}/pid; wait"]
    project.write()
    before = (project.served(), project.wanted(), project.objects())
    process = project.start("playground", "deploy", "--json")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out)["error"]["kind"] == "interrupted"
    until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists())
    assert (project.served(), project.wanted(), project.objects()) == before
    project.settings["build"]["assets"] = []
    project.write()
    project.deploy()


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
def test_killed_operator_leaves_no_lock_and_no_build(project: Project, tmp_path: Path, transport: str) -> None:
    project.settings["build"]["transport"] = transport
    project.settings["build"]["assets"] = [f"sleep 300 & echo $! > {tmp_path}/pid; wait"]
    project.write()
    process = project.start("playground", "deploy", "--json")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    process.kill()
    process.communicate()
    until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists())
    project.settings["build"]["assets"] = []
    project.write()
    project.deploy()


def test_ctrl_c_at_the_barrier_takes_everything_back(project: Project, tmp_path: Path) -> None:
    project.deploy()
    before = (project.served(), project.wanted())
    project.repository.commit({"VERSION": "interrupted"})
    project.settings["build"]["migrate"] = [f"touch {tmp_path}/migrating; sleep 300"]
    project.write()
    process = project.start("playground", "deploy", "--json")
    until(lambda: (tmp_path / "migrating").exists(), seconds=60)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert {host["verdict"] for host in json.loads(out)["hosts"]} == {"aborted"}
    assert (project.served(), project.wanted()) == before


def test_unlock_ends_a_hanging_deploy(project: Project, tmp_path: Path) -> None:
    project.settings["build"]["assets"] = [f"touch {tmp_path}/begun; sleep 300"]
    project.write()
    first = project.start("playground", "deploy", "--json")
    until(lambda: (tmp_path / "begun").exists())
    result = project.fab("playground", "unlock")
    assert result.code == 0, result.err
    assert "deploy main to playground" in result.err
    out, _ = first.communicate(timeout=30)
    assert first.returncode == 130
    assert "fab ENV unlock" in json.loads(out)["error"]["message"]
    assert "the locks are free" in project.fab("playground", "unlock").out


# --- failures on hosts


def test_failing_post_hook_is_undone_and_reported_with_its_log(project: Project) -> None:
    old = project.deploy().json["release"]
    project.repository.commit({"VERSION": "bad on app2"})
    project.role("web")["hooks"] = {
        "post": ['[ "$(cat {{ deploy_to }}/shared/name)" != app2 ] || { echo it broke; exit 9; }']
    }
    for host in ("app1", "app2", "app3"):
        project.file(host, "shared/name").write_text(host)
    project.write()
    result = project.fab("playground", "deploy", "--json")
    assert result.code == 8
    new = result.json["release"]
    assert result.verdicts() == {**dict.fromkeys(ALL, "verified"), "app2/web": "failed"}
    bad = next(host for host in result.json["hosts"] if host["verdict"] == "failed")
    assert "hooks.post[0] failed with exit status 9" in bad["reason"]
    assert any("it broke" in line for line in bad["log"])
    assert project.served() == {**dict.fromkeys(ALL, new), "app2/web": old}
    people = project.fab("playground", "deploy")
    assert people.code == 8
    assert f"fab playground deploy --release {new} --nodes app2" in people.out


# --- what capistrano-stretcher was seen to get wrong

HOOKS = (
    'echo "status: ok"',
    'curl -H "X-A: 1" http://127.0.0.1/ # notify',
    "[ -f /etc/hosts ] && echo yes",
    "{ echo a; echo b; }",
    "*/5 is not an alias",
    '"quoted" first',
    "echo `date`",
    "if true; then\n  echo three lines\nfi",
    'printf "%s" "a\tb"',
    "yes",
    "docker ps --format '{{.Names}}'",
)


def test_eleven_hooks_arrive_at_the_hosts_shell_exactly_as_jinja_made_them(project: Project) -> None:
    # The shell that runs a hook is asked for the text that it was given: its own command line.
    def asking(hook: str) -> str:
        literal = hook.replace("{{", "{{ '{{' }}")
        text = "tr '\\0' '\\n' < /proc/$$/cmdline > {{ deploy_to }}/hook-$(cat {{ deploy_to }}/count)"
        return (
            f"{text}; echo $(( $(cat {{{{ deploy_to }}}}/count) + 1 )) > {{{{ deploy_to }}}}/count; exit 0; {literal}"
        )

    project.file("app1", "count").parent.mkdir(parents=True, exist_ok=True)
    for host in ("app1", "app2", "app3"):
        project.file(host, "count").write_text("0\n")
    project.role("web")["hooks"] = {"post": [asking(hook) for hook in HOOKS]}
    project.write()
    project.deploy()
    for host in ("app1", "app2", "app3"):
        for number, hook in enumerate(HOOKS):
            text = project.file(host, f"hook-{number}").read_text()
            assert text.endswith(f"; exit 0; {hook}\n"), (host, hook, text)


def test_changed_repository_is_not_mixed_with_the_old_mirror(project: Project, tmp_path: Path) -> None:
    project.deploy()
    from tests.support.project import Repository

    other = Repository(tmp_path / "other")
    revision = other.commit({"OTHER": "other"})
    project.settings["repository"] = str(other.directory)
    project.write()
    assert project.deploy().json["revision"] == revision
    assert project.file("app1", "current/OTHER").read_text() == "other"
    assert not project.file("app1", "current/README").exists()


def test_exclude_leaves_out_only_what_is_at_the_top(project: Project) -> None:
    project.repository.commit({"tmp/x": "top", "app/tmp/x": "deep", "lib/spec/y": "deep", "spec/y": "top"})
    project.settings["build"]["exclude"] = ["tmp", "spec"]
    project.write()
    project.deploy()
    current = project.file("app1", "current")
    assert (current / "app/tmp/x").exists()
    assert (current / "lib/spec/y").exists()
    assert not (current / "tmp").exists()
    assert not (current / "spec").exists()


def test_second_application_with_a_role_of_the_same_name_is_left_alone(project: Project, tmp_path: Path) -> None:
    other_application = Application("other", (PlaygroundRole("web", ("app1",)),))
    project.playground.add_application(other_application)
    other = Project(project.playground, tmp_path / "second", other_application)
    mine = project.deploy().json["release"]
    theirs = other.deploy().json["release"]
    assert other.served() == {"app1/web": theirs}
    assert project.served() == dict.fromkeys(ALL, mine)
    project.repository.commit({"VERSION": "mine again"})
    project.deploy()
    assert other.served() == {"app1/web": theirs}


def test_restart_that_leaves_a_daemon_does_not_block_the_watch(project: Project) -> None:
    project.settings["linked_dirs"] = ["pids"]
    project.role("web")["restart"] = ["sleep 600 & echo $! > pids/daemon-$$.pid"]
    project.write()
    begin = time.monotonic()
    project.deploy()
    project.repository.commit({"VERSION": "next"})
    project.deploy()
    assert time.monotonic() - begin < 120


# --- secrets


def test_secrets_appear_nowhere(project: Project, tmp_path: Path) -> None:
    canary = "canary-5b1e77-secret"
    project.settings["build"]["env"] = {"API_TOKEN": "${DEPLOYTOOL_TEST_TOKEN}"}
    project.settings["build"]["assets"] = ["echo token is $API_TOKEN; ps axww > ps.txt; sleep 0.2"]
    project.settings["build"]["migrate"] = ["echo migrating with $API_TOKEN; false"]
    project.write()
    result = project.fab("playground", "deploy", "--json", env={"DEPLOYTOOL_TEST_TOKEN": canary})
    assert result.code == 4
    shown = project.fab("playground", "settings", env={"DEPLOYTOOL_TEST_TOKEN": canary})
    assert "***" in shown.out
    for text in (result.out, result.err, shown.out, shown.err):
        assert canary not in text
    for path in (project.playground.build_root / "tiny/logs").iterdir():
        assert canary not in path.read_text()
    assert canary not in (project.playground.build_root / "tiny/workspace/ps.txt").read_text()
    client = project.playground.s3_client()
    for key in project.objects():
        if not key.endswith(".tar.gz"):
            body = client.get_object(Bucket=project.playground.bucket, Key=f"tiny/{key}")["Body"]
            assert canary not in body.read().decode()
            body.close()
    client.close()


def test_secret_in_a_hook_is_refused(project: Project) -> None:
    project.role("web")["hooks"] = {"post": ["curl -H 'Authorization: ${TOKEN}' http://127.0.0.1/"]}
    project.write()
    result = unchanged(project, "playground", "deploy", env={"TOKEN": "x" * 20})
    assert result.code == 2
    assert "roles.web.hooks.post" in result.err


# --- check


def test_check_finds_everything_well_and_names_what_is_not(project: Project, tmp_path: Path) -> None:
    result = project.fab("playground", "check", "--json")
    assert result.code == 0, result.out + result.err
    assert all(check["ok"] for check in result.json["checks"])
    assert len(result.json["checks"]) >= 8
    (compressor,) = [check["text"] for check in result.json["checks"] if check["name"] == "compressor"]
    assert any(character.isdigit() for character in compressor), "its version is in the build key"
    project.settings["repository"] = str(tmp_path / "gone")
    project.settings["store"]["url"] = "s3://no-such-bucket/tiny"
    project.write()
    result = project.fab("playground", "check")
    assert result.code == 6
    assert "no-such-bucket" in result.out
    assert "gone" in result.out
