"""`fab ENV status`: which host runs which release, who is behind, what is under way, who holds the lock.

It changes nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deploytool.errors import ConsulError
from deploytool.fleet import printable
from deploytool.release import DeploymentId, is_deployment_id, is_release_id, manifest_key
from deploytool.session import Session

_SRC = re.compile(r"^src:.*/releases/([^/\"]+)/", re.MULTILINE)


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

    @property
    def exit_code(self) -> int:
        """0 if every host that is up serves what is wanted, else 8."""
        return 8 if any(host.up and host.behind for host in self.hosts) else 0

    def as_dict(self) -> Mapping[str, object]:
        return {
            "hosts": [host.as_dict() for host in self.hosts],
            "under_way": list(self.under_way),
            "lock": self.lock,
        }


def read_status(session: Session) -> Status:
    """Ask Consul, the store and the build server. Raises ConsulError if Consul knows no host of any role."""
    settings = session.settings
    selectors = {name: role.hosts.model_dump(mode="json") for name, role in settings.roles.items()}
    roles = session.worker.ask("status", roles=selectors)["roles"]
    releases: dict[str, str | None] = {}
    hosts: list[HostStatus] = []
    under_way: set[str] = set()
    for role, found in roles.items():
        for host in sorted({*found["up"], *found["down"]}):
            wanted = _deployment(found["exceptions"].get(host, found["wanted"]))
            if wanted is not None and wanted not in releases:
                releases[wanted] = _release_of(session, wanted, role)
            release = releases[wanted] if wanted is not None else None
            hosts.append(_host(role, host, host in found["up"], found["serving"].get(host), release, wanted))
        under_way |= {name for name, go in found["go"].items() if go.startswith("wait")}
    if not hosts:
        raise ConsulError(
            f"Consul knows no host of {settings.environment}", hint="look at roles.….hosts; `fab ENV check` tells more"
        )
    lock = session.worker.ask("lock_holder", name=settings.environment)["sentence"]
    return Status(tuple(hosts), tuple(sorted(under_way)), lock)


def _deployment(wanted: str | None) -> str | None:
    name = (wanted or "").split(" ")[0]
    return name if is_deployment_id(name) else None


def _release_of(session: Session, deployment: str, role: str) -> str | None:
    """The release that a deployment is about, as its manifest says: its record is written when it has ended."""
    key = manifest_key(session.settings.environment, DeploymentId(deployment), role)
    found = _SRC.search(session.worker.ask("store_get", key=key)["content"] or "")
    return found[1] if found and is_release_id(found[1]) else None


def _host(role: str, host: str, up: bool, serving: str | None, release: str | None, wanted: str | None) -> HostStatus:
    said: Any = None
    if serving is not None:
        try:
            said = json.loads(serving)
        except ValueError:
            said = None
    if not isinstance(said, dict):
        said = {}

    def text(name: str) -> str | None:
        value = said.get(name)
        return printable(value) if isinstance(value, str) else None

    return HostStatus(
        role=role,
        host=printable(host),
        up=up,
        release=text("release"),
        deployment=text("deployment"),
        time=text("time"),
        verified=said.get("verified") is True,
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
    behind = [host for host in status.hosts if host.up and host.behind]
    if behind:
        names = ",".join(dict.fromkeys(host.host for host in behind))
        release = behind[0].wanted_release
        text.append(
            f"{len(behind)} behind; to bring them on: fab {environment} deploy --release {release} --nodes {names}"
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
