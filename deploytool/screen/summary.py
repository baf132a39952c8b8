"""How a command went, filled as it goes. Values only; the console shows it, and the deployment's record keeps it."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypedDict

from deploytool.errors import FleetError
from deploytool.model.fleet import HostResult, HostResultJson, Verdict
from deploytool.model.history import AfterMigration
from deploytool.model.lifecycle import Event, Status, after, at_its_end
from deploytool.trace import log


class RoleHostJson(TypedDict):
    """A host in a role."""

    role: Annotated[str, "the role"]
    host: Annotated[str, "the host's name in Consul"]


class OutcomeJson(TypedDict):
    """How a deployment went, as far as it came. Before a release is known, none of these fields is there."""

    release: Annotated[str | None, "the release; null if there is none yet"]
    revision: Annotated[str | None, "the full SHA of its commit"]
    deployment: Annotated[str | None, "the deployment; null if none began"]
    reused: Annotated[
        bool | None, "whether a release in the store was used again; null if that is unknown or not asked"
    ]
    exit_code: Annotated[int, "its exit code"]
    phases: Annotated[Mapping[str, float], "seconds that each phase took, in their order"]
    hosts: Annotated[list[HostResultJson], "the hosts that the deployment is for"]
    unexpected: Annotated[list[HostResultJson], "other hosts that reported"]
    down: Annotated[list[RoleHostJson], "hosts that were down before the announcement and were not waited for"]
    spared: Annotated[list[RoleHostJson], "hosts that were on the release already"]
    told: Annotated[list[RoleHostJson], "hosts that were notified and not waited for"]
    status: Annotated[Status | None, "where the deployment is or how it ended; null if none began"]
    paused: Annotated[bool, "whether `promote` continues it"]
    halted: Annotated[bool, "whether too many failures stopped it"]
    migrate_after: Annotated[
        AfterMigration | None, "whether drops and renames (`build.migrate_after`) have run; null if there are none"
    ]
    rollbacks: Annotated["list[OutcomeJson]", "the deployments that brought hosts back after a halt"]
    not_rolled_back: Annotated[list[str], "why hosts were not brought back, in a sentence each"]


@dataclass(slots=True)
class Outcome:
    """What is known of a deployment so far; filled as it goes, so that a failure can tell how far it came."""

    release: str | None = None
    revision: str | None = None
    deployment: str | None = None
    reused: bool | None = None
    status: Status = Status.BUILDING
    exit_code: int = 0
    #: the branch, tag or SHA that the release is of
    branch: str | None = None
    #: the phase that began last
    began: str | None = None
    #: seconds
    phases: dict[str, float] = field(default_factory=dict)
    hosts: tuple[HostResult, ...] = ()
    unexpected: tuple[HostResult, ...] = ()
    #: hosts that match, and were down before the event: (role, host)
    down: tuple[tuple[str, str], ...] = ()
    migrated: bool = False
    #: what became of `build.migrate_after`; None if there is nothing to run, or nobody was let go
    migrate_after: AfterMigration | None = None
    #: the hosts that were let go
    gone: frozenset[tuple[str, str]] = frozenset()
    #: hosts that ran the release already, by the deployment that this one goes on with: (role, host)
    spared: tuple[tuple[str, str], ...] = ()
    #: hosts that were told as well, and not waited for: (role, host)
    told: tuple[tuple[str, str], ...] = ()
    #: went in waves to the end: from then on it is wanted of all hosts
    settled: bool = False
    #: why `hooks.after_wave` has failed, in a sentence
    objection: str | None = None
    #: how the deployments went that took back those which had switched: one for each release that they came from
    undone: "tuple[Outcome, ...]" = ()
    #: why going back did not even begin, in a sentence each
    not_undone: tuple[str, ...] = ()
    #: of the deployment, beside its hosts; for the record
    story: dict[str, object] = field(default_factory=dict)

    def advance(self, event: Event) -> None:
        """Take in what has happened. Raises ValueError for what can't happen now."""
        before, self.status = self.status, after(self.status, event)
        log.info("status: %s, then %s: %s", before, event, self.status)
        if self.status in (Status.HALTED, Status.FAILED):
            self.exit_code = FleetError.exit_code

    def end(self) -> None:
        """Nothing more happens."""
        self.status = at_its_end(self.status)

    @property
    def stopped(self) -> bool:
        """Whether a rollout ended before all its hosts had gone, or was halted."""
        return self.status in (Status.HALTED, Status.PAUSED) or 0 < len(self.gone) < len(self.hosts)

    @property
    def unwatched(self) -> bool:
        """Whether it ended well with its announcement: nobody waited for the hosts."""
        return self.status is Status.UNVERIFIED and not self.hosts and self.exit_code == 0

    @property
    def concerned(self) -> tuple[HostResult, ...]:
        """The hosts without those that only waited for their turn in a rollout that was stopped."""
        return tuple(
            result
            for result in self.hosts
            if not self.stopped
            or (result.role, result.host) in self.gone
            or result.verdict not in (Verdict.ABORTED, Verdict.SILENT)
        )

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin, self.began = time.monotonic(), name
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0) + time.monotonic() - begin, 3)

    def as_dict(self) -> OutcomeJson:
        return {
            "release": self.release,
            "revision": self.revision,
            "deployment": self.deployment,
            "reused": self.reused,
            "exit_code": self.exit_code,
            "phases": dict(self.phases),
            "hosts": [result.as_dict() for result in self.hosts],
            "unexpected": [result.as_dict() for result in self.unexpected],
            "down": role_hosts(self.down),
            "spared": role_hosts(self.spared),
            "told": role_hosts(self.told),
            "status": self.status if self.deployment is not None else None,
            "paused": self.status is Status.PAUSED,
            "halted": self.status is Status.HALTED,
            "migrate_after": self.migrate_after,
            "rollbacks": [each.as_dict() for each in self.undone],
            "not_rolled_back": list(self.not_undone),
        }


def role_hosts(pairs: Iterable[tuple[str, str]]) -> list[RoleHostJson]:
    """Role and host pairs, as JSON has them."""
    return [{"role": role, "host": host} for role, host in pairs]
