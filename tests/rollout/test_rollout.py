"""One deployment, from its claim to its record, whatever ends it; and what retention does at the same time."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.cli.runner import outcome_error
from deploytool.connection.client import Asked
from deploytool.connection.paths import Place
from deploytool.connection.step import Step
from deploytool.errors import ConsulError, DeployError, FleetError, HookError, LockedError, StoreError, UsageError
from deploytool.model.fleet import Fleet as Heard
from deploytool.model.fleet import HostResult, LastWord, Verdict
from deploytool.model.history import Deployment, History, RoleHost, read_deployment, standings
from deploytool.model.lifecycle import Status
from deploytool.model.release import DeploymentId, ReleaseId, begun_key, record_key
from deploytool.model.waves import ALL_AT_ONCE, RolloutPlan, Wave
from deploytool.rollout.announce import claim_release
from deploytool.rollout.attempt import Attempt, new_deployment_id
from deploytool.rollout.choose_release import Request
from deploytool.rollout.listening import ReleaseNotKept
from deploytool.rollout.promote import at_it, unfinished_release
from deploytool.rollout.rollout import bring, go_on
from deploytool.rollout.steps import plan_of
from deploytool.rollout.undo import undo
from deploytool.screen.ending import message
from deploytool.screen.summary import Outcome
from deploytool.state.cleanup import clean_up
from deploytool.state.history_store import RETENTION_LOCK
from deploytool.state.targets import Expected, Here, Live
from deploytool.worker.wire import Done
from tests.support.answering import Answered
from tests.support.histories import NOW, RELEASES, deployment_id, good, one_after_the_other
from tests.support.manifests import given_settings
from tests.support.stores import Session, Store, built, record, releases_in, store_of

RELEASE = record(RELEASES[-1])
HOSTS = ("one", "two")


class Fleet(Store):
    """A build server's worker, and hosts that report what they are told to."""

    def __init__(self, objects: Mapping[str, str]) -> None:
        super().__init__(objects)
        #: what each host reports on the announcement, and on `go`
        self.fetches: dict[str, tuple[str, dict[str, Any]]] = {host: ("fetched", {}) for host in HOSTS}
        self.activates: dict[str, tuple[str, dict[str, Any]]] = {host: ("verified", {}) for host in HOSTS}
        self._reports = Asked("here", "watch", Done)
        self.say_fetched: Callable[[], dict[str, tuple[str, dict[str, Any]]]] = lambda: self.fetches
        #: what hosts serve otherwise than they said, when all have gone
        self.last_words: list[dict[str, Any]] = []
        #: the freeze that an announcement passes
        self.frozen: dict[str, str] | None = None
        #: the operation of this number fails; those after it that are asked for by themselves do not
        self.fails_at: int | None = None

    def ask(self, do: str, *, told: Any = None, limit_seconds: float | None = None, **parameters: Any) -> Any:
        if len(self.asked) == self.fails_at:
            self.asked.append((do, parameters))
            raise ConsulError(f"number {self.fails_at} failed")
        match do:
            case "last_words":
                return {"words": self.last_words}
            case "unpack_release" | "remove_unpacked":
                return {"directory": "/srv/unpacked"}
            case "publish" | "announce" | "go" | "abort" | "cancel" | "halt" | "settle":
                self._operation()
                self.asked.append((do, parameters))
                if do in self.refusals:
                    raise self.refusals[do]
                if do == "go":
                    gone = parameters.get("hosts") or {"web": HOSTS}
                    self._say({host: said for host, said in self.activates.items() if host in gone["web"]})
                if do == "halt":
                    self._say({host: ("aborted", {}) for host in HOSTS if host not in self.gone})
                if do != "abort":
                    return {"frozen": self.frozen, "note": self.note} if do == "announce" else {}
                self._say({host: ("aborted", {}) for host in HOSTS})
                # Of a word that may have come through, it can't tell.
                return {"let_go": None if "go" in self.done else False}
        return super().ask(do, told=told, limit_seconds=limit_seconds, **parameters)

    def start(self, do: str, kind: Any, /, *, after: Asked | None = None, **parameters: Any) -> Asked:
        if do not in ("watch", "end_watch"):
            return super().start(do, kind, after=after, **parameters)
        if do == "watch":
            self._reports = Asked("here", "watch", Done)
            if isinstance(after, Answered) and after.went_well:
                self._say(self.say_fetched())
        return self._reports

    def _say(self, said: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        reports = [
            {"role": "web", "host": host, "state": state, "value": json.dumps(value), "written": 0}
            for host, (state, value) in said.items()
        ]
        words = [
            {"role": "web", "host": host, "value": "{}", "agrees": True}
            for host, (state, _) in said.items()
            if state == "verified"
        ]
        self._reports.deliver({"event": {"reports": reports, "words": words, "trouble": None}})

    @property
    def gone(self) -> set[str]:
        """The hosts that were let go, in waves."""
        told = [parameters.get("hosts") or {"web": HOSTS} for do, parameters in self.asked if do == "go"]
        return {host for hosts in told for host in hosts["web"]}

    @property
    def done(self) -> list[str]:
        return [do for do, _ in self.asked]


def session_of(worker: Store, tmp_path: Path | None = None) -> Any:
    session: Any = Session(worker)
    settings = given_settings(
        application="app", directory=tmp_path, build=SimpleNamespace(migrate=(), migrate_after=(), root="~/work")
    )
    settings.wait.fetch_seconds = settings.wait.activate_seconds = 0.2
    settings.store.keep_releases, settings.store.endpoint_url = 2, None
    session.settings = settings
    return session


def attempt(**changes: Any) -> Attempt:
    expected = Expected({"web": HOSTS}, (), (), {}, {}, changes.pop("words", {}))
    plan = RolloutPlan(**{each.name: changes.pop(each.name) for each in fields(RolloutPlan) if each.name in changes})
    return Attempt(RELEASE, "deploy", expected, Live(RELEASES[-2], "a" * 40), RELEASES[-2], plan=plan, **changes)


class World:
    """What a deployment leaves behind."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
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
LINE = ("lock", "store_exists", "store_exists", "store_put", "release_lock", "store_put", "publish", "announce")


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


# --- drops and renames


class Drops(World):
    """A release with a migrate_after, and how often it ran, with what was done before."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        build = self.session.settings.build
        build.migrate_after, build.recipe, build.env, build.path = ("make drops",), "none", {}, ()
        build.linked_files, build.timeout_seconds = (), 60
        self.session.place = Place("/srv", "app", "production")
        self.session.run = self._run
        self.ran: list[tuple[str, list[str]]] = []

    def _run(self, step: Step) -> Any:
        self.ran.append((step.name, [do for do in self.worker.done if do in ("go", "settle", "store_put")]))
        return SimpleNamespace(results=lambda: ())

    def bring(self, **changes: Any) -> None:
        super().bring(**{"migrate": True, **changes})


def test_host_that_has_lost_by_the_end_what_it_had_proved_is_not_verified(world: World) -> None:
    lost = json.dumps({"release": RELEASE.id, "deployment": "d", "verified": False, "reason": "nothing listens"})
    world.worker.last_words = [
        {"role": "web", "host": "one", "value": "{}", "agrees": True},
        {"role": "web", "host": "two", "value": lost, "agrees": False},
    ]
    world.bring()
    assert world.outcome.exit_code == FleetError.exit_code
    assert not world.record["verified"]
    assert world.told.verified == {("web", "one")}
    (bad,) = [host for host in world.record["hosts"] if host["verdict"] != "verified"]
    assert (bad["host"], "its last word, `serving/web/two` in Consul, does not agree" in bad["reason"]) == ("two", True)


def test_deployment_that_somebody_has_dated_ahead_in_the_store_dates_no_other(world: World) -> None:
    """Hosts take only what is later: they would never get over it."""
    ahead = DeploymentId(f"9998{deployment_id(0)[4:]}")
    world.bring(after=(deployment_id(1), ahead))
    assert str(world.outcome.deployment)[:4] == f"{NOW:%Y}"
    assert "no host ever had it; it is ignored" in world.session.progress.getvalue()
    had = {("web", "one"): LastWord(deployment=ahead)}
    world.outcome = Outcome(release=RELEASE.id, revision=RELEASE.revision)
    world.bring(after=(ahead,), words=had)
    assert str(world.outcome.deployment) > ahead


def test_drops_run_when_all_hosts_are_verified_and_before_the_record(tmp_path: Path) -> None:
    world = Drops(tmp_path)
    world.bring()
    assert world.ran == [("migrate_after", ["store_put", "store_put", "go"])]
    assert (world.begun["migrate_after"], world.record["migrate_after"]) == ("due", "done")
    assert world.told.migrate_after == "done"
    waved = Drops(tmp_path)
    waved.bring(waves=WAVES)
    assert waved.ran == [("migrate_after", ["store_put", "store_put", "go", "go", "settle"])]


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": ("one", "two")},
        {"wait": False},
        {"migrate": False},
        {"waves": (Wave(1, frozenset({("web", "one")})), Wave(2, frozenset({("web", "two")}))), "pause_after": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_drops_are_due_where_not_all_hosts_have_proved_the_release(tmp_path: Path, changes: dict[str, Any]) -> None:
    world = Drops(tmp_path)
    world.bring(**changes)
    assert (world.outcome.exit_code, world.ran, world.record["migrate_after"]) == (0, [], "due")


@pytest.mark.parametrize("said", [{"two": ("failed", {})}, {}], ids=["failed", "silent"])
def test_drops_are_due_where_a_host_is_not_verified(tmp_path: Path, said: dict[str, Any]) -> None:
    world = Drops(tmp_path)
    del world.worker.activates["two"]
    world.worker.activates |= said
    # Also where so many failures are borne.
    world.bring(waves=WAVES, max_failures=1)
    assert (world.outcome.exit_code, world.ran, world.record["migrate_after"]) == (8, [], "due")


def test_nothing_is_due_where_nobody_was_let_go_or_all_go_back(tmp_path: Path) -> None:
    world = Drops(tmp_path)
    world.worker.fetches["one"] = ("failed", {"reason": "no room"})
    with pytest.raises(FleetError):
        world.bring()
    assert (world.begun["migrate_after"], world.record["migrate_after"], world.ran) == ("due", None, [])
    back = Drops(tmp_path)
    back.worker.activates["one"] = ("failed", {})
    back.bring(waves=WAVES, goes_back=True)
    assert (back.outcome.status, back.record["migrate_after"], back.ran) == (Status.HALTED, None, [])


def test_rollback_owes_no_drops(tmp_path: Path) -> None:
    world = Drops(tmp_path)
    bring(world.session, replace(attempt(migrate=False), kind="rollback"), world.outcome)
    assert (world.record["kind"], world.record["migrate_after"]) == ("rollback", None)


# --- in waves

WAVES = (Wave(1, frozenset({("web", "one")})), Wave(2, frozenset({("web", "two")})))


def test_hosts_of_a_wave_go_when_those_before_have_proved_the_release(world: World) -> None:
    world.bring(waves=WAVES)
    asked = [(do, parameters) for do, parameters in world.worker.asked if do in ("go", "halt", "settle")]
    assert asked == [("go", {"hosts": {"web": ("one",)}}), ("go", {}), ("settle", {})]
    assert (world.outcome.exit_code, world.record["verified"], world.told.verified) == (0, True, world.told.expected)


def test_all_at_once_asks_for_nothing_more_than_go(world: World) -> None:
    world.bring()
    assert [parameters for do, parameters in world.worker.asked if do == "go"] == [{}]
    assert not {"halt", "settle"} & set(world.worker.done)
    announced = next(parameters for do, parameters in world.worker.asked if do == "announce")
    assert announced["in_waves"] is False


def test_canary_that_fails_lets_nobody_else_go(world: World) -> None:
    world.worker.activates["one"] = ("failed", {"reason": "it does not start"})
    world.bring(waves=WAVES)
    assert world.worker.gone == {"one"}
    assert [parameters for do, parameters in world.worker.asked if do == "halt"] == [{"stay": {}}]
    assert "settle" not in world.worker.done
    verdicts = {result.host: result.verdict for result in world.outcome.hosts}
    assert verdicts == {"one": Verdict.FAILED, "two": Verdict.ABORTED}
    assert (world.outcome.exit_code, world.record["status"], world.record["halted"]) == (8, "halted", True)


def test_failures_that_are_allowed_do_not_stop_it_but_count(world: World) -> None:
    world.worker.activates["one"] = ("failed", {"reason": "it does not start"})
    world.bring(waves=WAVES, max_failures=1)
    assert world.worker.gone == {"one", "two"}
    assert "settle" in world.worker.done
    assert (world.outcome.exit_code, world.record["status"], world.record["verified"]) == (8, "failed", False)


def test_silent_host_of_a_halted_rollout_may_have_switched(world: World) -> None:
    world.worker.activates = {"two": ("verified", {})}
    world.bring(waves=WAVES)
    assert [parameters for do, parameters in world.worker.asked if do == "halt"] == [{"stay": {"web": ("one",)}}]
    assert world.outcome.exit_code == 8


def test_pause_is_no_failure_and_no_success_either(world: World) -> None:
    world.bring(waves=WAVES, pause_after=1)
    assert world.worker.gone == {"one"}
    assert [parameters for do, parameters in world.worker.asked if do == "halt"] == [{"stay": {"web": ("one",)}}]
    assert (world.outcome.exit_code, world.outcome.status) == (0, Status.PAUSED)
    assert (world.record["paused"], world.record["verified"]) == (True, False)
    assert world.told.verified == {("web", "one")}
    history = History((world.told,))
    assert standings(history)[RELEASE.id].verified is None


def test_failure_in_the_last_wave_halts_only_if_others_go_back(world: World) -> None:
    world.worker.activates["two"] = ("failed", {})
    world.bring(waves=WAVES)
    assert (world.outcome.exit_code, world.outcome.status) == (8, Status.FAILED)
    assert "settle" in world.worker.done
    back = World(world.tmp_path / "back")
    back.worker.activates["two"] = ("failed", {})
    back.bring(waves=WAVES, goes_back=True)
    assert (back.outcome.exit_code, back.outcome.status) == (8, Status.HALTED)
    assert [parameters for do, parameters in back.worker.asked if do == "halt"] == [{"stay": {"web": ("one",)}}]


def test_pause_after_a_wave_that_added_nobody_is_a_pause_all_the_same(world: World) -> None:
    waves = (WAVES[0], Wave(3, WAVES[1].hosts))
    world.bring(waves=waves, pause_after=2)
    assert (world.worker.gone, world.outcome.status) == ({"one"}, Status.PAUSED)


def test_rollout_in_one_wave_has_nothing_to_pause_for(world: World) -> None:
    world.bring(waves=(Wave(1, WAVES[0].hosts | WAVES[1].hosts),), pause_after=1)
    assert (world.outcome.status, world.outcome.exit_code) == (Status.VERIFIED, 0)
    assert "settle" in world.worker.done


def test_record_says_whether_all_hosts_have_it(world: World) -> None:
    world.bring(waves=WAVES)
    assert (world.begun["waves"], world.record["settled"], world.told.partial) == (2, True, False)
    paused = World(world.tmp_path / "paused")
    paused.bring(waves=WAVES, pause_after=1)
    assert (paused.record["settled"], paused.told.partial) == (False, True)


def test_wave_that_can_not_be_let_go_ends_the_rollout_and_says_why(world: World) -> None:
    taken = world.worker.ask

    def ask(do: str, **parameters: Any) -> Any:
        if do == "go" and not parameters:
            raise ConsulError("somebody else aborted this deployment")
        return taken(do, **parameters)

    world.worker.ask = ask  # type: ignore[method-assign]
    with pytest.raises(ConsulError, match="somebody else"):
        world.bring(waves=WAVES)
    assert world.outcome.gone == WAVES[0].hosts
    assert "abort" in world.worker.done
    assert (world.record["exit_code"], world.record["let_go"], world.told.partial) == (7, True, True)
    assert world.outcome.stopped


def interrupt_at(world: World, words: str) -> None:
    """Ctrl-C once a note begins with these words."""
    note = world.session.console.note

    def noting(text: str) -> None:
        note(text)
        if text.startswith(words):
            raise KeyboardInterrupt

    world.session.console.note = noting


def test_interrupt_between_two_waves_lets_no_more_go(world: World) -> None:
    interrupt_at(world, "wave 1 of 2")
    world.bring(waves=WAVES)
    assert world.worker.gone == {"one"}
    assert "abort" in world.worker.done
    assert (world.outcome.exit_code, world.outcome.status, world.outcome.stopped) == (130, Status.UNVERIFIED, True)
    assert "no more are let go" in world.session.progress.getvalue()


def test_interrupt_after_the_last_wave_went_leaves_it_wanted_of_all(world: World) -> None:
    interrupt_at(world, "wave 2 of 2")
    world.bring(waves=WAVES)
    assert world.worker.done[-3:-1] == ["abort", "settle"]
    assert (world.outcome.exit_code, world.record["settled"], world.told.partial) == (130, True, False)


def test_interrupted_rollout_that_can_not_be_settled_is_none_that_all_have(world: World) -> None:
    note = world.session.console.note

    def noting(text: str) -> None:
        note(text)
        if text.startswith("wave 2 of 2"):
            raise KeyboardInterrupt

    world.session.console.note = noting
    world.worker.refusals["settle"] = ConsulError("Consul is away")
    world.bring(waves=WAVES)
    assert (world.outcome.exit_code, world.record["settled"]) == (130, False)
    assert "Consul is away" in world.session.progress.getvalue()


def test_wave_does_not_wait_for_a_silent_host_of_the_one_before(world: World) -> None:
    fleet = Heard({"web": HOSTS})
    waited_for: list[frozenset[RoleHost] | None] = []

    def for_seconds(seconds: float, among: frozenset[RoleHost] | None = None) -> None:
        waited_for.append(among)

    listening: Any = SimpleNamespace(fleet=fleet, for_seconds=for_seconds, ask_last_words=lambda asked: None)
    world.outcome.status = Status.ROLLING
    go_on(world.session, attempt(waves=WAVES, max_failures=2), listening, world.outcome)
    assert waited_for == [wave.hosts for wave in WAVES]


# --- going on, and going back


def test_all_go_at_once_where_nobody_waits_though_failures_would_go_back() -> None:
    settings: Any = SimpleNamespace(in_waves=False, rollout=SimpleNamespace(on_failure="rollback"))
    expected = Expected({"web": HOSTS}, (), (), {}, {}, {})
    assert plan_of(settings, Request("main", wait=False), expected) == ALL_AT_ONCE
    assert plan_of(settings, Request("main", nodes=("one",)), expected) == ALL_AT_ONCE


PAUSED, WHOLE, OTHER = deployment_id(3), deployment_id(5), deployment_id(2)
OLD, NEW, THIRD = RELEASES[0], RELEASES[-1], RELEASES[1]


def here(
    whole: Mapping[str, DeploymentId], single: Mapping[RoleHost, DeploymentId], words: Mapping[RoleHost, LastWord]
) -> Here:
    known = History(tuple(good(number, name) for number, name in ((5, OLD), (3, NEW), (2, THIRD))))
    return Here(Expected({"web": HOSTS}, (), (), whole, single, words), known, Live(OLD), Live(OLD), ())


@pytest.mark.parametrize(
    ("whole", "single"),
    [
        # Paused.
        ({"web": WHOLE}, {("web", "one"): PAUSED}),
        # The very first deployment, paused.
        ({}, {("web", "one"): PAUSED}),
        # Its worker was killed: nobody put back what was wanted of the others.
        ({"web": WHOLE}, {("web", "one"): PAUSED, ("web", "two"): PAUSED}),
    ],
)
def test_rollout_goes_on_with_what_single_hosts_are_wanted_to_run(
    world: World, whole: Mapping[str, DeploymentId], single: Mapping[RoleHost, DeploymentId]
) -> None:
    assert unfinished_release(world.session, here(whole, single, {})) == NEW


@pytest.mark.parametrize(
    ("whole", "single", "sentence"),
    [
        ({"web": WHOLE}, {}, "no rollout of production is unfinished"),
        # Those that a promotion has spared.
        ({"web": PAUSED}, {("web", "one"): PAUSED}, "no rollout of production is unfinished"),
        ({"web": WHOLE}, {("web", "one"): PAUSED, ("web", "two"): OTHER}, "several releases"),
    ],
)
def test_there_is_nothing_to_go_on_with(
    world: World, whole: Mapping[str, DeploymentId], single: Mapping[RoleHost, DeploymentId], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        unfinished_release(world.session, here(whole, single, {}))


def test_host_that_serves_the_release_but_is_wanted_elsewhere_is_brought_to_it() -> None:
    words = {("web", host): LastWord(release=NEW, deployment=PAUSED, verified=True) for host in HOSTS}
    both = here({"web": WHOLE}, {("web", "one"): PAUSED, ("web", "two"): OTHER}, words)
    assert at_it(both, NEW) == {("web", "one")}
    # Nor one that is wanted to run it, and has said nothing of the kind, or has not proved it.
    unproven = {("web", "one"): LastWord(release=NEW), ("web", "two"): LastWord()}
    assert at_it(here({"web": PAUSED}, {}, unproven), NEW) == frozenset()


class Halted(World):
    """A rollout that was halted when these hosts had gone, with these verdicts."""

    def __init__(
        self, tmp_path: Path, verdicts: Mapping[str, Verdict], origins: Mapping[str, ReleaseId | None]
    ) -> None:
        super().__init__(tmp_path)
        self.worker.objects |= built(OLD) | built(THIRD)
        self.session.settings.roles["web"].hosts = SimpleNamespace(model_dump=lambda mode: {})
        hosts = tuple(HostResult("web", host, verdict, None, None, "", ()) for host, verdict in verdicts.items())
        gone = frozenset(("web", host) for host in verdicts)
        self.outcome = Outcome(
            release=NEW, deployment=PAUSED, hosts=hosts, gone=gone, status=Status.HALTED, exit_code=8
        )
        words = {("web", host): LastWord(name, None, None, True, (name or "",)) for host, name in origins.items()}
        self.here = here({"web": WHOLE}, {}, words)

    def undo(self) -> list[tuple[str | None, dict[str, Verdict]]]:
        """What each deployment brought, and to whom."""
        undo(self.session, self.here, self.outcome)
        return [(each.release, {host.host: host.verdict for host in each.hosts}) for each in self.outcome.undone]

    @property
    def announced(self) -> list[list[str]]:
        """The hosts of each announcement."""
        return [parameters["roles"][0].hosts for do, parameters in self.worker.asked if do == "announce"]


def test_hosts_that_switched_go_back_to_where_they_came_from(tmp_path: Path) -> None:
    world = Halted(tmp_path, {"one": Verdict.VERIFIED, "two": Verdict.FAILED}, {"one": OLD, "two": OLD})
    assert world.undo() == [(OLD, {"one": Verdict.VERIFIED})]
    assert world.announced == [["one"]]
    undone = world.outcome.undone[0]
    record = json.loads(world.worker.objects[f"environments/production/deployments/{undone.deployment}.json"])
    assert (record["undoes"], record["nodes"], record["kind"], record["downloaded"]) == (
        PAUSED,
        ["one"],
        "rollback",
        [],
    )
    assert str(undone.deployment) > PAUSED
    assert world.outcome.exit_code == 8


@pytest.mark.parametrize("migrated", [True, False])
def test_going_back_warns_of_migrations_of_the_rollout_that_was_halted(tmp_path: Path, migrated: bool) -> None:
    world = Halted(tmp_path, {"one": Verdict.VERIFIED, "two": Verdict.FAILED}, {"one": OLD, "two": OLD})
    world.outcome.migrated = migrated
    world.undo()
    warning = f"WARNING: migrations have run with 1 deployment since {OLD} was live"
    assert (warning in world.session.progress.getvalue()) is migrated


def test_freeze_that_came_meanwhile_does_not_keep_a_halted_rollout_from_going_back(tmp_path: Path) -> None:
    world = Halted(tmp_path, {"one": Verdict.VERIFIED, "two": Verdict.FAILED}, {"one": OLD, "two": OLD})
    world.worker.frozen = {"operator": "jo", "at": "noon", "why": "the fair is on"}
    assert world.undo() == [(OLD, {"one": Verdict.VERIFIED})]
    assert [parameters["goes_back"] for do, parameters in world.worker.asked if do == "announce"] == [True]
    told = "production is frozen by jo since noon: the fair is on; a freeze does not stop a rollback"
    assert told in world.session.progress.getvalue()


def test_silent_host_is_told_to_go_back_and_not_waited_for(tmp_path: Path) -> None:
    world = Halted(tmp_path, {"one": Verdict.VERIFIED, "two": Verdict.SILENT}, {"one": OLD, "two": OLD})
    assert world.undo() == [(OLD, {"one": Verdict.VERIFIED})]
    assert world.announced == [["one", "two"]]
    assert world.outcome.undone[0].told == (("web", "two"),)
    alone = Halted(tmp_path, {"two": Verdict.SILENT}, {"two": OLD})
    assert alone.undo() == [(OLD, {})]
    assert (alone.announced, alone.outcome.undone[0].exit_code) == ([["two"]], 0)


def test_each_host_goes_back_to_its_own_release_whatever_becomes_of_the_others(tmp_path: Path) -> None:
    world = Halted(tmp_path, dict.fromkeys(HOSTS, Verdict.VERIFIED), {"one": OLD, "two": THIRD})
    assert world.undo() == [(OLD, {"one": Verdict.VERIFIED}), (THIRD, {"two": Verdict.VERIFIED})]
    broken = Halted(tmp_path, dict.fromkeys(HOSTS, Verdict.VERIFIED), {"one": OLD, "two": THIRD})
    del broken.worker.objects[record_key(OLD)]
    assert broken.undo() == [(THIRD, {"two": Verdict.VERIFIED})]
    assert [OLD in reason and "has no release" in reason for reason in broken.outcome.not_undone] == [True]


def test_host_without_a_release_before_stays_where_it_is(tmp_path: Path) -> None:
    world = Halted(tmp_path, {"one": Verdict.VERIFIED, "two": Verdict.VERIFIED}, {"one": None, "two": NEW})
    assert world.undo() == []
    assert world.outcome.not_undone == ("one (web) has no release to go back to: this was its first deployment",)


def test_release_that_a_host_has_not_kept_is_downloaded_by_the_same_hosts(tmp_path: Path) -> None:
    world = Halted(tmp_path, {"one": Verdict.VERIFIED}, {"one": OLD})
    said: Iterator[dict[str, tuple[str, dict[str, Any]]]] = iter(
        [{"one": ("failed", {"incomplete": True})}, {"one": ("fetched", {})}]
    )
    world.worker.say_fetched = lambda: next(said)
    assert world.undo() == [(OLD, {"one": Verdict.VERIFIED})]
    assert world.announced == [["one"], ["one"]]


# --- how it ends without


@pytest.mark.parametrize("moment", ["before_announce", "after_fetch", "before_go"])
def test_hook_that_fails_before_go_lets_nobody_go(world: World, moment: str) -> None:
    world.session.objects_to = moment
    with pytest.raises(HookError) as failed:
        world.bring(migrate=True)
    assert failed.value.exit_code == 4
    assert [name for name, _ in world.session.hooked][-1] == moment
    assert "go" not in world.worker.done
    assert ("abort" in world.worker.done) is (moment != "before_announce")
    assert ("announce" in world.worker.done) is (moment != "before_announce")


def test_hooks_stand_where_their_names_say(world: World) -> None:
    world.bring(waves=WAVES)
    before = {"before_announce": "announce", "after_fetch": "go", "before_go": "go", "after_wave": "settle"}
    assert [name for name, _ in world.session.hooked] == [*list(before)[:3], "after_wave", "after_wave"]
    for name, done in world.session.hooked:
        assert before[name] not in done
    assert [done.count("go") for name, done in world.session.hooked if name == "after_wave"] == [1, 2]


def test_wave_that_the_operator_objects_to_is_the_last_one(world: World) -> None:
    world.session.objects_to = "after_wave"
    world.bring(waves=WAVES)
    assert world.outcome.status is Status.HALTED
    assert world.outcome.exit_code == 8
    assert world.worker.gone == {"one"}
    assert (
        "halted after 1 of 2 hosts; hooks.after_wave[0] failed with exit status 3"
        in outcome_error(world.outcome).message
    )
    assert "hooks.after_wave[0] failed with exit status 3, on this machine" in message(world.outcome, "production")


@pytest.mark.parametrize("goes_back", [False, True])
def test_objection_to_the_last_wave_halts_only_if_hosts_go_back(world: World, goes_back: bool) -> None:
    world.session.objects_to = "after_wave"
    world.bring(waves=(Wave(1, frozenset({("web", "one"), ("web", "two")})),), goes_back=goes_back)
    assert (world.outcome.exit_code, world.outcome.status) == (8, Status.HALTED if goes_back else Status.FAILED)
    assert "after_wave[0] failed" in outcome_error(world.outcome).message
    assert any("after_wave[0] failed" in line for line in message(world.outcome, "production"))


def test_no_hook_stops_what_puts_things_right(world: World) -> None:
    world.session.objects_to = "before_announce"
    world.bring(unasked=True)
    assert world.outcome.exit_code == 0
    assert world.session.hooked == []


def test_hosts_that_nobody_waits_for_go_only_if_the_operator_has_no_objection(world: World) -> None:
    world.session.objects_to = "before_go"
    with pytest.raises(HookError):
        world.bring(wait=False)
    assert [name for name, _ in world.session.hooked] == ["before_announce", "before_go"]
    assert "announce" not in world.worker.done
    assert world.outcome.status.let_go is False


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

    def fleet(hosts: Any, phase: str, among: Any = None) -> Any:
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
        assert "again" in str(raised.value.hint)
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
    claim_release(session_of(worker), OLDEST, COMING, {"release": OLDEST.id}).settle()


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
