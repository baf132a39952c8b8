"""Which hosts go when, in memory."""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.model.waves import failures_of, hosts_of, missing_canaries, plan_waves


def settings(
    waves: Mapping[str, Sequence[str]],
    canaries: Mapping[str, Sequence[str]] | None = None,
    common: Sequence[str] | None = None,
) -> Any:
    """Each role's waves, the canaries that it has for itself, and those of the environment."""

    def canary(nodes: Sequence[str] | None) -> Any:
        return SimpleNamespace(nodes=tuple(nodes)) if nodes else None

    def rollout_of(role: str) -> Any:
        return SimpleNamespace(waves=tuple(waves[role]), canary=own[role] or canary(common))

    own = {role: canary((canaries or {}).get(role)) for role in waves}
    roles = {role: SimpleNamespace(rollout=SimpleNamespace(canary=own[role])) for role in waves}
    return SimpleNamespace(rollout_of=rollout_of, roles=roles, rollout=SimpleNamespace(canary=canary(common)))


def planned(
    waves: Mapping[str, Sequence[str]],
    up: Mapping[str, Sequence[str]],
    canaries: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[int, list[str]]]:
    return [(wave.number, sorted(host for _, host in wave.hosts)) for wave in plan_waves(settings(waves, canaries), up)]


@pytest.mark.parametrize(
    ("share", "total", "hosts"),
    [("1", 200, 1), ("25%", 200, 50), ("25%", 3, 1), ("1%", 3, 1), ("100%", 7, 7), ("5", 3, 3), ("34%", 3, 2)],
)
def test_share_of_hosts_is_rounded_up(share: str, total: int, hosts: int) -> None:
    assert hosts_of(share, total) == hosts


@pytest.mark.parametrize(("share", "total", "hosts"), [("0", 9, 0), ("2", 9, 2), ("10%", 19, 1), ("0%", 100, 0)])
def test_share_of_failures_is_rounded_down(share: str, total: int, hosts: int) -> None:
    assert failures_of(share, total) == hosts


def test_waves_are_cumulative_and_in_the_order_of_names() -> None:
    up = {"web": ["c", "a", "d", "b"]}
    assert planned({"web": ["1", "50%", "100%"]}, up) == [(1, ["a"]), (2, ["b"]), (3, ["c", "d"])]


def test_canaries_go_first_and_all_of_them() -> None:
    up = {"web": ["a", "b", "c", "d"]}
    assert planned({"web": ["1", "100%"]}, up, {"web": ["d", "c"]}) == [(1, ["c", "d"]), (2, ["a", "b"])]


def test_wave_that_adds_nobody_is_left_out_and_the_others_keep_their_numbers() -> None:
    assert planned({"web": ["1", "25%", "100%"]}, {"web": ["a", "b"]}) == [(1, ["a"]), (3, ["b"])]
    assert planned({"web": ["1", "25%", "100%"]}, {"web": ["a"]}) == [(1, ["a"])]


def test_roles_go_side_by_side() -> None:
    waves = {"web": ["1", "100%"], "batch": ["100%"]}
    assert planned(waves, {"web": ["a", "b"], "batch": ["z"]}) == [(1, ["a", "z"]), (2, ["b"])]


def test_canaries_go_alone_where_all_others_would_go_with_them() -> None:
    up = {"web": ["a", "b", "c"]}
    assert planned({"web": ["100%"]}, up, {"web": ["c"]}) == [(1, ["c"]), (2, ["a", "b"])]


def test_role_without_the_environments_canary_goes_after_it() -> None:
    waves = {"web": ["100%"], "batch": ["100%"]}
    found = plan_waves(settings(waves, common=["a"]), {"web": ["a", "b"], "batch": ["z"]})
    assert [sorted(wave.hosts) for wave in found] == [[("web", "a")], [("batch", "z"), ("web", "b")]]


def test_canary_of_the_environment_may_be_a_host_of_any_role() -> None:
    waves, up = {"web": ["100%"], "batch": ["100%"]}, {"web": ["a"], "batch": ["z"]}
    assert missing_canaries(settings(waves, common=["a"]), up) == ()
    assert missing_canaries(settings(waves, common=["x"]), up) == ("x (any role)",)
    # A role that has canaries of its own does not try things for the others.
    assert missing_canaries(settings(waves, {"web": ["a"]}, common=["a"]), up) == ("a (any role)",)
    assert missing_canaries(settings(waves, {"web": ["a"], "batch": ["z"]}, common=["x"]), up) == ()


def test_canary_that_is_not_there_is_missed_only_if_no_other_is() -> None:
    waves = {"web": ["100%"]}
    assert missing_canaries(settings(waves, {"web": ["x", "y"]}), {"web": ["a"]}) == ("x (web)", "y (web)")
    assert missing_canaries(settings(waves, {"web": ["x", "a"]}), {"web": ["a"]}) == ()
    assert missing_canaries(settings(waves), {"web": ["a"]}) == ()


SHARES = st.one_of(st.integers(1, 300).map(str), st.integers(1, 100).map("{}%".format))


@given(
    st.lists(SHARES, max_size=4),
    st.sets(st.text("abc019", min_size=1, max_size=4), min_size=1),
    st.sets(st.text("abc019", min_size=1, max_size=4), max_size=3),
)
def test_every_host_goes_once_and_as_many_as_the_shares_say(
    shares: list[str], hosts: set[str], named: set[str]
) -> None:
    shares = [*shares, "100%"]
    waves = plan_waves(settings({"web": shares}, {"web": sorted(named)}), {"web": sorted(hosts)})
    gone = [host for wave in waves for host in wave.hosts]
    assert sorted(gone) == sorted(("web", host) for host in hosts)
    assert {("web", host) for host in named & hosts} <= waves[0].hosts
    alone = bool(named) and len(shares) == 1
    for number, share in enumerate(shares, 1 + alone):
        reached = sum(len(wave.hosts) for wave in waves if wave.number <= number)
        wanted = math.ceil(len(hosts) * int(share[:-1]) / 100) if share.endswith("%") else int(share)
        assert reached >= min(wanted, len(hosts))
