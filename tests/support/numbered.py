"""Releases A to D, and deployments by number."""

from typing import Any

from deploytool.model.history import (
    Deployment,
    History,
    Mark,
    RoleHost,
)
from deploytool.model.lifecycle import Status
from deploytool.model.release import DeploymentId, ReleaseId

A, B, C, D = (ReleaseId(f"2026010{day}T000000Z-{letter * 7}") for day, letter in enumerate("abcd", start=1))
ALL = frozenset({("web", "one"), ("web", "two")})
NOBODY: frozenset[RoleHost] = frozenset()


def name(number: int) -> DeploymentId:
    return DeploymentId(f"20260201T0000{number:02d}Zabcd")


def good(number: int, release: ReleaseId, **changes: Any) -> Deployment:
    """A deployment that every host has proved."""
    known: dict[str, Any] = {"exit_code": 0, "status": Status.VERIFIED, "expected": ALL, "verified": ALL, **changes}
    return Deployment(name(number), release, **known)


def failed(number: int, release: ReleaseId, verified: frozenset[RoleHost] = NOBODY, **changes: Any) -> Deployment:
    """A deployment that ended with exit code 8 after `go`."""
    return good(number, release, exit_code=8, verified=verified, **changes)


def history(*deployments: Deployment, marks: tuple[Mark, ...] = ()) -> History:
    return History(deployments, marks)


def mark(number: int, release: ReleaseId, *, good: bool) -> Mark:
    return Mark(release, good, "customers said so", "ann@desk", f"20260201T0000{number:02d}Zmark")
