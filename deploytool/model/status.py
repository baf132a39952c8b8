"""An environment as Consul, the store and the build server tell it. Values only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime

from deploytool.model.history import Due
from deploytool.worker.wire import Freeze


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One host in one role: what it said last that it serves, and what it is wanted to serve."""

    role: str
    host: str
    up: bool
    #: its last word; None if it has never said one
    release: str | None
    deployment: str | None
    time: str | None
    #: whether the release was proven when the host said so
    verified: bool
    wanted_release: str | None
    wanted_deployment: str | None
    #: why it is not proven, in the host's own words; empty if it is, or does not say
    reason: str = ""
    #: how strong its proof was, see `proof.PROOFS`; empty if it does not say
    proof: str = ""
    #: see `fleet.LastWord`
    receiver: str = ""
    #: the same
    unremoved: str = ""

    @property
    def behind(self) -> bool:
        """Whether it does not serve, proven, what is wanted of it."""
        if self.wanted_release is None:
            # What the wanted deployment is about can't be read any more; whether the host is at it can.
            return self.wanted_deployment is not None and not (
                self.verified and self.deployment == self.wanted_deployment
            )
        return not (self.verified and self.release == self.wanted_release)

    def as_dict(self) -> Mapping[str, object]:
        return {**asdict(self), "behind": self.behind}


@dataclass(frozen=True, slots=True)
class Status:
    """An environment as Consul and the build server tell it."""

    hosts: tuple[HostStatus, ...]
    #: deployments that are announced, with their hosts still waiting for `go`
    under_way: tuple[str, ...]
    #: who holds the environment's lock, in words; None if it is free
    lock: str | None
    #: why, by whom and since when it is frozen; None if it is not
    frozen: Freeze | None = None
    #: release → hosts that are wanted to run it, and their roles as a whole not: a rollout that has not come to its end
    unfinished: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: the drops and renames that have not run yet; None if there are none, or that was not asked for
    migrate_after_due: Due | None = None
    #: when that was, by the build server's clock: words of hosts are as old as the time between; None if nobody asked
    asked_at: datetime | None = None

    @property
    def exit_code(self) -> int:
        """0 if every host that is up serves what is wanted, else 8."""
        return 8 if any(host.up and host.behind for host in self.hosts) else 0

    def as_dict(self) -> Mapping[str, object]:
        return {
            "hosts": [host.as_dict() for host in self.hosts],
            "under_way": list(self.under_way),
            "unfinished": {release: list(hosts) for release, hosts in self.unfinished.items()},
            "migrate_after_due": asdict(self.migrate_after_due) if self.migrate_after_due is not None else None,
            "lock": self.lock,
            "frozen": self.frozen._asdict() if self.frozen is not None else None,
        }
