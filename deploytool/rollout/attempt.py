"""One deployment that is about to begin, as things stand."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
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
from deploytool.model.waves import ALL_AT_ONCE, RolloutPlan
from deploytool.state.targets import Expected, Here, Live
from deploytool.text import ids


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
    plan: RolloutPlan = ALL_AT_ONCE
    #: by role, hosts that are told as well, and not waited for
    unheard: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: by role, hosts that run the release already, by a deployment of their own
    spared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: the tool's own idea, to put things right: no hook of the operator's may stop it
    unasked: bool = False
    #: why a release is brought that nobody has signed; None: it is refused
    force: str | None = None
    #: what else its record is to say
    story: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_for_all(self) -> bool:
        """Whether all hosts are verified once those that are waited for are, and nobody left migrations out."""
        return self.wait and self.migrate and not self.nodes


def attempt_at(
    release: Release,
    kind: Kind,
    here: Here,
    changes: Comparison | None,
    *,
    migrate: bool = False,
    wait: bool = True,
    nodes: tuple[str, ...] = (),
    kept: frozenset[str] = frozenset(),
    plan: RolloutPlan = ALL_AT_ONCE,
    unheard: Mapping[str, Sequence[str]] = MappingProxyType({}),
    spared: Mapping[str, Sequence[str]] = MappingProxyType({}),
    unasked: bool = False,
    force: str | None = None,
    story: Mapping[str, object] = MappingProxyType({}),
) -> Attempt:
    """A deployment of the release as things stand here; see the fields of Attempt. `story` is added to."""
    live = here.live.release
    if nodes and live is not None and live != release.id:
        # A rollback ends what `--nodes` began.
        back: ReleaseId | None = live
    else:
        back = target_after(here.history, release.id, kind, here.expected.hosts, live)
    return Attempt(
        release=release,
        kind=kind,
        expected=here.expected,
        live=here.live,
        rollback_release=back,
        migrate=migrate,
        wait=wait,
        nodes=nodes,
        after=tuple(each.id for each in here.history.deployments[-1:]),
        kept=kept,
        plan=plan,
        unheard=unheard,
        spared=spared,
        unasked=unasked,
        force=force,
        story={
            **story,
            "forced": force,
            **changes_record(changes),
            "served_before": here.served.release,
            "learned": [asdict(each) for each in here.learned],
        },
    )


def new_deployment_id(moment: datetime, earlier: Sequence[str], characters: str) -> DeploymentId:
    """An id that is greater than each of these: hosts refuse what is not newer, even if a clock went back."""
    for name in earlier:
        # What is no id, whoever wrote it, is nothing to be later than.
        if is_deployment_id(name):
            with contextlib.suppress(ValueError, OverflowError):
                moment = max(moment, ids.moment_of(name) + timedelta(seconds=1))
    return DeploymentId(ids.compact(moment) + characters)


def by_role(hosts: Iterable[RoleHost]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for role, host in sorted(hosts):
        found.setdefault(role, []).append(host)
    return {role: tuple(names) for role, names in found.items()}


def pairs(hosts: Mapping[str, Sequence[str]]) -> tuple[RoleHost, ...]:
    return tuple((role, host) for role, names in hosts.items() for host in names)
