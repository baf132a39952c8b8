"""One command from its first line to its last: the one boundary where errors become a sentence and an exit code."""

import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.exceptions import Exit

from deploytool import signals
from deploytool.cli import fab_flags
from deploytool.errors import (
    SCHEMA_VERSION,
    DeployError,
    FleetError,
    HookError,
    Interrupted,
    LockedError,
    UsageError,
)
from deploytool.model.lifecycle import Status
from deploytool.settings import environments
from deploytool.settings.files import file_of
from deploytool.trace import learn, log

if TYPE_CHECKING:
    from deploytool.connection.ssh import Connecting
    from deploytool.hooks.local import Moment
    from deploytool.hooks.notify import Notifications
    from deploytool.screen.console import Console
    from deploytool.screen.summary import Outcome
    from deploytool.settings import Settings

#: where an environment's task leaves its name for the command after it, in Fabric's config
ENVIRONMENT = "deploytool_environment"
#: where a command leaves its result for tasks after it: the text of the document that `--json` prints
RESULT = "deploytool_result"
#: What ends with one of these was never begun, so it has not failed.
REFUSALS = frozenset({UsageError.exit_code, LockedError.exit_code})


def project_directory(start: Path, fabfile: str = "fabfile") -> Path:
    """The directory that holds the fabfile: `start` or the nearest above it, as `fab` itself looks; else `start`."""
    for directory in (start, *start.parents):
        if (directory / f"{fabfile}.py").is_file() or (directory / fabfile / "__init__.py").is_file():
            return directory
    return start


def program() -> Any:
    from fabric.main import program as running

    return running


def flag(name: str) -> Any:
    """What one of the flags of the running `fab` itself says; None without a running one."""
    running = program()
    return running.args[name].value if hasattr(running, "core") else None


def project() -> Path:
    running = program()
    # As Invoke's loader: a flag goes before its configuration.
    tasks = running.config.tasks if hasattr(running, "config") else {}
    root = flag("search-root") or tasks.get("search_root")
    name = flag("collection") or tasks.get("collection_name")
    return project_directory(Path(root or ".").absolute(), name or "fabfile")


def dry_by(context: Context) -> str | None:
    """What asks for a dry run, in words: the flag, Fabric's configuration or a variable; None if nothing does."""
    if flag("dry"):
        return "--dry"
    if context.config.get("run", {}).get("dry"):
        return "run.dry in Fabric's configuration, or FABRIC_RUN_DRY"
    # Fabric itself reads only variables of its own name.
    return "INVOKE_RUN_DRY" if os.environ.get("INVOKE_RUN_DRY", "0") not in ("", "0") else None


@dataclass(frozen=True, slots=True)
class Command:
    """What a task needs to begin: the screen, the settings, and the way to the build server."""

    name: str
    console: "Console"
    settings: "Settings"
    every: "Mapping[str, Settings]"
    outcome: "Outcome"
    #: None if it is this machine, or not needed
    connecting: "Connecting | None"
    #: None if nobody is to be told how it goes
    notifications: "Notifications | None" = None

    def session(self, purpose: str, *, read_only: bool = False) -> Any:
        from deploytool.session import open_session

        return open_session(
            self.settings,
            self.every,
            purpose=purpose,
            console=self.console,
            connecting=self.connecting,
            notifications=self.notifications,
            read_only=read_only,
        )


def run(
    context: Context,
    name: str,
    as_json: bool,
    body: Callable[[Command], Mapping[str, Any] | None],
    *,
    connects: bool = True,
    after: "Moment | None" = None,
) -> None:
    """Run one command; ends with `Exit` unless all is well. `connects`: whether it speaks to the build server.
    `after`: the operator's hook once it has gone well; if it fails, that is `on_failure`.

    The connection is opened while the other environments' settings are read and the command's modules are imported. A
    mistake that shows meanwhile is told in place of whatever becomes of the connection, and nothing is asked of the
    server.
    """
    from deploytool.connection.ssh import Connecting
    from deploytool.screen.console import Console
    from deploytool.screen.github_actions import github_actions
    from deploytool.screen.summary import Outcome
    from deploytool.settings import load_every_environment
    from deploytool.text.masking import secrets_in

    console = Console(as_json=as_json, actions=github_actions(os.environ))
    ending = _Ending(name, console, Outcome(), context.config.get(ENVIRONMENT))
    connecting: Connecting | None = None

    def begin(settings: "Settings") -> None:
        nonlocal connecting
        if connects and not settings.build.is_local:
            connecting = Connecting(settings.build, context.config, flag("ssh-config"))
        elif unused := [fab_flags.BY_NAME[each].typed for each in fab_flags.CONNECTING if flag(each)]:
            why = f"`{name}` connects to nothing" if not connects else f"{settings.environment} builds on this machine"
            console.note(f"{', '.join(unused)}: not used, {why}")

    try:
        try:
            signals.interrupt()
            environment = ending.environment
            if environment is None:
                raise _no_environment(name)
            refuse_dangers(context, name, environment)
            every = load_every_environment(project(), environment, os.environ, begin)
            ending.secrets = every[environment].secrets
            # Requests carry the variables of steps, which may be written in the settings as they are.
            learn([*ending.secrets, *secrets_in(every[environment].build.env)])
            log.info("%s of %s; settings: %s", name, environment, file_of(project(), environment))
            notify = notifications_of(every[environment], console)
            ending.command = Command(name, console, every[environment], every, ending.outcome, connecting, notify)
            ending.document.update(body(ending.command) or {})
        finally:
            signals.ignore()
            if connecting is not None:
                connecting.abandon()
    except DeployError as failure:
        ending.error = failure
    except KeyboardInterrupt:
        ending.error = _interrupted(console.doing, ending.outcome)
    except Exception as bug:
        # Nobody knows what stands in it.
        ending.secrets = (*ending.secrets, *secrets_in(os.environ))
        console.trace(masked(traceback.format_exc(), ending.secrets))
        ending.error = DeployError(
            f"{type(bug).__name__}: {bug}",
            hint="this is a bug in deploytool; please report it with the traceback above",
        )
    document = ending.tell(as_json)
    if after is not None:
        ending.tell_others(after)
    if ending.exit_code != 0:
        said = console.shown(masked(str(ending.error), ending.secrets)) if ending.error is not None else None
        raise Exit(said, code=ending.exit_code)
    context.config[RESULT] = json.dumps(document)
    if program().tasks[-1].name != name or program().collection[name].post:
        # Another task follows.
        signals.leave_at_once()


@dataclass(slots=True)
class _Ending:
    """How a command ends, for whoever is to know."""

    name: str
    console: "Console"
    outcome: "Outcome"
    #: None if the command line names none
    environment: str | None
    #: None as long as its settings are not read
    command: Command | None = None
    document: dict[str, Any] = field(default_factory=dict)
    error: DeployError | None = None
    secrets: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return self.error.exit_code if self.error is not None else self.outcome.exit_code

    @property
    def why(self) -> DeployError | None:
        """Why it did not end well."""
        return self.error if self.error is not None or self.exit_code == 0 else outcome_error(self.outcome)

    def tell(self, as_json: bool) -> Mapping[str, Any]:
        """Show it on the screen and to the CI system; returns the command's document."""
        outcome = self.outcome
        document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "environment": self.environment}
        if outcome.release is not None or outcome.deployment is not None:
            document.update(outcome.as_dict())
        if outcome.release is not None and self.environment is not None:
            from deploytool.cli.seen_names import remember

            remember(project(), self.environment, os.environ, outcome.release)
        document.update(self.document, exit_code=self.exit_code)
        if self.error is not None:
            document["error"] = self.error.as_dict()
        elif (why := self.why) is not None:
            document.setdefault("error", why.as_dict())
        document = masked(document, self.secrets)
        if as_json:
            self.console.document(document)
        elif self.environment is not None and (outcome.hosts or outcome.spared or outcome.unwatched):
            from deploytool.screen.ending import deployment_page

            self.console.page(deployment_page(outcome, self.environment))
        if self.console.in_ci:
            tell_ci(self.console, f"fab {self.environment or 'ENV'} {self.name}", document, outcome, self.environment)
        return document

    def tell_others(self, after: "Moment") -> None:
        """Run the operator's last hook, and tell whoever is to be told; not of what was refused."""
        if self.command is not None and self.exit_code not in REFUSALS:
            moment = after if self.exit_code == 0 else "on_failure"
            run_last_hook(self.command, moment, self.exit_code, self.why)
            tell_the_end(self.command, self.exit_code, self.why)


def _interrupted(doing: str, outcome: "Outcome") -> Interrupted:
    """The sentence for Ctrl-C, by how far the deployment was."""
    if outcome.unwatched or (outcome.status is Status.UNKNOWN and not outcome.hosts):
        hosts = "the release may be announced already, and then the hosts finish on their own"
    elif outcome.hosts and outcome.status is not Status.ABORTED:
        hosts = "the hosts' last reports are shown; those that were switching finish on their own"
    else:
        hosts = "no host was switched"
    return Interrupted(f"interrupted during: {doing}", hint=f"processes on the build server were stopped; {hosts}")


def refuse_dangers(context: Context, name: str, environment: str) -> None:
    """Raise UsageError where a command would do more than was asked for.

    The flags of the line were looked at before anything began. This is about Fabric's configuration, and about a task
    of the user's own that calls a command.
    """
    because = dry_by(context)
    if because is not None and (error := fab_flags.dry_refusal(name, environment, because)):
        raise error
    if flag("hosts") or type(context).__module__.startswith("fabric."):
        # Once for each host otherwise.
        raise UsageError(
            f"`{name}` can't run in a task with Fabric's `hosts`: {fab_flags.BY_NAME['hosts'].instead}",
            hint="call it in a task without `hosts`",
        )


def tell_ci(
    console: "Console", title: str, document: Mapping[str, Any], outcome: "Outcome", environment: str | None
) -> None:
    """Tell the CI system that runs the command how it ended, beside its log. `document` is the command's, masked."""
    from deploytool.screen.ending import ending
    from deploytool.screen.github_actions import annotations
    from deploytool.text.untrusted import one_line

    lines = ending(outcome, environment) if environment is not None and outcome.deployment is not None else []
    if outcome.release is not None and outcome.deployment is None:
        lines = [f"release {outcome.release}, revision {outcome.revision}"]
    if (error := document.get("error")) is not None:
        title = f"{title}: exit code {document['exit_code']}"
        hint = [f"hint: {error['hint']}"] if error["hint"] else []
        why = [one_line(line) for line in (error["message"], *error["tail"], *hint)]
        console.annotate(annotations(title, why, outcome.hosts))
        lines = [*why, "", *lines]
    if lines:
        console.summarise(title, outcome.hosts, lines)


@contextmanager
def after_all(command: Command, interrupted: str) -> Iterator[None]:
    """What comes once all is done and told: it may be interrupted, which ends nothing else."""
    signals.interrupt()
    try:
        yield
    except KeyboardInterrupt:
        command.console.note(f"interrupted: {interrupted}")
    finally:
        signals.ignore()


def run_last_hook(command: Command, moment: "Moment", exit_code: int, error: DeployError | None) -> None:
    """Run the operator's hook for the end of a command. All is told by now, and the hook changes none of it."""
    from deploytool.hooks.local import run_hooks
    from deploytool.session import operator_of

    settings, console = command.settings, command.console
    with after_all(command, f"hooks.{moment} was stopped; the result of {command.name} stays as it is"):
        try:
            operator = operator_of(os.environ)
            run_hooks(settings, console, operator, moment, command.outcome, exit_code=exit_code, error=error)
        except HookError as trouble:
            console.note(f"{trouble.message}; the result of {command.name} stays as it is")


def notifications_of(settings: "Settings", console: "Console") -> "Notifications | None":
    """Who is told of commands that bring releases to hosts; None if nobody is."""
    if not settings.notify.webhook and not settings.notify.command:
        return None
    from deploytool.hooks.notify import Notifications
    from deploytool.session import operator_of

    return Notifications(settings, console, operator_of(os.environ))


def tell_the_end(command: Command, exit_code: int, error: DeployError | None) -> None:
    """Tell whoever is to be told how a command ended. All is done by now, and this changes none of it."""
    if command.notifications is not None:
        with after_all(command, f"the result of {command.name} may not have been notified"):
            command.notifications.end(command.name, command.outcome, exit_code, error)


def _no_environment(name: str) -> UsageError:
    from deploytool.settings.files import odd_files

    return UsageError(
        f"the environment is missing: `fab ENV {name}`, where ENV is one of: {listed(environments(project()))}",
        hint="; ".join(str(problem) for problem in odd_files(project())) or None,
    )


def outcome_error(outcome: "Outcome") -> DeployError:
    """Why a deployment that was let go did not end well: a host is bad, or nobody waited to the end."""
    from deploytool.model.fleet import Verdict

    bad = ", ".join(
        f"{result.host} ({result.role}) {result.verdict}"
        for result in outcome.concerned
        if result.verdict is not Verdict.VERIFIED
    )
    reason = "; ".join(filter(None, (f"not verified: {bad}" if bad else "", outcome.objection)))
    reason = reason or "at least one host is not verified on the expected release"
    if outcome.status is Status.HALTED and outcome.exit_code == FleetError.exit_code:
        went_back = "".join(f"; back on {each.release}, exit code {each.exit_code}" for each in outcome.undone)
        return FleetError(f"halted after {len(outcome.gone)} of {len(outcome.hosts)} hosts; {reason}{went_back}")
    if outcome.exit_code == FleetError.exit_code:
        return FleetError(reason)
    if bad:
        return Interrupted(
            f"interrupted after `go`; not verified: {bad}", hint="silent hosts may still finish on their own"
        )
    if outcome.stopped:
        left = len(outcome.hosts) - len(outcome.gone)
        return Interrupted(f"interrupted after `go`; all hosts that switched are verified, {left} untouched")
    return Interrupted("interrupted after `go`, but every host is verified")


def masked(value: Any, secrets: Sequence[str]) -> Any:
    from deploytool.text.masking import Masking

    return Masking(secrets).value(value)


def listed(names: Sequence[str]) -> str:
    return (
        ", ".join(names) if names else "none yet: there is no config/<environment>.yml; `deploytool init` creates some"
    )
