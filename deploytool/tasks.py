"""The command line: what the user types. Thin: each task reads its flags, calls the story, and shows how it ended.

A fabfile is one line: `from deploytool.tasks import namespace`. The environments are the files of `config/`.
"""

import functools
import os
import signal
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

from deploytool.errors import DeployError, Interrupted, SettingsError, UsageError
from deploytool.settings import environments

if TYPE_CHECKING:
    from deploytool.console import Console
    from deploytool.deployment import Outcome
    from deploytool.settings import Settings

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
    for number in (signal.SIGTERM, signal.SIGHUP):
        # An ended CI job is an interrupted one: nothing may be left half-announced.
        signal.signal(number, signal.default_int_handler)
    secrets: tuple[str, ...] = ()
    try:
        environment = context.config.get(_ENVIRONMENT)
        if environment is None:
            raise UsageError(
                f"which environment? `fab ENV {name}`, where ENV is one of: {_listed(environments(_project()))}"
            )
        every = load_every_environment(_project(), environment, os.environ)
        secrets = every[environment].secrets
        command = Command(name, console, every[environment], every, outcome, context.config)
        document.update(body(command) or {})
    except DeployError as failure:
        error = failure
    except KeyboardInterrupt:
        error = Interrupted(
            f"interrupted during: {console.doing}",
            hint="what ran on the build server was ended; no host was switched"
            if not outcome.deployment
            else f"`fab {context.config.get(_ENVIRONMENT)} status` shows the hosts",
        )
    except Exception as bug:
        traceback.print_exc()
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
            document.setdefault("error", _outcome_error(outcome))
        console.document(_masked(document, secrets))
    elif outcome.hosts or outcome.unverified:
        console.summary(outcome, context.config[_ENVIRONMENT], outcome.hosts)
    if exit_code != 0:
        raise Exit(_masked(error_text(error), secrets) if error is not None else None, code=exit_code)


def _outcome_error(outcome: "Outcome") -> Mapping[str, object]:
    from deploytool.fleet import Verdict

    bad = [
        f"{result.host} ({result.role}) {result.verdict}"
        for result in outcome.hosts
        if result.verdict is not Verdict.VERIFIED
    ]
    kind = "fleet" if outcome.exit_code == 8 else "interrupted"
    return {"kind": kind, "message": "not verified: " + ", ".join(bad), "tail": [], "hint": None}


def _masked(value: Any, secrets: Sequence[str]) -> Any:
    from deploytool.worker.masking import Masking

    return Masking(secrets).value(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none yet: there is no config/<environment>.yml"


# --- environments


def _environment_task(name: str) -> "Task[Callable[[Context], None]]":
    def choose(context: Context) -> None:
        chosen = context.config.get(_ENVIRONMENT)
        if chosen is not None and chosen != name:
            raise Exit(
                f"two environments in one command: {chosen} and {name}; one at a time", code=UsageError.exit_code
            )
        context.config[_ENVIRONMENT] = name

    choose.__doc__ = f"Environment: config/{name}.yml. Put it before a command: fab {name} deploy"
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
    """Build (or reuse) a release, publish, announce, migrate, and wait until every host proves that it serves it."""

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
    """Build and publish a release; nothing is migrated, nothing announced."""

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
    """Run the migrations of a release on the build server, with that release's own code."""

    def body(this: Command) -> None:
        from deploytool.deployment import migrate as tell

        _check_release_id(release)
        with this.session(f"migrate {this.settings.environment}") as session:
            tell(session, release, this.outcome)
        if not json:
            this.console.print(f"migrations of {this.outcome.release} have run")

    _run(context, "migrate", json, body)


@command(help={"json": _JSON})
def settings(context: Context, json: bool = False) -> None:
    """Show the effective settings and the file each came from; secrets are masked."""

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
    """Check what a deploy needs: settings, SSH, git, programs, worker, store, Consul; each with how to mend it."""

    def body(this: Command) -> Mapping[str, Any]:
        from deploytool.checking import check_all

        results = check_all(this)
        if not json:
            for result in results:
                this.console.print(f"{'ok  ' if result.ok else 'BAD '} {result.name}: {result.text}")
                if result.hint:
                    this.console.print(f"       hint: {result.hint}")
        this.outcome.exit_code = next((result.exit_code for result in results if not result.ok), 0)
        return {"checks": [result.as_dict() for result in results]}

    _run(context, "check", json, body)


@command(help={"json": _JSON})
def unlock(context: Context, json: bool = False) -> None:
    """Free a stuck lock: show its holder, then end its process group on the build server."""

    def body(this: Command) -> Mapping[str, Any]:
        ended = []
        with this.session(f"unlock {this.settings.environment}") as session:
            for name in (this.settings.environment, "workspace"):
                holder = session.worker.ask("lock_holder", name=name)
                if holder["sentence"] is None:
                    this.console.note(f"the {name} lock is free")
                    continue
                this.console.note(f"the {name} lock is held by {holder['sentence']}; ending it")
                session.worker.ask("break_lock", name=name)
                ended.append({"lock": name, "holder": holder["holder"]})
        if not json:
            this.console.print(f"ended {len(ended)} holder{'s' if len(ended) != 1 else ''}; the locks are free")
        return {"ended": ended}

    _run(context, "unlock", json, body)


def _reference(this: Command, branch: str | None) -> str:
    reference = this.settings.branch if branch is None else branch
    if not reference or reference.startswith("-") or any(ord(character) < 33 for character in reference):
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
    """Invoke's parser, with one clear line and exit code 2 for what it does not know."""

    def parse_argv(self, argv: list[str]) -> Any:
        try:
            return super().parse_argv(argv)
        except ParseError as error:
            raise Exit(_usage_sentence(str(error), self.contexts), code=UsageError.exit_code) from None


def _usage_sentence(error: str, contexts: Mapping[str, Any]) -> str:
    known = environments(_project())
    commands = sorted(name for name in contexts if name not in known)
    return (
        f"{error.rstrip('!')}. Environments: {_listed(known)}. Commands: {', '.join(commands)}. "
        "As in `fab production deploy`; flags: `fab --help COMMAND`"
    )


def _refuse(error: DeployError) -> NoReturn:
    raise Exit(str(error), code=error.exit_code)


def make_namespace(names: Sequence[str]) -> Collection:
    """The tasks: one for each environment, and the commands."""
    collection = Collection()
    for name in names:
        collection.add_task(_environment_task(name))
    for each in (deploy, build, migrate, settings, check, unlock):
        collection.add_task(each)
    return collection


def _speak_clearly() -> None:
    """Let the running `fab` use our parser: its own ends with exit code 1 and does not say what exists."""
    program = _program()
    program._make_parser = lambda: _CommandLine(
        initial=program.initial_context, contexts=program.collection.to_contexts()
    )


try:
    namespace = make_namespace(environments(_project()))
except SettingsError as problem:
    _refuse(problem)
_speak_clearly()
