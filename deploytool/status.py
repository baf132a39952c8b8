"""`fab ENV status`: which host runs which release, who is behind, what is under way, who holds the lock.

It changes nothing.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deploytool.audience import selectors
from deploytool.errors import ConsulError
from deploytool.fleet import printable, read_last_word
from deploytool.freezing import ask_frozen, frozen_words
from deploytool.journal import deployment_named, release_of
from deploytool.release import ReleaseId, is_release_id
from deploytool.session import Session


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
    frozen: Mapping[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """0 if every host that is up serves what is wanted, else 8."""
        return 8 if any(host.up and host.behind for host in self.hosts) else 0

    def as_dict(self) -> Mapping[str, object]:
        return {
            "hosts": [host.as_dict() for host in self.hosts],
            "under_way": list(self.under_way),
            "lock": self.lock,
            "frozen": self.frozen,
        }


def read_status(session: Session) -> Status:
    """Ask Consul, the store and the build server. Raises ConsulError if Consul knows no host of any role."""
    settings = session.settings
    asked = session.worker.start("status", roles=selectors(session))
    holder = session.worker.start("lock_holder", name=settings.environment)
    freezing = ask_frozen(session)
    roles = asked.answer()["roles"]
    releases: dict[str, str | None] = {}
    hosts: list[HostStatus] = []
    under_way: set[str] = set()
    for role, found in roles.items():
        for host in sorted({*found["up"], *found["down"]}):
            wanted = deployment_named(found["exceptions"].get(host, found["wanted"]))
            if wanted is not None and wanted not in releases:
                releases[wanted] = release_of(session, settings.environment, wanted, role)
            release = releases[wanted] if wanted is not None else None
            hosts.append(_host(role, host, host in found["up"], found["serving"].get(host), release, wanted))
        under_way |= {name for name, go in found["go"].items() if go.startswith("wait")}
    if not hosts:
        raise ConsulError(
            f"Consul knows no host of {settings.environment}", hint="look at roles.….hosts; `fab ENV check` tells more"
        )
    lock, frozen = holder.answer()["sentence"], freezing.answer()["frozen"]
    return Status(tuple(hosts), tuple(sorted(under_way)), lock, frozen)


def running_releases(session: Session) -> frozenset[ReleaseId]:
    """The releases that the environment's hosts serve, by their last word, or are wanted to. Raises ConsulError."""
    found = read_status(session)
    names = {name for host in found.hosts for name in (host.release, host.wanted_release)}
    return frozenset(ReleaseId(name) for name in names if name is not None and is_release_id(name))


def _host(role: str, host: str, up: bool, serving: str | None, release: str | None, wanted: str | None) -> HostStatus:
    said = read_last_word(serving)
    return HostStatus(
        role=role,
        host=printable(host),
        up=up,
        release=said.release,
        deployment=said.deployment,
        time=said.time,
        verified=said.verified,
        wanted_release=release,
        wanted_deployment=wanted,
    )


def lines(status: Status, environment: str) -> list[str]:
    """The status for people: a line a host, those behind first, then what is under way."""
    ordered = sorted(status.hosts, key=lambda host: (not host.behind, host.role, host.host))
    widths = [max(len(cell) for cell in column) for column in zip(*map(_cells, ordered), strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(_cells(host), widths, strict=True)).rstrip()
        for host in ordered
    ]
    text += [f"deployment {name} is under way: its hosts wait for `go`" for name in status.under_way]
    if status.lock is not None:
        text.append(f"{environment} is locked by {status.lock}")
    if status.frozen is not None:
        text.append(f"{environment} is {frozen_words(status.frozen)}")
    behind = [host for host in status.hosts if host.up and host.behind]
    if behind:
        names = ",".join(dict.fromkeys(host.host for host in behind))
        release = behind[0].wanted_release
        text.append(
            f"{len(behind)} behind; to bring them on: fab {environment} deploy --release {release} --nodes {names}; "
            f"to go back: fab {environment} rollback"
        )
    return text


def _cells(host: HostStatus) -> tuple[str, ...]:
    if host.wanted_deployment is None:
        word = "nothing wanted yet"
    elif not host.behind:
        word = "as wanted"
    elif host.wanted_release is None:
        word = f"BEHIND: deployment {host.wanted_deployment} is wanted, and its manifest can't be read"
    elif host.release == host.wanted_release:
        word = "NOT PROVEN"
    else:
        word = f"BEHIND: {host.wanted_release} is wanted"
    return (host.role, host.host, "up" if host.up else "down", host.release or "-", host.time or "-", word)
