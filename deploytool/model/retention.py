"""Which releases the store keeps, and which ones go. Pure: histories in, releases out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from deploytool.model.history import Deployment, History, RoleHost, rollback_choice, standings
from deploytool.model.release import DeploymentId, ReleaseId
from deploytool.text import ids

#: A release is left alone for this long after it was built, and after a deployment of it began that never ended: by
#: then whoever builds or deploys has ended or given up.
UNTOUCHED = timedelta(hours=24)
#: So many of the newest deployments tell enough of what is good.
FAR_BACK = 100


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one environment."""

    history: History
    #: what it is wanted to run, and what its hosts say they serve; empty where Consul can't be asked
    live: frozenset[ReleaseId] = frozenset()


def may_run(history: History) -> tuple[Deployment, ...]:
    """The deployments whose releases an environment may be wanted to run, or whose releases its hosts may serve.

    These are the last deployment that was brought to all hosts; since then those in waves that were not, those that
    nobody saw the end of, and each host's last one by `--nodes`; and the last one that each host has proved, which is
    where it went back to if a later one failed.
    """
    found: dict[DeploymentId, Deployment] = {}
    asked: set[RoleHost] = set()
    for each in reversed(history.deployments):
        if each.let_go is False:
            continue
        if each.let_go is None or each.whole or not each.expected or not each.expected <= asked:
            found[each.id] = each
        asked |= each.expected
        if each.let_go and each.whole and not each.partial:
            break
    proven: set[RoleHost] = set()
    for each in reversed(history.deployments):
        if (each.verified & asked) - proven:
            found[each.id] = each
            proven |= each.verified
    return tuple(found.values())


def claims(history: History, now: datetime) -> tuple[Deployment, ...]:
    """The deployments that began lately and have not ended, as far as anybody knows."""
    return tuple(each for each in history.deployments if each.exit_code is None and is_recent(each.id, now))


def is_recent(name: str, now: datetime) -> bool:
    """Whether the release or deployment of that id was made less than a day ago, or in the future."""
    return name[: ids.MOMENT_LENGTH] >= ids.compact(now - UNTOUCHED)


def unreadable(environments: Mapping[str, Known], now: datetime) -> tuple[tuple[str, DeploymentId], ...]:
    """Environments and deployments that may need a release of which nobody can tell which one it is."""
    found: dict[tuple[str, DeploymentId], None] = {}
    for environment, known in environments.items():
        needed = (*claims(known.history, now), *(() if known.live else may_run(known.history)))
        found |= {(environment, each.id): None for each in needed if each.release is None}
    return tuple(found)


def protected(environments: Mapping[str, Known], now: datetime) -> frozenset[ReleaseId]:
    """The releases that some environment runs, is wanted to run, would go back to, or has just begun to deploy."""
    found: set[ReleaseId] = set()
    for known in environments.values():
        current = known.live | {each.release for each in may_run(known.history) if each.release is not None}
        targets = (rollback_choice(known.history, release).target for release in current)
        claimed = (each.release for each in claims(known.history, now))
        found |= current | {release for release in (*targets, *claimed) if release is not None}
    return frozenset(found)


def last_verified(environments: Mapping[str, Known]) -> Mapping[ReleaseId, DeploymentId]:
    """Every release that was verified in any environment, and the last deployment that did it."""
    found: dict[ReleaseId, DeploymentId] = {}
    for known in environments.values():
        for release, standing in standings(known.history).items():
            if standing.verified is not None:
                found[release] = max(standing.verified, found.get(release, standing.verified))
    return found


def doomed(
    stored: Collection[ReleaseId], environments: Mapping[str, Known], keep: int, now: datetime
) -> tuple[ReleaseId, ...]:
    """The releases of the store that go, oldest first. None, if it can't be told what an environment needs.

    `keep` verified ones stay, the last verified first, and `keep` of the others, the newest first: failures never push
    out what is good. What is protected, or was built within the last day, stays whatever the number, and is counted.
    """
    if unreadable(environments, now):
        return ()
    guarded = protected(environments, now) | {release for release in stored if is_recent(release, now)}
    verified = last_verified(environments)
    going: list[ReleaseId] = []
    for pool in (
        sorted((each for each in stored if each in verified), key=lambda each: (verified[each], each), reverse=True),
        sorted((each for each in stored if each not in verified), reverse=True),
    ):
        others = [each for each in pool if each not in guarded]
        room = max(keep - (len(pool) - len(others)), 0)
        going += others[room:]
    return tuple(sorted(going))


def reaches_back(history: History, keep: int, stored: Collection[ReleaseId]) -> bool:
    """Whether so much of a history tells where the environment is, where it would go back to, and what else is good.

    Of releases that have been in the store for more than `FAR_BACK` deployments, and were not verified in these, it
    need not: there may always be some that never are.
    """
    current = {each.release for each in may_run(history)}
    verified = {release for release, standing in standings(history).items() if standing.verified is not None}
    return (
        any(each.whole and each.let_go and not each.partial for each in may_run(history))
        and all(rollback_choice(history, release).target is not None for release in current)
        and len(verified) >= keep
        and (
            len(history.deployments) >= FAR_BACK
            # No release is deployed before it is built: ids of both begin with the moment.
            or all(release in verified or release[:16] >= history.deployments[0].id[:16] for release in stored)
        )
    )
