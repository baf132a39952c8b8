"""One deployment, from its claim to its record, whatever ends it; and what retention does at the same time."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.audience import Expected, Live
from deploytool.cleanup import clean_up
from deploytool.errors import ConsulError, DeployError, FleetError, LockedError, StoreError
from deploytool.fleet import Verdict
from deploytool.history import Deployment, History, read_deployment, standings
from deploytool.journal import RETENTION_LOCK
from deploytool.outcome import Outcome
from deploytool.release import DeploymentId, begun_key, record_key
from deploytool.rollout import Attempt, ReleaseNotKept, begin_claim, bring, new_deployment_id
from deploytool.worker_client import Asked
from tests.unit.answering import Answered
from tests.unit.test_cleanup import Session, Store, built, record, releases_in, store_of
from tests.unit.test_manifest import given_settings
from tests.unit.test_retention import NOW, RELEASES, deployment_id, one_after_the_other

RELEASE = record(RELEASES[-1])
HOSTS = ("one", "two")


class Fleet(Store):
    """A build server's worker, and hosts that report what they are told to."""

    def __init__(self, objects: Mapping[str, str]) -> None:
        super().__init__(objects)
        #: what each host reports on the announcement, and on `go`
        self.fetches: dict[str, tuple[str, dict[str, Any]]] = {host: ("fetched", {}) for host in HOSTS}
        self.activates: dict[str, tuple[str, dict[str, Any]]] = {host: ("verified", {}) for host in HOSTS}
        self._reports = Asked("here")
        #: the operation of this number fails; those after it that are asked for by themselves do not
        self.fails_at: int | None = None

    def ask(self, do: str, *, told: Any = None, limit_seconds: float | None = None, **parameters: Any) -> Any:
        if len(self.asked) == self.fails_at:
            self.asked.append((do, parameters))
            raise ConsulError(f"number {self.fails_at} failed")
        match do:
            case "announce" | "go" | "abort" | "cancel":
                self._operation()
                self.asked.append((do, parameters))
                if do in self.refusals:
                    raise self.refusals[do]
                if do == "go":
                    self._say(self.activates)
                if do != "abort":
                    return {}
                self._say({host: ("aborted", {}) for host in HOSTS})
                # Of a word that may have come through, it can't tell.
                return {"let_go": None if "go" in self.done else False}
        return super().ask(do, told=told, limit_seconds=limit_seconds, **parameters)

    def start(self, do: str, *, after: Asked | None = None, **parameters: Any) -> Asked:
        if do not in ("watch", "end_watch"):
            return super().start(do, after=after, **parameters)
        if do == "watch" and isinstance(after, Answered) and after.went_well:
            self._say(self.fetches)
        return self._reports

    def _say(self, said: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        reports = [
            {"role": "web", "host": host, "state": state, "value": json.dumps(value)}
            for host, (state, value) in said.items()
        ]
        self._reports.deliver({"event": {"reports": reports}})

    @property
    def done(self) -> list[str]:
        return [do for do, _ in self.asked]


def session_of(worker: Store, tmp_path: Path | None = None) -> Any:
    session: Any = Session(worker)
    settings = given_settings(application="app", directory=tmp_path, build=SimpleNamespace(migrate=()))
    settings.wait.fetch_seconds = settings.wait.activate_seconds = 0.2
    settings.store.keep_releases, settings.store.endpoint_url = 2, None
    session.settings = settings
    return session


def attempt(**changes: Any) -> Attempt:
    expected = Expected({"web": HOSTS}, (), (), {}, {}, {})
    return Attempt(RELEASE, "deploy", expected, Live(RELEASES[-2], "a" * 40), RELEASES[-2], **changes)


class World:
    """What a deployment leaves behind."""

    def __init__(self, tmp_path: Path) -> None:
        self.worker = Fleet(built(RELEASE.id))
        self.session = session_of(self.worker, tmp_path)
        self.outcome = Outcome(release=RELEASE.id, revision=RELEASE.revision)

    def bring(self, **changes: Any) -> None:
        bring(self.session, attempt(**changes), self.outcome)

    @property
    def record(self) -> Any:
        return json.loads(self._text(".json"))

    @property
    def begun(self) -> Any:
        return json.loads(self._text("/begun.json"))

    @property
    def told(self) -> Deployment:
        """As the history reads it."""
        return read_deployment(DeploymentId(str(self.outcome.deployment)), self._text(".json"), None)

    def _text(self, suffix: str) -> str:
        return self.worker.objects[f"environments/production/deployments/{self.outcome.deployment}{suffix}"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- how it ends


def test_verified_deployment_is_written_down_before_and_after(world: World) -> None:
    world.bring(story={"forced": "because"})
    assert world.begun["release"] == world.record["release"] == RELEASE.id
    assert "exit_code" not in world.begun
    assert (world.record["exit_code"], world.record["let_go"], world.record["verified"]) == (0, True, True)
    assert (world.record["from"], world.record["operator"], world.record["forced"]) == (
        RELEASES[-2],
        "ann@desk",
        "because",
    )
    assert standings(History((world.told,)))[RELEASE.id].verified == world.outcome.deployment
    assert world.worker.locked == set()


def test_claim_comes_before_the_manifests_and_those_before_the_announcement(world: World) -> None:
    world.bring()
    puts = [parameters["entries"][0][0] for do, parameters in world.worker.asked if do == "store_put"]
    name = f"environments/production/deployments/{world.outcome.deployment}"
    assert puts == [f"{name}/begun.json", f"{name}/web.yml", f"{name}.json"]
    order = [do for do in world.worker.done if do in ("store_put", "announce", "go")]
    assert order == ["store_put", "store_put", "announce", "go", "store_put"]


#: What a deployment asks for up to its announcement, in line: what is there once all before it has gone well.
LINE = ("lock", "store_exists", "store_exists", "store_put", "release_lock", "store_put", "announce")


def test_line_up_to_the_announcement_is_asked_for_without_waiting(world: World) -> None:
    world.bring()
    assert tuple(world.worker.done[: len(LINE)]) == LINE


@pytest.mark.parametrize("failing", range(len(LINE)))
def test_what_fails_on_the_way_to_the_announcement_leaves_undone_what_comes_after(world: World, failing: int) -> None:
    before = dict(world.worker.objects)
    world.worker.fails_at = failing
    with pytest.raises(ConsulError, match="number"):
        world.bring()
    done = world.worker.done
    assert "go" not in done
    assert ("announce" in done) is (failing == LINE.index("announce"))
    name = f"environments/production/deployments/{world.outcome.deployment}"
    # The claim, then the manifests; and a record, which says that it failed, once the claim stands.
    written = [f"{name}/begun.json"] * (failing > 3) + [f"{name}/web.yml"] * (failing > 5)
    record = [f"{name}.json"] * (failing > 4)
    assert sorted(set(world.worker.objects) - set(before)) == sorted([*written, *record])
    assert {key: world.worker.objects[key] for key in before} == before


def test_host_that_fails_after_go_makes_exit_code_8_and_takes_nothing_back(world: World) -> None:
    world.worker.activates["two"] = ("failed", {"reason": "no answer"})
    world.bring()
    assert world.outcome.exit_code == FleetError.exit_code
    assert (world.record["exit_code"], world.record["let_go"], world.record["verified"]) == (8, True, False)
    assert world.told.verified == {("web", "one")}
    assert "abort" not in world.worker.done


def test_host_that_fails_before_go_takes_it_back(world: World) -> None:
    world.worker.fetches["two"] = ("failed", {"reason": "disk full"})
    with pytest.raises(FleetError, match="disk full"):
        world.bring()
    assert (world.record["exit_code"], world.record["let_go"]) == (8, False)
    assert "abort" in world.worker.done
    assert "go" not in world.worker.done


def test_host_that_has_not_kept_the_release_names_its_role_and_says_nothing_against_the_release(world: World) -> None:
    world.worker.fetches["two"] = ("failed", {"reason": "gone", "incomplete": True})
    with pytest.raises(ReleaseNotKept) as raised:
        world.bring(kept=frozenset({"web"}))
    assert raised.value.roles == {"web"}
    assert (world.record["fell_back"], world.record["let_go"]) == (True, False)
    assert standings(History((world.told,)))[RELEASE.id].bad is None


def test_crash_is_written_down_as_a_failure_and_goes_on(world: World) -> None:
    world.worker.refusals["announce"] = RuntimeError("a mistake of ours")
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        world.bring()
    assert (world.record["exit_code"], world.record["verified"]) == (1, False)
    assert world.record["error"] == "RuntimeError: a mistake of ours"
    assert world.told.exit_code == 1


def test_crash_after_go_does_not_call_it_verified_and_knows_that_hosts_were_let_go(world: World) -> None:
    session: Any = world.session
    quiet = session.console.fleet

    def fleet(hosts: Any, phase: str) -> Any:
        if phase == "activate":
            raise RuntimeError("the screen")
        return quiet(hosts, phase)

    session.console.fleet = fleet
    with pytest.raises(RuntimeError):
        world.bring()
    assert (world.record["exit_code"], world.record["let_go"], world.record["verified"]) == (1, True, False)


def test_manifests_that_can_not_be_written_after_the_claim_are_written_down(world: World) -> None:
    taken = world.worker.ask

    def ask(do: str, **parameters: Any) -> Any:
        if do == "store_put" and parameters["entries"][0][0].endswith(".yml"):
            raise StoreError("the store is full")
        return taken(do, **parameters)

    world.worker.ask = ask  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        world.bring()
    assert world.begun["release"] == RELEASE.id
    assert (world.record["exit_code"], world.record["let_go"], world.record["error"]) == (
        StoreError.exit_code,
        False,
        "the store is full",
    )
    assert "announce" not in world.worker.done


def test_announcement_that_is_refused_is_written_down(world: World) -> None:
    world.worker.refusals["announce"] = LockedError("frozen")
    with pytest.raises(LockedError):
        world.bring()
    assert (world.record["exit_code"], world.record["let_go"]) == (3, False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConsulError("cut off")])
def test_nobody_knows_whether_hosts_were_let_go_when_go_is_cut_off(world: World, error: BaseException) -> None:
    world.worker.refusals["go"] = error
    with pytest.raises(type(error)):
        world.bring()
    assert "let_go" in world.record
    assert world.record["let_go"] is None
    assert world.record["exit_code"] == (7 if isinstance(error, DeployError) else 130)
    assert world.told.let_go is None
    assert "abort" in world.worker.done
    assert ("cancel" in world.worker.done) is isinstance(error, KeyboardInterrupt)


def test_interrupted_announcement_is_taken_back(world: World) -> None:
    world.worker.refusals["announce"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.bring()
    assert (world.record["exit_code"], world.record["let_go"]) == (130, False)
    assert world.worker.done[-3:] == ["cancel", "abort", "store_put"]


def test_what_nobody_waits_for_is_written_down_as_unverified_with_the_hosts_that_were_expected(world: World) -> None:
    world.bring(wait=False)
    assert (world.record["exit_code"], world.record["let_go"], world.record["verified"]) == (0, True, False)
    assert world.record["hosts"] == []
    assert world.told.expected == {("web", host) for host in HOSTS}
    assert world.told.verified == set()


def test_record_that_can_not_be_written_does_not_make_a_deployment_fail(world: World) -> None:
    taken = world.worker.ask

    def ask(do: str, **parameters: Any) -> Any:
        if do == "store_put" and parameters["entries"][0][0] == f"environments/production/deployments/{name()}.json":
            raise StoreError("the store is full")
        return taken(do, **parameters)

    def name() -> str | None:
        return world.outcome.deployment

    world.worker.ask = ask  # type: ignore[method-assign]
    world.bring()
    assert world.outcome.exit_code == 0
    assert "record could not be written: the store is full" in world.session.progress.getvalue()


def test_silent_host_is_silent_in_the_record(world: World) -> None:
    del world.worker.activates["two"]
    world.bring()
    assert [host["verdict"] for host in world.record["hosts"]] == [Verdict.VERIFIED.value, Verdict.SILENT.value]


# --- ids


def test_id_is_later_than_what_is_wanted_and_what_the_history_has_though_a_clock_went_back() -> None:
    ahead = deployment_id(-5)
    found = new_deployment_id(NOW, [deployment_id(3), ahead, "no id", "99999999T999999Zabcd"], "zzzz")
    assert found > ahead
    assert new_deployment_id(NOW, [], "zzzz") == f"{NOW:%Y%m%dT%H%M%SZ}zzzz"


# --- the claim


def test_release_that_retention_took_in_between_is_not_claimed_and_the_lock_is_free_again(world: World) -> None:
    for key in (RELEASE.archive_key, record_key(RELEASE.id)):
        without = {name: text for name, text in built(RELEASE.id).items() if name != key}
        world.worker.objects = dict(without)
        with pytest.raises(StoreError, match="has been removed") as raised:
            world.bring()
        assert "anew" in str(raised.value.hint)
        assert world.worker.objects == without
        assert world.worker.locked == set()
    assert "announce" not in world.worker.done


def test_claim_and_cleanup_take_the_same_lock() -> None:
    for act in (claiming, cleaning):
        worker = Store(store_of(RELEASES))
        act(worker)
        names = [parameters["name"] for do, parameters in worker.asked if do in ("lock", "release_lock")]
        assert names == [RETENTION_LOCK, RETENTION_LOCK]


OLDEST = record(RELEASES[0])
COMING = DeploymentId(f"{NOW:%Y%m%dT%H%M%SZ}next")


def claiming(worker: Store) -> None:
    begin_claim(session_of(worker), OLDEST, COMING, {"release": OLDEST.id}).settle()


def cleaning(worker: Store) -> None:
    clean_up(session_of(worker), [RELEASES[-1]])


class Sharing(Store):
    """A worker whose store and locks others use as well. It stops before one operation until it is let go on."""

    def __init__(self, objects: dict[str, str], lock: threading.Lock, stops_at: str | None = None) -> None:
        super().__init__({})
        self.objects, self.lock, self.stops_at = objects, lock, stops_at
        self.stopped, self.go_on, self.waits = threading.Event(), threading.Event(), threading.Event()

    def ask(self, do: str, **parameters: Any) -> Any:
        if do == "lock":
            self.waits.set()
            assert self.lock.acquire(timeout=20)
        if do == self.stops_at:
            self.stopped.set()
            assert self.go_on.wait(20)
        answer = super().ask(do, **parameters)
        if do == "release_lock":
            self.lock.release()
        return answer


def at_once(first: Callable[[Store], None], stops_at: str, second: Callable[[Store], None]) -> dict[str, str]:
    """What is in the store after the second began while the first was at that operation, under its lock."""
    objects, lock = store_of(RELEASES, production=one_after_the_other(RELEASES)), threading.Lock()
    ahead, behind = Sharing(objects, lock, stops_at), Sharing(objects, lock)
    failures: list[Exception] = []

    def run(act: Callable[[Store], None], worker: Store) -> None:
        try:
            act(worker)
        except (DeployError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=each) for each in ((first, ahead), (second, behind))]
    threads[0].start()
    assert ahead.stopped.wait(20)
    threads[1].start()
    assert behind.waits.wait(20)
    # It looks at nothing before it has the lock.
    assert behind.asked == []
    ahead.go_on.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not lock.locked()
    assert [type(failure) for failure in failures] == ([StoreError] if first is cleaning else [])
    return objects


def test_release_that_is_claimed_first_stays() -> None:
    left = at_once(claiming, "store_put", cleaning)
    assert built(OLDEST.id).items() <= left.items()
    assert begun_key("production", COMING) in left
    # The cleanup did its work all the same.
    assert RELEASES[1] not in releases_in(left)


def test_release_that_is_removed_first_is_not_claimed() -> None:
    left = at_once(cleaning, "store_delete", claiming)
    assert OLDEST.id not in releases_in(left)
    assert begun_key("production", COMING) not in left
