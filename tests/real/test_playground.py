"""The playground itself: every part answers, hosts are apart from each other, and nothing survives it."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import paramiko
import pytest
import yaml
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from deploytool.playground import processes
from deploytool.playground.__main__ import main
from deploytool.playground.playground import Application, Playground, PlaygroundError, PlaygroundRole
from tests.support.project import Project


def eventually(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def manifest_that_touches(playground: Playground, name: str) -> str:
    """The URL of a manifest whose only command makes a file of that name on the host that runs it."""
    place = playground.directory / f"{name}.yml"
    place.write_text(yaml.safe_dump({"commands": {"pre": [f"touch {playground.host_home}/{name}"]}}))
    return f"file://{place}"


def make_repository(directory: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(directory)], check=True)


def any_exists(places: list[Path]) -> bool:
    return any(place.exists() for place in places)


@contextmanager
def ssh(playground: Playground) -> Iterator[paramiko.SSHClient]:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(playground.known_hosts))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            playground.ssh_host,
            playground.ssh_port,
            playground.user,
            key_filename=str(playground.identity_file),
            allow_agent=False,
            look_for_keys=False,
        )
        yield client


def over_ssh(playground: Playground, command: str) -> str:
    with ssh(playground) as client:
        _, stdout, stderr = client.exec_command(command)
        output: str = stdout.read().decode()
        assert stdout.channel.recv_exit_status() == 0, stderr.read().decode()
    return output


def test_build_server_lets_in_its_own_key_and_has_its_own_environment(playground: Playground) -> None:
    told = over_ssh(playground, 'echo "$HOME"; echo "$AWS_ACCESS_KEY_ID"; consul members; git --version; python3 -V')
    home, key, *rest = told.splitlines()
    assert Path(home).parent == playground.directory
    assert key == playground.deploy_keys.access_key
    assert sum("alive" in line for line in rest) == 4


def test_build_server_takes_files_by_sftp(playground: Playground) -> None:
    with ssh(playground) as client, client.open_sftp() as sftp:
        sftp.putfo(io.BytesIO(b"hello"), f"{playground.build_root}/hello")
    assert (playground.build_root / "hello").read_bytes() == b"hello"


def test_s3_keeps_small_and_multipart_objects(playground: Playground) -> None:
    s3 = playground.s3_client()
    s3.put_object(Bucket=playground.bucket, Key="playground/small", Body=b"one")
    assert s3.get_object(Bucket=playground.bucket, Key="playground/small")["Body"].read() == b"one"
    body = os.urandom(12_000_000)
    parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    s3.upload_fileobj(io.BytesIO(body), playground.bucket, "playground/big", Config=parts)
    answer = s3.get_object(Bucket=playground.bucket, Key="playground/big")
    assert answer["Body"].read() == body
    assert answer["ETag"].strip('"').endswith("-3")


def test_s3_creates_only_if_absent_when_asked(playground: Playground) -> None:
    s3 = playground.s3_client()
    s3.put_object(Bucket=playground.bucket, Key="playground/once", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=playground.bucket, Key="playground/once", Body=b"second", IfNoneMatch="*")
    assert refused.value.response["Error"]["Code"] == "PreconditionFailed"
    assert s3.get_object(Bucket=playground.bucket, Key="playground/once")["Body"].read() == b"first"


def test_s3_reader_may_not_write_and_a_missing_bucket_is_not_made(playground: Playground) -> None:
    reader = playground.s3_client(playground.reader_keys)
    with pytest.raises(ClientError, match="AccessDenied"):
        reader.put_object(Bucket=playground.bucket, Key="playground/forbidden", Body=b"")
    with pytest.raises(ClientError):
        playground.s3_client().put_object(Bucket="absent", Key="x", Body=b"")
    buckets = playground.s3_client(playground.owner_keys).list_buckets()["Buckets"]
    assert [bucket["Name"] for bucket in buckets] == [playground.bucket]


@contextmanager
def watches_of_before(
    playground: Playground, application: str = "shop", roles: tuple[str, ...] = ("web", "batch")
) -> Iterator[None]:
    """Hosts on which stretcher itself gets the events of the application: there a manifest of any kind can be tried."""
    pairs = [(host, role) for role in roles for host in playground.hosts_of(role, application)]
    for host, role in pairs:
        playground.watch(host, application, role, "playground", "-")
    yield
    for host, role in pairs:
        playground.watch(host, application, role, "playground")


def test_event_reaches_each_host_of_its_role_and_no_other(playground: Playground) -> None:
    with watches_of_before(playground):
        playground.fire("shop", "web", manifest_that_touches(playground, "heard-web"))
        playground.fire("shop", "batch", manifest_that_touches(playground, "heard-batch"))
        for host in playground.hosts:
            eventually((playground.host_directory(host) / "heard-web").exists, f"{host} runs the web manifest")
        eventually((playground.host_directory("app3") / "heard-batch").exists, "app3 runs the batch manifest")
        assert not (playground.host_directory("app1") / "heard-batch").exists()


def test_one_path_is_another_directory_on_each_host(playground: Playground) -> None:
    place = playground.deploy_to("web") / "whoami"
    for host in playground.hosts:
        playground.run_on_host(host, ["sh", "-c", f"echo {host} > '{place}'"]).check_returncode()
    told = {host: playground.run_on_host(host, ["cat", str(place)]).stdout.strip() for host in playground.hosts}
    assert told == {host: host for host in playground.hosts}
    assert (playground.deploy_to_outside("app2", "web") / "whoami").read_text() == "app2\n"
    assert not place.exists()


def test_port_that_was_drawn_is_drawn_by_nobody_else_before_its_server_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    few = range(31_900, 31_920)
    monkeypatch.setattr(processes, "PORTS", few)
    drawn = set(processes.free_ports(["one", "other"]).values())
    assert len(drawn) == 2
    draw = """
from deploytool.playground import processes
processes.PORTS = range(31_900, 31_920)
names = map(str, range(20))
while True:
    try:
        print(*processes.free_ports([next(names)]).values())
    except StopIteration:
        break
"""
    told = subprocess.run([sys.executable, "-c", draw], capture_output=True, text=True, check=True, timeout=60)
    others = {int(port) for port in told.stdout.split()}
    assert others
    assert not others & drawn
    assert not drawn & set(processes.free_ports(["third"]).values())


def test_process_that_goes_while_its_children_are_looked_for_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path, _pattern: str) -> Iterator[Path]:
        if path:
            raise FileNotFoundError(str(path))
        yield path

    monkeypatch.setattr(Path, "glob", gone)
    assert processes.children(os.getpid()) == ()


def test_host_has_own_processes_and_a_name_that_consul_does_not_know(playground: Playground) -> None:
    hostname = playground.run_on_host("app1", ["uname", "-n"]).stdout.strip()
    assert hostname not in playground.hosts
    commands = playground.run_on_host("app1", ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
    assert commands.count("consul agent") == 1
    assert "sshd" not in commands


def test_linked_files_are_there_before_the_first_deployment(playground: Playground) -> None:
    ports = []
    for host in playground.hosts:
        text = (playground.deploy_to_outside(host, "web") / "shared" / ".env").read_text()
        values = dict(line.split("=", 1) for line in text.splitlines())
        assert values["BIND"] == f"127.0.0.1:{playground.app_port(host, 'web')}"
        ports.append(values["PORT"])
    assert len(set(ports)) == 3
    assert (playground.build_root / "shop" / "shared" / "playground" / ".env").is_file()


def test_killed_host_takes_its_daemons_along_and_comes_back(playground: Playground) -> None:
    playground.run_on_host("app2", ["sh", "-c", "setsid sleep 1234.5 >/dev/null 2>&1 &"])
    eventually(lambda: len(pids_of("sleep", "1234.5")) == 1, "the daemon runs")
    daemons = pids_of("sleep", "1234.5")
    playground.kill_host("app2")
    assert processes.start_time(daemons[0]) is None
    eventually(lambda: not playground.sees_all_nodes(), "Consul notices that app2 is dead")
    assert playground.deploy_to_outside("app2", "web").is_dir()
    playground.start_host("app2")
    eventually(playground.sees_all_nodes, "app2 is back")


def test_agent_that_was_stopped_stays_down_until_it_is_started(playground: Playground) -> None:
    playground.stop_agent("app1")
    eventually(lambda: not playground.sees_all_nodes(), "Consul notices that app1's agent is dead")
    assert playground.run_on_host("app1", ["true"]).returncode == 0
    playground.start_agent("app1")
    eventually(playground.sees_all_nodes, "app1 is back")


def test_restarted_watch_gets_old_events_again(playground: Playground) -> None:
    with watches_of_before(playground):
        playground.fire("shop", "web", manifest_that_touches(playground, "replayed"))
        mark = playground.host_directory("app1") / "replayed"
        eventually(mark.exists, "app1 runs the manifest")
        mark.unlink()
        playground.restart_watches("app1")
        eventually(mark.exists, "app1 runs the manifest again")


def test_another_application_gets_its_own_watches_ports_and_settings(playground: Playground, tmp_path: Path) -> None:
    make_repository(tmp_path)
    file = tmp_path / "playground.yml"
    state = str(playground.directory)
    arguments = ["config", "--state", state, "--application", "gazette", "--repository", str(tmp_path), "--role", "web"]
    assert main([*arguments, "--write", str(file)]) == 0
    settings = yaml.safe_load(file.read_text())
    assert settings["repository"] == str(tmp_path)
    assert settings["roles"]["web"]["hosts"]["nodes"] == list(playground.hosts)
    assert settings["roles"]["web"]["deploy_to"] != str(playground.deploy_to("web"))
    with watches_of_before(Playground.attach(playground.directory), "gazette", ("web",)):
        playground.fire("gazette", "web", manifest_that_touches(playground, "heard-gazette"))
        for host in playground.hosts:
            eventually(
                (playground.host_directory(host) / "heard-gazette").exists, f"{host} runs the gazette's manifest"
            )
    again = Playground.attach(playground.directory)
    assert again.hosts_of("web", "gazette") == playground.hosts
    assert again.app_port("app1", "web", "gazette") != playground.app_port("app1", "web")


def test_second_config_keeps_what_a_user_wrote(
    playground: Playground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_repository(tmp_path)
    file = tmp_path / "playground.yml"
    state = str(playground.directory)
    arguments = ["config", "--state", state, "--application", "kept", "--repository", str(tmp_path), "--role", "web"]
    assert main([*arguments, "--write", str(file)]) == 0
    kept = Playground.attach(playground.directory)
    places = {
        kept.app_port(host, "web", "kept"): kept.deploy_to_outside(host, "web", "kept") / "shared/.env"
        for host in kept.hosts
    }
    builds = playground.build_root / "kept/shared/playground/.env"
    wrote = "# the key of the shop\nSECRET_KEY='hunter two'\nDATABASE=mysql://db\n"
    for place in (*places.values(), builds):
        place.write_text(place.read_text().replace("BIND=127.0.0.1:", "BIND=0.0.0.0:") + wrote)
    before = {place: place.read_text() for place in (*places.values(), builds)}
    file.write_text(file.read_text() + "branch: mine\n")
    capsys.readouterr()
    assert main([*arguments, "--write", str(file)]) == 0
    assert {place: place.read_text() for place in before} == before
    printed = capsys.readouterr()
    assert f"Your old {file} is now {file}.before." in printed.out
    for port, place in places.items():
        assert f"kept BIND=0.0.0.0:{port} in {place}; the playground gave it port {port}" in printed.err
    assert Path(f"{file}.before").read_text().endswith("branch: mine\n")
    # Nobody has edited the one that it wrote: no second copy.
    assert main([*arguments, "--write", str(file)]) == 0
    assert sorted(path.name for path in tmp_path.glob("playground*")) == ["playground.yml", "playground.yml.before"]


def test_two_environments_of_one_application_share_a_host_in_peace(
    playground: Playground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(playground, tmp_path, Application("pair", ()))
    (project.directory / "config/playground.yml").unlink()
    shared = {"wait": {"hook_seconds": 10, "stable_seconds": 0}, "linked_files": [".env"]}
    (project.directory / "config/deploy.yml").write_text(yaml.safe_dump(shared))
    asked = ["config", "--state", str(playground.directory), "--application", "pair", "--role", "web"]
    asked += ["--repository", str(project.repository.directory)]
    chosen = {"staging": ("app1",), "production": ("app1", "app2")}
    for environment, hosts in chosen.items():
        file = project.directory / f"config/{environment}.yml"
        assert main([*asked, "--hosts", ",".join(hosts), "--write", str(file)]) == 0
        assert f"fab {environment} deploy" in capsys.readouterr().out
        text = file.read_text()
        assert "# #" not in text
        assert yaml.safe_load(text)["roles"]["web"]["hosts"]["nodes"] == list(hosts)
        assert (playground.build_root / f"pair/shared/{environment}/.env").is_file()
    pair = Playground.attach(playground.directory)

    def served() -> dict[tuple[str, str], str]:
        homes = {
            (environment, host): pair.deploy_to_outside(host, "web", "pair", environment)
            for environment in chosen
            for host in pair.hosts
        }
        return {key: os.readlink(home / "current") for key, home in homes.items() if (home / "current").is_symlink()}

    staged = project.fab("staging", "deploy", "--json")
    assert (staged.code, staged.verdicts()) == (0, {"app1/web": "verified"}), staged.err
    before = served()
    assert before.keys() == {("staging", "app1")}
    project.repository.commit({"README": "hello again\n"})
    produced = project.fab("production", "deploy", "--json")
    assert (produced.code, produced.verdicts()) == (0, {"app1/web": "verified", "app2/web": "verified"}), produced.err
    after = served()
    assert after.keys() == {("staging", "app1"), ("production", "app1"), ("production", "app2")}
    assert after["staging", "app1"] == before["staging", "app1"]
    assert Path(after["production", "app1"]).name == produced.json["release"] != staged.json["release"]
    # Each has the port in its `.env`, by way of the release's link.
    ports = {pair.app_port(host, "web", "pair", environment) for environment, host in after}
    assert len(ports) == 3
    for environment, host in after:
        link = pair.deploy_to("web", "pair", environment) / "current/.env"
        told = playground.run_on_host(host, ["cat", str(link)]).stdout
        assert f"BIND=127.0.0.1:{pair.app_port(host, 'web', 'pair', environment)}\n" in told

    # A machine that lost everything catches up with both when it boots.
    for environment in chosen:
        shutil.rmtree(pair.deploy_to_outside("app1", "web", "pair", environment) / "releases")
        shutil.rmtree(pair.deploy_to_outside("app1", "web", "pair", environment) / ".deploytool")
        (pair.deploy_to_outside("app1", "web", "pair", environment) / "current").unlink()
    playground.kill_host("app1")
    playground.start_host("app1")
    eventually(lambda: served() == after, "app1 catches up with both environments", seconds=60)
    for environment in chosen:
        room = pair.deploy_to_outside("app1", "web", "pair", environment) / ".deploytool"
        notes = [room / "tried", room / "rung"]
        eventually(partial(any_exists, notes), f"what receives keeps its notes in {environment}'s own directory")

    # A host that is chosen no longer hears nothing more, and the other environment still does.
    assert main([*asked, "--hosts", "app2", "--environment", "production"]) == 0
    watches = [place.name for place in (playground.host_directory("app1") / "watches").glob("pair-*")]
    assert watches == ["pair-web-staging"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--environment", "staging", "--write", "production.yml"], "is not the file of the environment staging"),
        (["--write", "config/deploy.yml"], "deploy can't be an environment"),
        (["--write", "absent/staging.yml"], "there is no directory absent"),
        (["--hosts", "app1,app4"], "--hosts app1,app4: unknown hosts: app4"),
        (["--environment", "a b"], "a b can't be an environment"),
    ],
)
def test_environment_that_could_not_be_deployed_to_is_refused(
    playground: Playground, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    before = (playground.directory / "playground.json").read_text()
    arguments = ["config", "--state", str(playground.directory), "--application", "blog", "--repository", str(tmp_path)]
    assert main([*arguments, *options]) == 2
    assert words in capsys.readouterr().err
    assert (playground.directory / "playground.json").read_text() == before


def test_repository_that_is_none_or_only_a_part_of_one_is_refused(
    playground: Playground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = str(playground.directory)
    before = (playground.directory / "playground.json").read_text()
    part = tmp_path / "a shop" / "apps" / "web"
    part.mkdir(parents=True)

    def words(place: Path) -> str:
        assert main(["config", "--state", state, "--application", "part", "--repository", str(place)]) == 2
        assert (playground.directory / "playground.json").read_text() == before
        return capsys.readouterr().err

    assert "there is no such directory" in words(tmp_path / "absent")
    assert "is not a git repository" in words(part)
    make_repository(tmp_path / "a shop")
    assert words(part) == (
        f"--repository {part} is a subdirectory of the git repository {tmp_path}/a shop\n"
        f"hint: write `--repository '{tmp_path}/a shop'`, and `subdirectory: apps/web` in config/deploy.yml\n"
    )


def test_playground_of_an_older_version_is_refused_but_readable(playground: Playground, tmp_path: Path) -> None:
    state = json.loads((playground.directory / "playground.json").read_text())
    del state["layout"]
    (tmp_path / "playground.json").write_text(json.dumps(state))
    older = Playground.attach(tmp_path)
    assert older.ports == state["ports"]
    with pytest.raises(PlaygroundError, match="started by another version"):
        older.add_application(Application("blog", (PlaygroundRole("web", ("app1",)),)))
    assert json.loads((tmp_path / "playground.json").read_text()) == state


def test_second_start_says_that_it_is_running(
    playground: Playground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PlaygroundError, match="already running"):
        Playground(playground.directory).start(tied=False)
    (tmp_path / "config").mkdir()
    assert main(["up", "--state", str(playground.directory), "--project", str(tmp_path)]) != 0
    assert "already running" in capsys.readouterr().err
    assert playground.is_running()


def test_up_and_down_in_a_directory_with_spaces_leave_nothing(
    playground: Playground, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "it's a state"
    (tmp_path / "config").mkdir()
    command = [sys.executable, "-m", "deploytool.playground", "up", "--state", str(state), "--project", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    beside = Playground.attach(state)
    try:
        assert "fab playground deploy" in done.stdout
        settings = yaml.safe_load((tmp_path / "config" / "playground.yml").read_text())
        assert settings["build"]["server"] == beside.build_server != playground.build_server
        beside.fire("shop", "batch", manifest_that_touches(beside, "heard"))
        assert main(["status", "--state", str(state)]) == 0
        pids = [process.pid for process in processes.recorded(beside.records)]
        assert len(pids) == 10
        over_ssh(beside, "setsid sleep 4321.5 >/dev/null 2>&1 &")
        eventually(lambda: len(pids_of("sleep", "4321.5")) == 1, "a daemon that was started through ssh runs")
    finally:
        assert main(["down", "--state", str(state)]) == 0
    assert "its processes have ended" in capsys.readouterr().out
    assert all(processes.start_time(pid) is None for pid in pids)
    assert not pids_of("sleep", "4321.5")
    assert all(processes.is_free(port) for port in beside.ports.values())
    assert main(["status", "--state", str(state)]) == 1
    assert playground.is_running()


def test_killed_test_run_takes_its_playground_along(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from deploytool.playground.playground import Playground
        with Playground(Path(sys.argv[1])):
            print("up", flush=True)
            time.sleep(600)
    """)
    state = tmp_path / "state"
    with subprocess.Popen([sys.executable, "-c", script, str(state)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        running = processes.recorded(Playground.attach(state).records)
        assert all(processes.is_running(process) for process in running)
        run.send_signal(signal.SIGKILL)
    eventually(lambda: not any(processes.is_running(process) for process in running), "all of it is gone")


def test_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    ends_at_once = tmp_path / "weed"
    ends_at_once.write_text("#!/bin/sh\necho 'version 4.48'\n[ $# = 1 ] || { echo no disk; exit 3; }\n")
    ends_at_once.chmod(0o755)
    state = tmp_path / "state"
    environment = {**os.environ, "WEED": str(ends_at_once)}
    (tmp_path / "config").mkdir()
    command = [sys.executable, "-m", "deploytool.playground", "up", "--state", str(state), "--project", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "S3 server ended during its start" in done.stderr
    assert "no disk" in done.stderr
    assert processes.recorded(state / "processes") == ()
    assert all(processes.is_free(port) for port in Playground.attach(state).ports.values())
    assert not (tmp_path / "config" / "playground.yml").exists()


def test_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    with pytest.raises(PlaygroundError, match="is not a playground"):
        Playground(tmp_path).start(tied=False)
    assert (tmp_path / "thesis").read_text() == "mine"


def test_roles_of_one_host_have_directories_and_ports_of_their_own(playground: Playground) -> None:
    assert "app3" in playground.hosts_of("web")
    assert playground.hosts_of("batch") == ("app3",)
    assert playground.deploy_to("web") != playground.deploy_to("batch")
    assert playground.app_port("app3", "web") != playground.app_port("app3", "batch")
    assert Application("shop", (PlaygroundRole("web", ("app1",)),)) != playground.applications[0]


def pids_of(*command: str) -> list[int]:
    """The processes on this machine, in whatever namespace, with exactly this command line."""
    entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(entry.name) for entry in entries if command_line(entry) == list(command)]


def command_line(entry: Path) -> list[str]:
    try:
        return (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []
