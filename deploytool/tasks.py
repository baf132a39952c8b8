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

    choose.__doc__ = f"environment: {file_of(project(), name)}\n\nIt stands before a command: fab {name} deploy"
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
            help="print each request, step and decision on stderr; twice: what requests carry, too",
        )
        return [*super().get_arguments(ignore_unknown_help), verbose]

    def __call__(self, *args: Any, verbose: int = 0, **kwargs: Any) -> Any:
        trace.begin(verbose, os.environ)
        return super().__call__(*args, **kwargs)


command = functools.partial(task, auto_shortflags=False, klass=_Command)

_JSON = "results as one JSON document on stdout"


@command(
    help={
        "branch": "branch, tag or commit to deploy (default: the setting `branch`)",
        "release": "deploy this release instead of building one",
        "from_": "deploy the release that this other environment runs and has verified",
        "force": "why a release that nothing has verified, nobody has signed, or that is bad; kept in the record",
        "rebuild": "build, also where equal inputs were built already",
        "migrate": "run the migrations between fetching and switching (--no-migrate: leave them out)",
        "yes": "go on without a question where --no-migrate leaves out what is pending",
        "wait": "wait for every host's proof (--no-wait: announce and leave, unverified)",
        "nodes": "only these hosts, names with commas between",
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
    """Build or reuse a release and bring it to every host

    Publishes it, announces it, runs its migrations, lets the hosts switch when all of them hold it, and waits until
    every one proves that it serves it; then drops and renames run (build.migrate_after). With --release or --from
    nothing is built: the very bytes that another environment has verified are deployed.
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
            raise UsageError(f"{' and '.join(given)} exclude each other: a release is of one revision for good")
        if rebuild and (release is not None or from_ is not None):
            raise UsageError(f"--rebuild and {given[0]} exclude each other: nothing is built")
        reason = None if force is None else _reason(this, force, "--force")
        reference = _reference(this, branch)
        wanted = tuple(name.strip() for name in (nodes or "").split(",") if name.strip())
        if nodes is not None and not wanted:
            raise UsageError("--nodes names no host", hint="for instance --nodes app1,app2")
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
        "rebuild": "build, also where equal inputs were built already",
        "json": _JSON,
    }
)
def build(context: Context, branch: str | None = None, rebuild: bool = False, json: bool = False) -> None:
    """Build and publish a release, and nothing else

    Nothing is migrated, nothing announced. A deploy of the same revision reuses it: fab ENV deploy --branch REVISION
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


_FORCE_UNSIGNED = "why a release that nobody has signed, where there are trust.signers; kept in the record"


@command(
    help={
        "release": "go back to this one (default: the last good one before the current one)",
        "force": _FORCE_UNSIGNED,
        "json": _JSON,
    }
)
def rollback(context: Context, release: str | None = None, force: str | None = None, json: bool = False) -> None:
    """Go back to the last release that was verified here

    Nothing is built, and nothing downloaded where the hosts still have it. Releases that are marked bad are passed
    over; the list it chose from is shown. Migrations are not undone.
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
    """Go on with a rollout that was paused or halted

    The same release goes to all hosts that don't run it yet, in the waves that are left. Also after an operator that
    went away in the middle.
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
        "release": "the release whose migrations run (default: the one deployed last)",
        "after": "run build.migrate_after instead: drops and renames, for when every host serves the release",
        "yes": "go on without a question where hosts can't prove that they serve it",
        "force": "why those of a release that nobody has signed, where there are trust.signers",
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

    They run with that release's own code, unless nothing is pending. With --after come those that wait for all hosts.
    """

    def body(this: Command) -> None:
        from deploytool.rollout.migrations import migrate_after_by_hand, migrate_by_hand

        _check_release_id(release)
        if yes and not after:
            raise UsageError("--yes is for `migrate --after`: nothing else asks")
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


@command(help={"probe": "every host proves anew what it serves", "json": _JSON})
def status(context: Context, probe: bool = False, json: bool = False) -> None:
    """Show which host serves what, and who is behind

    Each host's last word, and how old it is; with --probe its word of now. Also which deployment is under way, which
    migrations are due, and who holds the lock. Exit code 8 if a host that is up is not proven to serve what is wanted
    of it.
    """

    def body(this: Command) -> "StatusJson":
        from deploytool.queries.status import page, read_proven_status
        from deploytool.state.status import read_whole_status

        if probe and (because := dry_by(context)):
            raise UsageError(
                f"`status --probe` can't run dry ({because}): hosts correct their last word; leave --probe out"
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
        "deployments": "every deployment instead: who, when, from where to where, how it ended",
        "verify": "read every release, and compare it with its record, provenance and SBOM",
        "release": "with --verify: this release only",
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
    """List the releases, or the deployments, newest first

    Which environment runs which release, which are good or bad here; or who has deployed what, when, and how it ended.
    With --verify: whether each release is what was published, from its record to the archive's bytes.
    """

    def body(this: Command) -> Mapping[str, Any]:
        from deploytool.cli.seen_names import remember_all
        from deploytool.queries import releases as listing
        from deploytool.queries.verify import verify_releases

        if verify and deployments:
            raise UsageError("--verify and --deployments exclude each other")
        if release is not None and not verify:
            raise UsageError("--release needs --verify", hint="`fab ENV releases` lists all of them")
        _check_release_id(release)
        if verify:
            with this.session(f"verify releases of {this.settings.environment}", read_only=True) as session:
                chains = verify_releases(session, release)
            this.outcome.exit_code = chains.exit_code
            if not json:
                for line in chains.lines():
                    this.console.print(line)
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
        "release": "the release",
        "good": "a rollback may choose it",
        "bad": "no rollback chooses it",
        "why": "the reason, for everybody after you",
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
    """Call a release good or bad in this environment

    A rollback passes over bad ones. A deployment that ends with exit code 8 makes its release bad by itself.
    """

    def body(this: Command) -> "documents.MarkJson":
        from deploytool.state.mark import mark as tell

        if release is None:
            raise UsageError("--release is missing", hint=f"`fab {this.settings.environment} releases` lists them")
        _check_release_id(release)
        if good == bad:
            raise UsageError("is it --good or --bad?" if not good else "--good and --bad exclude each other")
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
    """Show what a deploy would do, and write nothing anywhere

    Commits since the live release, reuse or build, migrations, the manifests' changes, the hosts, who holds the lock.
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
                f"a dry run of `deploy` is `plan`, which knows --branch only: leave out "
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
    """Remove what retention does not keep

    In the store (store.keep_releases), in Consul and on the build server. Every deploy does it as well; app servers do
    it by themselves (keep_releases).
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
            for line in cleaned.sentences() or ["there was nothing to remove"]:
                this.console.print(line)
        return cleaned.as_dict()

    run(context, "cleanup", json, body)


@command(help={"why": "the reason, for everybody who wants to deploy", "json": _JSON})
def freeze(context: Context, why: str | None = None, json: bool = False) -> None:
    """Stop deploys to this environment until it is thawed

    deploy, promote and migrate end with exit code 3 and say who froze it, when and why. A rollback goes on.
    """

    def body(this: Command) -> "documents.FrozenJson":
        reason = _reason(this, why, "--why")
        with this.session(f"freeze {this.settings.environment}") as session:
            session.bus.freeze(reason).answer()
            holder = session.build_server.lock_holder(this.settings.environment).answer().sentence
        if not json:
            this.console.print(f"{this.settings.environment} is frozen: {reason}")
            if holder is not None:
                this.console.print(f"what is under way goes on if it is announced already: {holder}")
        return {"frozen": True, "why": reason, "under_way": holder}

    run(context, "freeze", json, body)


@command(help={"json": _JSON})
def thaw(context: Context, json: bool = False) -> None:
    """Let deploys to this environment go on again"""

    def body(this: Command) -> "documents.ThawedJson":
        from deploytool.model.status import freeze_json

        with this.session(f"thaw {this.settings.environment}") as session:
            was = session.bus.thaw().answer().was
        if not json:
            before = f"is open again; it was {printable(was.words)}" if was else "was not frozen"
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
        "format": "what stdout gets: script or cloud-init",
        "output": "write all of it as files into this directory, with the policies for Consul and S3",
        "node": "its node name in Consul: the policy for Consul lets it speak for no other host",
        "shared_token": "in place of --node: a policy with which any host of the role can speak for all others",
        "user": "who runs stretcher and the hooks there; made if missing",
        "stretcher": "https URL of a stretcher, or of a .zip or .tar.gz with one (default: its newest release)",
        "sandbox": "units in which no hook can gain rights: for hosts whose hooks need no sudo",
        "stretcher_sha256": "the sha256 of what is at that URL; --stretcher needs it",
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
    """Print a script that makes a machine an app server

    Run it as root there. With --output also its files one by one, and the least rights in Consul and S3 of app servers
    and build server, for whoever hands out tokens and keys: for the host that --node names. Connects to nothing.
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
    """Try all that a deploy needs, and say how to mend it

    Settings, SSH, git, programs, disk, every right on the store and in Consul; and each host answers over the way that
    a deployment takes, with the stretcher that it runs. Nothing is left behind.
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
    """End what holds this environment's locks

    Shows who holds them and for what, then ends that process and all that it runs on the build server. What another
    environment runs there is left alone.
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
            f"{release!r} is no release id",
            hint="one looks like 20261123T061500Z-1a2b3c4; `fab ENV releases` lists them",
        )


def _reason(this: Command, text: str | None, flag: str) -> str:
    """What a person gives as a reason, on one line and without secrets: it is kept for everybody."""
    if text is None or not text.strip():
        raise UsageError(f"{flag} is to say why", hint=f'{flag} "a reason that helps whoever reads it"')
    return str(masked(printable(" ".join(text.split())), this.settings.secrets))


# --- the namespace


#: in the order of use, as `fab --list` shows them
GROUPS: Mapping[str, Sequence["Task[Any]"]] = {
    "Before a deploy": (app_server, check, settings, plan),
    "Deploy": (deploy, status, promote, rollback),
    "Releases": (releases, build, migrate, mark, cleanup),
    "Stop and free": (freeze, thaw, unlock),
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
