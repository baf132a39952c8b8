"""`fab ENV check`: every prerequisite on the operator's and the build server's side, each with how to mend it.

It goes on after a failure as far as it can, and changes nothing that lasts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploytool import stages
from deploytool.audience import check_event_sizes, expected_hosts
from deploytool.building import rehearse_manifests
from deploytool.errors import (
    ConnectionFailed,
    ConsulError,
    DeployError,
    FleetError,
    SettingsError,
    StepError,
    StoreError,
)
from deploytool.session import Session

if TYPE_CHECKING:
    from deploytool.command import Command

#: The exit code of `check` is the first of these that applies.
ORDER = (2, 5, 6, 7, 4, 8)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `check`."""

    name: str
    ok: bool
    #: what was found, or what is wrong
    text: str
    hint: str | None = None
    exit_code: int = 0

    def as_dict(self) -> Mapping[str, object]:
        return {"name": self.name, "ok": self.ok, "text": self.text, "hint": self.hint}


def check_all(command: "Command") -> list[Check]:
    """Every check in the order in which a deploy needs them, the failed ones first by their exit codes' order."""
    checks = [tried("settings", lambda: settings_found(command))]
    try:
        with command.session(f"check {command.settings.environment}") as session:
            checks.append(Check("build server", True, f"{command.settings.build.server}: worker answers"))
            for name, attempt in (
                ("programs", lambda: programs_found(session)),
                ("compressor", lambda: compressor_found(session)),
                ("linked files", lambda: linked_files_found(session)),
                ("repository", lambda: repository_found(session)),
                ("store", lambda: str(session.worker.ask("check_store")["found"])),
                ("Consul", lambda: str(session.worker.ask("check_consul")["found"])),
                ("events", lambda: events_found(session)),
                ("hosts", lambda: hosts_found(session)),
            ):
                checks.append(tried(name, attempt))
    except DeployError as error:
        checks.append(failed("build server", error))
    return sorted(checks, key=lambda check: ORDER.index(check.exit_code) if not check.ok else len(ORDER))


def tried(name: str, attempt: Callable[[], str]) -> Check:
    """The check's line, whether it went well or not."""
    try:
        return Check(name, True, attempt())
    except DeployError as error:
        return failed(name, error)


def failed(name: str, error: DeployError) -> Check:
    if error.exit_code not in ORDER:
        raise error
    text = "; ".join((error.message, *error.tail[-3:]))
    return Check(name, False, text, error.hint, error.exit_code)


def settings_found(command: "Command") -> str:
    """Settings are read by now; here every manifest is rendered and checked. Warns of roles that prove nothing."""
    rehearse_manifests(command.every)
    unproven = [
        role
        for role, given in command.settings.roles.items()
        if not (given.verify.pid_file or given.verify.url or given.verify.command)
    ]
    found = f"environments {', '.join(command.every)}; roles {', '.join(command.settings.roles)}: manifests render"
    if unproven:
        found += f"; {', '.join(unproven)} has no `verify`: its hosts prove only that `current` points to the release"
    return found


def programs_found(session: Session) -> str:
    results = session.run(stages.programs(session.settings, session.place), quiet=True)
    free_mb = int(stages.values(results, "free_kib")[0] or 0) // 1024
    return f"{', '.join(stages.values(results, 'found'))}; {free_mb} MB free in {session.place.root}"


def compressor_found(session: Session) -> str:
    """What will compress archives; with how to get a quicker one, if there is."""
    hint = session.compressor_hint
    return session.compressor + (f"; for a quicker one {hint}" if hint else "")


def linked_files_found(session: Session) -> str:
    session.run(stages.linked_files(session.settings, session.place), quiet=True)
    names = session.settings.build.linked_files
    return f"{', '.join(names)} in {session.place.shared}" if names else "the build asks for none"


def repository_found(session: Session) -> str:
    results = session.run(stages.reach(session.settings, session.place), quiet=True)
    return f"it answers; its branches and tags: {stages.values(results, 'references')[0]}"


def events_found(session: Session) -> str:
    check_event_sizes(session)
    return "every manifest's URL fits into an event"


def hosts_found(session: Session) -> str:
    expected = expected_hosts(session, ())
    found = "; ".join(f"{role}: {', '.join(hosts)}" for role, hosts in expected.up.items())
    down = ", ".join(f"{host} ({role})" for role, host in expected.down)
    return found + (f"; down: {down}" if down else "")


def check_error(checks: Sequence[Check]) -> Mapping[str, object]:
    """The first failed check, as the error that it stands for in `--json`; its exit code is the command's."""
    first = next(check for check in checks if not check.ok)
    kinds = (SettingsError, ConnectionFailed, StoreError, ConsulError, StepError, FleetError)
    kind = next((kind for kind in kinds if kind.exit_code == first.exit_code), DeployError)
    return {**DeployError(f"{first.name}: {first.text}", hint=first.hint).as_dict(), "kind": kind.kind}
