"""Which releases may be deployed without a reason, and what `--from` another environment brings."""

from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.errors import UsageError
from deploytool.model.history import Deployment, History, Mark, standings
from deploytool.model.lifecycle import Status
from deploytool.model.release import deployment_record_key
from deploytool.rollout.choose_release import promoted, refuse_condemned, refuse_unproven
from deploytool.state.targets import Expected, Here, Live
from tests.support.histories import HOSTS, NOBODY, RELEASES, deployment_id, good, one_after_the_other
from tests.support.stores import Session, Store, store_of

OLD, LAST, WANTED = RELEASES[:3]
ONE = frozenset(HOSTS[:1])
BAD = Mark(WANTED, False, "slow", "bob@desk", deployment_id(1))


class World:
    """Production, and what the store says of it and of staging."""

    def __init__(self, *, damaged: str | None = None, **histories: History) -> None:
        objects = store_of(RELEASES[:3], **histories)
        if damaged is not None:
            objects[deployment_record_key("staging", deployment_id(1))] = damaged
        self.session: Any = Session(Store(objects), staging=2)
        self.history = histories.get("production", History())

    def here(self, *wanted: str) -> Here:
        expected = Expected({"web": ("one", "two")}, (), wanted, {}, {}, {})
        return Here(expected, self.history, Live(), Live(), ())

    def refuse_unproven(self, force: str | None = None, wanted: tuple[str, ...] = ()) -> str:
        refuse_unproven(self.session, WANTED, force, self.here(*wanted))
        return self.noted

    def promoted(self, other: str = "staging", force: str | None = None) -> str:
        return promoted(self.session, other, force).id

    @property
    def noted(self) -> str:
        said: str = self.session.progress.getvalue()
        return said


def then(*deployments: Deployment, marks: tuple[Mark, ...] = ()) -> History:
    """After the old one."""
    return History((good(40, OLD), *deployments), marks)


# --- --release


def test_release_that_another_environment_has_verified_passes() -> None:
    assert "in staging it is verified" in World(staging=then(good(20, WANTED))).refuse_unproven()


def test_environment_that_no_settings_know_counts_too() -> None:
    assert "in attic it is verified" in World(attic=then(good(20, WANTED))).refuse_unproven()


@pytest.mark.parametrize(
    "history",
    [
        History(),
        then(),
        then(good(20, WANTED), marks=(BAD,)),
        then(good(20, WANTED), good(10, WANTED, exit_code=8, verified=ONE)),
        then(good(20, WANTED, exit_code=8, verified=ONE)),
        then(good(20, WANTED, whole=False, expected=ONE, verified=ONE)),
        then(good(20, WANTED, verified=NOBODY)),
        then(Deployment(deployment_id(2), WANTED)),
    ],
)
def test_release_that_is_not_verified_or_is_bad_in_the_other_environment_needs_a_reason(history: History) -> None:
    with pytest.raises(UsageError, match="never verified anywhere") as raised:
        World(staging=history).refuse_unproven()
    assert "--force" in str(raised.value.hint)
    assert "forced: because" in World(staging=history).refuse_unproven("because")


def test_refusal_says_what_the_other_environment_knows() -> None:
    with pytest.raises(UsageError, match=r"in staging it is bad: slow \(bob@desk\)"):
        World(staging=then(good(20, WANTED), marks=(BAD,))).refuse_unproven()


def test_release_that_is_wanted_here_already_passes() -> None:
    world = World(production=then(Deployment(deployment_id(2), WANTED)))
    world.refuse_unproven(wanted=(deployment_id(2),))
    with pytest.raises(UsageError):
        world.refuse_unproven(wanted=(deployment_id(40),))


def test_release_that_one_host_here_has_proved_passes() -> None:
    World(production=then(good(20, WANTED, exit_code=8, verified=ONE))).refuse_unproven()
    with pytest.raises(UsageError):
        World(production=then(good(20, WANTED, exit_code=8, verified=NOBODY))).refuse_unproven()


def test_release_that_was_verified_here_long_ago_passes() -> None:
    many = [good(130 - at, LAST) for at in range(120)]
    World(production=then(good(200, WANTED), *many)).refuse_unproven()


# --- what a person has called bad here


def test_only_what_a_person_has_called_bad_here_needs_a_reason() -> None:
    world = World()
    condemned = standings(then(good(20, WANTED), marks=(BAD,)))[WANTED]
    failed = standings(then(good(20, WANTED, exit_code=8, verified=ONE)))[WANTED]
    with pytest.raises(UsageError, match="slow") as raised:
        refuse_condemned(world.session, condemned, None)
    assert "--good" in str(raised.value.hint)
    refuse_condemned(world.session, condemned, "because")
    assert "forced: because" in world.noted
    refuse_condemned(world.session, failed, None)
    assert "exit code 8 in production" in world.noted
    refuse_condemned(world.session, None, None)


# --- --from


def test_promotion_takes_what_the_other_environment_runs_and_has_verified() -> None:
    world = World(staging=one_after_the_other(RELEASES[:3]))
    assert world.promoted() == WANTED
    assert f"promoting {WANTED} from staging: sha256 {'0' * 64}" in world.noted


def test_promotion_takes_what_the_other_environment_went_back_to() -> None:
    back = good(2, LAST, kind="rollback", origin=WANTED)
    assert World(staging=one_after_the_other(RELEASES[:3]).then(back)).promoted() == LAST


def test_promotion_passes_over_what_never_reached_a_host() -> None:
    aborted = good(2, WANTED, exit_code=4, status=Status.ABORTED, verified=NOBODY)
    assert World(staging=one_after_the_other(RELEASES[:2]).then(aborted)).promoted() == LAST


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (Deployment(deployment_id(2), WANTED), "which is under way, or whose operator is gone"),
        (good(2, WANTED, exit_code=8, verified=ONE), "and it is bad: its deployment"),
        (good(2, WANTED, verified=NOBODY), "and it is never verified there"),
    ],
)
def test_promotion_of_what_is_not_verified_needs_a_reason_and_names_the_last_good_one(
    last: Deployment, sentence: str
) -> None:
    world = World(staging=one_after_the_other(RELEASES[:2]).then(last))
    with pytest.raises(UsageError) as raised:
        world.promoted()
    assert sentence in raised.value.message
    assert f"`--release {LAST}` is the last good one there" in str(raised.value.hint)
    assert world.promoted(force="because") == WANTED
    assert "forced: because" in world.noted


def test_release_that_is_deployed_again_right_now_is_under_way_though_it_was_verified_before() -> None:
    world = World(staging=then(good(20, WANTED), Deployment(deployment_id(2), WANTED)))
    with pytest.raises(UsageError, match="under way"):
        world.promoted()


@pytest.mark.parametrize("force", [None, "because"])
def test_promotion_says_that_the_last_record_is_damaged(force: str | None) -> None:
    world = World(staging=one_after_the_other(RELEASES[:3]), damaged="{")
    with pytest.raises(UsageError, match="can't be read: the record is damaged") as raised:
        world.promoted(force=force)
    assert "--release ID" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ("production", "that is this environment"),
        ("nowhere", "no other environment of that name"),
        ("elsewhere", "keeps its releases in s3://other/shop"),
        ("staging", "nothing was deployed to staging yet"),
    ],
)
def test_promotion_has_a_sentence_for_each_mistake(other: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        World().promoted(other, "because")


def test_environments_with_other_endpoints_have_other_stores() -> None:
    world = World(staging=one_after_the_other(RELEASES[:3]))
    world.session.every["staging"].store = SimpleNamespace(url="s3://bucket/shop", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(UsageError, match="keeps its releases in"):
        world.promoted()
