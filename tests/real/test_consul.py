"""What the worker says to the real Consul: events of the largest size, compare-and-set, and what is taken back."""

import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground.playground import Playground
from deploytool.state.targets import EVENT_BYTES, EVENT_ENVELOPE_BYTES
from deploytool.text import ids
from deploytool.text.masking import Masking
from deploytool.worker import announcement
from deploytool.worker import consul as consul_module
from deploytool.worker.announcement import Announcement
from deploytool.worker.consul import Consul
from deploytool.worker.failure import Failure
from deploytool.worker.reports import MOST_BYTES, MOST_ODD, Watch, watch_reports
from deploytool.worker.retention import prune_deployments, prune_reports
from deploytool.worker.wire import ConsulSettings, Report, Reports, Selector, Target


@pytest.fixture
def consul(playground: Playground) -> Consul:
    return Consul(ConsulSettings(playground.consul_address()))


@pytest.fixture
def prefix(consul: Consul) -> Iterator[str]:
    made = f"deploytool/test-{uuid.uuid4().hex[:8]}/env"
    yield made
    consul.delete_all(f"{made}/")


def target(name: str, **changes: Any) -> Target:
    known: dict[str, Any] = {"role": "web", "event": "deploy_none", "url": f"s3://b/{name}", "hosts": ["a"]}
    made = {"spared": [], **known, **changes}
    return Target(**{"payload": made["url"], **made})


def announce(consul: Consul, prefix: str, deployment: str, *, only_hosts: bool = False, **changes: Any) -> Announcement:
    made = Announcement(consul, prefix, deployment, [target(deployment, **changes)], only_hosts)
    made.announce(wait=True)
    return made


def value(consul: Consul, key: str) -> str | None:
    entry = consul.get(key)
    return entry.value if entry else None


def events_so_far(consul: Consul) -> int:
    """The cluster's clock of events, after one more."""
    assert consul.fire("deploy_none", "x", [])
    events, _ = consul.call("GET", "/v1/event/list", right="event read", read=lambda answer: answer)
    return max(int(event["LTime"]) for event in events)


def clock_bytes(events: int) -> int:
    """How many bytes msgpack takes for the number."""
    return next(size for size, end in ((1, 1 << 7), (2, 1 << 8), (3, 1 << 16), (5, 1 << 32)) if events < end)


@pytest.mark.parametrize("name", ["deploy_s_w_p", "deploy_www_production", "deploy_" + "n" * 26, "deploy_" + "n" * 60])
def test_event_holds_what_we_say_and_at_most_seven_bytes_more(consul: Consul, name: str) -> None:
    room = EVENT_BYTES - EVENT_ENVELOPE_BYTES - 2 * len(name)
    assert consul.fire(name, "x" * room, [])
    with pytest.raises(Failure, match="512 bytes after encoding"):
        consul.fire(name, "x" * (room + 8), [])


def test_room_of_an_event_is_that_of_a_cluster_that_has_seen_many(consul: Consul) -> None:
    """The longer a cluster lives, the less an event holds; the room that we count on lasts for 2³² events."""
    # The next few are to be of the same length.
    while clock_bytes(events := events_so_far(consul)) != clock_bytes(events + 8):
        pass
    name = "deploy_" + "n" * 30
    lasting = EVENT_BYTES - EVENT_ENVELOPE_BYTES - 2 * len(name)
    room = lasting + 5 - clock_bytes(events)
    assert consul.fire(name, "x" * room, [])
    with pytest.raises(Failure, match="512 bytes after encoding"):
        consul.fire(name, "x" * (room + 1), [])


def test_announcing_writes_the_barrier_and_what_is_wanted(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000001Zaaaa")
    assert value(consul, f"{prefix}/wanted/web") == "20260101T000001Zaaaa s3://b/20260101T000001Zaaaa"
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web/go") == "wait 0"


def test_abort_puts_back_what_was_wanted(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000001Zaaaa").go()
    second = announce(consul, prefix, "20260101T000002Zaaaa")
    second.abort()
    assert value(consul, f"{prefix}/wanted/web") == "20260101T000001Zaaaa s3://b/20260101T000001Zaaaa"
    assert value(consul, f"{prefix}/deployments/20260101T000002Zaaaa/web/go") == "abort"


def test_abort_of_the_very_first_deployment_leaves_nothing_wanted(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000001Zaaaa").abort()
    assert value(consul, f"{prefix}/wanted/web") is None


def test_abort_after_go_changes_nothing(consul: Consul, prefix: str) -> None:
    made = announce(consul, prefix, "20260101T000001Zaaaa")
    made.go()
    made.abort()
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web/go") == "go all"


def test_abort_does_not_touch_what_somebody_else_has_announced_since(consul: Consul, prefix: str) -> None:
    first = announce(consul, prefix, "20260101T000001Zaaaa")
    announce(consul, prefix, "20260101T000002Zbbbb")
    first.abort()
    assert value(consul, f"{prefix}/wanted/web") == "20260101T000002Zbbbb s3://b/20260101T000002Zbbbb"


def test_go_lets_all_roles_go_or_none(consul: Consul, prefix: str) -> None:
    roles = [target(role, role=role) for role in ("web", "batch")]
    made = Announcement(consul, prefix, "20260101T000001Zaaaa", roles, False)
    made.announce(wait=True)
    keys = [f"{prefix}/deployments/20260101T000001Zaaaa/{role}/go" for role in ("web", "batch")]
    real = made._bus.put_all
    # Between our look and our write, somebody aborts one role.
    made._bus.put_all = lambda writes: consul.put(keys[1], "abort") and real(writes)  # type: ignore[method-assign]
    with pytest.raises(Failure, match="nobody went"):
        made.go()
    assert [value(consul, key) for key in keys] == ["wait 0", "abort"]
    made.abort()
    assert value(consul, f"{prefix}/wanted/web") is None


def test_go_after_an_abort_by_somebody_else_is_refused(consul: Consul, prefix: str) -> None:
    made = announce(consul, prefix, "20260101T000001Zaaaa")
    announce(consul, prefix, "20260101T000002Zbbbb")
    with pytest.raises(Failure, match="somebody else aborted this deployment"):
        made.go()
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web/go") == "abort"


def test_go_after_our_own_abort_is_refused(consul: Consul, prefix: str) -> None:
    made = announce(consul, prefix, "20260101T000001Zaaaa")
    made.abort()
    with pytest.raises(Failure, match="was taken back"):
        made.go()
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web/go") == "abort"


class Failing:
    """A bus that can be made to fail, in front of the real one."""

    def __init__(self, bus: Consul) -> None:
        self._bus = bus
        self.fails: set[str] = set()
        self.answers_get_lost = False

    def __getattr__(self, name: str) -> Any:
        raise_it = Failure("consul", f"{name} failed") if name in self.fails else None

        def call(*arguments: Any, **options: Any) -> Any:
            if raise_it is not None and not self.answers_get_lost:
                raise raise_it
            result = getattr(self._bus, name)(*arguments, **options)
            if raise_it is not None:
                raise raise_it
            return result

        return call


def test_abort_that_failed_is_tried_again(consul: Consul, prefix: str) -> None:
    bus = Failing(consul)
    role = target("x")
    made = Announcement(bus, prefix, "20260101T000001Zaaaa", [role], False)
    made.announce(wait=True)
    bus.fails = {"put", "delete"}
    with pytest.raises(Failure, match="was not taken back whole"):
        made.abort()
    assert value(consul, f"{prefix}/wanted/web") is not None
    bus.fails = set()
    made.abort()
    assert value(consul, f"{prefix}/wanted/web") is None
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web/go") == "abort"


def test_go_whose_answer_was_lost_is_found_out(consul: Consul, prefix: str) -> None:
    bus = Failing(consul)
    role = target("x")
    made = Announcement(bus, prefix, "20260101T000001Zaaaa", [role], False)
    made.announce(wait=True)
    bus.fails, bus.answers_get_lost = {"put_all"}, True
    made.go()
    made.abort()
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web/go") == "go all"


def test_event_that_can_not_be_fired_takes_everything_back(consul: Consul, prefix: str) -> None:
    bus = Failing(consul)
    bus.fails = {"fire"}
    role = target("x")
    with pytest.raises(Failure, match="fire failed"):
        Announcement(bus, prefix, "20260101T000001Zaaaa", [role], False).announce(wait=True)
    assert value(consul, f"{prefix}/wanted/web") is None
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web/go") == "abort"


def test_hosts_that_went_without_being_waited_for_are_not_taken_back(consul: Consul, prefix: str) -> None:
    class FiresOnce(Failing):
        def fire(self, name: str, payload: str, hosts: list[str]) -> str:
            if self.fails:
                raise Failure("consul", "the second event failed")
            self.fails = {"fire"}
            return consul.fire(name, payload, hosts)

    roles = [target(role, role=role) for role in ("web", "batch")]
    made = Announcement(FiresOnce(consul), prefix, "20260101T000001Zaaaa", roles, False)
    with pytest.raises(Failure, match="the second event failed"):
        made.announce(wait=False)
    made.abort()
    for role in ("web", "batch"):
        assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/{role}/go") == "go all"
        assert value(consul, f"{prefix}/wanted/{role}") == f"20260101T000001Zaaaa s3://b/{role}"


def test_abort_of_an_open_deployment_wins_over_its_ticks(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000001Zaaaa")
    go = f"{prefix}/deployments/20260101T000001Zaaaa/web/go"
    ticks = iter(["wait 1", "wait 2"])

    class Ticking(Failing):
        def put(self, key: str, value: str, **options: Any) -> bool:
            if value == "abort" and (tick := next(ticks, None)):
                consul.put(go, tick)
            return consul.put(key, value, **options)

    role = target("x")
    Announcement(Ticking(consul), prefix, "20260101T000002Zbbbb", [role], False).announce(wait=True)
    assert value(consul, go) == "abort"


def test_abort_does_not_overwrite_a_go_that_was_written_unheard(consul: Consul, prefix: str) -> None:
    made = announce(consul, prefix, "20260101T000001Zaaaa")
    go = f"{prefix}/deployments/20260101T000001Zaaaa/web/go"
    consul.put(go, "go all")
    made.abort()
    assert value(consul, go) == "go all"


def test_refused_go_says_why(consul: Consul, prefix: str) -> None:
    bus = Failing(consul)
    role = target("x")
    made = Announcement(bus, prefix, "20260101T000001Zaaaa", [role], False)
    made.announce(wait=True)
    bus.fails = {"put_all"}
    with pytest.raises(Failure, match="put_all failed"):
        made.go()


def test_nonsense_in_wanted_stops_no_deployment(consul: Consul, prefix: str) -> None:
    consul.put(f"{prefix}/wanted/web", "zzz")
    announce(consul, prefix, "20260101T000001Zaaaa")
    assert value(consul, f"{prefix}/wanted/web") == "20260101T000001Zaaaa s3://b/20260101T000001Zaaaa"


@pytest.mark.parametrize(
    ("name", "words"),
    [("99990101T000000Zaaaa", "which is of 99990101, "), ("99999999T999999Zaaaa", "which begins with no time")],
)
@pytest.mark.parametrize("place", ["web", "web/a"])
def test_id_in_wanted_that_can_not_be_is_refused_with_the_command_that_removes_it(
    consul: Consul, prefix: str, name: str, words: str, place: str
) -> None:
    key = f"{prefix}/wanted/{place}"
    consul.put(key, f"{name} s3://b/x")
    for attempt in (
        lambda: announce(consul, prefix, OLD, only_hosts=place == "web/a"),
        lambda: prune_deployments(consul, prefix, [], now=time.time(), go_on=lambda: None),
    ):
        with pytest.raises(Failure) as raised:
            attempt()
        assert f"{key} in Consul names the deployment {name}, {words}" in raised.value.message
        assert f"`consul kv delete {key}`" in str(raised.value.hint)
    assert value(consul, key) == f"{name} s3://b/x"
    # Somebody else's clock may be a little ahead.
    soon = ids.compact(ids.now() + timedelta(hours=12)) + "aaaa"
    consul.put(key, f"{soon} s3://b/x")
    with pytest.raises(Failure, match=f"a newer deployment, {soon}"):
        announce(consul, prefix, OLD, only_hosts=place == "web/a")


def test_node_whose_name_can_be_no_hosts_is_named(playground: Playground, consul: Consul) -> None:
    """Whoever may write nodes could else put lines into what is signed."""
    name = {"Node": "app9\nmanifest batch 0"}

    def change(what: str, said: Mapping[str, Any]) -> None:
        url = f"{playground.consul_address()}/v1/catalog/{what}"
        request = urllib.request.Request(url, data=json.dumps(said).encode(), method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    change("register", {**name, "Address": "127.0.0.9", "NodeMeta": {"role": "odd"}})
    try:
        with pytest.raises(Failure) as caught:
            consul.hosts(Selector(node_meta={"role": "odd"}))
    finally:
        change("deregister", name)
    assert r"a node that is called 'app9\nmanifest batch 0'" in caught.value.message


@pytest.mark.parametrize("content", ["s3cr3t-token\n# comment\n", "two words", "tök"])
def test_token_file_with_more_than_the_token_has_a_sentence_without_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(Failure, match="must hold the token and nothing else") as raised:
        Consul(ConsulSettings("http://127.0.0.1:1", str(tmp_path / "token")))
    assert "s3cr3t" not in str(raised.value.masked(Masking()))


def test_missing_certificate_file_has_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_CACERT", "/no/such/file.pem")
    with pytest.raises(Failure, match=r"ca_file /no/such/file\.pem on the build server is not there"):
        Consul(ConsulSettings("https://127.0.0.1:8501")).get("x")


def test_deployment_aborts_one_that_is_still_open(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000001Zaaaa")
    announce(consul, prefix, "20260101T000002Zaaaa")
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web/go") == "abort"


def test_older_deployment_can_not_be_announced_over_a_newer_one(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000002Zaaaa").go()
    with pytest.raises(Failure, match="a newer deployment, 20260101T000002Zaaaa, has been announced"):
        announce(consul, prefix, "20260101T000001Zaaaa")
    assert value(consul, f"{prefix}/wanted/web") == "20260101T000002Zaaaa s3://b/20260101T000002Zaaaa"


def test_of_two_announced_at_once_one_wins_and_the_other_says_so(consul: Consul, prefix: str) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(4)

    def attempt(number: int) -> None:
        start.wait()
        try:
            announce(consul, prefix, f"2026010{number}T000002Zaaaa")
            outcomes.append(f"2026010{number}T000002Zaaaa")
        except Failure:
            outcomes.append("lost")

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [name for name in outcomes if name != "lost"]
    assert won
    wanted = value(consul, f"{prefix}/wanted/web")
    assert wanted is not None
    assert wanted.split(" ")[0] == max(won)


def test_single_hosts_are_wanted_apart_and_a_whole_deployment_ends_that(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000001Zaaaa").go()
    announce(consul, prefix, "20260101T000002Zaaaa", only_hosts=True).go()
    assert value(consul, f"{prefix}/wanted/web") == "20260101T000001Zaaaa s3://b/20260101T000001Zaaaa"
    assert value(consul, f"{prefix}/wanted/web/a") == "20260101T000002Zaaaa s3://b/20260101T000002Zaaaa"
    whole = announce(consul, prefix, "20260101T000003Zaaaa")
    assert value(consul, f"{prefix}/wanted/web/a") is None
    whole.abort()
    assert value(consul, f"{prefix}/wanted/web/a") == "20260101T000002Zaaaa s3://b/20260101T000002Zaaaa"


def test_role_whose_name_begins_alike_is_another_role(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000001Zaaaa", role="web2")
    announce(consul, prefix, "20260101T000002Zaaaa")
    assert value(consul, f"{prefix}/deployments/20260101T000001Zaaaa/web2/go") == "wait 0"


def test_barrier_counts_only_while_the_operator_is_heard(
    consul: Consul, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcement, "TICK_SECONDS", 0.0)
    made = announce(consul, prefix, "20260101T000001Zaaaa")
    go = f"{prefix}/deployments/20260101T000001Zaaaa/web/go"
    made.tick(heard_seconds_ago=1)
    made.tick(heard_seconds_ago=1)
    assert value(consul, go) == "wait 2"
    made.tick(heard_seconds_ago=31)
    assert value(consul, go) == "wait 2"
    made.go()
    made.tick(heard_seconds_ago=1)
    assert value(consul, go) == "go all"


# --- in waves

OLD, NEW, NEWER = "20260101T000001Zaaaa", "20260101T000002Zaaaa", "20260101T000003Zaaaa"
HOSTS = ("a", "b", "c")


class Calls:
    """A bus that writes down what is asked of it, in front of the real one."""

    def __init__(self, bus: Consul) -> None:
        self._bus = bus
        self.made: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.made.append((name, *arguments))
            return getattr(self._bus, name)(*arguments, **options)

        return call


def in_waves(bus: Any, prefix: str, deployment: str, hosts: Sequence[str] = HOSTS, **changes: Any) -> Announcement:
    role = target(deployment, hosts=list(hosts), **changes)
    made = Announcement(bus, prefix, deployment, [role], False, True)
    made.announce(wait=True)
    return made


def wanted(consul: Consul, prefix: str) -> dict[str, str]:
    """The deployment that is wanted: of the role, and of single hosts."""
    top = f"{prefix}/wanted/"
    return {entry.key[len(top) :]: entry.value.split(" ")[0] for entry in consul.list(top)}


def barrier(consul: Consul, prefix: str, deployment: str, role: str = "web") -> str | None:
    return value(consul, f"{prefix}/deployments/{deployment}/{role}/go")


@pytest.fixture
def old(consul: Consul, prefix: str) -> str:
    """A deployment that all hosts have."""
    announce(consul, prefix, OLD, hosts=list(HOSTS)).go()
    return OLD


def test_all_at_once_makes_the_very_same_calls_as_ever(consul: Consul, prefix: str) -> None:
    bus = Calls(consul)
    role = target("x", hosts=["a", "b"])
    made = Announcement(bus, prefix, NEW, [role], False)
    made.announce(wait=True)
    made.go()
    made.abort()
    made.settle()
    go, whole = f"{prefix}/deployments/{NEW}/web/go", f"{prefix}/wanted/web"
    written = consul.get(whole)
    assert written is not None
    named = [call[:-1] if call[0] == "put_all" else call for call in bus.made]
    assert named == [
        ("get", f"{prefix}/frozen"),
        ("get", whole),
        ("get", whole),
        ("list", f"{whole}/"),
        ("keys", f"{prefix}/reports/"),
        ("delete_places", []),
        ("delete_keys", []),
        ("put", go, "wait 0"),
        ("get", whole),
        ("put", whole, f"{NEW} s3://b/x"),
        ("list", f"{whole}/"),
        ("fire", "deploy_none", "s3://b/x", ["a", "b"]),
        ("get", go),
        ("put_all",),
    ]
    [writes] = [call[1] for call in bus.made if call[0] == "put_all"]
    assert [(key, text) for key, text, _ in writes] == [(go, "go all")]


def test_rollout_in_waves_wants_it_of_single_hosts_until_the_last_has_gone(
    consul: Consul, prefix: str, old: str
) -> None:
    made = in_waves(consul, prefix, NEW)
    by_host = {"web": OLD, "web/a": NEW, "web/b": NEW, "web/c": NEW}
    assert wanted(consul, prefix) == by_host
    made.go({"web": ["a"]})
    assert barrier(consul, prefix, NEW) == "go a +1"
    made.go({"web": ["a", "b"]})
    assert barrier(consul, prefix, NEW) == "go a b +2"
    # Not all have gone yet.
    made.settle()
    assert wanted(consul, prefix) == by_host
    made.go()
    assert barrier(consul, prefix, NEW) == "go all"
    assert wanted(consul, prefix) == by_host
    made.settle()
    made.settle()
    assert wanted(consul, prefix) == {"web": NEW}


def test_barrier_counts_between_two_waves(consul: Consul, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcement, "TICK_SECONDS", 0.0)
    made = in_waves(consul, prefix, NEW)
    made.tick(heard_seconds_ago=1)
    made.go({"web": ["a"]})
    made.tick(heard_seconds_ago=1)
    assert barrier(consul, prefix, NEW) == "go a +3"
    made.tick(heard_seconds_ago=31)
    assert barrier(consul, prefix, NEW) == "go a +3"
    made.go()
    made.tick(heard_seconds_ago=1)
    assert barrier(consul, prefix, NEW) == "go all"


def test_halted_rollout_leaves_those_that_stay_as_they_are_and_the_others_as_they_were(
    consul: Consul, prefix: str, old: str
) -> None:
    announce(consul, prefix, NEW, only_hosts=True, hosts=["c"]).go()
    made = in_waves(consul, prefix, NEWER)
    made.go({"web": ["a", "b"]})
    # b has failed, and went back by itself.
    made.halt({"web": ["a"]})
    assert barrier(consul, prefix, NEWER) == "only a"
    assert wanted(consul, prefix) == {"web": OLD, "web/a": NEWER, "web/c": NEW}
    with pytest.raises(Failure, match="was taken back"):
        made.go()


def test_rollout_that_nobody_stays_with_is_aborted(consul: Consul, prefix: str, old: str) -> None:
    made = in_waves(consul, prefix, NEW)
    made.go({"web": ["a"]})
    made.halt({})
    assert barrier(consul, prefix, NEW) == "abort"
    assert wanted(consul, prefix) == {"web": OLD}


def test_rollout_can_be_halted_after_its_last_wave(consul: Consul, prefix: str, old: str) -> None:
    made = in_waves(consul, prefix, NEW)
    made.go()
    made.halt({"web": ["a", "c"]})
    assert barrier(consul, prefix, NEW) == "only a c"
    assert wanted(consul, prefix) == {"web": OLD, "web/a": NEW, "web/c": NEW}
    made.settle()
    assert wanted(consul, prefix) == {"web": OLD, "web/a": NEW, "web/c": NEW}


def test_worker_that_ends_between_two_waves_lets_the_others_leave(consul: Consul, prefix: str, old: str) -> None:
    made = in_waves(consul, prefix, NEW)
    made.go({"web": ["a"]})
    # As the worker does when its line ends.
    assert made.abort() is True
    made.settle()
    assert barrier(consul, prefix, NEW) == "only a"
    assert wanted(consul, prefix) == {"web": OLD, "web/a": NEW}


def test_worker_that_ends_after_the_last_wave_settles_it(consul: Consul, prefix: str, old: str) -> None:
    made = in_waves(consul, prefix, NEW)
    made.go({"web": ["a"]})
    made.go()
    assert made.abort() is True
    made.settle()
    assert wanted(consul, prefix) == {"web": NEW}


def test_settling_that_failed_is_tried_again(consul: Consul, prefix: str, old: str) -> None:
    bus = Failing(consul)
    made = in_waves(bus, prefix, NEW)
    made.go()
    bus.fails = {"delete"}
    with pytest.raises(Failure):
        made.settle()
    bus.fails = set()
    made.settle()
    assert wanted(consul, prefix) == {"web": NEW}


def test_hosts_that_ran_it_already_keep_the_deployment_that_they_have(consul: Consul, prefix: str, old: str) -> None:
    paused = in_waves(consul, prefix, NEW)
    paused.go({"web": ["a"]})
    paused.halt({"web": ["a"]})
    promoted = in_waves(consul, prefix, NEWER, ["b", "c"], spared=["a"])
    promoted.go()
    promoted.settle()
    assert wanted(consul, prefix) == {"web": NEWER, "web/a": NEW}
    # Until the next one that is for all.
    announce(consul, prefix, "20260101T000004Zaaaa", hosts=list(HOSTS)).go()
    assert wanted(consul, prefix) == {"web": "20260101T000004Zaaaa"}


def test_role_that_has_no_host_left_is_settled_without_an_event(consul: Consul, prefix: str, old: str) -> None:
    bus = Calls(consul)
    made = in_waves(bus, prefix, NEW, [], spared=list(HOSTS))
    made.go()
    made.settle()
    assert wanted(consul, prefix) == {"web": NEW}
    assert "fire" not in [name for name, *_ in bus.made]


def test_next_deployment_ends_one_that_was_left_between_two_waves(consul: Consul, prefix: str, old: str) -> None:
    """Its worker was killed: nobody closed its barrier."""
    left = in_waves(consul, prefix, NEW)
    left.go({"web": ["a"]})
    announce(consul, prefix, NEWER, hosts=list(HOSTS)).go()
    assert barrier(consul, prefix, NEW) == "only a"
    assert wanted(consul, prefix) == {"web": NEWER}
    with pytest.raises(Failure, match="somebody else aborted"):
        left.go()
    left.abort()
    assert wanted(consul, prefix) == {"web": NEWER}


def test_rollout_in_waves_does_not_overtake_a_newer_deployment_of_all_hosts(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, NEWER).go()
    with pytest.raises(Failure, match="a newer deployment"):
        in_waves(consul, prefix, NEW)
    assert wanted(consul, prefix) == {"web": NEWER}


def test_keys_are_pruned_beside_a_paused_rollout_and_not_while_one_waits(consul: Consul, prefix: str) -> None:
    stale = "20251231T000001Zaaaa"
    for name in (stale, OLD):
        announce(consul, prefix, name, hosts=list(HOSTS)).go()
    made = in_waves(consul, prefix, NEW)
    made.go({"web": ["a"]})
    assert prune_deployments(consul, prefix, [], now=time.time(), go_on=lambda: None) == []
    made.halt({"web": ["a"]})
    assert prune_deployments(consul, prefix, [], now=time.time(), go_on=lambda: None) == [stale]


def test_reports_are_told_once_each_and_again_when_they_change(consul: Consul, prefix: str) -> None:
    announce(consul, prefix, "20260101T000001Zaaaa")
    news: list[Report] = []
    ended = threading.Event()

    def tell(told: Reports) -> None:
        news.extend(told.reports)

    hosts = {"web": ["a", "b", "z"]}
    arguments = (consul, prefix, "20260101T000001Zaaaa", "release", hosts, tell, ended)
    watching = threading.Thread(target=watch_reports, args=arguments)
    watching.start()
    place, name = f"{prefix}/reports/web", "20260101T000001Zaaaa"
    try:
        for host, text in (("a", "one"), ("b", "two"), ("a", "three")):
            consul.put(f"{place}/{host}/{name}/fetched", text)
            deadline = time.monotonic() + 10
            while not news or news[-1].value != text:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        time.sleep(0.5)
    finally:
        ended.set()
        consul.put(f"{place}/z/{name}/fetched", "wakes the watch")
        watching.join(20)
    told = [(item.host, item.value) for item in news if item.host != "z"]
    assert told == [("a", "one"), ("b", "two"), ("a", "three")]


def reports_there(consul: Consul, prefix: str) -> set[str]:
    return {entry.key.removeprefix(f"{prefix}/reports/") for entry in consul.list(f"{prefix}/reports/")}


def test_reports_on_older_deployments_go_with_the_next_and_nobody_is_named(consul: Consul, prefix: str) -> None:
    gone = [
        f"{role}/host{number}/{OLD}/{state}"
        for role in ("web", "batch")
        for number in range(50)
        for state in ("fetched", "verified", "listens")
    ]
    for place in (*gone, f"web/a/{NEW}/verified", "watched"):
        consul.put(f"{prefix}/reports/{place}", "value")
    assert announce(consul, prefix, NEW).note is None
    assert reports_there(consul, prefix) == {f"web/a/{NEW}/verified"}


#: What no deployment and no `check` writes.
ODD = [
    *(f"web/a/{NEWER}/failed", "web/a/by-hand/x", "web/a", f"web/b/{OLD}/junk", f"web/b//{OLD}/failed"),
    *(f"web/c/../d/{OLD}/failed", "web/c/99999999T999999Zaaaa/failed", f"web/{'x' * 1000}/y/z"),
]


def test_reports_of_no_deployment_are_removed_and_whose_place_they_filled_is_named(consul: Consul, prefix: str) -> None:
    raw = [{"KV": {"Verb": "set", "Key": f"{prefix}/reports/{place}", "Value": "eA=="}} for place in ODD]
    consul.call("PUT", "/v1/txn", body=json.dumps(raw).encode(), right="", read=lambda answer: answer)
    assert reports_there(consul, prefix) == set(ODD)
    note = announce(consul, prefix, NEW).note
    assert reports_there(consul, prefix) == set()
    assert note is not None
    assert "a (web): 3, b (web): 2, c (web): 2, " + "x" * 100 + " (web): 1. Look what runs there" in note


def test_cleanup_removes_reports_of_no_deployment_and_leaves_those_that_count(consul: Consul, prefix: str) -> None:
    now = time.time()
    young, ahead = (ids.compact(ids.now() + timedelta(hours=hours)) + "aaaa" for hours in (-0.5, 12))
    stays = [f"web/a/{name}/verified" for name in (OLD, young, ahead)]
    over = [f"web/a/{NEW}/verified"]
    foreign = [f"web/b/99990101T000000Zaaaa/x{number}" for number in range(3)] + [f"web/c/{OLD}/junk"]
    for place in (*stays, *over, *foreign):
        consul.put(f"{prefix}/reports/{place}", "value")
    note = prune_reports(consul, prefix, [OLD], now=now)
    assert reports_there(consul, prefix) == set(stays)
    assert note is not None
    assert "b (web): 3, c (web): 1." in note


def test_place_that_holds_very_many_is_emptied_whole(consul: Consul, prefix: str) -> None:
    for number in range(MOST_ODD + 1):
        consul.put(f"{prefix}/reports/web/a/{number}/x", "value")
    bus = Calls(consul)
    assert Announcement(bus, prefix, NEW, [target(NEW)], False).announce(wait=True) is None
    assert reports_there(consul, prefix) == set()
    [places] = [call[1] for call in bus.made if call[0] == "delete_places"]
    assert f"{prefix}/reports/web/a/" in places


def test_names_that_drown_everybody_are_removed_unread(
    consul: Consul, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consul_module, "KEYS_BYTES", 1000)
    for number in range(20):
        consul.put(f"{prefix}/reports/web/a/{'x' * 100}{number}/x", "value")
    consul.put(f"{prefix}/reports/web/b/{OLD}/failed", "value")
    note = announce(consul, prefix, NEW).note
    assert reports_there(consul, prefix) == set()
    assert note is not None
    assert "a (web): too many to count." in note


def report_place(prefix: str, host: str, state: str, deployment: str = NEW) -> str:
    return f"{prefix}/reports/web/{host}/{deployment}/{state}"


def test_only_known_states_of_expected_hosts_are_read_and_so_many_bytes_of_each(consul: Consul, prefix: str) -> None:
    watch = Watch(consul, prefix, NEW, "release", {"web": ["a", "b"]})
    assert watch.look() == Reports([], [], None)
    for place, text in (
        (report_place(prefix, "a", "fetched"), "{}"),
        (report_place(prefix, "a", "junk"), "x" * 500_000),
        (report_place(prefix, "a", "failed", NEWER), "x" * 500_000),
        (report_place(prefix, "c", "fetched"), "{}"),
        (report_place(prefix, "b", "failed"), "x" * (MOST_BYTES + 1)),
        (report_place(prefix, "b", "fetched"), "x" * MOST_BYTES),
    ):
        consul.put(place, text)
    told = {(each.host, each.state): each for each in watch.look().reports}
    assert told["a", "fetched"].value == "{}"
    assert told["b", "fetched"].value == "x" * MOST_BYTES
    assert "it wrote more than 65536 bytes here" in told["b", "failed"].value
    assert len(told) == 3
    assert told["b", "fetched"].written > told["b", "failed"].written > told["a", "fetched"].written > 0
    assert watch.look() == Reports([], [], None)
    # Written again, and nothing new: by its time alone.
    consul.put(report_place(prefix, "b", "failed"), "short")
    assert [each.value for each in watch.look().reports] == ["short"]


def test_reports_are_heard_though_somebody_drowns_their_names(
    consul: Consul, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consul_module, "KEYS_BYTES", 1000)
    for number in range(20):
        consul.put(f"{prefix}/reports/web/a/{'x' * 100}{number}/x", "value")
    consul.put(report_place(prefix, "b", "fetched"), "{}")
    watch = Watch(consul, prefix, NEW, "release", {"web": ["a", "b"]})
    assert [(each.host, each.state) for each in watch.look().reports] == [("b", "fetched")]


def test_with_verified_comes_the_last_word_until_it_agrees(consul: Consul, prefix: str) -> None:
    watch = Watch(consul, prefix, NEW, "release", {"web": ["a", "b"]})
    word = {"release": "before", "deployment": OLD, "verified": True}
    consul.put(f"{prefix}/serving/web/a", json.dumps(word))
    consul.put(report_place(prefix, "a", "fetched"), "{}")
    assert watch.look().words == []
    consul.put(report_place(prefix, "a", "verified"), "{}")
    assert [(each.host, each.agrees) for each in watch.look().words] == [("a", False)]
    assert watch.look().words == []
    for changed, agrees in (
        ({"release": "release"}, False),
        ({"deployment": NEW, "verified": False}, False),
        ({"verified": True}, True),
    ):
        word |= changed
        consul.put(f"{prefix}/serving/web/a", json.dumps(word))
        assert [each.agrees for each in watch.look().words] == [agrees]
    # From then on nobody asks.
    consul.put(f"{prefix}/serving/web/a", "nonsense")
    assert watch.look() == Reports([], [], None)


def test_waiting_ends_with_a_write_however_deep_and_tells_no_names(consul: Consul, prefix: str) -> None:
    consul.put(f"{prefix}/reports/a", "value")
    index = consul.wait(f"{prefix}/", index=0, wait_seconds=0)
    assert consul.wait(f"{prefix}/", index=index, wait_seconds=0.2) == index
    threading.Timer(0.3, lambda: consul.put(f"{prefix}/reports/web/b/c", "value")).start()
    began = time.monotonic()
    assert consul.wait(f"{prefix}/", index=index, wait_seconds=20) > index
    assert time.monotonic() - began < 10


def test_refusal_names_the_right_that_is_missing(playground: Playground) -> None:
    # SeaweedFS answers 403 to whom it does not know, as Consul does.
    with pytest.raises(Failure, match="Consul refused GET"):
        Consul(ConsulSettings(playground.endpoint_url)).hosts(Selector(nodes=["app1"]))


def test_missing_token_file_has_a_sentence(playground: Playground) -> None:
    with pytest.raises(Failure, match="token file /no/such/token on the build server can't be read"):
        Consul(ConsulSettings(playground.consul_address(), "/no/such/token"))


def test_hosts_are_chosen_by_metadata_service_and_name(playground: Playground, consul: Consul) -> None:
    assert consul.hosts(Selector(node_meta={"role": "web"})) == (["app1", "app2", "app3"], [])
    assert consul.hosts(Selector(nodes=["app3"])) == (
        ["app3"],
        [],
    )
    assert consul.hosts(Selector(node_meta={"role": "web", "nothing": "such"})) == ([], [])
    body = b'{"Name": "deploytool-test", "Port": 1}'
    for path, data in (("register", body), ("deregister/deploytool-test", b"")):
        url = f"{playground.consul_address('app2')}/v1/agent/service/{path}"
        urllib.request.urlopen(urllib.request.Request(url, data=data, method="PUT"), timeout=10).close()
        if data:
            deadline = time.monotonic() + 10
            while consul.hosts(Selector(service="deploytool-test")) != (["app2"], []):
                assert time.monotonic() < deadline
                time.sleep(0.1)
