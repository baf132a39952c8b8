"""How a command went, filled as it goes. Values only; the console shows it, and the deployment's record keeps it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from deploytool.fleet import HostResult


@dataclass(slots=True)
class Outcome:
    """What is known of a deployment so far; filled as it goes, so that a failure can tell how far it came."""

    release: str | None = None
    revision: str | None = None
    deployment: str | None = None
    reused: bool | None = None
    exit_code: int = 0
    #: seconds
    phases: dict[str, float] = field(default_factory=dict)
    hosts: tuple[HostResult, ...] = ()
    unexpected: tuple[HostResult, ...] = ()
    #: hosts that match, and were down before the event: (role, host)
    down: tuple[tuple[str, str], ...] = ()
    #: announced, and nobody waited for the hosts
    unverified: bool = False
    #: the hosts may switch: from then on nothing is taken back; None if that is not known
    let_go: bool | None = False
    migrated: bool = False
    #: of the deployment, beside its hosts; for the record
    story: dict[str, object] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(self.phases.get(name, 0) + time.monotonic() - begin, 3)

    def as_dict(self) -> dict[str, object]:
        return {
            "release": self.release,
            "revision": self.revision,
            "deployment": self.deployment,
            "reused": self.reused,
            "exit_code": self.exit_code,
            "phases": dict(self.phases),
            "hosts": [result.as_dict() for result in self.hosts],
            "unexpected": [result.as_dict() for result in self.unexpected],
            "down": [{"role": role, "host": host} for role, host in self.down],
        }
