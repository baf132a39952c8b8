"""One deployment that is about to begin, as things stand."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from deploytool.build.commits import changes_record
from deploytool.build.stages import Comparison
from deploytool.model.history import Kind, RoleHost, target_after
from deploytool.model.release import (
    DeploymentId,
    Release,
    ReleaseId,
    is_deployment_id,
)
from deploytool.model.waves import Wave
from deploytool.state.targets import Expected, Here, Live


@dataclass(frozen=True, slots=True)
class Attempt:
    """One deployment that is about to begin: what it brings, to whom, and how it came to be; see `attempt_at`."""

    release: Release
    kind: Kind
    expected: Expected
    live: Live
    #: where a rollback would go once this has been verified
    rollback_release: ReleaseId | None
    migrate: bool = False
    wait: bool = True
    nodes: tuple[str, ...] = ()
    #: deployments that its id must be later than, besides those that are wanted
    after: tuple[DeploymentId, ...] = ()
    #: roles whose hosts all have the release still, and download nothing
    kept: frozenset[str] = frozenset()
    #: in which steps its hosts go; empty: all at once
    waves: tuple[Wave, ...] = ()
    #: after which wave it ends, for somebody to look at it; None: after the last
    pause_after: int | None = None
    #: so many hosts may fail without its being halted
    max_failures: int = 0
    #: those that have switched go back to where they came from when it is halted
    goes_back: bool = False
    #: by role, hosts that are told as well, and not waited for
    unheard: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: by role, hosts that run the release already, by a deployment of their own
    spared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: the tool's own idea, to put things right: no hook of the operator's may stop it
    unasked: bool = False
    #: what else its record is to say
    story: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_for_all(self) -> bool:
        """Whether all hosts are verified once those that are waited for are, and nobody left migrations out."""
        return self.wait and self.migrate and not self.nodes


def attempt_at(release: Release, kind: Kind, here: Here, changes: Comparison | None, **rest: Any) -> Attempt:
    """A deployment of the release as things stand here. `rest` are fields of Attempt; `story` is added to."""
    nodes, live = rest.get("nodes"), here.live.release
    if nodes and live is not None and live != release.id:
        # A rollback ends what `--nodes` began.
        back: ReleaseId | None = live
    else:
        back = target_after(here.history, release.id, kind, here.expected.hosts, live)
    story = {
        **rest.pop("story", {}),
        **changes_record(changes),
        "served_before": here.served.release,
        "learned": [asdict(each) for each in here.learned],
    }
    return Attempt(
        release=release,
        kind=kind,
        expected=here.expected,
        live=here.live,
        rollback_release=back,
        after=tuple(each.id for each in here.history.deployments[-1:]),
        story=story,
        **rest,
    )


def new_deployment_id(moment: datetime, earlier: Sequence[str], characters: str) -> DeploymentId:
    """An id that is greater than each of these: hosts refuse what is not newer, even if a clock went back."""
    for name in earlier:
        # What is no id, whoever wrote it, is nothing to be later than.
        if is_deployment_id(name):
            with contextlib.suppress(ValueError, OverflowError):
                last = datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                moment = max(moment, last + timedelta(seconds=1))
    return DeploymentId(f"{moment:%Y%m%dT%H%M%SZ}{characters}")


def by_role(hosts: Iterable[RoleHost]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for role, host in sorted(hosts):
        found.setdefault(role, []).append(host)
    return {role: tuple(names) for role, names in found.items()}


def pairs(hosts: Mapping[str, Sequence[str]]) -> tuple[RoleHost, ...]:
    return tuple((role, host) for role, names in hosts.items() for host in names)
