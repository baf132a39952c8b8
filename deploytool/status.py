"""`fab ENV status`: which host runs which release, who is behind, what is under way, who holds the lock.

It changes nothing.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from deploytool.audience import selectors
from deploytool.errors import ConsulError
from deploytool.freezing import ask_frozen, frozen_words
from deploytool.journal import deployment_named, release_of
from deploytool.migrations import read_due
from deploytool.model.fleet import named, read_last_word
from deploytool.model.history import Due
from deploytool.model.release import ReleaseId, is_release_id
from deploytool.session import Session
from deploytool.worker.announcement import is_open

#: of hosts, and of records
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


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
    unfinished: dict[str, tuple[str, ...]] = {}

    def release_in(value: str | None, role: str) -> str | None:
        name = deployment_named(value)
        if name is not None and name not in releases:
            releases[name] = release_of(session, settings.environment, name, role)
        return releases[name] if name is not None else None

    for role, found in roles.items():
        whole = release_in(found["wanted"], role)
        for host in sorted({*found["up"], *found["down"]}):
            value = found["exceptions"].get(host, found["wanted"])
            release = release_in(value, role)
            said = found["serving"].get(host)
            hosts.append(_host(role, host, host in found["up"], said, release, deployment_named(value)))
            if release is not None and release != whole:
                unfinished[release] = (*unfinished.get(release, ()), f"{host} ({role})")
        under_way |= {name for name, go in found["go"].items() if is_open(go)}
    if not hosts:
        raise ConsulError(
            f"Consul knows no host of {settings.environment}", hint="look at roles.….hosts; `fab ENV check` tells more"
        )
    lock, frozen = holder.answer()["sentence"], freezing.answer()["frozen"]
    return Status(tuple(hosts), tuple(sorted(under_way)), lock, frozen, unfinished, asked_at=session.now())


def read_whole_status(session: Session) -> Status:
    """The same, and what is due when all hosts are verified. Raises StoreError as well."""
    return replace(read_status(session), migrate_after_due=read_due(session))


def due_words(due: Due, environment: str) -> str:
    """What is due, and what runs it."""
    return (
        f"migrate_after of {due.release} is due since {due.since}: the next deploy that every host verifies "
        f"runs it; by hand: fab {environment} migrate --after"
    )


def running_releases(session: Session) -> frozenset[ReleaseId]:
    """The releases that the environment's hosts serve, by their last word, or are wanted to. Raises ConsulError."""
    found = read_status(session)
    names = {name for host in found.hosts for name in (host.release, host.wanted_release)}
    return frozenset(ReleaseId(name) for name in names if name is not None and is_release_id(name))


def _host(role: str, host: str, up: bool, serving: str | None, release: str | None, wanted: str | None) -> HostStatus:
    said = read_last_word(serving)
    return HostStatus(
        role=role,
        host=host,
        up=up,
        release=said.release,
        deployment=said.deployment,
        time=said.time,
        verified=said.verified,
        wanted_release=release,
        wanted_deployment=wanted,
        reason=said.reason,
        proof=said.proof,
    )


def read_proven_status(session: Session) -> Status:
    """The whole status after every host has proved anew what it serves; a host that does not answer proves nothing.

    Raises LockedError while somebody deploys: a host's stretcher might take the one event for the other.
    """
    from deploytool.checks.hosts import prove_hosts

    answers = prove_hosts(session)
    found = read_whole_status(session)

    def with_answer(host: HostStatus) -> HostStatus:
        if (host.role, host.host) not in answers:
            return host
        answer = answers[host.role, host.host]
        return replace(host, verified=host.verified and answer.proven, reason=answer.reason or host.reason)

    return replace(found, hosts=tuple(map(with_answer, found.hosts)))


def age_words(then: str | None, now: datetime | None) -> str:
    """How long ago a host's time was, as in `3 min ago`; nothing if that makes no sense."""
    try:
        seconds = (now - datetime.strptime(then or "", TIME_FORMAT).replace(tzinfo=UTC)).total_seconds() if now else -1
    except ValueError:
        seconds = -1
    if seconds < 0:
        return ""
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


def lines(status: Status, environment: str) -> list[str]:
    """The status for people: a line a host, those behind first, then what is under way."""
    ordered = sorted(status.hosts, key=lambda host: (not host.behind, host.role, host.host))
    rows = [_cells(host, status.asked_at) for host in ordered]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    text += [f"{host.host} ({host.role}): {host.reason}" for host in ordered if host.up and host.behind and host.reason]
    text += [
        f"deployment {name} is under way: hosts wait for `go`"
        if status.lock is not None
        else f"deployment {name} was left by its operator: hosts that wait for `go` leave within a minute"
        for name in status.under_way
    ]
    if status.lock is None:
        text += [
            f"{release} is wanted of {named(hosts)}, and not of all; go on: fab {environment} promote; "
            f"go back: fab {environment} rollback"
            for release, hosts in status.unfinished.items()
        ]
    if status.migrate_after_due is not None:
        text.append(due_words(status.migrate_after_due, environment))
    if status.lock is not None:
        text.append(f"{environment} is locked by {status.lock}")
    if status.frozen is not None:
        text.append(f"{environment} is {frozen_words(status.frozen)}")
    # Of the others, `promote` takes care.
    behind = [host for host in status.hosts if host.up and host.behind and host.wanted_release not in status.unfinished]
    if behind:
        names = ",".join(dict.fromkeys(host.host for host in behind))
        release = behind[0].wanted_release
        text.append(
            f"{len(behind)} behind; to bring them on: fab {environment} deploy --release {release} --nodes {names}; "
            f"to go back: fab {environment} rollback"
        )
    return text


def _cells(host: HostStatus, now: datetime | None) -> tuple[str, ...]:
    if host.wanted_deployment is None:
        word = "nothing wanted yet"
    elif not host.behind:
        word = "as wanted"
    elif host.wanted_release is None:
        word = f"BEHIND: deployment {host.wanted_deployment} is wanted, and its manifest can't be read"
    elif host.release == host.wanted_release:
        word = "NO LONGER PROVEN" if host.reason else "NOT PROVEN"
    else:
        word = f"BEHIND: {host.wanted_release} is wanted"
    age = age_words(host.time, now)
    seen = f"{host.time} ({age})" if age else host.time or "-"
    return (host.role, host.host, "up" if host.up else "down", host.release or "-", seen, word)
