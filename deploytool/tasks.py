"""The command line: what the user types. Thin: each task reads its flags, calls the story, and shows how it ended.

A fabfile is one line: `from deploytool.tasks import namespace`. The environments are the files of `config/`.
"""

import ast
import functools
import json as json_text
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser.parser import Parser
from invoke.tasks import Task, task

from deploytool import interruption
from deploytool.errors import (
    ConnectionFailed,
    ConsulError,
    DeployError,
    FleetError,
    Interrupted,
    SettingsError,
    StepError,
    StoreError,
    UsageError,
)
from deploytool.settings import environments

if TYPE_CHECKING:
    from deploytool.checking import Check
    from deploytool.console import Console
    from deploytool.deployment import Outcome
    from deploytool.settings import Settings
    from deploytool.worker_client import Worker

if interruption.in_a_running_fab():
    interruption.leave_at_once()

_ENVIRONMENT = "deploytool_environment"


def project_directory(start: Path, fabfile: str = "fabfile") -> Path:
    """The directory that holds the fabfile: `start` or the nearest above it, as `fab` itself looks; else `start`."""
    for directory in (start, *start.parents):
        if (directory / f"{fabfile}.py").is_file() or (directory / fabfile / "__init__.py").is_file():
            return directory
    return start


def _program() -> Any:
    from fabric.main import program

    return program


def _project() -> Path:
    arguments = getattr(_program(), "args", None) if hasattr(_program(), "core") else None
    root = arguments["search-root"].value if arguments else None
    name = arguments.collection.value if arguments else None
    return project_directory(Path(root or ".").absolute(), name or "fabfile")


# --- one boundary: our errors become a sentence and an exit code


@dataclass(frozen=True, slots=True)
class Command:
    """What a task needs to begin: the screen, the settings, and the connection options of `fab` itself."""

    name: str
    console: "Console"
    settings: "Settings"
    every: "Mapping[str, Settings]"
    outcome: "Outcome"
    fabric_config: Any

    def session(self, purpose: str) -> Any:
        from deploytool.session import open_session

        return open_session(
            self.settings, self.every, purpose=purpose, console=self.console, fabric_config=self.fabric_config
        )


def _run(context: Context, name: str, as_json: bool, body: Callable[[Command], Mapping[str, Any] | None]) -> None:
    """Run one command; ends with `Exit` unless all is well."""
    from deploytool.console import Console, error_text
    from deploytool.deployment import Outcome
    from deploytool.settings import load_every_environment

    console = Console(as_json=as_json)
    outcome = Outcome()
    document: dict[str, Any] = {}
    error: DeployError | None = None
    secrets: tuple[str, ...] = ()
    environment = context.config.get(_ENVIRONMENT)
    try:
        try:
            interruption.interrupt()
            if environment is None:
                raise _no_environment(name)
            every = load_every_environment(_project(), environment, os.environ)
            secrets = every[environment].secrets
            command = Command(name, console, every[environment], every, outcome, context.config)
            document.update(body(command) or {})
        finally:
            interruption.ignore()
    except DeployError as failure:
        error = failure
    except KeyboardInterrupt:
        error = Interrupted(
            f"interrupted during: {console.doing}",
            hint="what ran on the build server was ended"
            + (
                "; the release may be announced, and hosts that are not waited for finish by themselves"
                if outcome.unverified
                else "; the hosts' last words are shown; those that were let go finish by themselves"
                if outcome.hosts
                else "; no host was switched"
            ),
        )
    except Exception as bug:
        print(_masked(traceback.format_exc(), secrets), end="", file=sys.stderr)
        error = DeployError(
            f"{type(bug).__name__}: {bug}",
            hint="this is a bug in deploytool; please report it with the traceback above",
        )
    if outcome.release is not None or outcome.deployment is not None:
        document = {**outcome.as_dict(), **document}
    exit_code = error.exit_code if error is not None else outcome.exit_code
    if as_json:
        document["exit_code"] = exit_code
        if error is not None:
            document["error"] = error.as_dict()
        elif exit_code != 0:
            document.setdefault("error", outcome_error(outcome).as_dict())
        console.document(_masked(document, secrets))
    elif outcome.hosts or outcome.unverified:
        console.summary(outcome, environment, outcome.hosts)
    if exit_code != 0:
        raise Exit(_masked(error_text(error), secrets) if error is not None else None, code=exit_code)
    if _program().tasks[-1].name != name:
        # Another task follows on the same command line.
        interruption.leave_at_once()


def _no_environment(name: str) -> UsageError:
    from deploytool.settings.files import odd_files

    return UsageError(
        f"which environment? `fab ENV {name}`, where ENV is one of: {_listed(environments(_project()))}",
        hint="; ".join(str(problem) for problem in odd_files(_project())) or None,
    )


def outcome_error(outcome: "Outcome") -> DeployError:
    """Why a deployment that was let go did not end well: a host is bad, or nobody waited to the end."""
    from deploytool.fleet import Verdict

    bad = ", ".join(
        f"{result.host} ({result.role}) {result.verdict}"
        for result in outcome.hosts
        if result.verdict is not Verdict.VERIFIED
    )
    if outcome.exit_code == FleetError.exit_code:
        return FleetError(f"not verified: {bad}")
    if bad:
        return Interrupted(f"interrupted after `go`; not verified: {bad}", hint="silent hosts finish by themselves")
    return Interrupted("interrupted after `go`, but every host is verified")


def _masked(value: Any, secrets: Sequence[str]) -> Any:
    from deploytool.worker.masking import Masking

    return Masking(secrets).value(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none yet: there is no config/<environment>.yml"


# --- environments


def _environment_task(name: str) -> "Task[Callable[[Context], None]]":
    def choose(context: Context) -> None:
        context.config[_ENVIRONMENT] = name

    choose.__doc__ = f"environment: config/{name}.yml\n\nIt stands before a command: fab {name} deploy"
    return Task(choose, name=name, auto_shortflags=False)


# --- commands

command = functools.partial(task, auto_shortflags=False)

_JSON = "results as one JSON document on stdout"


@command(
    help={
        "branch": "branch, tag or commit to deploy (default: the setting `branch`)",
        "release": "deploy this release instead of building one",
        "migrate": "run the migrations between fetching and switching (--no-migrate: leave them out)",
        "wait": "wait for every host's proof (--no-wait: announce and leave, unverified)",
        "nodes": "only these hosts, names with commas between",
        "json": _JSON,
    },
)
def deploy(
    context: Context,
    branch: str | None = None,
    release: str | None = None,
    migrate: bool = True,
    wait: bool = True,
    nodes: str | None = None,
    json: bool = False,
) -> None:
    """Build or reuse a release and bring it to every host

    Publishes it, announces it, runs its migrations, lets the hosts switch when all of them hold it, and waits until
    every one proves that it serves it.
    """

    def body(this: Command) -> None:
        from deploytool.building import rehearse_manifests
        from deploytool.deployment import Wishes
        from deploytool.deployment import deploy as tell

        if branch is not None and release is not None:
            raise UsageError("--branch and --release exclude each other: a release is of one revision for good")
        reference = _reference(this, branch)
        wanted = tuple(name.strip() for name in (nodes or "").split(",") if name.strip())
        if nodes is not None and not wanted:
            raise UsageError("--nodes names no host", hint="for instance --nodes app1,app2")
        _check_release_id(release)
        rehearse_manifests(this.every)
        with this.session(f"deploy {release or reference} to {this.settings.environment}") as session:
            tell(session, Wishes(reference, release, migrate, wait, wanted), this.outcome)

    _run(context, "deploy", json, body)


@command(help={"branch": "branch, tag or commit to build (default: the setting `branch`)", "json": _JSON})
def build(context: Context, branch: str | None = None, json: bool = False) -> None:
    """Build and publish a release, and nothing else

    Nothing is migrated, nothing announced. Deploy it with: fab ENV deploy --release ID
    """

    def body(this: Command) -> Mapping[str, Any]:
        from deploytool.building import obtain_release, rehearse_manifests

        reference = _reference(this, branch)
        rehearse_manifests(this.every)
        with this.session(f"build {reference}") as session:
            with this.outcome.phase("build"):
                built = obtain_release(session, reference)
            release = built.release
            this.outcome.release, this.outcome.revision, this.outcome.reused = (
                release.id,
                release.revision,
                built.reused,
            )
        if not json:
            word = "reused" if built.reused else "built"
            this.console.print(f"{word} {release.id} ({release.revision[:10]}, sha256 {release.checksum})")
            this.console.print(f"deploy it: fab {this.settings.environment} deploy --release {release.id}")
        return {"checksum": release.checksum, "size_bytes": release.size_bytes}

    _run(context, "build", json, body)


@command(help={"release": "the release whose migrations run (default: the one deployed last)", "json": _JSON})
def migrate(context: Context, release: str | None = None, json: bool = False) -> None:
    """Run a release's migrations on the build server

    They run with that release's own code.
    """

    def body(this: Command) -> None:
        from deploytool.deployment import migrate as tell

        _check_release_id(release)
        with this.session(f"migrate {this.settings.environment}") as session:
            tell(session, release, this.outcome)
        if not json:
            this.console.print(f"migrations of {this.outcome.release} have run")

    _run(context, "migrate", json, body)


@command(help={"json": _JSON})
def status(context: Context, json: bool = False) -> None:
    """Show which host serves what, and who is behind

    Also which deployment is under way, and who holds the lock. Exit code 8 if a host that is up does not serve, proven,
    what is wanted of it.
    """

    def body(this: Command) -> Mapping[str, Any]:
        from deploytool.status import lines, read_status

        with this.session(f"status of {this.settings.environment}") as session:
            found = read_status(session)
        this.outcome.exit_code = found.exit_code
        if not json:
            for line in lines(found, this.settings.environment):
                this.console.print(line)
        return found.as_dict()

    _run(context, "status", json, body)


@command(help={"json": _JSON})
def settings(context: Context, json: bool = False) -> None:
    """Show the effective settings, and where each is from

    Secrets are masked.
    """

    def body(this: Command) -> Mapping[str, Any]:
        from deploytool.settings import effective_settings

        rows = effective_settings(_project(), this.settings.environment, os.environ)
        if not json:
            width = max(len(row.path) for row in rows)
            for row in rows:
                first, *rest = row.value.split("\n")
                this.console.print(f"{row.path:<{width}}  {first}{' …' if rest else ''}  ({row.source})")
        return {"settings": [{"path": row.path, "value": row.value, "source": row.source} for row in rows]}

    _run(context, "settings", json, body)


@command(help={"json": _JSON})
def check(context: Context, json: bool = False) -> None:
    """Try all that a deploy needs, and say how to mend it

    Settings, SSH, git, programs, the worker, the store, Consul and the hosts. Nothing is changed.
    """

    def body(this: Command) -> Mapping[str, Any]:
        from deploytool.checking import check_all

        results = check_all(this)
        if not json:
            for result in results:
                this.console.print(f"{'ok  ' if result.ok else 'BAD '} {result.name}: {result.text}")
                if result.hint:
                    this.console.print(f"       hint: {result.hint}")
        this.outcome.exit_code = next((result.exit_code for result in results if not result.ok), 0)
        document: dict[str, Any] = {"checks": [result.as_dict() for result in results]}
        if this.outcome.exit_code:
            document["error"] = check_error(results)
        return document

    _run(context, "check", json, body)


@command(help={"json": _JSON})
def unlock(context: Context, json: bool = False) -> None:
    """End what holds this environment's locks

    Shows who holds them and for what, then ends that process and all that it runs on the build server. What another
    environment runs there is left alone.
    """

    def body(this: Command) -> Mapping[str, Any]:
        with this.session(f"unlock {this.settings.environment}") as session:
            unlocking = free_locks(session.worker, this.settings.environment, this.console.note)
        if not json:
            this.console.print(unlocking.sentence)
        return {"ended": unlocking.ended, "left": unlocking.left}

    _run(context, "unlock", json, body)


@dataclass(frozen=True, slots=True)
class Unlocking:
    """What became of the holders of the locks: each as `{"lock", "holder"}`."""

    ended: list[Mapping[str, Any]]
    #: of the workspace, at work for another environment
    left: list[Mapping[str, Any]]
    sentence: str


def free_locks(worker: "Worker", environment: str, tell: Callable[[str], None]) -> Unlocking:
    """End the holder of the environment's lock, and that of the workspace's if it is of this environment."""
    ended: list[Mapping[str, Any]] = []
    left: list[Mapping[str, Any]] = []
    sentences: list[str] = []
    for name in (environment, "workspace"):
        answer = worker.ask("lock_holder", name=name)
        if answer["sentence"] is None:
            tell(f"the {name} lock is free")
            continue
        found = {"lock": name, "holder": answer["holder"]}
        its_own = (answer["holder"] or {}).get("environment")
        if name == "workspace" and its_own != environment:
            left.append(found)
            sentences.append(
                f"; the workspace is in use by {answer['sentence']} and was left alone"
                + (f": `fab {its_own} unlock` would end that" if its_own else "")
            )
            continue
        tell(f"the {name} lock is held by {answer['sentence']}; ending it")
        worker.ask("break_lock", name=name)
        ended.append(found)
    free = "the locks are free" if not left else f"the lock of {environment} is free"
    sentences.insert(0, f"ended {len(ended)} holder{'s' if len(ended) != 1 else ''}; {free}")
    return Unlocking(ended, left, "".join(sentences))


def check_error(checks: "Sequence[Check]") -> Mapping[str, object]:
    """The first failed check, as the error that it stands for in `--json`; its exit code is the command's."""
    first = next(check for check in checks if not check.ok)
    kinds = (SettingsError, ConnectionFailed, StoreError, ConsulError, StepError, FleetError)
    kind = next((kind for kind in kinds if kind.exit_code == first.exit_code), DeployError)
    return {**DeployError(f"{first.name}: {first.text}", hint=first.hint).as_dict(), "kind": kind.kind}


def _reference(this: Command, branch: str | None) -> str:
    reference = this.settings.branch if branch is None else branch
    if not reference or reference.startswith("-") or " " in reference or not reference.isprintable():
        raise UsageError(
            f"{reference!r} can't be the name of a branch, tag or commit",
            hint="--branch takes a branch, a tag or a commit's SHA",
        )
    return reference


def _check_release_id(release: str | None) -> None:
    from deploytool.release import is_release_id

    if release is not None and not is_release_id(release):
        raise UsageError(
            f"{release!r} is no release id", hint="one looks like 20261123T061500Z-1a2b3c4; see the output of `build`"
        )


# --- the namespace


class _CommandLine(Parser):
    """Invoke's parser, with one clear line and exit code 2 for what it does not know or what is not whole."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Invoke writes every `_` as `-`; people type the name of the file.
        for name in environments(_project()):
            if name not in self.contexts:
                self.contexts[name] = self.contexts[_typed(name)]

    def parse_argv(self, argv: list[str]) -> Any:
        if _program().args.complete.value:
            # A shell asks for completions: what it has so far is not whole, and that is no mistake.
            return super().parse_argv(argv)
        try:
            parsed = super().parse_argv(argv)
        except ParseError as error:
            _refuse(self._mistake(error), argv)
        if mistake := self._incomplete(parsed):
            _refuse(mistake, argv)
        return parsed

    def _environments(self) -> tuple[str, ...]:
        return tuple(_typed(name) for name in environments(_project()))

    def _commands(self) -> list[str]:
        known = self._environments()
        return sorted(name for name in self.contexts if _typed(name) not in known)

    def _mistake(self, error: ParseError) -> UsageError:
        task = error.context.name if error.context else None
        if needs := re.match(r"Flag <Argument: ([\w-]+).* needed value", str(error)):
            return UsageError(f"--{needs[1].replace('_', '-')} needs a value")
        if not (unknown := re.fullmatch(r"No idea what (.+) is!", str(error), re.DOTALL)):
            return UsageError(str(error))
        word = str(ast.literal_eval(unknown[1]))
        if not word.startswith("-"):
            return unknown_word(word, self._environments(), self._commands(), _project())
        if task is None:
            return UsageError(f"fab knows no flag {word}; `fab --help` shows its own, `fab --help deploy` a command's")
        if task in self._environments():
            return UsageError(
                f"{word} stands after the environment {task}; flags belong to a command and stand after it, as in "
                f"`fab {task} deploy --json`"
            )
        return unknown_flag(word, task, _flags(error.context))

    def _incomplete(self, parsed: Any) -> UsageError | None:
        asked = (_program().args, parsed[0].args)
        if any(arguments[name].value for arguments in asked for name in ("help", "list")):
            return None
        names = [each.name for each in parsed[1:]]
        chosen = list(dict.fromkeys(name for name in names if name in self._environments()))
        if len(chosen) > 1:
            return UsageError(f"several environments in one command: {', '.join(chosen)}; one at a time")
        if chosen and chosen == names:
            return UsageError(
                f"{chosen[0]} is an environment: what is to be done there? Commands: {', '.join(self._commands())}; "
                f"as in `fab {chosen[0]} deploy`"
            )
        return None


def _typed(name: str) -> str:
    """An environment's name as invoke knows it."""
    return name.replace("_", "-")


def _flags(task: Any) -> list[str]:
    """The flags of a command, as they are typed: `--no-wait` where `--wait` is the default."""
    flags = (f"{'no-' if argument.default is True else ''}{name}" for name, argument in task.args.items())
    return sorted("--" + flag.replace("_", "-") for flag in flags)


def unknown_flag(flag: str, command: str, flags: Sequence[str]) -> UsageError:
    from deploytool.settings.model import did_you_mean

    return UsageError(f"`{command}` has no flag {flag}.{did_you_mean(flag, flags)} Its flags: {', '.join(flags)}")


def unknown_word(word: str, known: Sequence[str], commands: Sequence[str], project: Path) -> UsageError:
    """Why `word` is neither an environment nor a command, and what is."""
    from deploytool.settings import load_settings
    from deploytool.settings.model import did_you_mean

    # A file that looks like an environment's has its own sentence.
    if "/" not in word and any((project / "config" / f"{word}{suffix}").is_file() for suffix in (".yml", ".yaml")):
        try:
            load_settings(project, word, {})
        except UsageError as error:
            return UsageError(error.message, hint=error.hint)
    example = f"{known[0] if known else 'ENV'} deploy"
    return UsageError(
        f"there is no environment or command {word!r}.{did_you_mean(word, (*known, *commands))} "
        f"Environments: {_listed(known)}. Commands: {', '.join(commands)}; as in `fab {example}`"
    )


def _refuse(error: UsageError, argv: Sequence[str]) -> NoReturn:
    """End the command before it begins, with the JSON document if that was asked for."""
    if "--json" in argv:
        print(json_text.dumps({"exit_code": error.exit_code, "error": error.as_dict()}, indent=2), flush=True)
    raise Exit(str(error), code=error.exit_code)


def make_namespace(names: Sequence[str]) -> Collection:
    """The tasks: one for each environment, and the commands."""
    collection = Collection()
    for name in names:
        collection.add_task(_environment_task(name))
    for each in (deploy, build, migrate, status, settings, check, unlock):
        collection.add_task(each)
    return collection


def _speak_clearly() -> None:
    """Let the running `fab` use our parser: its own ends with exit code 1 and does not say what exists."""
    program = _program()
    program._make_parser = lambda: _CommandLine(
        initial=program.initial_context, contexts=program.collection.to_contexts()
    )


namespace = make_namespace(environments(_project()))
_speak_clearly()
