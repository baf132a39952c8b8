"""An environment as Consul, the store and the build server tell it. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, TypedDict

from deploytool.model.history import Due, DueJson
from deploytool.worker.wire import Freeze


class HostStatusJson(TypedDict):
    """What one host runs in one role, and what it should run."""

    role: Annotated[str, "the role"]
    host: Annotated[str, "the host's name in Consul"]
    up: Annotated[bool, "whether Consul sees the host"]
    release: Annotated[str | None, "the release in the host's last report; null if it has never reported one"]
    deployment: Annotated[str | None, "the deployment that brought it"]
    time: Annotated[str | None, "when the host reported it, in UTC, by its own clock"]
    verified: Annotated[bool, "whether the host had proved the release when it reported"]
    wanted_release: Annotated[
        str | None, "the release that the host is expected to run; null if nothing is deployed yet"
    ]
    wanted_deployment: Annotated[str | None, "the deployment that expects it"]
    reason: Annotated[str, "why the host is not verified, in its own words; empty if it is or does not report it"]
    proof: Annotated[str, "how strong the host's proof was; see proof.md; empty if it does not report it"]
    receiver: Annotated[
        str, "what receives events on the host; `none`: it checks nothing; empty if it does not report it"
    ]
    unremoved: Annotated[str, "what the host could not remove; empty if there is nothing"]
    behind: Annotated[bool, "whether the host is not verified on the expected release"]


class FreezeJson(TypedDict):
    """Why an environment takes no deploys."""

    why: Annotated[str, "the reason that was given"]
    operator: Annotated[str, "who froze it, as user@host"]
    at: Annotated[str, "when, in UTC"]


def freeze_json(frozen: Freeze | None) -> FreezeJson | None:
    return {"why": frozen.why, "operator": frozen.operator, "at": frozen.at} if frozen is not None else None


class StatusJson(TypedDict):
    """Which host runs what, and what is going on."""

    hosts: Annotated[list[HostStatusJson], "every host of every role"]
    under_way: Annotated[list[str], "deployments whose hosts wait for the start of the switch"]
    unfinished: Annotated[
        Mapping[str, list[str]],
        "by release: the hosts (`host (role)`) that a rollout which is not finished has brought it to",
    ]
    migrate_after_due: Annotated[DueJson | None, "drops and renames that have not run yet"]
    lock: Annotated[str | None, "who holds the environment's lock, in words; null if it is free"]
    frozen: Annotated[FreezeJson | None, "null if the environment takes deploys"]


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

    def as_dict(self) -> HostStatusJson:
        return {
            "role": self.role,
            "host": self.host,
            "up": self.up,
            "release": self.release,
            "deployment": self.deployment,
            "time": self.time,
            "verified": self.verified,
            "wanted_release": self.wanted_release,
            "wanted_deployment": self.wanted_deployment,
            "reason": self.reason,
            "proof": self.proof,
            "receiver": self.receiver,
            "unremoved": self.unremoved,
            "behind": self.behind,
        }


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

    def as_dict(self) -> StatusJson:
        return {
            "hosts": [host.as_dict() for host in self.hosts],
            "under_way": list(self.under_way),
            "unfinished": {release: list(hosts) for release, hosts in self.unfinished.items()},
            "migrate_after_due": self.migrate_after_due.as_dict() if self.migrate_after_due is not None else None,
            "lock": self.lock,
            "frozen": freeze_json(self.frozen),
        }
