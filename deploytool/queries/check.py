"""`fab ENV check`: every prerequisite on both ends, each with how to fix it.

It goes on after a failure as far as it can, and leaves nothing behind.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from deploytool.build.linked_paths import doubtful
from deploytool.connection.client import Pending
from deploytool.errors import (
    ConnectionFailed,
    ConsulError,
    DeployError,
    ErrorJson,
    FleetError,
    SettingsError,
    StepError,
    StoreError,
)
from deploytool.hosts.rehearsal import rehearse_manifests
from deploytool.model.proof import PROOFS, asked_proof
from deploytool.model.release import DeploymentId, event_name
from deploytool.queries.checks.build_server import check_build_server
from deploytool.queries.checks.finding import ORDER, Check, failed, told, tried
from deploytool.queries.checks.hosts import check_event_sizes, check_hosts, check_trust
from deploytool.queries.checks.store import check_ways_of_hosts
from deploytool.screen.page import BAD, GOOD, WARNING, Next, Page, Row
from deploytool.session import Session
from deploytool.state.history_store import moment_name
from deploytool.text.words import counted
from deploytool.worker.wire import Findings

if TYPE_CHECKING:
    from deploytool.connection.ssh import Connecting
    from deploytool.settings import Settings


def check_all(
    settings: "Settings",
    every: "Mapping[str, Settings]",
    open_session: Callable[[str], AbstractContextManager[Session]],
    connecting: "Connecting | None" = None,
) -> list[Check]:
    """Every check in the order in which a deploy needs them, the failed ones first by their exit codes' order.

    `open_session` opens a session for a purpose, in words; `connecting` is the way to the build server.
    """
    checks = [
        tried("settings", lambda: settings_found(settings, every)),
        *check_proofs(settings),
        *check_trust(settings),
        *check_ways_of_hosts(settings),
    ]
    try:
        with open_session(f"check {settings.environment}") as session:
            server = settings.build.server
            by = f" by {connecting.transport}" if connecting is not None else ""
            text = f"{server} is reached{by}; the worker runs, Python {session.python}"
            checks.append(Check("build server", True, text))
            checks += check_build_server(session)
            checks += check_services_and_hosts(session)
    except DeployError as error:
        checks.append(failed("build server", error))
    return sorted(checks, key=lambda check: ORDER.index(check.exit_code) if check.ok is False else len(ORDER))


def settings_found(settings: "Settings", every: "Mapping[str, Settings]") -> str:
    """Settings are read by now; here every manifest is rendered and checked."""
    rehearse_manifests(every)
    found = f"environments {', '.join(every)}; roles {', '.join(settings.roles)}: manifests render"
    if doubted := doubtful(settings):
        found += (
            f"; linked_dirs has {', '.join(doubted)}, where builds put what a release needs: the hosts' link would "
            "hide it, and deploy refuses that"
        )
    return found


def check_proofs(settings: "Settings") -> list[Check]:
    """How strong the proof is that each role's settings ask for."""
    return [Check(f"proof of {name}", True, PROOFS[asked_proof(role.verify)]) for name, role in settings.roles.items()]


def check_services_and_hosts(session: Session) -> list[Check]:
    """Store, Consul and hosts. Hosts are asked only where the way to them is good."""
    settings = session.settings
    probe = DeploymentId(moment_name(session.now()))
    store = asked("store", session.store.check())
    consul = asked(
        "Consul",
        session.bus.check(
            probe,
            [event_name(settings.application, role, settings.environment) for role in settings.roles],
            sorted({role.hosts.service for role in settings.roles.values() if role.hosts.service}),
        ),
    )
    checks = [*store, *consul, *check_event_sizes(session)]
    if consul[0].ok is False:
        # Where nobody answers, the hosts' line would be the same.
        return checks
    way = [check.name for check in (*store, *consul) if check.ok is False and check.name in _WAY]
    return [*checks, *check_hosts(session, probe, f"{', '.join(way)} fails" if way else None)]


#: Without these no host can be asked. An event that may not be fired is told by its role.
_WAY = ("store", "store: put", "store: list", "Consul: write keys", "Consul: read keys")


def asked(name: str, finding: Pending[Findings]) -> list[Check]:
    """What the worker finds; one line with that name if it can't even try."""
    try:
        return told(finding.answer().findings)
    except DeployError as error:
        return [failed(name, error)]


def page(checks: Sequence[Check], environment: str) -> Page:
    """All checks for people, those that failed first, and whether a deploy could begin."""
    bad = sum(check.ok is False for check in checks)
    untried = sum(check.ok is None for check in checks)
    total = f"{counted(len(checks), 'check')} of {environment}"
    if bad:
        verdict = f"{bad} of {total} failed" + (f", {untried} could not be tried" if untried else "")
    else:
        verdict = (
            f"{total} passed" if not untried else f"no check of {environment} failed; {untried} could not be tried"
        )
    return Page(
        rows=tuple(Row((f"{check.word:<3}", check.sentence), _STYLES[check.ok], 0) for check in checks),
        next=() if bad else (Next(f"fab {environment} plan", "what a deploy would do now"),),
        verdict=verdict,
        style=BAD if bad else GOOD,
    )


_STYLES = {True: GOOD, False: BAD, None: WARNING}


def check_error(checks: Sequence[Check]) -> ErrorJson:
    """The first failed check, as the error that it stands for in `--json`; its exit code is the command's."""
    first = next(check for check in checks if check.ok is False)
    kinds = (SettingsError, ConnectionFailed, StoreError, ConsulError, StepError, FleetError)
    kind = next((kind for kind in kinds if kind.exit_code == first.exit_code), DeployError)
    return {**DeployError(f"{first.name}: {first.text}", hint=first.hint).as_dict(), "kind": kind.kind}
