"""`fab ENV status`: which host runs which release, who is behind, what is under way, who holds the lock."""

from dataclasses import replace
from datetime import datetime

from deploytool.model.fleet import named, unremoved_words
from deploytool.model.history import Due
from deploytool.model.status import HostStatus, Status
from deploytool.session import Session
from deploytool.state.status import read_whole_status
from deploytool.text import ids
from deploytool.text.untrusted import printable


def due_words(due: Due, environment: str) -> str:
    """What is due, and what runs it."""
    return (
        f"migrate_after of {due.release} is due since {due.since}: the next deploy that every host verifies "
        f"runs it; by hand: fab {environment} migrate --after"
    )


def read_proven_status(session: Session) -> Status:
    """The whole status after every host has proved anew what it serves; a host that does not answer proves nothing.

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
    trusting = [f"{host.host} ({host.role})" for host in ordered if host.up and host.receiver == "none"]
    if trusting:
        text.append(
            f"{named(trusting)} still run whatever an event names, and check nothing: there, run again what `fab "
            f"{environment} app-server` prints"
        )
    text += [unremoved_words(host.host, host.role, host.unremoved) for host in ordered if host.unremoved]
    if status.migrate_after_due is not None:
        text.append(due_words(status.migrate_after_due, environment))
    if status.lock is not None:
        text.append(f"{environment} is locked by {status.lock}")
    if status.frozen is not None:
        text.append(f"{environment} is {printable(status.frozen.words)}")
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
