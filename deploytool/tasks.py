"""The command line: what the user types. Thin: each task reads its flags, calls the story, and shows how it ended.

A fabfile is one line: `from deploytool.tasks import namespace`. The environments are the settings' files.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.parser.argument import Argument
from invoke.tasks import Task, task

from deploytool import signals, trace
from deploytool.cli.parser import speak_clearly
from deploytool.cli.runner import ENVIRONMENT, Command, dry_by, masked, project, run
from deploytool.errors import UsageError
from deploytool.settings.files import environments, file_of
from deploytool.text.untrusted import printable

if TYPE_CHECKING:
    from deploytool.cli import documents
    from deploytool.model.status import StatusJson
    from deploytool.queries.plan import PlanJson
    from deploytool.state.cleanup import CleanupJson

if signals.in_a_running_fab():
    signals.leave_at_once()

# --- environments


def _environment_task(name: str) -> "Task[Callable[[Context], None]]":
    def choose(context: Context) -> None:
        context.config[ENVIRONMENT] = name

    choose.__doc__ = f"environment: {file_of(project(), name)}\n\nType it before a command: fab {name} deploy"
    return Task(choose, name=name, auto_shortflags=False)


# --- commands


class _Command(Task[Callable[..., None]]):
    """A task that also takes `--verbose`."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        verbose = Argument(
            names=("verbose", "v"),
            # Counted all the same, and shown without a value.
            kind=bool,
            default=0,
            incrementable=True,
            help="print each request, step and decision on stderr; twice: also what requests contain",
        )
        return [*super().get_arguments(ignore_unknown_help), verbose]

    def __call__(self, *args: Any, verbose: int = 0, **kwargs: Any) -> Any:
        trace.begin(verbose, os.environ)
        return super().__call__(*args, **kwargs)


command = functools.partial(task, auto_shortflags=False, klass=_Command)

_JSON = "print the result as one JSON document on stdout"


@command(
    help={
        "branch": "branch, tag or commit to deploy (default: the setting `branch`)",
        "release": "deploy this release instead of building one",
        "from_": "deploy the release that runs, verified, in this other environment",
        "force": "reason for deploying a release that is unverified, unsigned or marked bad; it is recorded",
        "rebuild": "build even if a release with the same inputs exists",
        "migrate": "run migrations after all hosts have fetched, before they switch (--no-migrate: skip them)",
        "yes": "don't ask before --no-migrate skips pending migrations",
        "wait": "wait until every host is verified (--no-wait: announce and exit, unverified)",
        "nodes": "deploy to these hosts only: names separated by commas",
        "json": _JSON,
    },
)
def deploy(
    context: Context,
    branch: str | None = None,
    release: str | None = None,
    from_: str | None = None,
    force: str | None = None,
    rebuild: bool = False,
    migrate: bool = True,
    yes: bool = False,
    wait: bool = True,
    nodes: str | None = None,
    json: bool = False,
) -> None:
    """Build or reuse a release and deploy it to every host

    Publishes and announces it, runs its migrations, lets the hosts switch once all of them have fetched it, and waits
    until every host is verified on it. Then build.migrate_after runs (drops and renames). --release and --from build
    nothing: they deploy the same bytes that were built before.
    """

    if because := dry_by(context):
        others = {
            "release": release is not None,
            "from": from_ is not None,
            "force": force is not None,
            "rebuild": rebuild,
            "no-migrate": not migrate,
            "no-wait": not wait,
            "nodes": nodes is not None,
        }
        _plan(context, branch, json, [name for name, given in others.items() if given], because)
        return

    def body(this: Command) -> None:
        from deploytool.hosts.rehearsal import rehearse_deployment
        from deploytool.rollout.choose_release import Request
        from deploytool.rollout.deploy import deploy as tell

        given = [
            flag
            for flag, value in (("--branch", branch), ("--release", release), ("--from", from_))
            if value is not None
        ]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} can't be used together: each chooses a release")
        if rebuild and (release is not None or from_ is not None):
            raise UsageError(f"--rebuild and {given[0]} can't be used together: {given[0]} builds nothing")
        reason = None if force is None else _reason(this, force, "--force")
        reference = _reference(this, branch)
        wanted = tuple(name.strip() for name in (nodes or "").split(",") if name.strip())
        if nodes is not None and not wanted:
            raise UsageError("--nodes lists no host", hint="for instance --nodes app1,app2")
        _check_release_id(release)
        rehearse_deployment(this.settings, this.every)
        request = Request(
            reference=reference,
            release=release,
            promote_from=from_,
            force=reason,
            rebuild=rebuild,
            migrate=migrate,
            sure=yes,
            wait=wait,
            nodes=wanted,
        )
        with this.session(f"deploy {request.what} to {this.settings.environment}") as session:
            tell(session, request, this.outcome)

    run(context, "deploy", json, body, after="after_deploy")


@command(
    help={
        "branch": "branch, tag or commit to build (default: the setting `branch`)",
        "rebuild": "build even if a release with the same inputs exists",
        "json": _JSON,
    }
)
def build(context: Context, branch: str | None = None, rebuild: bool = False, json: bool = False) -> None:
    """Build and publish a release without deploying it

    Runs no migrations and announces nothing. A deploy of the same revision reuses the release: fab ENV deploy --branch
    REVISION
    """

    def body(this: Command) -> Mapping[str, Any]:
        from deploytool.build.build import fetch, obtain_release
        from deploytool.hosts.rehearsal import rehearse_manifests

        reference = _reference(this, branch)
        rehearse_manifests(this.every)
        with this.session(f"build {reference}") as session:
            with this.outcome.phase("build"):
                built = obtain_release(session, fetch(session, reference), rebuild=rebuild)
            release = built.release
            this.outcome.release, this.outcome.revision, this.outcome.reused = (
                release.id,
                release.revision,
                built.reused,
            )
        if not json:
            word = "reused" if built.reused else "built"
            this.console.print(f"{word} {release.id} ({release.revision[:10]}, sha256 {release.checksum})")
            this.console.print(f"deploy it: fab {this.settings.environment} deploy --branch {release.revision[:10]}")
        return {"checksum": release.checksum, "size_bytes": release.size_bytes}

    run(context, "build", json, body)


_FORCE_UNSIGNED = "reason for deploying an unsigned release, if trust.signers is set; it is recorded"


@command(
    help={
        "release": "release to go back to (default: the last good one before the current one)",
        "force": _FORCE_UNSIGNED,
        "json": _JSON,
    }
)
def rollback(context: Context, release: str | None = None, force: str | None = None, json: bool = False) -> None:
    """Go back to the last release verified in this environment

    Builds nothing, and downloads nothing if the hosts still have the release. Skips releases that are marked bad, and
    shows the list it chose from. Doesn't undo migrations.
    """

    def body(this: Command) -> None:
        from deploytool.hosts.rehearsal import rehearse_deployment
        from deploytool.rollout.rollback import rollback as tell

        _check_release_id(release)
        reason = None if force is None else _reason(this, force, "--force")
        rehearse_deployment(this.settings, this.every)
        with this.session(f"rollback of {this.settings.environment}") as session:
            tell(session, release, reason, this.outcome)

    run(context, "rollback", json, body, after="after_rollback")


@command(help={"force": _FORCE_UNSIGNED, "json": _JSON})
def promote(context: Context, force: str | None = None, json: bool = False) -> None:
    """Continue a rollout that was paused or halted

    Deploys the same release to all hosts that don't run it yet, in the remaining waves. Also continues a rollout whose
    operator was disconnected or killed.
    """

    def body(this: Command) -> None:
        from deploytool.hosts.rehearsal import rehearse_deployment
        from deploytool.rollout.promote import promote as tell

        reason = None if force is None else _reason(this, force, "--force")
        rehearse_deployment(this.settings, this.every)
        with this.session(f"promote in {this.settings.environment}") as session:
            tell(session, reason, this.outcome)

    run(context, "promote", json, body, after="after_deploy")


@command(
    help={
        "release": "release whose migrations run (default: the one deployed last)",
        "after": "run build.migrate_after instead: drops and renames, once every host is verified on the release",
        "yes": "don't ask before --after runs while some hosts are not verified",
        "force": "reason for running an unsigned release's migrations, if trust.signers is set",
        "json": _JSON,
    }
)
def migrate(
    context: Context,
    release: str | None = None,
    after: bool = False,
    yes: bool = False,
    force: str | None = None,
    json: bool = False,
) -> None:
    """Run a release's migrations on the build server

    Runs them with the release's own code; does nothing if none is pending. With --after, runs build.migrate_after.
    """

    def body(this: Command) -> None:
        from deploytool.rollout.migrations import migrate_after_by_hand, migrate_by_hand

        _check_release_id(release)
        if yes and not after:
            raise UsageError("--yes needs --after: without it, `migrate` asks nothing")
        reason = None if force is None else _reason(this, force, "--force")
        with this.session(f"migrate {this.settings.environment}") as session:
            if after:
                migrate_after_by_hand(session, release, this.outcome, sure=yes, force=reason)
            else:
                migrate_by_hand(session, release, this.outcome, force=reason)
        if not json and (this.outcome.migrated or this.outcome.migrate_after == "done"):
            what = "migrate_after" if after else "migrations"
            this.console.print(f"{what} of {this.outcome.release} {'has' if after else 'have'} run")

    run(context, "migrate", json, body)


@command(help={"probe": "have every host verify its release again", "json": _JSON})
def status(context: Context, probe: bool = False, json: bool = False) -> None:
    """Show which release each host runs, and which are behind

    Shows each host's last report and its age; with --probe, a new report. Also shows the deployment in progress, due
    migrations and who holds the lock. Exit code 8 if at least one reachable host is not verified on the expected
    release.
    """

    def body(this: Command) -> "StatusJson":
        from deploytool.queries.status import page, read_proven_status
        from deploytool.state.status import read_whole_status

        if probe and (because := dry_by(context)):
            raise UsageError(
                f"`status --probe` can't run dry ({because}): hosts update their last report; leave out --probe"
            )
        with this.session(f"status of {this.settings.environment}") as session:
            found = read_proven_status(session) if probe else read_whole_status(session)
        this.outcome.exit_code = found.exit_code
        if not json:
            this.console.page(page(found, this.settings.environment))
        return found.as_dict()

    run(context, "status", json, body)


@command(
    help={
        "deployments": "list deployments instead: who, when, from which release to which, and the result",
        "verify": "compare every release with its record, provenance and SBOM",
        "release": "with --verify: only this release",
        "json": _JSON,
    }
)
def releases(
    context: Context,
    deployments: bool = False,
    verify: bool = False,
    release: str | None = None,
    json: bool = False,
) -> None:
    """List releases or deployments, newest first

    Shows which environment runs which release, and which releases are good or bad here; or who deployed what, when, and
    with which result. --verify checks that each release is still what was published: its record and every byte.
    """

    def body(this: Command) -> Mapping[str, Any]:
        from deploytool.cli.seen_names import remember_all
        from deploytool.queries import releases as listing
        from deploytool.queries.verify import verify_releases

        if verify and deployments:
            raise UsageError("--verify and --deployments can't be used together")
        if release is not None and not verify:
            raise UsageError("--release needs --verify", hint="`fab ENV releases` lists all of them")
        _check_release_id(release)
        if verify:
            with this.session(f"verify releases of {this.settings.environment}", read_only=True) as session:
                chains = verify_releases(session, release)
            this.outcome.exit_code = chains.exit_code
            if not json:
                this.console.page(chains.page())
            return chains.as_dict()
        with this.session(f"releases of {this.settings.environment}") as session:
            found = listing.list_deployments(session) if deployments else listing.list_releases(session)
        if isinstance(found, listing.Releases):
            branches = {row.release.branch for row in found.rows if row.release}
            ids = [row.id for row in found.rows]
            remember_all(project(), this.settings.environment, os.environ, ids, branches)
        if not json:
            this.console.page(found.page())
        return found.as_dict()

    run(context, "releases", json, body)


@command(
    help={
        "release": "release to mark",
        "good": "rollbacks may choose it",
        "bad": "rollbacks skip it",
        "why": "reason, shown to everyone",
        "json": _JSON,
    }
)
def mark(
    context: Context,
    release: str | None = None,
    good: bool = False,
    bad: bool = False,
    why: str | None = None,
    json: bool = False,
) -> None:
    """Mark a release good or bad in this environment

    Rollbacks skip bad releases. A deployment that ends with exit code 8 marks its release bad.
    """

    def body(this: Command) -> "documents.MarkJson":
        from deploytool.state.mark import mark as tell

        if release is None:
            raise UsageError("--release is missing", hint=f"`fab {this.settings.environment} releases` lists them")
        _check_release_id(release)
        if good == bad:
            raise UsageError("--good or --bad is missing" if not good else "--good and --bad can't be used together")
        reason = _reason(this, why, "--why")
        with this.session(f"mark {release}") as session:
            tell(session, release, good=good, why=reason)
        if not json:
            word = "good" if good else "bad"
            this.console.print(f"{release} is marked {word} in {this.settings.environment}: {reason}")
        return {"release": release, "good": good, "why": reason}

    run(context, "mark", json, body)


@command(help={"branch": "branch, tag or commit (default: the setting `branch`)", "json": _JSON})
def plan(context: Context, branch: str | None = None, json: bool = False) -> None:
    """Show what a deploy would do, without changing anything

    Shows the commits since the current release, whether a release is built or reused, pending migrations, changed
    manifests, the hosts, and who holds the lock.
    """
    _plan(context, branch, json)


def _plan(
    context: Context, branch: str | None, json: bool, others: Sequence[str] = (), because: str | None = None
) -> None:
    """`plan`, also in place of a deploy; `because` is what asks for that, and `others` its flags without --branch.

    In that case nothing comes after it: there is no deployment whose result another task could use.
    """

    def body(this: Command) -> "PlanJson":
        from deploytool.queries.plan import make_plan, page

        if others:
            raise UsageError(
                f"a dry run of `deploy` is `plan`, which takes only --branch: leave out "
                f"{', '.join(f'--{name}' for name in others)}"
            )
        if because is not None:
            this.console.note(f"dry run ({because}): nothing is deployed, this is the plan")
        reference = _reference(this, branch)
        with this.session(f"plan for {this.settings.environment}", read_only=True) as session:
            found = make_plan(session, reference)
        this.outcome.exit_code = found.exit_code
        if not json:
            this.console.page(page(found))
        return found.as_dict()

    run(context, "plan", json, body)
    if because is not None:
        raise Exit(code=0)


@command(help={"json": _JSON})
def cleanup(context: Context, json: bool = False) -> None:
    """Remove old releases beyond the retention limits

    Cleans up the store (store.keep_releases), Consul and the build server, as every deploy does. App servers clean up
    on their own (keep_releases).
    """

    def body(this: Command) -> "CleanupJson":
        from deploytool.state.cleanup import clean_up
        from deploytool.state.status import running_releases

        with (
            this.session(f"cleanup of {this.settings.environment}") as session,
            session.lock(this.settings.environment, wait=False),
        ):
            cleaned = clean_up(session, running_releases(session))
        if not json:
            for line in cleaned.sentences() or ["nothing to remove"]:
                this.console.print(line)
        return cleaned.as_dict()

    run(context, "cleanup", json, body)


@command(help={"why": "reason, shown to everyone who tries to deploy", "json": _JSON})
def freeze(context: Context, why: str | None = None, json: bool = False) -> None:
    """Block deploys to this environment until it is thawed

    deploy, promote and migrate end with exit code 3 and show who froze it, when and why. Rollbacks still work.
    """

    def body(this: Command) -> "documents.FrozenJson":
        reason = _reason(this, why, "--why")
        with this.session(f"freeze {this.settings.environment}") as session:
            session.bus.freeze(reason).answer()
            holder = session.build_server.lock_holder(this.settings.environment).answer().sentence
        if not json:
            this.console.print(f"{this.settings.environment} is frozen: {reason}")
            if holder is not None:
                this.console.print(f"a deployment that is already announced continues: {holder}")
        return {"frozen": True, "why": reason, "under_way": holder}

    run(context, "freeze", json, body)


@command(help={"json": _JSON})
def thaw(context: Context, json: bool = False) -> None:
    """Allow deploys to this environment again"""

    def body(this: Command) -> "documents.ThawedJson":
        from deploytool.model.status import freeze_json

        with this.session(f"thaw {this.settings.environment}") as session:
            was = session.bus.thaw().answer().was
        if not json:
            before = f"accepts deploys again; it was {printable(was.words)}" if was else "was not frozen"
            this.console.print(f"{this.settings.environment} {before}")
        return {"frozen": False, "was": freeze_json(was)}

    run(context, "thaw", json, body)


@command(help={"all": "the defaults as well; --json always has them", "json": _JSON})
def settings(context: Context, all: bool = False, json: bool = False) -> None:
    """Show the settings in effect, and where each comes from

    What config/*.yml sets and what the recipe adds. Secrets are masked.
    """

    def body(this: Command) -> "documents.SettingsJson":
        from deploytool.queries.settings import lines
        from deploytool.settings import effective_settings

        rows = effective_settings(project(), this.settings.environment, os.environ)
        if not json:
            for line in lines(rows, this.settings.environment, every=all, width=this.console.width):
                this.console.print(line)
        return {"settings": [{"path": row.path, "value": row.value, "source": row.source} for row in rows]}

    run(context, "settings", json, body, connects=False)


@command(
    name="app-server",
    help={
        "role": "the role (default: the only one)",
        "format": "what to print: script or cloud-init",
        "output": "write all files into this directory instead, with the policies for Consul and S3",
        "node": "its node name in Consul; the Consul policy lets it report for no other host",
        "shared_token": "instead of --node: a policy with which any host of the role can report for all others",
        "user": "user that runs stretcher and the hooks; created if missing",
        "stretcher": "https URL of a stretcher binary, or of a .zip or .tar.gz with one (default: its newest release)",
        "sandbox": "systemd units in which no hook can gain privileges, for hosts whose hooks need no sudo",
        "stretcher_sha256": "sha256 of the file at that URL; required with --stretcher",
        "json": _JSON,
    },
)
def app_server(
    context: Context,
    role: str | None = None,
    format: str = "script",
    output: str | None = None,
    node: str | None = None,
    shared_token: bool = False,
    user: str = "deploy",
    stretcher: str | None = None,
    stretcher_sha256: str | None = None,
    sandbox: bool = False,
    json: bool = False,
) -> None:
    """Print a script that sets up a machine as an app server

    Run the script there as root. --output writes its files one by one, with the minimal Consul and S3 policies of the
    host that --node names and of the build server. Connects to nothing.
    """

    def body(this: Command) -> "documents.AppServerJson":
        from pathlib import Path

        from deploytool.hosts import app_server as made

        if output is not None and (because := dry_by(context)):
            raise UsageError(f"`app-server --output` can't run dry ({because}): without --output it prints the script")
        if format not in ("script", "cloud-init"):
            raise UsageError(f"--format: {format!r} is neither script nor cloud-init")
        name = made.choose_role(this.settings, role)
        # The script is the same for all hosts of a role, and cloud-init's for those that have no name yet.
        made.refuse_nobodys_policy(node, shared_token=shared_token, is_printed=json or output is not None)
        server = made.app_server(
            this.settings,
            name,
            user=user,
            stretcher=made.choose_stretcher(stretcher, stretcher_sha256),
            node=node,
            sandbox=sandbox,
        )
        if server.note is not None and (format == "cloud-init" or output is not None):
            this.console.note(server.note)
        if output is not None:
            written = made.write(server, Path(output))
            if not json:
                for path in written:
                    this.console.print(str(Path(output) / path))
        elif not json:
            this.console.print_file(server.script if format == "script" else server.cloud_init)
        return {"role": name, "files": server.listing()}

    run(context, "app-server", json, body, connects=False)


@command(help={"json": _JSON})
def check(context: Context, json: bool = False) -> None:
    """Check every prerequisite and suggest fixes

    Checks settings, SSH, git, programs, disk, and every permission on the store and in Consul. Each host answers a test
    event, which takes the way of a deployment, and reports its stretcher. Leaves nothing behind.
    """

    def body(this: Command) -> "documents.ChecksJson":
        from deploytool.queries.check import check_all, check_error, page

        results = check_all(this.settings, this.every, this.session, this.connecting)
        if not json:
            this.console.page(page(results, this.settings.environment))
        this.outcome.exit_code = next((result.exit_code for result in results if result.ok is False), 0)
        document: documents.ChecksJson = {"checks": [result.as_dict() for result in results]}
        if this.outcome.exit_code:
            document["error"] = check_error(results)
        return document

    run(context, "check", json, body)


@command(help={"json": _JSON})
def unlock(context: Context, json: bool = False) -> None:
    """Release this environment's locks

    Shows who holds them and why, then ends that process and everything it runs on the build server. Leaves processes of
    other environments alone.
    """

    def body(this: Command) -> "documents.UnlockJson":
        from deploytool.connection.unlock import free_locks

        with this.session(f"unlock {this.settings.environment}") as session:
            unlocking = free_locks(session.build_server, this.settings.environment, this.console.note)
        if not json:
            this.console.print(unlocking.sentence)
        return {"ended": unlocking.ended, "left": unlocking.left}

    run(context, "unlock", json, body)


def _reference(this: Command, branch: str | None) -> str:
    reference = this.settings.branch if branch is None else branch
    if not reference or reference.startswith("-") or " " in reference or not reference.isprintable():
        raise UsageError(
            f"{reference!r} can't be the name of a branch, tag or commit",
            hint="--branch takes a branch, a tag or a commit's SHA",
        )
    return reference


def _check_release_id(release: str | None) -> None:
    from deploytool.model.release import is_release_id

    if release is not None and not is_release_id(release):
        raise UsageError(
            f"{release!r} is not a release id",
            hint="one looks like 20261123T061500Z-1a2b3c4; `fab ENV releases` lists them",
        )


def _reason(this: Command, text: str | None, flag: str) -> str:
    """What a person gives as a reason, on one line and without secrets: it is kept for everybody."""
    if text is None or not text.strip():
        raise UsageError(f"{flag} needs a reason", hint=f'for instance {flag} "what others need to know"')
    return str(masked(printable(" ".join(text.split())), this.settings.secrets))


# --- the namespace


#: in the order of use, as `fab --list` shows them
GROUPS: Mapping[str, Sequence["Task[Any]"]] = {
    "Before a deploy": (app_server, check, settings, plan),
    "Deploy": (deploy, status, promote, rollback),
    "Releases": (releases, build, migrate, mark, cleanup),
    "Freeze and unlock": (freeze, thaw, unlock),
}
COMMANDS = tuple(each for group in GROUPS.values() for each in group)


def make_namespace(names: Sequence[str]) -> Collection:
    """The tasks: one for each environment, and the commands."""
    collection = Collection()
    for name in names:
        collection.add_task(_environment_task(name))
    for each in COMMANDS:
        collection.add_task(each)
    return collection


namespace = make_namespace(environments(project()))
speak_clearly(GROUPS)
