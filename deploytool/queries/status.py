"""`fab ENV status`: which host runs which release, who is behind, what is under way, who holds the lock."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from deploytool.model.fleet import named, unremoved_words
from deploytool.model.history import Due
from deploytool.model.status import HostStatus, Status
from deploytool.screen.page import BAD, GOOD, WARNING, Next, Page, Row
from deploytool.session import Session
from deploytool.state.status import read_whole_status
from deploytool.text import ids
from deploytool.text.words import counted


def due_words(due: Due, environment: str) -> str:
    """What is due, and what runs it."""
    return (
        f"migrate_after of {due.release} has been due since {due.since}: the next deploy that is verified on every "
        f"host runs it, or `fab {environment} migrate --after`"
    )


def read_proven_status(session: Session) -> Status:
    """The whole status after every host has proved again what it serves; a host that does not answer proves nothing.

    Raises LockedError while somebody deploys: a host's stretcher might take the one event for the other.
    """
    from deploytool.queries.checks.hosts import prove_hosts

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
        seconds = (now - ids.read(then or "")).total_seconds() if now else -1
    except ValueError:
        seconds = -1
    if seconds < 0:
        return ""
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {name} ago"
    return f"{seconds:.0f} s ago"


def page(status: Status, environment: str) -> Page:
    """The status for people: a row for each host, those that are behind first, then what is under way."""
    ordered = sorted(status.hosts, key=lambda host: (not host.behind, host.role, host.host))
    return Page(
        columns=("role", "host", "agent", "release", "last report", "state"),
        rows=tuple(_row(host, status.asked_at) for host in ordered),
        remarks=tuple(_remarks(status, ordered, environment)),
        next=tuple(_next(status, environment)),
        verdict=_verdict(status, environment),
        style=BAD if status.exit_code else WARNING if status.unfinished else GOOD,
    )


def _remarks(status: Status, ordered: Sequence[HostStatus], environment: str) -> Iterator[str]:
    for host in ordered:
        if host.up and host.behind and host.reason:
            yield f"{host.host} ({host.role}): {host.reason}"
    for name in status.under_way:
        if status.lock is not None:
            yield f"deployment {name} is under way: hosts wait for `go`"
        else:
            yield f"the operator of deployment {name} is gone: hosts that wait for `go` leave within a minute"
    for release, hosts in status.unfinished.items():
        yield f"{release} is expected on {named(hosts)}, and not on every host"
    trusting = [f"{host.host} ({host.role})" for host in ordered if host.up and host.receiver == "none"]
    if trusting:
        yield (
            f"{named(trusting)} run whatever an event names, without checking it: run what `fab {environment} "
            "app-server` prints there"
        )
    for host in ordered:
        if host.unremoved:
            yield unremoved_words(host.host, host.role, host.unremoved)
    if status.migrate_after_due is not None:
        yield due_words(status.migrate_after_due, environment)
    if status.lock is not None:
        yield f"{environment} is locked by {status.lock}"
    if status.frozen is not None:
        yield f"{environment} is {status.frozen.words}"


def _behind(status: Status) -> list[HostStatus]:
    return [host for host in status.hosts if host.up and host.behind]


def _next(status: Status, environment: str) -> Iterator[Next]:
    # Hosts of an unfinished rollout are left to `promote`.
    behind = [host for host in _behind(status) if host.wanted_release not in status.unfinished]
    if status.unfinished and status.lock is None:
        yield Next(f"fab {environment} promote", "continue with the other hosts")
    if behind:
        names = ",".join(dict.fromkeys(host.host for host in behind))
        release = behind[0].wanted_release
        yield Next(f"fab {environment} deploy --release {release} --nodes {names}", "try these hosts again")
    if behind or (status.unfinished and status.lock is None):
        yield Next(f"fab {environment} rollback", "go back to the release before")


def _verdict(status: Status, environment: str) -> str:
    hosts = {host.host for host in status.hosts if host.up}
    behind = {host.host for host in _behind(status)}
    total = counted(len(hosts), "host")
    if behind:
        return f"{len(behind)} of {total} of {environment} {'is' if len(behind) == 1 else 'are'} behind"
    if status.unfinished:
        release, having = next(iter(status.unfinished.items()))
        reached = len({words.partition(" (")[0] for words in having})
        return f"{release} is on {reached} of {total} of {environment}: its rollout is not finished"
    if all(host.wanted_deployment is None for host in status.hosts):
        return f"nothing is deployed to {environment} yet"
    releases = sorted({host.release for host in status.hosts if host.up and host.release is not None})
    if not hosts:
        return f"no host of {environment} is up"
    every = f"all {total} of {environment} are" if len(hosts) > 1 else f"the host of {environment} is"
    return f"{every} up to date" + (f", on {' and '.join(releases)}" if releases else "")


def _row(host: HostStatus, now: datetime | None) -> Row:
    style = BAD
    if host.wanted_deployment is None:
        word, style = "nothing deployed yet", ""
    elif not host.behind:
        word, style = "up to date", GOOD
    elif host.wanted_release is None:
        word = f"behind: expected deployment {host.wanted_deployment}, whose manifest can't be read"
    elif host.release == host.wanted_release:
        word = "no longer verified" if host.reason else "not verified"
    else:
        word = f"behind: expected {host.wanted_release}"
    if not host.up:
        style = WARNING
    age = age_words(host.time, now)
    seen = f"{host.time} ({age})" if age else host.time or "-"
    return Row((host.role, host.host, "up" if host.up else "down", host.release or "-", seen, word), style)
