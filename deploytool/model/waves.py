"""Which hosts go when: a rollout's waves, from the settings and the hosts that will hear. Pure.

Anchors: Nomad's `update` stanza (canary, min_healthy_time, auto_revert), CodeDeploy's minimum healthy hosts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploytool.errors import ConsulError
from deploytool.model.history import RoleHost

if TYPE_CHECKING:
    from deploytool.settings import Settings


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave: its number in the settings, from 1, and the hosts that it adds to those before."""

    number: int
    hosts: frozenset[RoleHost]


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """In which steps hosts go, and what stops them. By default all go at once, and stay."""

    #: empty: all at once
    waves: tuple[Wave, ...] = ()
    #: after which wave it ends, for somebody to look at it; None: after the last
    pause_after: int | None = None
    #: so many hosts may fail without its being halted
    max_failures: int = 0
    #: those that have switched go back to where they came from when it is halted
    goes_back: bool = False


ALL_AT_ONCE = RolloutPlan()


def hosts_of(share: str, total: int) -> int:
    """How many of `total` hosts `3` or `25%` are; a part of a host counts as one."""
    if share.endswith("%"):
        return math.ceil(total * int(share[:-1]) / 100)
    return min(int(share), total)


def failures_of(share: str, total: int) -> int:
    """How many hosts may fail; a part of a host counts as none."""
    return total * int(share[:-1]) // 100 if share.endswith("%") else int(share)


def plan_waves(settings: "Settings", up: Mapping[str, Sequence[str]]) -> tuple[Wave, ...]:
    """The waves in which these hosts, by role, are let go. Waves that add nobody are left out.

    Hosts go in the order of their names, those of `canary.nodes` before all others, and all of them in the first wave.
    Where all others would go with them, they are a wave of their own. A role whose list of waves is shorter than
    another's is whole at its own end.
    """
    reached: dict[str, list[int]] = {}
    ordered: dict[str, list[str]] = {}
    for role, hosts in up.items():
        rollout = settings.rollout_of(role)
        canary = set(hosts).intersection(rollout.canary.nodes if rollout.canary is not None else ())
        ordered[role] = [*sorted(canary), *sorted(set(hosts) - canary)]
        counts = [hosts_of(share, len(hosts)) for share in rollout.waves]
        if rollout.canary is not None and len(counts) == 1:
            counts.insert(0, len(canary))
        counts[0] = max(counts[0], len(canary))
        reached[role] = [max(counts[: number + 1]) for number in range(len(counts))]
    waves = []
    for number in range(max((len(counts) for counts in reached.values()), default=0)):
        added = frozenset(
            (role, host)
            for role, counts in reached.items()
            if number < len(counts)
            for host in ordered[role][counts[number - 1] if number else 0 : counts[number]]
        )
        if added:
            waves.append(Wave(number + 1, added))
    return tuple(waves)


def pauses(waves: Sequence[Wave], number: int, pause_after: int | None) -> bool:
    """Whether a rollout is paused after that one of its waves, the first being 0. After the last there is no pause.

    The wave that the settings name may be one that added nobody: then it is after the one before.
    """
    if pause_after is None or number + 1 >= len(waves):
        return False
    return waves[number].number <= pause_after < waves[number + 1].number


def missing_canaries(settings: "Settings", up: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names in a `canary.nodes` of which no expected host has any: then a rollout would try nothing first.

    The environment's own are looked for among all roles that have none for themselves.
    """
    places = {name: hosts for name, hosts in up.items() if settings.roles[name].rollout.canary is not None}
    looked_for = [(role, settings.rollout_of(role).canary, hosts) for role, hosts in places.items()]
    if others := [hosts for role, hosts in up.items() if role not in places]:
        looked_for.append(("any role", settings.rollout.canary, [host for hosts in others for host in hosts]))
    return tuple(
        f"{node} ({where})"
        for where, canary, hosts in looked_for
        if canary is not None and not set(canary.nodes) & set(hosts)
        for node in canary.nodes
    )


def refuse_missing_canaries(settings: "Settings", up: Mapping[str, Sequence[str]]) -> None:
    """Raise ConsulError if a rollout would try nothing first though the settings name who does."""
    if missing := missing_canaries(settings, up):
        raise ConsulError(
            f"no canary is up: {', '.join(missing)}",
            hint="start its Consul agent, or fix `rollout.canary`; `--nodes` deploys without it this time",
        )
