"""What an environment's records say of its releases, and where a rollback goes."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploytool.connection.store import StoreClient
from deploytool.model.fleet import LastWord
from deploytool.model.history import (
    Deployment,
    History,
    Learned,
    Mark,
    RoleHost,
    latest,
    news,
    reaches_target,
    read_deployment,
    read_learned,
    read_mark,
    rollback_choice,
    standings,
    usual_steps,
    with_learned,
)
from deploytool.model.lifecycle import Status
from deploytool.model.release import DeploymentId, ReleaseId, is_deployment_id
from deploytool.state.history_store import moment_name, read_history
from deploytool.worker.requests_store import newest
from tests.support.answering import Answering
from tests.support.numbered import ALL, NOBODY, A, B, C, D, failed, good, history, mark, name

ONE, TWO = (frozenset({("web", name)}) for name in ("one", "two"))


def target(known: History, current: ReleaseId) -> ReleaseId | None:
    return rollback_choice(known, current).target


# --- where a rollback goes


def test_rollback_goes_to_the_release_that_was_verified_before_the_current_one() -> None:
    choice = rollback_choice(history(good(1, A), good(2, B), good(3, C)), C)
    assert choice.target == B
    assert [standing.release for standing in choice.before] == [B, A]


def test_rollback_skips_what_ended_with_exit_code_8() -> None:
    known = history(good(1, A), failed(2, B, ONE), good(3, C))
    assert target(known, C) == A
    assert "exit code 8" in standings(known)[B].words


def test_rollback_skips_what_was_never_proved() -> None:
    assert target(history(good(1, A), good(2, B, verified=NOBODY), good(3, C)), C) == A


def test_first_release_has_nothing_to_go_back_to() -> None:
    assert target(history(good(1, A)), A) is None
    assert target(History(), A) is None
    assert rollback_choice(History(), None).target is None


def test_second_rollback_goes_further_back_not_forth_again() -> None:
    known = history(good(1, A), good(2, B), good(3, C))
    once = known.then(good(4, B, kind="rollback"))
    assert target(once, B) == A
    assert target(once.then(good(5, A, kind="rollback")), A) is None


def test_deploy_after_a_rollback_can_be_taken_back_too() -> None:
    known = history(good(1, A), good(2, B), failed(3, C), good(4, B, kind="rollback"), good(5, D))
    assert target(known, D) == B


def test_release_that_is_deployed_again_stands_where_it_was_deployed_last() -> None:
    assert target(history(good(1, A), good(2, B), good(3, A)), A) == B


def test_current_release_that_no_record_knows_stands_after_all_others() -> None:
    assert target(history(good(1, A), good(2, B)), C) == B


def test_marked_bad_is_skipped_until_it_is_marked_good() -> None:
    deployments = (good(1, A), good(2, B), good(3, C))
    bad, vouched = mark(4, B, good=False), mark(5, B, good=True)
    assert target(history(*deployments, marks=(bad,)), C) == A
    assert target(history(*deployments, marks=(bad, vouched)), C) == B
    assert standings(history(*deployments, marks=(bad,)))[B].words == "bad: customers said so (ann@desk)"


def test_marked_bad_stays_bad_when_it_is_verified_again() -> None:
    known = history(good(1, A), good(2, B), good(4, B), good(5, C), marks=(mark(3, B, good=False),))
    assert target(known, C) == A


def test_failed_release_that_is_verified_later_is_good_again() -> None:
    assert target(history(good(1, A), failed(2, B), good(3, B), good(4, C)), C) == B


def test_person_can_vouch_for_a_release_that_failed_on_some_hosts() -> None:
    known = history(good(1, A), failed(2, B, ONE), good(3, C))
    assert target(History(known.deployments, (mark(4, B, good=True),)), C) == B


def test_nobody_can_vouch_for_what_no_host_has_ever_served() -> None:
    known = history(good(1, A), failed(2, B), good(3, C), marks=(mark(4, B, good=True),))
    assert target(known, C) == A


def test_failure_after_the_mark_ends_its_word() -> None:
    known = history(good(1, A), failed(2, B, ONE), failed(4, B), good(5, C), marks=(mark(3, B, good=True),))
    assert target(known, C) == A


def test_mark_of_the_same_second_comes_after_the_deployment() -> None:
    ended = failed(2, B, ONE, ended_at="2026-02-01T00:00:09Z")
    known = history(good(1, A), ended, good(3, C), marks=(mark(9, B, good=True),))
    assert target(known, C) == B


def test_release_that_failed_before_go_is_neither_good_nor_in_the_way() -> None:
    known = history(good(1, A), good(2, B), good(3, C, exit_code=4, status=Status.ABORTED, verified=NOBODY))
    assert target(known, B) == A
    assert standings(known)[C].bad is None
    assert standings(known)[C].words == "never verified"


def test_hosts_that_failed_before_go_make_a_release_bad() -> None:
    known = history(good(1, A), good(2, B, exit_code=8, status=Status.ABORTED, verified=NOBODY), good(3, C))
    assert target(known, C) == A


def test_old_release_that_could_not_be_brought_back_keeps_its_place() -> None:
    known = history(good(1, A), good(2, B), good(3, C), good(4, A, exit_code=4, status=Status.ABORTED, verified=NOBODY))
    assert target(known, C) == B


def test_release_completed_with_nodes_is_good() -> None:
    half = history(good(1, A), failed(2, B, ONE))
    assert target(half.then(good(4, C)), C) == A
    complete = half.then(good(3, B, whole=False, expected=TWO, verified=TWO))
    assert standings(complete)[B].verified == name(3)
    assert target(complete.then(good(4, C)), C) == B


def test_release_that_only_some_hosts_got_is_not_verified() -> None:
    known = history(good(1, A), good(2, B, whole=False, expected=ONE, verified=ONE), good(3, C))
    assert standings(known)[B].words == "verified on 1 of its hosts"
    assert target(known, C) == A


def test_exception_by_nodes_does_not_move_a_release_forward() -> None:
    known = history(good(1, A), good(2, B), good(3, C), good(4, A, whole=False, expected=ONE, verified=ONE))
    assert target(known, C) == B


def test_host_that_came_later_need_not_have_proved_older_releases() -> None:
    assert target(history(good(1, A, expected=ONE, verified=ONE), good(2, B)), B) == A


def test_unended_deployment_proves_nothing() -> None:
    known = history(good(1, A), Deployment(name(2), B), good(3, C))
    assert target(known, C) == A
    assert standings(known)[B].bad is None


def test_rollback_that_fell_back_does_not_make_its_release_bad() -> None:
    tried = good(3, A, kind="rollback", exit_code=8, status=Status.ABORTED, verified=NOBODY, fell_back=True)
    known = history(good(1, A), good(2, B), tried)
    assert target(known, B) == A
    assert target(known.then(good(4, A, kind="rollback")), A) is None


def test_deployments_of_unknown_releases_stop_nothing() -> None:
    damaged = Deployment(name(2), problem="the record is damaged")
    assert target(history(good(1, A), damaged, good(3, C)), C) == A


# --- what a rollback leaves


def rolled_back(number: int, release: ReleaseId, origin: ReleaseId, **changes: Any) -> Deployment:
    return good(number, release, kind="rollback", origin=origin, **changes)


def three_and_a_rollback() -> History:
    """A, B and C were good, C was gone back from to B, and D came then."""
    return history(good(1, A), good(2, B), good(3, C), rolled_back(4, B, C), good(5, D, origin=B))


def test_rollback_does_not_go_to_what_another_one_went_back_from() -> None:
    known = three_and_a_rollback()
    assert target(known, D) == B
    assert f"abandoned by the rollback {name(4)}" in standings(known)[C].words
    assert target(known.then(rolled_back(6, B, D)), B) == A


@pytest.mark.parametrize("release", [C, D])
def test_what_was_left_comes_back_by_a_new_deployment_of_it(release: ReleaseId) -> None:
    known = three_and_a_rollback().then(rolled_back(6, B, D)).then(good(7, release, origin=B))
    assert target(known, release) == B
    assert target(known.then(good(8, A)), A) == release


def test_what_was_left_comes_back_by_a_mark() -> None:
    known = three_and_a_rollback()
    assert target(History(known.deployments, (mark(6, C, good=True),)), D) == C
    assert target(History(known.deployments, (mark(6, C, good=False),)), D) == B


def test_rollback_that_let_no_host_go_leaves_nothing() -> None:
    refused = rolled_back(4, B, C, exit_code=4, status=Status.ABORTED, verified=NOBODY)
    assert target(history(good(1, A), good(2, B), good(3, C), refused, good(5, D)), D) == C


def test_rollback_by_name_forth_again_leaves_nothing() -> None:
    back = history(good(1, A), good(2, B), good(3, C), rolled_back(4, A, C))
    assert target(back, A) is None
    forth = back.then(rolled_back(5, C, A))
    assert target(forth, C) == B
    assert all(each.left is None for each in standings(forth).values())
    assert target(forth.then(rolled_back(6, B, C)), B) == A


# --- what a failure says of a release


def test_failure_before_go_says_nothing_against_what_was_verified_before() -> None:
    refused = good(3, A, exit_code=8, status=Status.ABORTED, verified=NOBODY)
    known = standings(history(good(1, A), good(2, B), refused))
    assert known[A].bad is None
    assert known[A].proven == ALL
    assert target(history(good(1, A), good(2, B), refused), B) == A
    assert standings(history(good(2, B), refused))[A].bad is not None


def test_failure_after_go_makes_bad_what_was_verified_before() -> None:
    assert target(history(good(1, A), failed(2, A, ONE), good(3, B)), B) is None


def test_failure_after_go_takes_away_the_proof_of_the_hosts_that_failed() -> None:
    both = history(good(1, A), failed(2, A, NOBODY))
    assert standings(both)[A].proven == set()
    one = both.then(good(3, A, whole=False, expected=ONE, verified=ONE))
    assert standings(one)[A].verified == name(1)
    assert standings(one)[A].bad is not None
    assert target(one.then(good(4, B)), B) is None
    two = one.then(good(5, A, whole=False, expected=TWO, verified=TWO))
    assert standings(two)[A].verified == name(5)
    assert target(two.then(good(6, B)), B) == A


def test_interrupted_deployment_that_all_hosts_proved_is_verified() -> None:
    assert target(history(good(1, A, exit_code=130), good(2, B)), B) == A
    assert target(history(good(1, A, exit_code=130, verified=ONE), good(2, B)), B) is None


def test_nodes_before_any_whole_deployment_verify_nothing() -> None:
    known = history(good(1, A, whole=False, expected=ONE, verified=ONE))
    assert standings(known)[A].verified is None
    assert target(known.then(good(2, B)), B) is None


def test_nodes_after_what_nobody_waited_for_verify_nothing_either() -> None:
    for expected in (NOBODY, ALL):
        unwaited = good(1, A, expected=expected, verified=NOBODY)
        known = history(unwaited, good(2, A, whole=False, expected=ONE, verified=ONE))
        assert standings(known)[A].verified is None
        assert target(known.then(good(3, B)), B) is None


# --- what hosts prove when nobody listens any more


def word(deployment: DeploymentId, release: ReleaseId, *, verified: bool = True) -> LastWord:
    return LastWord(release=release, deployment=deployment, verified=verified)


def test_hosts_that_nobody_waited_for_prove_it_later() -> None:
    unwaited = history(good(1, A), good(2, B, verified=NOBODY))
    learned = news(unwaited, {host: word(name(2), B) for host in ALL})
    assert {(each.deployment, each.role, each.host) for each in learned} == {(name(2), *host) for host in ALL}
    told = with_learned(unwaited, learned)
    assert target(told.then(good(3, C)), C) == B
    assert news(told, {host: word(name(2), B) for host in ALL}) == ()


def test_proof_tells_that_hosts_were_let_go_though_the_operator_went_away() -> None:
    away = history(good(1, A), Deployment(name(2), B, expected=ALL))
    told = with_learned(away, news(away, {host: word(name(2), B) for host in ALL}))
    assert told.deployments[1].let_go is True
    assert target(told.then(good(3, C)), C) == B


@pytest.mark.parametrize(
    "said",
    [
        word(name(2), B, verified=False),
        word(name(2), A),
        word(name(9), B),
        LastWord(),
        LastWord(release=B, verified=True),
    ],
)
def test_word_that_is_no_proof_of_a_known_deployment_is_no_news(said: LastWord) -> None:
    assert news(history(good(1, A), good(2, B, verified=NOBODY)), dict.fromkeys(ALL, said)) == ()


def test_host_that_failed_has_no_later_word_but_another_one_has() -> None:
    known = history(failed(1, A, ONE, expected=ALL))
    said = {host: word(name(1), A) for host in (*ALL, ("web", "three"))}
    assert news(known, said) == (Learned(name(1), "web", "three"),)


# --- what was deployed last


def test_latest_is_the_last_that_may_have_let_hosts_go() -> None:
    refused = good(3, C, exit_code=4, status=Status.ABORTED)
    assert latest(history(good(1, A), good(2, B), refused)) == good(2, B)
    unended = Deployment(name(4), D)
    assert latest(history(good(1, A), unended, refused)) == unended
    assert latest(history(refused)) is None


def test_exceptions_are_not_the_latest() -> None:
    assert latest(history(good(1, A), good(2, B, whole=False))) == good(1, A)


# --- reading


def record(**changes: Any) -> str:
    hosts = [
        {"role": "web", "host": "one", "verdict": "verified", "state": "verified"},
        {"role": "web", "host": "two", "verdict": "failed", "state": "fetched"},
    ]
    content: Mapping[str, Any] = {
        "release": A,
        "revision": "a" * 40,
        "exit_code": 8,
        "hosts": hosts,
        "operator": "ann@desk",
        "nodes": [],
        "let_go": True,
        "kind": "rollback",
        "began_at": "2026-02-01T00:00:01Z",
        "ended_at": "2026-02-01T00:05:00Z",
        **changes,
    }
    return json.dumps({key: value for key, value in content.items() if value is not None})


def read(written: str | None, begun: str | None = None) -> Deployment:
    return read_deployment(name(1), written, begun)


def test_record_is_read() -> None:
    found = read(record())
    assert (found.release, found.kind, found.whole, found.exit_code, found.let_go) == (A, "rollback", True, 8, True)
    assert (found.expected, found.verified, found.operator) == (ALL, ONE, "ann@desk")
    assert found.moment == "20260201T000500Z"
    assert found.problem is None


def test_deployment_that_only_began_is_known_by_that() -> None:
    begun = json.dumps({"release": A, "kind": "deploy", "nodes": ["one"], "exit_code": 0, "let_go": True})
    found = read(None, begun)
    assert (found.release, found.whole, found.exit_code, found.let_go) == (A, False, None, None)
    assert found.moment == name(1)[:16]


def test_damaged_record_leaves_what_was_written_at_the_beginning() -> None:
    found = read('{"release": "cut off', json.dumps({"release": A, "operator": "ann@desk"}))
    assert (found.release, found.operator, found.exit_code, found.let_go) == (A, "ann@desk", None, None)
    assert found.problem == "the record is damaged"


@pytest.mark.parametrize("text", ["", "null", "[]", "7", "[" * 100_000, '"text"'])
def test_what_is_no_record_is_a_deployment_of_nothing(text: str) -> None:
    found = read(text, text)
    assert (found.id, found.release, found.exit_code, found.let_go) == (name(1), None, None, None)
    assert found.problem == "the record is damaged; begun.json is damaged"


@pytest.mark.parametrize(
    "changes",
    [
        {"release": "../../etc"},
        {"release": 7},
        {"exit_code": "0"},
        {"exit_code": True},
        {"hosts": "none"},
        {"hosts": [7, None]},
        {"nodes": "one"},
        {"ended_at": 5},
        {"let_go": "yes"},
        {"phases": []},
    ],
)
def test_nonsense_in_a_record_is_left_out(changes: dict[str, Any]) -> None:
    found = read(record(**changes))
    assert found.release in (A, None)
    assert found.exit_code in (8, None)
    assert found.problem is None
    standings(history(found, good(2, B)))


def test_text_of_a_record_can_not_move_the_cursor() -> None:
    assert "\x1b" not in (read(record(operator="\x1b[2Jann")).operator or "")


def test_record_of_before_let_go_was_written_tells_it_by_its_phases() -> None:
    assert read(record(let_go=None, phases={"announce": 1, "activate": 2})).let_go is True
    assert read(record(let_go=None, hosts=[], phases={"announce": 1, "fetch": 2})).let_go is False
    assert read(record(let_go=None, kind=None, exit_code=4, hosts=[])).kind == "deploy"


def test_old_record_of_a_deployment_that_nobody_waited_for_let_its_hosts_go() -> None:
    found = read(record(let_go=None, kind=None, exit_code=0, hosts=[], phases={"manifests": 1, "announce": 1}))
    assert found.let_go is True
    assert latest(history(good(2, B), found)) == found


def test_mark_is_read() -> None:
    text = json.dumps({"good": False, "why": "slow", "operator": "ann@desk"})
    assert read_mark("20260201T000001Zmark", A, text) == Mark(A, False, "slow", "ann@desk", "20260201T000001Zmark")


@pytest.mark.parametrize("text", [None, "", "[]", '{"good": "no"}', '{"why": "slow"}', "[" * 100_000])
def test_damaged_mark_counts_as_bad(text: str | None) -> None:
    found = read_mark(f"{name(4)[:16]}mark", B, text)
    assert not found.good
    known = history(good(1, A), good(2, B), good(3, C), marks=(found,))
    assert target(known, C) == A
    assert "can't be read" in standings(known)[B].words


def test_what_a_record_had_learned_is_read_and_nonsense_in_it_is_not() -> None:
    said = {"deployment": name(1), "role": "web", "host": "one"}
    assert list(
        read_learned({"learned": [said, 7, {}, {"deployment": "../x"}, {**said, "deployment": [name(1)]}]})
    ) == [Learned(name(1), "web", "one")]
    assert list(read_learned({"learned": "x"})) == []


# --- reading the store


class Store(Answering):
    """A session whose store has these texts; it counts the deployments that are read.

    At first it tells only of the newest `recent` keys.
    """

    def __init__(self, texts: Mapping[str, str], recent: int | None = None) -> None:
        self.texts, self.worker, self.read, self.recent = texts, self, list[str](), recent
        self.asked: list[str] = []
        self.store = StoreClient(self)

    def now(self) -> datetime:
        return datetime(2026, 3, 31, tzinfo=UTC)

    def _below(self, prefix: str) -> list[str]:
        return [key for key in self.texts if key.startswith(prefix)]

    def ask(self, do: str, **parameters: Any) -> dict[str, Any]:
        self.asked.append(do)
        match do:
            case "store_newest":
                assert parameters["since"] == [
                    f"{parameters['prefix']}deployments/{day}" for day in ("20260324", "20260301", "20250331")
                ]
                keys = self._below(parameters["prefix"])
                told = keys if self.recent is None else keys[-self.recent :]
                texts = self.ask("store_read", keys=newest(told, parameters["patterns"]))
                return {"keys": told, "whole": told == keys, **texts}
            case "store_list":
                return {"keys": self._below(parameters["prefix"])}
            case "store_read":
                self.read += parameters["keys"]
                return {"contents": {key: self.texts.get(key) for key in parameters["keys"]}}
        raise AssertionError(f"unscripted: {do}")


def ended(release: ReleaseId, **changes: Any) -> str:
    hosts = [{"role": "web", "host": host, "verdict": "verified"} for host in ("one", "two")]
    return json.dumps({"release": release, "exit_code": 0, "let_go": True, "hosts": hosts, **changes})


def store_with(*releases: ReleaseId, **more: str) -> Store:
    """Deployed one after the other."""
    names = [f"202602{1 + at // 60 // 24:02d}T{at // 60 % 24:02d}{at % 60:02d}00Zabcd" for at in range(len(releases))]
    texts = {f"environments/prod/deployments/{each}.json": ended(at) for each, at in zip(names, releases, strict=True)}
    return Store({**texts, **more})


def test_history_is_read_as_far_back_as_it_takes() -> None:
    store: Any = store_with(A, *[B] * 102)
    found = read_history(store, "prod", reaches_target)
    assert len(found.deployments) == len(store.read) == 103
    assert target(found, B) == A
    assert [each.release for each in found.deployments[:2]] == [A, B]


def test_no_more_of_a_history_is_read_than_it_takes() -> None:
    store: Any = store_with(*[A] * 60, *[B] * 60)
    found = read_history(store, "prod", reaches_target)
    assert len(found.deployments) == len(store.read) == 100
    assert target(found, B) == A
    assert len(read_history(store_with(*[A] * 120), "prod").deployments) == 100  # type: ignore[arg-type]


def test_of_most_histories_the_last_twenty_are_read() -> None:
    store: Any = store_with(*[A, B] * 50)
    assert target(read_history(store, "prod", reaches_target), B) == A
    assert len(store.read) == 20


def test_of_a_long_history_no_more_is_listed_than_it_takes() -> None:
    texts = store_with(*[A] * 150, *[B] * 60).texts
    store: Any = Store(texts, recent=120)
    found = read_history(store, "prod", reaches_target)
    assert (len(found.deployments), target(found, B)) == (100, A)
    assert "store_list" not in store.asked


def test_a_long_history_is_listed_as_a_whole_if_it_takes_that() -> None:
    texts = store_with(A, *[B] * 150).texts
    store: Any = Store(texts, recent=120)
    found = read_history(store, "prod", reaches_target)
    assert (len(found.deployments), target(found, B)) == (151, A)
    assert store.asked.count("store_list") == 1
    assert len(store.read) == len(set(store.read)) == 151


def test_all_marks_are_read_and_what_else_lies_there_is_nobodys_business() -> None:
    marked = f"environments/prod/marks/{A}/20260301T000000Zmark.json"
    noise = {
        "environments/prod/deployments/latest.json": "{}",
        "environments/prod/marks/README": "noise",
        f"environments/prod/marks/{A}/latest.json": '{"good": true}',
        "environments/prod/deployments/20260201T000000Zabcd/kept/web.yml": "",
        f"environments/other/deployments/{name(9)}.json": ended(D),
    }
    store: Any = store_with(A, B, **{marked: '{"good": false}', **noise})
    found = read_history(store, "prod", reaches_target)
    assert [each.release for each in found.deployments] == [A, B]
    assert [(each.release, each.good) for each in found.marks] == [(A, False)]
    assert target(found, B) is None


def test_what_a_later_record_had_learned_counts() -> None:
    learned = [{"deployment": "20260201T000000Zabcd", "role": "web", "host": host} for host in ("one", "two")]
    unwaited = ended(A, hosts=[], expected=[{"role": "web", "host": host} for host in ("one", "two")])
    texts = {
        "environments/prod/deployments/20260201T000000Zabcd.json": unwaited,
        "environments/prod/deployments/20260201T000100Zabcd.json": ended(B, learned=learned),
    }
    assert target(read_history(Store(texts), "prod"), B) == A  # type: ignore[arg-type]
    texts |= {"environments/prod/deployments/20260201T000100Zabcd.json": ended(B)}
    assert target(read_history(Store(texts), "prod"), B) is None  # type: ignore[arg-type]


def test_names_of_marks_sort_by_their_time_to_the_microsecond() -> None:
    second = datetime(2026, 2, 1, 23, 59, 59, tzinfo=UTC)
    moments = [second.replace(microsecond=number) for number in (0, 9, 10, 35, 36, 1295, 1296, 46_656, 999_999)]
    names = [moment_name(each) for each in [*moments, second + timedelta(seconds=1)]]
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert all(is_deployment_id(each) for each in names)


# --- rollouts in waves


def paused(number: int, release: ReleaseId, verified: frozenset[RoleHost] = ONE, **changes: Any) -> Deployment:
    """A deployment in waves that ended before all its hosts had gone."""
    return good(number, release, verified=verified, untouched=ALL - verified, partial=True, **changes)


def test_paused_rollout_proves_what_it_proves_and_moves_nothing() -> None:
    known = history(good(1, A), good(2, B), paused(3, C))
    assert standings(known)[C].words == "verified on 1 of its hosts"
    assert target(known, B) == A
    assert target(history(*known.deployments, good(4, D)), D) == B


def test_promoted_release_is_verified_by_both_deployments_together() -> None:
    promoted = good(4, C, expected=ALL, verified=TWO)
    known = history(good(1, A), good(2, B), paused(3, C), promoted)
    assert standings(known)[C].verified == promoted.id
    assert target(known, C) == B
    assert target(history(*known.deployments, good(5, D)), D) == C


def test_release_that_was_halted_and_undone_is_no_target_and_the_old_one_goes_where_it_went() -> None:
    halted = paused(3, C, exit_code=8)
    undone = good(4, B, kind="rollback", origin=B, whole=False, expected=ONE, verified=ONE)
    known = history(good(1, A), good(2, B), halted, undone)
    assert "exit code 8" in standings(known)[C].words
    assert standings(known)[B].may_return
    assert target(known, B) == A
    assert target(history(*known.deployments, good(5, D)), D) == B


def test_halted_release_that_is_promoted_all_the_same_is_good() -> None:
    known = history(good(1, A), paused(2, B, exit_code=8), good(3, B, verified=TWO))
    assert standings(known)[B].may_return


def test_hosts_that_were_not_let_go_say_nothing_against_what_they_proved_before() -> None:
    known = history(good(1, A), good(2, B), paused(3, A, NOBODY, exit_code=8))
    assert standings(known)[A].proven == ALL


def test_rollback_after_a_pause_leaves_what_was_verified_before_where_it_was() -> None:
    known = history(good(1, A), good(2, B), paused(3, A), good(4, B, kind="rollback", origin=B))
    assert target(known, B) == A


def away(number: int, release: ReleaseId, **changes: Any) -> Deployment:
    """A deployment in waves whose operator went away."""
    return Deployment(name(number), release, expected=ALL, partial=True, **changes)


def test_rollout_that_all_hosts_have_proved_had_reached_all_though_its_operator_went_away() -> None:
    known = history(good(1, A), good(2, B), away(3, A))
    told = with_learned(known, news(known, {host: word(name(3), A) for host in ALL}))
    assert target(told, A) == B
    assert target(told.then(good(4, C)), C) == A
    # Those that it spared had proved it before.
    promoted = with_learned(history(away(3, A, spared=ONE)), [Learned(name(3), *host) for host in TWO])
    assert not promoted.deployments[0].partial
    some = with_learned(known, [Learned(name(3), *host) for host in ONE])
    assert some.deployments[2].partial
    assert target(some.then(good(4, C)), C) == B


def test_rollback_from_what_a_rollout_brought_whose_operator_went_away_goes_to_what_was_live_before_it() -> None:
    some = with_learned(history(good(1, A), good(2, B), away(3, A)), [Learned(name(3), *host) for host in ONE])
    assert target(some, A) == B


def test_history_of_a_rollout_that_did_not_reach_all_is_read_to_where_the_one_before_goes_back() -> None:
    assert not reaches_target(history(good(2, B), paused(3, C)))
    assert reaches_target(history(good(1, A), good(2, B), paused(3, C)))
    assert latest(history(good(2, B), paused(3, C))) == paused(3, C)


@pytest.mark.parametrize(
    ("said", "partial"),
    [
        ({}, False),
        ({"waves": 0}, False),
        # The operator went away, or it was paused, halted or interrupted.
        ({"waves": 3}, True),
        ({"waves": 3, "settled": False, "exit_code": 0}, True),
        ({"waves": 3, "settled": True, "exit_code": 0}, False),
    ],
)
def test_rollout_in_waves_reached_all_only_if_somebody_wrote_that_down(said: Mapping[str, Any], partial: bool) -> None:
    assert read_deployment(name(1), json.dumps({"release": A, **said}), None).partial is partial


def test_hosts_that_ran_it_already_are_expected_and_those_that_left_are_untouched() -> None:
    hosts = [
        {"role": "web", "host": "two", "verdict": "verified"},
        {"role": "web", "host": "three", "verdict": "aborted"},
        {"role": "web", "host": "four", "verdict": "failed"},
    ]
    text = json.dumps({"release": A, "exit_code": 8, "hosts": hosts, "spared": [{"role": "web", "host": "one"}]})
    found = read_deployment(name(1), text, None)
    assert found.expected == {("web", each) for each in ("one", "two", "three", "four")}
    assert (found.verified, found.untouched) == (TWO, frozenset({("web", "three")}))
    assert found.spared == ONE


def test_steps_of_the_newest_deployment_that_ran_them_are_the_usual_ones() -> None:
    def took(number: int, steps: object) -> Deployment:
        record = json.dumps({"release": A, "steps": steps})
        return read_deployment(DeploymentId(name(number)), record, record)

    known = History((took(1, {"dependencies": 40, "pack": 3}), took(2, {"pack": 2.5}), took(3, "x"), took(4, [1])))
    assert usual_steps(known) == {"dependencies": 40, "pack": 2.5}
    assert usual_steps(History((took(5, {"pack": -1, "checkout": "long"}),))) == {}
