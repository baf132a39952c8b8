"""Which releases the store keeps, for any history."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deploytool.model.history import Deployment, History, Mark, RoleHost, latest, rollback_choice, standings
from deploytool.model.lifecycle import Status
from deploytool.model.release import ReleaseId
from deploytool.model.retention import Known, doomed, reaches_back
from tests.support.histories import HOSTS, NOBODY, NOW, RELEASES, deployment_id, good, one_after_the_other, release_id


def staying(stored: Collection[ReleaseId], environments: Mapping[str, Known], keep: int) -> set[ReleaseId]:
    return set(stored) - set(doomed(stored, environments, keep, NOW))


# --- which releases go


def test_newest_verified_ones_stay() -> None:
    environments = {"production": Known(one_after_the_other(RELEASES))}
    assert doomed(RELEASES, environments, 3, NOW) == RELEASES[:-3]


def test_newest_is_what_was_verified_last_not_what_was_built_last() -> None:
    order = (*RELEASES[1:10], RELEASES[0], *RELEASES[10:])
    assert staying(RELEASES, {"production": Known(one_after_the_other(order))}, 3) == set(order[-3:])


def test_verified_in_any_environment_counts() -> None:
    environments = {
        "staging": Known(one_after_the_other(RELEASES)),
        "production": Known(one_after_the_other(RELEASES[:3])),
    }
    # Production runs the third and would go back to the second.
    assert staying(RELEASES, environments, 4) == {*RELEASES[1:3], *RELEASES[-2:]}


def test_failures_never_push_out_what_is_good() -> None:
    failures = tuple(good(29 - at, each, exit_code=8, verified=frozenset()) for at, each in enumerate(RELEASES[4:]))
    known = History((*one_after_the_other(RELEASES[:4]).deployments, *failures))
    stays = staying(RELEASES, {"production": Known(known)}, 3)
    assert stays >= set(RELEASES[1:4])
    assert stays - set(RELEASES[:4]) == set(RELEASES[-3:])


def test_releases_that_wait_to_be_deployed_are_counted_apart() -> None:
    known = {"production": Known(one_after_the_other(RELEASES[:6]))}
    assert staying(RELEASES, known, 2) == {*RELEASES[4:6], *RELEASES[-2:]}


def test_nothing_goes_while_there_is_room() -> None:
    assert doomed(RELEASES, {"production": Known(one_after_the_other(RELEASES))}, len(RELEASES), NOW) == ()


def test_release_of_the_last_day_stays_whatever_the_number() -> None:
    fresh = [release_id(hours, letter) for hours in (1, 24) for letter in "bcd"]
    assert staying([*RELEASES, *fresh], {}, 1) == set(fresh)


def test_claimed_release_stays_until_its_deployment_has_ended_or_a_day_is_over() -> None:
    done = one_after_the_other(RELEASES)
    for hours, exit_code, status, stays in (
        (1, None, None, True),
        (23, None, None, True),
        (1, 4, Status.ABORTED, False),
    ):
        claim = Deployment(deployment_id(hours), RELEASES[0], exit_code=exit_code, status=status)
        assert (RELEASES[0] in staying(RELEASES, {"production": Known(done.then(claim))}, 2)) is stays


def test_claim_stays_though_another_deployment_ended_meanwhile() -> None:
    claim = Deployment(deployment_id(3), RELEASES[0])
    known = one_after_the_other(RELEASES[3:]).then(claim).then(good(2, RELEASES[-1]))
    assert RELEASES[0] in staying(RELEASES, {"production": Known(known)}, 2)


def test_old_unended_deployment_claims_nothing_once_another_went_to_all_hosts() -> None:
    unended = Deployment(deployment_id(100), RELEASES[0])
    known = History((unended, *one_after_the_other(RELEASES).deployments))
    assert RELEASES[0] not in staying(RELEASES, {"production": Known(known)}, 2)


def test_exceptions_of_single_hosts_stay() -> None:
    one = frozenset(HOSTS[:1])
    exception = good(28, RELEASES[0], whole=False, expected=one, verified=one)
    known = one_after_the_other(RELEASES).then(exception)
    assert RELEASES[0] in staying(RELEASES, {"production": Known(known)}, 2)
    ended = known.then(good(27, RELEASES[-1]))
    assert RELEASES[0] not in staying(RELEASES, {"production": Known(ended)}, 2)


def test_what_a_host_went_back_to_stays() -> None:
    half = good(29, RELEASES[5], exit_code=8, verified=frozenset(HOSTS[:1]))
    old = History((good(40, RELEASES[0]), *(replace(half, id=deployment_id(39 - at)) for at in range(5))))
    assert RELEASES[0] in staying(RELEASES, {"production": Known(old)}, 1)


def test_what_consul_says_stays() -> None:
    environments = {"production": Known(one_after_the_other(RELEASES), live=frozenset({RELEASES[3]}))}
    # The one that it serves, and the one before.
    assert staying(RELEASES, environments, 1) >= {RELEASES[3], RELEASES[2]}


def test_nothing_goes_while_nobody_can_tell_what_an_environment_runs() -> None:
    damaged = Deployment(deployment_id(28), problem="the record is damaged")
    known = one_after_the_other(RELEASES).then(damaged)
    assert doomed(RELEASES, {"production": Known(known)}, 1, NOW) == ()
    assert doomed(RELEASES, {"production": Known(known, frozenset(RELEASES[-1:]))}, 1, NOW) == RELEASES[:-2]
    recent = known.then(Deployment(deployment_id(1), problem="the record is damaged"))
    assert doomed(RELEASES, {"production": Known(recent, frozenset(RELEASES[-1:]))}, 1, NOW) == ()


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Random deployments and marks over the last weeks: good, failed, aborted, --nodes, rollbacks, unended."""
    deployments: list[Deployment] = []
    hours = sorted(draw(st.sets(st.integers(1, 30) | st.integers(1, 700), max_size=14)), reverse=True)
    for at in hours:
        # What the history leads to so far, as the tool would choose it.
        current = latest(History(tuple(deployments)))
        target = rollback_choice(History(tuple(deployments)), current.release if current else None).target
        kind = draw(st.sampled_from(["deploy", "deploy", "deploy", "rollback", "again"]))
        release = target if kind == "rollback" and target else draw(st.sampled_from([*RELEASES, *RECENT]))
        expected = frozenset(draw(st.sets(st.sampled_from(HOSTS), min_size=1)))
        verified = frozenset(draw(st.sets(st.sampled_from(sorted(expected)))))
        each = good(at, release, expected=expected, origin=current.release if current else None)
        if kind == "rollback" and target:
            each = replace(each, kind="rollback")
        match draw(st.sampled_from(["good", "good", "good", "failed", "aborted", "unended", "nodes", "no wait"])):
            case "good":
                each = replace(each, verified=expected)
            case "failed":
                each = replace(each, exit_code=8, verified=verified)
            case "aborted":
                each = replace(
                    each, exit_code=draw(st.sampled_from([4, 7, 8, 130])), status=Status.ABORTED, verified=NOBODY
                )
            case "unended":
                each = Deployment(each.id, release, whole=draw(st.booleans()))
            case "nodes":
                each = replace(each, whole=False, exit_code=0 if verified == expected else 8, verified=verified)
            case "no wait":
                each = replace(each, expected=NOBODY, verified=NOBODY)
        deployments.append(each)
    marks = tuple(
        Mark(release, draw(st.booleans()), "why", "who", deployment_id(at))
        for at, release in draw(st.lists(st.tuples(st.integers(1, 700), st.sampled_from(RELEASES)), max_size=3))
    )
    return History(tuple(deployments), tuple(sorted(marks, key=lambda mark: mark.moment)))


RECENT = (release_id(3, "b"), release_id(20, "c"))
KNOWN = st.dictionaries(
    st.sampled_from(["staging", "production", "demo"]),
    st.builds(Known, histories(), st.frozensets(st.sampled_from(RELEASES), max_size=2)),
)


# Told in other words than the code's: no word of `protected`, `may_run` or `rollback_choice` below.


def around(history: History) -> set[ReleaseId]:
    """What hosts may run: the last to all of them and all since, and what each host has proved last."""
    found: set[ReleaseId] = set()
    proved: dict[RoleHost, ReleaseId] = {}
    for each in history.deployments:
        if each.release is None or each.let_go is False:
            continue
        if each.whole and each.let_go:
            found = set()
        found.add(each.release)
        proved |= dict.fromkeys(each.verified, each.release)
    return found | set(proved.values())


@settings(max_examples=400, deadline=None)
@given(environments=KNOWN, stored=st.sets(st.sampled_from([*RELEASES, *RECENT])), keep=st.integers(1, 5))
def test_for_any_history_nothing_that_is_needed_goes_and_no_more_than_that_stays(
    environments: Mapping[str, Known], stored: set[ReleaseId], keep: int
) -> None:
    going = set(doomed(stored, environments, keep, NOW))
    stays = stored - going
    assert going <= stored
    verified: set[ReleaseId] = set()
    near = 0
    for known in environments.values():
        last = [each.release for each in known.history.deployments if each.whole and each.let_go is not False]
        assert not going & {*known.live, *last[-1:]}
        claimed = {each.release for each in known.history.deployments if each.exit_code is None}
        assert not going & {each for each in claimed if each is not None and claimed_lately(known.history, each)}
        verified |= {release for release, it in standings(known.history).items() if it.verified is not None}
        # Each of those, where a rollback from it would go, and the claims.
        near += 2 * len(known.live | around(known.history)) + len(claimed)
    assert not going & set(RECENT)
    assert len(stays & verified - set(RECENT)) <= max(keep, near)
    assert len(stays - verified - set(RECENT)) <= max(keep, near)
    # Nothing goes while there is room for it.
    for pool in (stored & verified, stored - verified):
        if pool & going:
            assert len(pool & stays) >= keep
    # What stays, stays: a second look removes nothing.
    assert doomed(stays, environments, keep, NOW) == ()


@settings(max_examples=400, deadline=None)
@given(history=histories(), stored=st.sets(st.sampled_from([*RELEASES, *RECENT])), keep=st.integers(1, 5))
def test_what_a_history_reaches_back_for_is_all_that_it_takes(
    history: History, stored: set[ReleaseId], keep: int
) -> None:
    possible = [each for each in history.deployments if each.release is None or each.release[:16] <= each.id[:16]]
    for first in range(len(possible)):
        newest = replace(history, deployments=tuple(possible[first:]))
        if reaches_back(newest, keep, stored):
            whole = replace(history, deployments=tuple(possible))
            assert doomed(stored, {"demo": Known(newest)}, keep, NOW) == doomed(
                stored, {"demo": Known(whole)}, keep, NOW
            )


def test_a_release_that_is_never_verified_is_not_looked_for_for_ever() -> None:
    never = release_id(700)
    history = one_after_the_other([RELEASES[-1], RELEASES[-2]] * 60)
    assert not reaches_back(replace(history, deployments=history.deployments[-99:]), 2, [never, *RELEASES[-2:]])
    assert reaches_back(replace(history, deployments=history.deployments[-100:]), 2, [never, *RELEASES[-2:]])
    assert reaches_back(replace(history, deployments=history.deployments[-20:]), 2, RELEASES[-2:])


def claimed_lately(history: History, release: ReleaseId) -> bool:
    return any(
        each.release == release and each.exit_code is None and each.id >= deployment_id(24)
        for each in history.deployments
    )


@dataclass
class Story:
    """An environment that is only deployed to as a whole, by hand: its releases in order, and what became of them."""

    deployments: list[Deployment] = field(default_factory=list)
    #: each once, by its last deployment
    order: list[ReleaseId] = field(default_factory=list)
    good: set[ReleaseId] = field(default_factory=set)
    left: set[ReleaseId] = field(default_factory=set)
    #: verified at some time, the last time last
    verified: list[ReleaseId] = field(default_factory=list)
    serving: dict[RoleHost, ReleaseId] = field(default_factory=dict)
    current: ReleaseId | None = None

    def goes_back_to(self, release: ReleaseId) -> ReleaseId | None:
        before = self.order[: self.order.index(release)] if release in self.order else self.order
        fine = [each for each in before if each in self.good and each not in self.left and each != release]
        return fine[-1] if fine else None

    def bring(self, release: ReleaseId, at: int, *, back: bool, proved: frozenset[RoleHost]) -> None:
        fine = len(proved) == len(HOSTS)
        self.deployments.append(
            good(
                at,
                release,
                kind="rollback" if back else "deploy",
                origin=self.current,
                exit_code=0 if fine else 8,
                verified=proved,
            )
        )
        self.left.discard(release)
        if not back:
            self.order = [*(each for each in self.order if each != release), release]
        elif self.current in self.order and self.order.index(self.current) > self.order.index(release):
            self.left.add(self.current)
        if fine:
            self.good.add(release)
            self.verified = [*(each for each in self.verified if each != release), release]
        else:
            self.good.discard(release)
        self.serving |= dict.fromkeys(proved, release)
        self.current = release

    def fail_before_go(self, release: ReleaseId, at: int) -> None:
        ended: dict[str, Any] = {"exit_code": 4, "status": Status.ABORTED, "verified": NOBODY}
        self.deployments.append(good(at, release, origin=self.current, **ended))

    def needed(self, live: Collection[ReleaseId]) -> set[ReleaseId]:
        found = {*live, *self.serving.values(), *([self.current] if self.current else [])}
        return found | {back for each in found if (back := self.goes_back_to(each)) is not None}


@st.composite
def stories(draw: st.DrawFn) -> Story:
    story = Story()
    for at in sorted(draw(st.sets(st.integers(30, 700), max_size=14)), reverse=True):
        release = draw(st.sampled_from(RELEASES))
        match draw(st.sampled_from(["good", "good", "good", "some", "aborted", "back", "by name"])):
            case "good":
                story.bring(release, at, back=False, proved=frozenset(HOSTS))
            case "some":
                story.bring(
                    release, at, back=False, proved=frozenset(draw(st.sets(st.sampled_from(HOSTS), max_size=1)))
                )
            case "aborted":
                story.fail_before_go(release, at)
            case "back" if story.current and (target := story.goes_back_to(story.current)):
                story.bring(target, at, back=True, proved=frozenset(HOSTS))
            case "by name" if story.order:
                story.bring(draw(st.sampled_from(story.order)), at, back=True, proved=frozenset(HOSTS))
    return story


@settings(max_examples=600, deadline=None)
@given(
    story=stories(),
    live=st.frozensets(st.sampled_from(RELEASES), max_size=1),
    stored=st.sets(st.sampled_from([*RELEASES, *RECENT])),
    keep=st.integers(1, 5),
)
def test_what_stays_is_what_a_story_told_by_hand_needs_and_the_newest_of_the_rest(
    story: Story, live: frozenset[ReleaseId], stored: set[ReleaseId], keep: int
) -> None:
    known = History(tuple(story.deployments))
    needed = story.needed(live) | set(RECENT)
    expected: set[ReleaseId] = set()
    for pool in (
        [each for each in reversed(story.verified) if each in stored],
        sorted(stored - set(story.verified), reverse=True),
    ):
        room = keep - len([each for each in pool if each in needed])
        rest = [each for each in pool if each not in needed]
        expected |= {each for each in pool if each in needed} | set(rest[: max(room, 0)])
    assert staying(stored, {"production": Known(known, live)}, keep) == expected
    if story.current is not None:
        assert rollback_choice(known, story.current).target == story.goes_back_to(story.current)
