"""Releases and deployments by their age in hours."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from deploytool.model.history import Deployment, History, RoleHost
from deploytool.model.lifecycle import Status
from deploytool.model.release import DeploymentId, ReleaseId

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HOSTS = (("web", "one"), ("web", "two"))
NOBODY: frozenset[RoleHost] = frozenset()


def release_id(hours_ago: float, letter: str = "a") -> ReleaseId:
    return ReleaseId(f"{NOW - timedelta(hours=hours_ago):%Y%m%dT%H%M%SZ}-{letter * 7}")


def deployment_id(hours_ago: float) -> DeploymentId:
    return DeploymentId(f"{NOW - timedelta(hours=hours_ago):%Y%m%dT%H%M%SZ}abcd")


#: one every two days, oldest first
RELEASES = tuple(release_id(48 * age) for age in range(12, 0, -1))


def good(hours_ago: float, release: ReleaseId, **changes: Any) -> Deployment:
    known: dict[str, Any] = {
        "exit_code": 0,
        "status": Status.VERIFIED,
        "expected": frozenset(HOSTS),
        "verified": frozenset(HOSTS),
    }
    return Deployment(deployment_id(hours_ago), release, **(known | changes))


def one_after_the_other(releases: Collection[ReleaseId], until_hours_ago: float = 30) -> History:
    """Each of them deployed and verified, an hour after the other."""
    count = len(releases)
    return History(tuple(good(until_hours_ago + count - at, each) for at, each in enumerate(releases)))
