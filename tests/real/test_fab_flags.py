"""Each of Fabric's own flags, for real: on pretend hosts, and over the playground's sshd for the connection."""

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from deploytool.cli.fab_flags import FLAGS, WRITING, Flag
from deploytool.playground.playground import Playground
from tests.support.local import Local
from tests.support.project import TINY, Project

#: Beside ours, in one fabfile: a task of the user's own, one with Fabric's hosts that calls a command, and collections.
OWN = """
import os
from fabric import task as with_hosts
from invoke import Collection, task
from deploytool.tasks import deploy, namespace, settings

@task
def own(context):
    context.run("echo it ran")

@with_hosts(hosts=["a", "b"])
def wrapped(context):
    settings(context)

@task(pre=[deploy])
def ship(context):
    pass

namespace.add_task(own)
namespace.add_task(wrapped)
namespace.add_task(ship)
inner = Collection("inner")
inner.add_task(own)
outer = Collection("outer")
outer.add_collection(inner)
namespace.add_collection(outer)
"""


@pytest.fixture
def local(tmp_path: Path) -> Local:
    project = Local(tmp_path)
    (project.directory / "fabfile.py").write_text(OWN)
    return project


def tree(project: Local) -> set[str]:
    """What a deploy leaves."""
    var = project.directory / "var"
    return {str(path.relative_to(var)) for place in ("store", "hosts", "consul") for path in (var / place).rglob("*")}


def timeless(plan: str) -> str:
    """A plan without the time in the id of a release that is not built yet."""
    return re.sub(r"\b20\d{6}T\d{6}Z", "NOW", plan)


# --- dry


def test_dry_run_deploys_nothing_and_is_the_plan(local: Local) -> None:
    before = tree(local)
    plan = local.fab("local", "plan", "--branch", "main", "--json")
    dry = local.fab("--dry", "local", "deploy", "--branch", "main", "--json")
    assert (dry.code, timeless(dry.out)) == (plan.code, timeless(plan.out))
    assert "dry run (--dry): nothing is deployed, this is the plan" in dry.err
    assert tree(local) == before
    # Nothing like it is on the hosts afterwards either.
    assert set(local.served().values()) == {None}
    said = local.fab("local", "plan"), local.fab("local", "deploy", "-R")
    assert (said[0].code, timeless(said[0].out)) == (said[1].code, timeless(said[1].out))


def test_dry_run_of_a_frozen_environment_ends_as_its_plan_does(local: Local) -> None:
    assert local.fab("local", "freeze", "--why", "a holiday").code == 0
    assert [local.fab(*words).code for words in (("local", "plan"), ("-R", "local", "deploy"))] == [3, 3]


def test_dry_run_in_fabrics_configuration_deploys_nothing_either(local: Local) -> None:
    dry = "run: {dry: true}\n"
    before = tree(local)
    for variables in ({"FABRIC_RUN_DRY": "1"}, {"INVOKE_RUN_DRY": "1"}):
        assert "nothing is deployed" in local.fab("local", "deploy", env=variables).err
        assert local.fab("local", "rollback", env=variables).code == 2
    (local.directory / "runtime.yml").write_text(dry)
    assert "nothing is deployed" in local.fab("-f", "runtime.yml", "local", "deploy").err
    assert "nothing is deployed" in local.fab("local", "deploy", env={"INVOKE_RUNTIME_CONFIG": "runtime.yml"}).err
    (local.directory / "fabric.yml").write_text(dry)
    assert "nothing is deployed" in local.fab("local", "deploy").err
    # Called through a task of the user's own as well.
    assert "nothing is deployed" in local.fab("local", "ship").err
    assert tree(local) == before
    (local.directory / "fabric.yml").unlink()
    assert local.fab("local", "deploy", "--json", env={"FABRIC_RUN_DRY": "0", "INVOKE_RUN_DRY": "0"}).code == 0
    assert None not in local.served().values()


@pytest.mark.parametrize("command", sorted(WRITING))
def test_dry_run_of_a_command_that_writes_is_refused_by_name(local: Local, command: str) -> None:
    result = local.fab("--dry", "local", command, "--json")
    assert result.code == result.json["exit_code"] == 2
    assert result.json["error"]["message"].startswith(f"`{command}` can't run dry (--dry): ")
    assert not (local.directory / "var/build").exists(), "something was started"


@pytest.mark.parametrize("flag", ["--release=20261123T061500Z-1a2b3c4", "--nodes=app1", "--rebuild", "--no-migrate"])
def test_dry_run_does_not_show_another_deploys_plan(local: Local, flag: str) -> None:
    result = local.fab("--dry", "local", "deploy", flag)
    assert (result.code, result.out) == (2, "")
    assert f"leave out {flag.partition('=')[0]}" in result.err


def test_reading_commands_run_as_ever_in_a_dry_run(local: Local) -> None:
    for command in ("settings", "status", "releases", "plan"):
        with_it, without = local.fab("-R", "local", command), local.fab("local", command)
        assert (with_it.code, timeless(with_it.out)) == (without.code, timeless(without.out)), command
    refused = local.fab("-R", "local", "app-server", "--output", "there")
    assert (refused.code, (local.directory / "there").exists()) == (2, False)
    assert local.fab("-R", "local", "status", "--probe").code == 2


def test_what_follows_a_dry_deploy_does_not_run(local: Local) -> None:
    result = local.fab("-R", "local", "deploy", "own")
    assert (result.code, "it ran" in result.out) == (0, False)
    # What comes before it is Fabric's: it shows the command and does not run it.
    assert "echo it ran" in local.fab("-R", "own", "local", "deploy").out


# --- hosts


@pytest.mark.parametrize("typed", ["-H a,b local settings", "local settings -H a", "-H a,b local deploy", "-H a ship"])
def test_command_with_hosts_on_the_command_line_runs_not_even_once(local: Local, typed: str) -> None:
    result = local.fab(*typed.split(), "--json") if "ship" not in typed else local.fab("local", *typed.split())
    assert result.code == 2
    assert "-H/--hosts does not work with `" in result.err
    assert "deploytool finds its hosts in the settings" in result.err
    if "ship" not in typed:
        assert result.json["error"]["kind"] == "usage"
    assert not (local.directory / "var/build").exists()


def test_command_in_a_task_with_hosts_is_refused(local: Local) -> None:
    result = local.fab("local", "wrapped")
    assert (result.code, result.out) == (2, "")
    assert "can't run in a task with Fabric's `hosts`" in result.err


def test_hosts_in_fabrics_configuration_are_nobodys(local: Local) -> None:
    assert local.fab("local", "settings", "--json", env={"FABRIC_HOSTS": "a,b"}).json["exit_code"] == 0
    (local.directory / "fabric.yml").write_text("hosts: [a, b]\n")
    assert local.fab("local", "settings", "--json").json["exit_code"] == 0
    # Invoke can't make a list of a variable.
    both = local.fab("local", "settings", "--json", env={"FABRIC_HOSTS": "a,b"})
    assert (both.code, "can't read its configuration" in both.json["error"]["message"]) == (2, True)


def test_command_for_hosts_behind_a_command_is_refused(local: Local) -> None:
    result = local.fab("local", "settings", "--", "uptime")
    assert (result.code, result.out) == (2, "")
    assert "`-- COMMAND` runs on the hosts of -H" in result.err


# --- what the user's own tasks have use for

VALUES = {"hosts": "a", "command-timeout": "60", "hide": "both"}
REFUSED = [flag for flag in FLAGS if flag.instead]


@pytest.mark.parametrize("flag", REFUSED, ids=lambda flag: flag.name)
def test_flag_that_has_no_use_is_refused_before_anything_starts(local: Local, flag: Flag) -> None:
    value = [VALUES[flag.name]] if flag.name in VALUES else []
    for typed in flag.typed.split("/"):
        for words in ([typed, *value, "local", "deploy", "--json"], ["local", "deploy", "--json", typed, *value]):
            result = local.fab(*words)
            assert result.code == result.json["exit_code"] == 2, result.err
            assert result.json["error"]["message"].startswith(f"{flag.typed} does not work with `deploy`: ")
    assert not (local.directory / "var/build").exists()


@pytest.mark.parametrize(
    ("flags", "out"),
    [
        ("-e", "it ran"),
        ("--hide both", ""),
        ("-p", "it ran"),
        ("-w", "it ran"),
        ("-T 60", "it ran"),
        ("-d", "it ran"),
        ("-R", "echo it ran"),
        ("--no-dedupe", "it ran"),
        ("--write-pyc", "it ran"),
        ("-i nowhere -t 3", "it ran"),
    ],
)
def test_own_tasks_have_all_of_fabrics_flags(local: Local, flags: str, out: str) -> None:
    result = local.fab(*flags.split(), "own")
    assert result.code == 0
    assert out in result.out if out else result.out == ""
    assert "only for" not in result.err


def test_environment_with_an_underscore_is_no_task_of_ones_own(local: Local) -> None:
    (local.directory / "config/my_env.yml").write_text("")
    assert local.fab("-e", "my_env", "settings").code == 2


def test_flag_in_a_mixed_line_says_for_whom_it_is(local: Local) -> None:
    result = local.fab("-e", "own", "local", "settings", "--json")
    assert result.code == 0
    assert "-e/--echo: only for own\n" in result.err


def test_no_dedupe_and_repeated_tasks_go_on_as_before(local: Local) -> None:
    result = local.fab("--no-dedupe", "local", "deploy", "--json")
    assert (result.code, result.json["exit_code"]) == (0, 0)
    history = local.fab("local", "releases", "--deployments", "--json").json["deployments"]
    assert len(history) == 1
    twice = local.fab("local", "build", "deploy")
    assert twice.code == 0


# --- the flags for looking


def test_flags_that_show_something_work(local: Local) -> None:
    assert re.search(r"^Fabric \d.*^Paramiko \d.*^Invoke \d", local.fab("-V").out, re.DOTALL | re.MULTILINE)
    assert "complete -F" in local.fab("--print-completion-script", "bash").out
    assert "deploy" in local.fab("--complete", "--", "fab", "local", "").out
    assert local.fab("--list-agent-keys", env={"SSH_AUTH_SOCK": ""}).code == 0
    assert "--branch" in local.fab("-h", "deploy").out
    assert "invoke." in local.fab("-d", "local", "settings", "--json").err
    assert json.loads(local.fab("-d", "local", "settings", "--json").out)["exit_code"] == 0
    assert local.fab().out == local.fab("--list").out
    helped = local.fab("--help")
    assert helped.code == 0
    for flag in FLAGS:
        assert flag.typed in helped.out.partition("With the commands of deploytool")[2]


def test_form_and_depth_of_the_list_are_honoured(local: Local) -> None:
    assert "outer.inner.own" in local.fab("--list").out
    assert "[1 collection" in local.fab("--list", "-D", "1").out
    assert "outer.inner.own" not in local.fab("--list", "--list-depth", "1").out
    assert ".inner" in local.fab("-F", "nested", "--list").out
    assert "deploy" in {each["name"] for each in json.loads(local.fab("-F", "json", "-l").out)["tasks"]}
    for words in (("-F", "json", "local", "settings"), ("-D", "1", "local", "settings"), ("--list", "-F", "xml")):
        assert local.fab(*words).code == 2


def test_fabfile_and_root_of_another_name_are_found_with_their_settings(local: Local, tmp_path: Path) -> None:
    (local.directory / "fabfile.py").rename(local.directory / "tasks.py")
    assert local.fab("-c", "tasks", "local", "settings").code == 0
    assert local.fab("local", "settings", "-c", "tasks").code != 0
    fab = str(Path(sys.executable).parent / "fab")
    typed = [fab, "-r", str(local.directory), "-c", "tasks", "local", "settings"]
    assert subprocess.run(typed, cwd=tmp_path, capture_output=True).returncode == 0
    named = {**os.environ, "FABRIC_TASKS_COLLECTION_NAME": "tasks", "HOME": str(tmp_path)}
    (tmp_path / ".fabric.yml").write_text("tasks: {collection_name: tasks}\n")
    done = subprocess.run([fab, "local", "settings"], cwd=local.directory, env=named, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("-f gone.yml local settings", "-f/--config: there is no file gone.yml"),
        ("-f fabfile.txt local settings", "Config files of type 'txt'"),
        ("-f broken.yml local settings", "Fabric can't read its configuration"),
        ("-S gone local settings", "-S/--ssh-config: there is no file gone"),
        ("-S broken.ssh own local settings", "Unparsable line"),
        ("-t 0 local settings", "at least 1 second"),
        ("local settings -t soon", "invalid literal"),
        ("-d --prompt-for-passphrase local settings", "Fabric's debug output shows the password"),
        ("--prompt-for-passphrase local settings", "can't ask for a password"),
    ],
)
def test_flag_with_a_value_that_can_not_be_is_one_sentence(local: Local, typed: str, words: str) -> None:
    for name, text in {"fabfile.txt": "", "broken.yml": "x: [\n", "broken.ssh": "Host a\n  ProxyJump\n"}.items():
        (local.directory / name).write_text(text)
    result = local.fab(*typed.split(), "--json")
    assert result.code == result.json["exit_code"] == 2, result.err
    assert words in result.json["error"]["message"]


def test_ssh_config_that_only_ssh_can_read_stops_no_command_of_ours(local: Local) -> None:
    """paramiko#2522: Fabric reads the file before any task begins."""
    (local.directory / "ssh").write_text("Match host=build\n    User deploy\n")
    assert local.fab("-S", "ssh", "local", "status").code == 0


def test_flags_for_a_connection_that_is_not_made_are_named(local: Local) -> None:
    (local.directory / "ssh").write_text("")
    told = local.fab("-i", "key", "-t", "3", "-S", "ssh", "local", "status").err
    assert "-S/--ssh-config, -i/--identity, -t/--connect-timeout: not used, local builds on this machine" in told
    assert "`settings` connects to nothing" in local.fab("-i", "key", "local", "settings").err


# --- the way to the build server


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Project:
    playground.add_application(TINY)
    return Project(playground, tmp_path)


@pytest.fixture
def guarded_key(playground: Playground, tmp_path: Path) -> Iterator[Path]:
    """A key with the passphrase `open sesame` that the playground's sshd lets in."""
    key = tmp_path / "guarded"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", str(key)], check=True)
    authorized = next(playground.directory.rglob("authorized_keys"))
    before = authorized.read_text()
    authorized.write_text(before + Path(f"{key}.pub").read_text())
    yield key
    authorized.write_text(before)


def without_key(project: Project) -> Path:
    """An ssh_config that knows the playground's host key, and no key of ours."""
    text = project.playground.ssh_config.read_text()
    path = project.directory / "keyless"
    path.write_text("\n".join(line for line in text.splitlines() if "Identit" not in line) + "\n")
    return path


#: No key from an agent, and none from ~/.ssh.
NO_KEYS = {"SSH_AUTH_SOCK": "", "HOME": "/nonexistent"}


@pytest.mark.parametrize("by", ["settings", "flag"])
def test_identity_and_ssh_config_of_the_command_line_lead_to_the_build_server(project: Project, by: str) -> None:
    keyless = without_key(project)
    way = ["-S", str(keyless)] if by == "flag" else []
    if by == "settings":
        project.change(lambda settings: settings["build"].update(ssh_config=str(keyless)))
    assert project.fab(*way, "playground", "status", env=NO_KEYS).code == 5
    other = project.directory / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    keys = ["-i", str(other), "-i", str(project.playground.identity_file)]
    result = project.fab(*way, *keys, "playground", "status", "--json", env=NO_KEYS)
    assert result.code == 0, result.err


def test_ssh_config_of_the_command_line_goes_before_the_settings(project: Project) -> None:
    project.change(lambda settings: settings["build"].update(ssh_config="/nowhere"))
    assert project.fab("playground", "status").code == 2
    result = project.fab("-S", str(project.playground.ssh_config), "playground", "deploy", "--json")
    assert result.code == 0, result.err


@pytest.mark.parametrize("words", ["", "silent"])
def test_connect_timeout_is_kept(project: Project, words: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        # One that takes no more connections, or one that takes it and says nothing.
        server.listen(0 if not words else 5)
        port = server.getsockname()[1]
        full = [socket.socket() for _ in range(0 if words else 4)]
        for each in full:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        config = project.directory / "slow"
        config.write_text(project.playground.ssh_config.read_text().replace("ConnectTimeout 10", "ConnectTimeout 900"))
        project.change(lambda settings: settings["build"].update(server=f"me@127.0.0.1:{port}"))
        result = project.fab("-S", str(config), "-t", "1", "playground", "status")
        for each in full:
            each.close()
    assert result.code == 5
    assert ("no SSH handshake within 1 s" if words else "no answer within 1 s") in result.err


def with_terminal(project: Project, answer: str, *arguments: str) -> tuple[int, str]:
    """`fab ARGUMENTS` on a terminal on which somebody answers its one question; exit code, and what was shown."""
    environment = {**project.environment(), **NO_KEYS}
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "fab"), *arguments],
        cwd=project.directory,
        env=environment,
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    os.close(its_end)
    shown, answered = b"", False
    while True:
        try:
            more = os.read(terminal, 4096)
        except OSError:
            break
        if not more:
            break
        shown += more
        if not answered and b": " in shown:
            os.write(terminal, f"{answer}\n".encode())
            answered = True
    os.close(terminal)
    return process.wait(60), shown.decode()


def test_passphrase_that_was_asked_for_opens_the_key(project: Project, guarded_key: Path) -> None:
    way = ["-S", str(without_key(project)), "-i", str(guarded_key)]
    alone = project.fab(*way, "playground", "status", env=NO_KEYS)
    assert (alone.code, "has a passphrase" in alone.err) == (5, True)
    code, shown = with_terminal(project, "open sesame", "--prompt-for-passphrase", *way, "playground", "status")
    assert code == 0, shown
    assert "open sesame" not in shown
    code, shown = with_terminal(project, "wrong", "--prompt-for-passphrase", *way, "playground", "status")
    assert code == 5, shown
    assert "Traceback" not in shown


class Door(paramiko.ServerInterface):
    """An SSH server that writes down with which password somebody came, and lets nobody in."""

    def __init__(self) -> None:
        self.tried: list[tuple[str, str]] = []

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        self.tried.append((username, password))
        return int(paramiko.common.AUTH_FAILED)


def test_login_password_that_was_asked_for_reaches_the_build_server(project: Project) -> None:
    # The playground's sshd can check no password: those of this machine's users are theirs.
    key, door = paramiko.RSAKey.generate(2048), Door()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                transport = paramiko.Transport(server.accept()[0])
                transport.add_server_key(key)
                transport.start_server(server=door)

        threading.Thread(target=answer, daemon=True).start()
        known = project.directory / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
        config = project.directory / "password_only"
        config.write_text(f"Host *\n    UserKnownHostsFile {known}\n")
        project.change(lambda settings: settings["build"].update(server=f"me@127.0.0.1:{port}"))
        way = ["--prompt-for-login-password", "-S", str(config), "playground", "status"]
        code, shown = with_terminal(project, "open sesame", *way)
    assert door.tried == [("me", "open sesame")], shown
    assert code == 5, shown
    assert "authentication failed" in shown
    assert "open sesame" not in shown
