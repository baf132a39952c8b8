"""Freezing and retention on the real Consul and on a directory in its place; what is in use is never removed."""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.connection.boot import start_worker
from deploytool.errors import ConsulError, LockedError, StepError
from deploytool.playground.playground import Playground
from deploytool.worker.bus import Bus
from deploytool.worker.consul import Consul
from deploytool.worker.directory_bus import DirectoryBus
from deploytool.worker.failure import Failure
from deploytool.worker.own_isal import MARKER
from deploytool.worker.retention import prune_deployments
from deploytool.worker.wire import ConsulSettings, Selector
from tests.support.worker import RawClient

Start = Callable[..., RawClient]
DAY = 86400
#: when the test began, in seconds: pytest may have read this file long before it comes to it
NOW = 0.0


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "NOW", time.time())


@pytest.fixture
def application() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["Consul", "directory"])
def consul(request: pytest.FixtureRequest, playground: Playground, tmp_path: Path, application: str) -> Iterator[Any]:
    """The worker's settings of a bus."""
    if request.param == "directory":
        yield {"address": f"file://{tmp_path}/bus", "receiver": ["sh", "-c", "cat >/dev/null", "receiver"]}
        return
    yield {"address": playground.consul_address()}
    Consul(ConsulSettings(playground.consul_address())).delete_all(f"deploytool/{application}/")


@pytest.fixture
def bus(consul: dict[str, Any]) -> Bus:
    if "receiver" in consul:
        return DirectoryBus(consul["address"], consul["receiver"])
    return Consul(ConsulSettings(consul["address"]))


@pytest.fixture
def prefix(application: str) -> str:
    return f"deploytool/{application}/test"


@pytest.fixture
def start(tmp_path: Path, application: str, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts workers on this machine, and ends them."""
    clients: list[RawClient] = []

    def begin(**changes: Any) -> RawClient:
        build: Any = SimpleNamespace(is_local=True, root=str(tmp_path / "root"), server="local")
        channel, read = start_worker(build)
        client = RawClient(channel, read, "local")
        clients.append(client)
        hello = {
            "root": build.root,
            "application": application,
            "environment": "test",
            "store": {"url": f"file://{tmp_path}/store"},
            "consul": request.getfixturevalue("consul") if "consul" in request.fixturenames else {},
            "secrets": ["hunter2"],
            "operator": "me@laptop",
            "purpose": "testing",
        }
        client.greet(**{**hello, **changes})
        return client

    yield begin
    for client in clients:
        client.close()


def deployment(days_ago: float, mark: str = "aaaa") -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(NOW - days_ago * DAY)) + mark


def keys_of(bus: Bus, prefix: str) -> list[str]:
    return [entry.key.removeprefix(prefix + "/") for entry in bus.list(prefix + "/")]


def past(bus: Bus, prefix: str, name: str, *, role: str = "web", go: str = "go all") -> str:
    bus.put(f"{prefix}/deployments/{name}/{role}/go", go)
    bus.put(f"{prefix}/deployments/{name}/{role}/more/of/it", "value")
    return name


# --- the bus


def test_names_below_a_place_are_those_of_keys_and_of_places(bus: Bus, prefix: str) -> None:
    for key in ("x/a", "x/b/c", "x/b/d/e", "x/b", "xy/z"):
        bus.put(f"{prefix}/{key}", "value")
    assert bus.names(f"{prefix}/x/") == ["a", "b"]
    assert bus.names(f"{prefix}/none/") == []


def test_deleting_a_place_leaves_its_neighbours(bus: Bus, prefix: str) -> None:
    for key in ("x/a", "x/b/c", "x", "xy/z"):
        bus.put(f"{prefix}/{key}", "value")
    bus.delete_all(f"{prefix}/x/")
    bus.delete_all(f"{prefix}/none/")
    assert keys_of(bus, prefix) == ["x", "xy/z"]


@pytest.mark.parametrize("place", ["", "/", "deploytool", "//", "deploytool//", "../"])
def test_what_is_no_place_is_not_deleted(bus: Bus, prefix: str, place: str) -> None:
    bus.put(f"{prefix}/x", "value")
    with pytest.raises(ValueError, match="is no place below which all may be deleted"):
        bus.delete_all(place)
    assert keys_of(bus, prefix) == ["x"]


# --- freezing


def test_frozen_environment_says_by_whom_since_when_and_why(start: Start, consul: Any) -> None:
    worker = start()
    assert worker.ask("frozen")["frozen"] is None
    worker.ask("freeze", why="the sale – until Monday, hunter2")
    told = worker.ask("frozen")["frozen"]
    assert (told["operator"], told["why"]) == ("me@laptop", "the sale – until Monday, ***")
    with pytest.raises(LockedError, match=r"^test is frozen by me@laptop since 20\S+Z: the sale – until") as raised:
        start(operator="you@ci").ask("freeze", why="another reason")
    assert "`fab ENV thaw` lifts it" in str(raised.value)
    assert start(operator="you@ci").ask("thaw")["was"] == told
    assert worker.ask("frozen")["frozen"] is None
    assert worker.ask("thaw")["was"] is None


def test_other_environments_are_not_frozen(start: Start, consul: Any) -> None:
    start().ask("freeze", why="the sale")
    assert start(environment="test2").ask("frozen")["frozen"] is None


def test_of_two_who_freeze_at_once_one_wins_and_the_other_learns_who(start: Start, consul: Any) -> None:
    workers = [start(operator=f"operator-{number}") for number in range(4)]
    together = threading.Barrier(len(workers))
    outcomes: dict[int, str] = {}

    def attempt(number: int) -> None:
        together.wait()
        try:
            workers[number].ask("freeze", why=f"reason {number}")
            outcomes[number] = "won"
        except LockedError as error:
            outcomes[number] = error.message

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number, outcome in outcomes.items() if outcome == "won"]
    assert workers[0].ask("frozen")["frozen"]["why"] == f"reason {winner}"
    lost = [outcome for outcome in outcomes.values() if outcome != "won"]
    assert len(lost) == 3
    assert all(f"is frozen by operator-{winner} since" in outcome for outcome in lost)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("by hand, ask Ann", "by hand, ask Ann"),
        ('"text"', '"text"'),
        ("[" * 5000, "[" * 5000),
        ("", "no reason was given"),
        ("{}", "no reason was given"),
        ('{"why": 7}', "7"),
    ],
)
def test_whatever_stands_in_the_key_freezes(start: Start, bus: Bus, prefix: str, value: str, why: str) -> None:
    bus.put(f"{prefix}/frozen", value)
    worker = start()
    assert worker.ask("frozen")["frozen"] == {"why": why, "operator": "somebody", "at": "an unknown time"}
    with pytest.raises(LockedError, match="test is frozen by somebody since an unknown time"):
        worker.ask("freeze", why="me too")
    assert worker.ask("thaw")["was"]["why"] == why
    assert bus.get(f"{prefix}/frozen") is None


def roles(hosts: list[str], **changes: Any) -> list[dict[str, Any]]:
    url = "s3://b/web.yml"
    return [
        {"role": "web", "event": "deploy_none", "url": url, "payload": url, "hosts": hosts, "spared": [], **changes}
    ]


def test_frozen_environment_takes_no_announcement_and_nothing_is_written(start: Start, bus: Bus, prefix: str) -> None:
    worker = start()
    worker.ask("freeze", why="the sale")
    past(bus, prefix, deployment(1), go="wait 3")
    bus.put(f"{prefix}/wanted/web", f"{deployment(1)} s3://b/1")
    before = {entry.key: entry for entry in bus.list(prefix + "/")}
    with pytest.raises(LockedError, match=r"test is frozen by me@laptop since .*: the sale"):
        worker.ask("announce", deployment=deployment(0), roles=roles(["app1"]), only_hosts=False, wait=True)
    assert {entry.key: entry for entry in bus.list(prefix + "/")} == before
    worker.close()
    assert {entry.key: entry for entry in bus.list(prefix + "/")} == before
    start().ask("thaw")
    thawed = start().ask("announce", deployment=deployment(0), roles=roles(["app1"]), only_hosts=False, wait=True)
    assert thawed["frozen"] is None


def test_frozen_environment_lets_an_announcement_through_that_goes_back(start: Start, bus: Bus, prefix: str) -> None:
    worker = start()
    worker.ask("freeze", why="the sale")
    request: dict[str, Any] = {"deployment": deployment(0), "roles": roles(["app1"]), "only_hosts": False, "wait": True}
    assert worker.ask("announce", goes_back=True, **request)["frozen"]["why"] == "the sale"
    wanted = bus.get(f"{prefix}/wanted/web")
    assert wanted is not None
    assert wanted.value.startswith(deployment(0))


def test_event_may_carry_another_url_than_the_one_that_is_wanted(start: Start, tmp_path: Path) -> None:
    receiver = ["sh", "-c", f"cat >> '{tmp_path}/heard'", "receiver"]
    worker = start(consul={"address": f"file://{tmp_path}/bus", "receiver": receiver})
    other = roles(["app1"], payload="s3://b/kept/web.yml")
    worker.ask("announce", deployment=deployment(0), roles=other, only_hosts=False, wait=True)
    deadline = time.monotonic() + 10
    while not (tmp_path / "heard").exists() or (tmp_path / "heard").read_text() == "":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "heard").read_text() == "s3://b/kept/web.yml\n"
    wanted = worker.ask("status", roles={"web": Selector(nodes=["app1"])})["roles"]["web"]["wanted"]
    assert wanted == f"{deployment(0)} s3://b/web.yml"


# --- keys


def test_old_deployments_go_and_those_that_are_kept_wanted_or_young_stay(start: Start, bus: Bus, prefix: str) -> None:
    old, kept, single, wanted, young = (
        past(bus, prefix, name)
        for name in (deployment(9), deployment(8), deployment(7), deployment(6), deployment(0.03))
    )
    bus.put(f"{prefix}/wanted/web", f"{wanted} s3://b/x")
    bus.put(f"{prefix}/wanted/web/app2", f"{single} s3://b/x")
    bus.put(f"{prefix}/serving/web/app1", f"release {old}")
    bus.put(f"{prefix}/deployments/by-hand/note", "not ours")
    bus.put(f"{prefix}/deployments/99999999T999999Zaaaa/note", "no time")
    bus.put(f"{prefix}2/deployments/{old}/web/go", "another environment")
    worker = start()
    assert worker.ask("prune_keys", keep=[kept])["removed"] == [old]
    assert bus.names(f"{prefix}/deployments/") == sorted(
        [kept, single, wanted, young, "by-hand", "99999999T999999Zaaaa"]
    )
    assert "serving/web/app1" in keys_of(bus, prefix)
    assert bus.get(f"{prefix}2/deployments/{old}/web/go") is not None
    assert f"deployments/{wanted}/web/go" in keys_of(bus, prefix)
    assert worker.ask("prune_keys", keep=[kept])["removed"] == []
    assert worker.ask("prune_keys", keep=[])["removed"] == [kept]


@pytest.mark.parametrize("go", ["wait 4", "abort"])
def test_while_a_deployment_may_be_taken_back_no_keys_go(start: Start, bus: Bus, prefix: str, go: str) -> None:
    """It is wanted now; if it is aborted, the one before is wanted again, and must be whole."""
    before, under_way = past(bus, prefix, deployment(3)), past(bus, prefix, deployment(0), role="batch", go=go)
    bus.put(f"{prefix}/wanted/batch", f"{under_way} s3://b/x")
    worker = start()
    assert worker.ask("prune_keys", keep=[])["removed"] == []
    bus.put(f"{prefix}/deployments/{under_way}/batch/go", "go all")
    assert worker.ask("prune_keys", keep=[])["removed"] == [before]


def test_token_that_may_not_see_what_is_wanted_removes_nothing(tmp_path: Path, prefix: str) -> None:
    """Consul leaves out of a list what the token may not read, without a word, and refuses a single key."""

    class Blind(DirectoryBus):
        def get(self, key: str) -> Any:
            if key.startswith(f"{prefix}/wanted/"):
                raise Failure("consul", "Consul refused GET")
            return super().get(key)

        def list(self, prefix: str, **options: Any) -> Any:
            return []

    bus = Blind(f"file://{tmp_path}/bus", [])
    name = past(bus, prefix, deployment(3))
    with pytest.raises(Failure, match="Consul refused GET"):
        prune_deployments(bus, prefix, [], now=NOW, go_on=lambda: None)
    assert bus.names(f"{prefix}/deployments/") == [name]


def test_age_is_told_by_this_machines_clock(bus: Bus, prefix: str) -> None:
    name = past(bus, prefix, "20260101T100000Zaaaa")
    at = 1767261600  # 2026-01-01 10:00:00 UTC
    assert prune_deployments(bus, prefix, [], now=at - 5, go_on=lambda: None) == []
    assert prune_deployments(bus, prefix, [], now=at + 3600, go_on=lambda: None) == []
    assert prune_deployments(bus, prefix, [], now=at + 3601, go_on=lambda: None) == [name]


def test_pruning_stops_when_the_operator_interrupts(bus: Bus, prefix: str) -> None:
    for days in (3, 4):
        past(bus, prefix, deployment(days))
    asked = []

    def go_on() -> None:
        asked.append(True)
        if len(asked) > 1:
            raise Failure("interrupted", "interrupted")

    with pytest.raises(Failure, match="interrupted"):
        prune_deployments(bus, prefix, [], now=NOW, go_on=go_on)
    assert bus.names(f"{prefix}/deployments/") == [deployment(3)]


def test_environment_without_anything_has_nothing_to_remove(start: Start, consul: Any) -> None:
    assert start().ask("prune_keys", keep=[])["removed"] == []


def test_consul_that_refuses_is_told_with_the_right_that_is_missing(playground: Playground) -> None:
    # SeaweedFS answers 403 to whom it does not know, as Consul does.
    refusing = Consul(ConsulSettings(playground.endpoint_url))
    with pytest.raises(Failure, match="Consul refused GET") as raised:
        refusing.names("deploytool/x/")
    assert raised.value.hint == 'it needs key_prefix "deploytool/" read'
    with pytest.raises(Failure, match="Consul refused DELETE") as raised:
        refusing.delete_all("deploytool/x/")
    assert raised.value.hint == 'it needs key_prefix "deploytool/" write'


def test_unreachable_consul_has_a_sentence(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start(consul={"address": "http://127.0.0.1:9"})
    with pytest.raises(ConsulError, match=r"Consul at http://127\.0\.0\.1:9 does not answer"):
        worker.ask("frozen")


# --- the build server


def log(directory: Path, name: str, hours_ago: float, size: int = 10) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_bytes(b"x" * size)
    os.utime(path, (NOW - hours_ago * 3600,) * 2)
    return path


def test_old_logs_go_but_for_the_newest_the_young_and_those_of_releases_that_are_kept(
    start: Start, tmp_path: Path, application: str
) -> None:
    logs = tmp_path / "root" / application / "logs"
    old = [log(logs, f"old-{number}.log", 100 + number) for number in range(3)]
    kept = log(logs, "20260101T100000Z-1a2b3c4.log", 500)
    other = log(logs, "notes.txt", 500)
    newest = [log(logs, f"new-{number}.log", 2 + number) for number in range(2)]
    answer = start().ask("prune_build_server", keep=["20260101T100000Z-1a2b3c4"], logs=2)
    assert sorted(answer["removed"]) == sorted(str(path) for path in old)
    assert answer["freed_bytes"] == 30
    assert sorted(logs.iterdir()) == sorted([kept, other, *newest])


def test_young_logs_stay_however_few_are_to_be_kept(start: Start, tmp_path: Path, application: str) -> None:
    logs = tmp_path / "root" / application / "logs"
    young = log(logs, "young.log", 0.5)
    old = log(logs, "old.log", 2)
    assert start().ask("prune_build_server", keep=[], logs=0)["removed"] == [str(old)]
    assert young.exists()


def test_log_that_somebody_writes_stays_although_its_step_is_silent_for_hours(start: Start, tmp_path: Path) -> None:
    writer = start()
    path = Path(writer.ask("run", step="try", script="echo begun", timeout_seconds=30)["log"])
    os.utime(path, (0, 0))
    assert start().ask("prune_build_server", keep=[], logs=0)["removed"] == []
    writer.close()
    # Its last words were just written.
    os.utime(path, (0, 0))
    assert start().ask("prune_build_server", keep=[], logs=0)["removed"] == [str(path)]


def test_leftovers_of_migrations_go_with_directories_that_may_not_be_written(
    start: Start, tmp_path: Path, application: str
) -> None:
    root = tmp_path / "root" / application
    log(root / "unpacked/test/release/app", "a", 0, 1000)
    (root / "unpacked/test/release/app").chmod(0o500)
    outside = log(tmp_path / "outside", "b", 0)
    (root / "unpacked/test/release/link").symlink_to(tmp_path / "outside")
    log(root / "unpacked/production/release", "a", 0)
    answer = start().ask("prune_build_server", keep=[], logs=5)
    assert answer["removed"] == [str(root / "unpacked/test")]
    assert answer["freed_bytes"] >= 1000
    assert outside.exists()
    assert (root / "unpacked/production/release/a").exists()


def test_what_another_operator_has_unpacked_stays(start: Start, tmp_path: Path, application: str) -> None:
    unpacked = log(tmp_path / "root" / application / "unpacked/test/release", "a", 0)
    holder = start()
    holder.ask("lock", name="test", wait=False)
    assert start().ask("prune_build_server", keep=[], logs=5)["removed"] == []
    assert unpacked.exists()
    # Whoever holds the lock may, and holds it afterwards.
    assert len(holder.ask("prune_build_server", keep=[], logs=5)["removed"]) == 1
    with pytest.raises(LockedError):
        start().ask("lock", name="test", wait=False)


def test_worker_files_that_nobody_started_for_a_month_go(start: Start, tmp_path: Path) -> None:
    worker = start()
    home = tmp_path / "root/.worker"
    ours = list(home.glob("*.pyz"))
    names = ("0" * 64 + ".cpython-38.pyz", "0" * 64 + ".pyz", "1" * 64 + ".cpython-38.pyz.17", "1" * 64 + ".pyz.4711")
    unused = [log(home, name, 24 * 31) for name in names]
    used = log(home, "2" * 64 + ".pyz", 24 * 29)
    other = log(home, "python3.11.lock", 24 * 365)
    assert worker.ask("prune_build_server", keep=[], logs=5)["removed"] == [str(path) for path in unused]
    assert sorted(home.iterdir()) == sorted([*ours, used, other])


def test_compressor_that_nobody_has_used_for_a_month_goes(start: Start, tmp_path: Path) -> None:
    worker = start()
    home = tmp_path / "root/.worker"
    for name, age in (("isal-1.0.0-cpython-38", 31), ("isal-9.9.9-cpython-38", 29)):
        (home / name / "isal").mkdir(parents=True)
        log(home / name, MARKER, 24 * age)
    # Half made; whoever installs it next removes it.
    (home / "isal-1.0.0-cpython-38.new").mkdir()
    old = home / "isal-1.0.0-cpython-38"
    assert worker.ask("prune_build_server", keep=[], logs=5)["removed"] == [str(old)]
    assert not old.exists()
    assert (home / "isal-9.9.9-cpython-38").exists()


def test_worker_file_that_is_started_counts_as_used(start: Start, tmp_path: Path) -> None:
    start().close()
    ours = list((tmp_path / "root/.worker").glob("*.pyz"))
    for path in ours:
        os.utime(path, (0, 0))
    assert start().ask("prune_build_server", keep=[], logs=5)["removed"] == []
    assert all(path.exists() for path in ours)


def test_nothing_else_on_the_build_server_is_touched(start: Start, tmp_path: Path, application: str) -> None:
    root = tmp_path / "root" / application
    paths = [
        log(root / place, "a.log", 24 * 365)
        for place in ("locks", "shared/test", "repository.git", "workspace", "logs/below")
    ]
    assert start().ask("prune_build_server", keep=[], logs=0) == {"removed": [], "freed_bytes": 0}
    assert all(path.exists() for path in paths)


def test_what_can_not_be_removed_has_a_sentence_and_stops_nothing_else(
    start: Start, tmp_path: Path, application: str
) -> None:
    logs = tmp_path / "root" / application / "logs"
    old = log(logs, "old.log", 5)
    stuck = tmp_path / "root" / application / "unpacked/test"
    stuck.parent.mkdir()
    stuck.write_text("a file where a directory should be")
    with pytest.raises(StepError, match=f"{stuck} can't be removed on the build server"):
        start().ask("prune_build_server", keep=[], logs=0)
    assert not old.exists()


def test_freezing_is_written_as_others_read_it(start: Start, bus: Bus, prefix: str) -> None:
    start().ask("freeze", why="the sale")
    entry = bus.get(f"{prefix}/frozen")
    assert entry is not None
    content = json.loads(entry.value)
    assert set(content) == {"why", "operator", "at"}
