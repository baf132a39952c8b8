"""`fab ENV plan`: what a deploy would do now, and what would end it before it began. It writes nothing anywhere.

No lock is taken, and the worker is asked for nothing but what it can read: see `preview` for what takes the mirror's
place. What would end a deploy is told beside the rest, each with the exit code that the deploy would end with.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, NotRequired, TypedDict, get_args

from deploytool.build import stages
from deploytool.build.build import build_inputs, find_built, release_id_at
from deploytool.build.commits import ChangesJson, change_lines, changes_record
from deploytool.build.linked_paths import hides, refuse_covered, unchecked
from deploytool.build.stages import Comparison, Fetched
from deploytool.errors import ConsulError, DeployError, ErrorJson, LockedError, SettingsError, StepError
from deploytool.hooks.local import OF_A_BUILD, Moment
from deploytool.hosts.manifest import render_manifest
from deploytool.hosts.rehearsal import TEMPLATES, rehearse_manifests
from deploytool.model.fleet import named
from deploytool.model.history import Due, DueJson, due_of, reaches_target, target_after
from deploytool.model.proof import PROOFS, asked_proof
from deploytool.model.release import (
    NO_DEPLOYMENT,
    DeploymentId,
    Release,
    ReleaseId,
    build_key,
    manifest_key,
    sha256,
)
from deploytool.model.status import FreezeJson, HostStatus, HostStatusJson, Status, freeze_json
from deploytool.model.waves import Wave, pauses, plan_waves, refuse_missing_canaries
from deploytool.queries.status import due_words
from deploytool.screen.page import BAD, GOOD, WARNING, Next, Page
from deploytool.screen.summary import RoleHostJson, role_hosts
from deploytool.session import Session
from deploytool.settings.recipes import command_name
from deploytool.state.freeze import refuse_if_frozen
from deploytool.state.history_store import read_history, read_texts
from deploytool.state.status import read_status
from deploytool.state.targets import (
    Expected,
    Here,
    Live,
    check_event_sizes,
    here_by,
    read_audience,
    refuse_deaf_roles,
    refuse_impossible_ids,
)
from deploytool.text import ids
from deploytool.text.masking import Masking
from deploytool.text.untrusted import printable
from deploytool.text.words import counted
from deploytool.worker.wire import Compressor, Freeze

if TYPE_CHECKING:
    from deploytool.settings import Settings

#: What stands in the diff where only a build can tell. Values that nobody else has stand in for them in a manifest,
#: which has to be sound to be rendered.
WHEN_BUILT = "(known when it is built)"
#: So many files are named of those that a link hides.
HIDDEN_SHOWN = 3
_UNKNOWN_CHECKSUM = sha256(WHEN_BUILT)
_UNKNOWN_BYTES = int(_UNKNOWN_CHECKSUM[:15], 16)


class ProblemJson(ErrorJson):
    """Something that a deploy would fail for."""

    exit_code: Annotated[int, "the exit code that the deploy would end with"]


class LiveJson(TypedDict):
    """What the environment is expected to run."""

    release: Annotated[str | None, "the release; null if nothing is deployed yet, or unknown"]
    revision: Annotated[str | None, "the full SHA of its commit"]
    deployment: Annotated[str | None, "the newest deployment for all hosts of a role"]


class ServedJson(TypedDict):
    """What the hosts run. Commits and migrations count from there."""

    release: Annotated[str | None, "the release; null if none is known"]
    revision: Annotated[str | None, "the full SHA of its commit"]


class CompressorJson(TypedDict):
    """What compresses archives on the build server."""

    name: Annotated[str, "the program, with its version"]
    ready: Annotated[bool, "whether it is installed; if not, the build installs it"]
    warning: Annotated[str | None, "why another program is used, and what to do; null if all is well"]


class ManifestChangeJson(TypedDict):
    """How the manifest of a role changes."""

    role: Annotated[str, "the role"]
    deployment: Annotated[str | None, "the deployment whose manifest is compared; null for the first one"]
    problem: Annotated[str | None, "why the manifests can't be compared"]
    diff: Annotated[list[str], "the lines of a unified diff, without secrets; empty if nothing changes"]


class RoleJson(TypedDict):
    """The hosts of a role."""

    up: Annotated[list[str], "hosts that are up"]
    down: Annotated[list[str], "hosts that are down"]


class PlanJson(ChangesJson):
    """What a deploy would do. Commits and migrations are compared with what the hosts run."""

    environment: Annotated[str, "the environment"]
    reference: Annotated[str, "the branch, tag or commit to deploy"]
    revision: Annotated[str | None, "the full SHA of its commit; null if that could not be found out"]
    subject: Annotated[str | None, "the first line of the commit's message"]
    live: Annotated[LiveJson, "what the environment is expected to run"]
    served: Annotated[ServedJson, "what the hosts run"]
    build: Annotated[bool | None, "whether a release would be built; null if unknown"]
    release: Annotated[str | None, "the release that would be used again; null if one would be built"]
    made_up_release: Annotated[str | None, "the id in the manifests below for a release that is not built yet"]
    compressor: Annotated[CompressorJson, "what a build would compress with"]
    hidden: Annotated[Mapping[str, list[str]], "by linked path: the revision's files that the link hides"]
    migrations_taken_away: Annotated[list[str] | None, "files of migrations that stay applied; null if unknown"]
    migrate: Annotated[list[str], "the commands of `build.migrate`"]
    migrate_if_pending: Annotated[bool, "whether they run only if migrations are pending"]
    migrate_after: Annotated[list[str], "the commands of `build.migrate_after`"]
    migrate_after_due: Annotated[DueJson | None, "drops and renames that have not run yet"]
    manifests: Annotated[list[ManifestChangeJson], "how the manifest of each role changes"]
    roles: Annotated[Mapping[str, RoleJson], "by role: its hosts"]
    hosts: Annotated[list[HostStatusJson], "what each host runs, as in `status`"]
    behind: Annotated[list[RoleHostJson], "hosts that are up and not verified on the expected release"]
    waves: Annotated[list[list[RoleHostJson]], "the hosts of each wave, in order"]
    pause_after: Annotated[int | None, "the wave after which the deployment pauses"]
    hooks: Annotated[list[str], "the hooks on this machine that would run, in order"]
    proofs: Annotated[Mapping[str, str], "by role: how strong a proof its settings ask for; see proof.md"]
    unfinished: Annotated[
        Mapping[str, list[str]],
        "by release: the hosts (`host (role)`) that a rollout which is not finished has brought it to",
    ]
    under_way: Annotated[list[str], "deployments whose hosts wait for the start of the switch"]
    lock: Annotated[str | None, "who holds the environment's lock, in words; null if it is free"]
    workspace_lock: Annotated[str | None, "who holds the build server's workspace, in words; null if it is free"]
    frozen: Annotated[FreezeJson | None, "null if the environment takes deploys"]
    problems: Annotated[list[ProblemJson], "what a deploy would fail for, in the order in which it would fail"]
    exit_code: Annotated[int, "the exit code of the first problem; 0 without one"]
    error: NotRequired[Annotated[ErrorJson, "the first problem"]]


@dataclass(frozen=True, slots=True)
class ManifestChange:
    """What a role's manifest would say, compared with the one that its hosts are wanted to run."""

    role: str
    #: the deployment whose manifest is compared; None if nothing is wanted of the role yet
    deployment: DeploymentId | None
    #: why there is nothing to compare with, or nothing to compare
    problem: str | None
    #: a unified diff, secrets masked; empty if nothing changes
    diff: tuple[str, ...]

    def as_dict(self) -> ManifestChangeJson:
        return {"role": self.role, "deployment": self.deployment, "problem": self.problem, "diff": list(self.diff)}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deploy of `reference` to `environment` would do now."""

    environment: str
    reference: str
    live: Live
    #: what its hosts serve; commits and migrations count from there
    served: Live
    #: the newest one that is wanted of all hosts of a role
    live_deployment: DeploymentId | None
    #: None if it could not be found out; `problems` says why
    fetched: Fetched | None
    #: the release that would be used again; None if one would be built
    reused: Release | None
    #: in the diffs, in place of the id that a build would give
    made_up_release: ReleaseId | None
    #: what a build would compress with
    compressor: Compressor
    #: None if nothing is live, or nobody can tell
    changes: Comparison | None
    #: the recipe's name
    recipe: str
    #: the commands of `build.migrate` and `build.migrate_after`, secrets masked, and whether the first run only if
    #: something is pending
    migrate: tuple[str, ...]
    migrate_after: tuple[str, ...]
    asks_pending: bool
    #: the drops and renames that have not run yet
    migrate_after_due: Due | None
    manifests: tuple[ManifestChange, ...]
    #: of each role: hosts that would hear, and those that are down
    up: Mapping[str, tuple[str, ...]]
    down: Mapping[str, tuple[str, ...]]
    hosts: tuple[HostStatus, ...]
    #: deployments whose hosts wait for `go`
    under_way: tuple[str, ...]
    #: who holds the lock of the environment, and that of the workspace, in words; None if it is free
    lock: str | None
    workspace_lock: str | None
    frozen: Freeze | None
    #: what a deploy would end with, in the order in which it would meet them
    problems: tuple[DeployError, ...]
    #: in which steps the hosts would go
    waves: tuple[Wave, ...] = ()
    #: the wave after which it would end, for somebody to look
    pause_after: int | None = None
    #: the operator's own hooks that it would come to, if all goes well
    hooks: tuple[Moment, ...] = ()
    #: release → hosts that a rollout has brought it to which did not come to its end
    unfinished: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: role → how strong the proof is that its settings ask for, see `proof.PROOFS`
    proofs: Mapping[str, str] = field(default_factory=dict)
    #: linked path → the revision's files that the hosts' link hides
    hidden: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """That of the first problem; 0 without one. A lock does not count: it is free again by and by."""
        return self.problems[0].exit_code if self.problems else 0

    @property
    def behind(self) -> tuple[HostStatus, ...]:
        """Hosts that are up and do not serve, proven, what is wanted of them."""
        return tuple(host for host in self.hosts if host.up and host.behind)

    def as_dict(self) -> PlanJson:
        found, told = self.fetched, self.changes is not None and self.changes.migrations_told
        compressor, changes = self.compressor, changes_record(self.changes)
        document: PlanJson = {
            "environment": self.environment,
            "reference": self.reference,
            "revision": found.revision if found else None,
            "subject": found.subject if found else None,
            "live": {"release": self.live.release, "revision": self.live.revision, "deployment": self.live_deployment},
            "served": {"release": self.served.release, "revision": self.served.revision},
            "build": None if found is None else self.reused is None,
            "release": self.reused.id if self.reused else None,
            "made_up_release": self.made_up_release,
            "compressor": {"name": compressor.name, "ready": compressor.ready, "warning": compressor.warning},
            "commits": changes["commits"],
            "commits_taken_away": changes["commits_taken_away"],
            "migrations": changes["migrations"],
            "hidden": {path: list(names) for path, names in self.hidden.items()},
            "migrations_taken_away": list(self.changes.migrations_taken_away) if self.changes and told else None,
            "migrate": list(self.migrate),
            "migrate_if_pending": self.asks_pending,
            "migrate_after": list(self.migrate_after),
            "migrate_after_due": self.migrate_after_due.as_dict() if self.migrate_after_due is not None else None,
            "manifests": [change.as_dict() for change in self.manifests],
            "roles": {
                role: {"up": list(hosts), "down": list(self.down.get(role, ()))} for role, hosts in self.up.items()
            },
            "hosts": [host.as_dict() for host in self.hosts],
            "behind": [{"role": host.role, "host": host.host} for host in self.behind],
            "waves": [role_hosts(sorted(wave.hosts)) for wave in self.waves],
            "pause_after": self.pause_after,
            "hooks": list(self.hooks),
            "proofs": dict(self.proofs),
            "unfinished": {release: list(hosts) for release, hosts in self.unfinished.items()},
            "under_way": list(self.under_way),
            "lock": self.lock,
            "workspace_lock": self.workspace_lock,
            "frozen": freeze_json(self.frozen),
            "problems": [_problem_json(error) for error in self.problems],
            "exit_code": self.exit_code,
        }
        if self.problems:
            document["error"] = self.problems[0].as_dict()
        return document


def _problem_json(error: DeployError) -> ProblemJson:
    return {**error.as_dict(), "exit_code": error.exit_code}


@dataclass(frozen=True, slots=True)
class _Release:
    """What a deploy would bring, as far as it can be told before it is built."""

    problems: tuple[DeployError, ...] = ()
    fetched: Fetched | None = None
    changes: Comparison | None = None
    #: the one in the store that equal inputs gave
    reused: Release | None = None
    #: in its place, what a build would make
    to_come: Release | None = None
    hidden: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _release_of(session: Session, reference: str, here: Here) -> _Release:
    try:
        found, changes, hidden = preview_build(session, reference, here.served)
    except StepError as error:
        return _Release((error,))
    key = build_key(build_inputs(session.settings, found, session.compressor.name))
    reused, problems = find_built(session, key), list[DeployError]()
    if reused is not None and unchecked(session.settings, reused):
        reused = None
    try:
        if reused is not None:
            refuse_covered(session, reused)
    except StepError as error:
        problems.append(error)
    to_come = None if reused else release_to_come(session, reference, found, key)
    return _Release(tuple(problems), found, changes, reused, to_come, hidden)


def _refusals(session: Session, audience: Expected) -> Iterator[DeployError]:
    """What a deploy would be refused for, whatever it brings."""
    checks: tuple[tuple[Callable[[], None], type[DeployError]], ...] = (
        (lambda: rehearse_manifests(session.every), SettingsError),
        (lambda: check_event_sizes(session), ConsulError),
        (lambda: refuse_if_frozen(session), LockedError),
        (lambda: refuse_impossible_ids(session, audience), ConsulError),
        (lambda: refuse_deaf_roles(session, audience), ConsulError),
        (lambda: refuse_missing_canaries(session.settings, audience.up), ConsulError),
    )
    for attempt, kind in checks:
        try:
            attempt()
        except kind as error:
            yield error


def make_plan(session: Session, reference: str) -> Plan:
    """Look at everything that a deploy of that branch, tag or SHA would look at.

    Raises StoreError, ConsulError or ConnectionFailed where it can't even be looked at.
    """
    settings = session.settings
    audience = read_audience(session)
    refusals = tuple(_refusals(session, audience))
    history = read_history(session, settings.environment, reaches_target)
    here = here_by(session, audience, history)
    coming = _release_of(session, reference, here)
    manifests: tuple[ManifestChange, ...] = ()
    if release := coming.reused or coming.to_come:
        back = target_after(here.history, release.id, "deploy", audience.hosts, here.live.release)
        manifests = tuple(
            manifest_change(session, role, release, audience.whole.get(role), back) for role in settings.roles
        )
    try:
        status = read_status(session)
    except ConsulError:
        # It knows no host at all, which is among the problems.
        status = Status((), (), session.build_server.lock_holder(settings.environment).answer().sentence)
    masking = Masking(settings.secrets)
    return Plan(
        environment=settings.environment,
        reference=reference,
        live=here.live,
        served=here.served,
        live_deployment=max(audience.whole.values(), default=None),
        fetched=coming.fetched,
        reused=coming.reused,
        made_up_release=coming.to_come.id if coming.to_come else None,
        compressor=session.compressor,
        changes=coming.changes,
        recipe=settings.build.recipe,
        migrate=tuple(map(masking.text, settings.build.migrate)),
        migrate_after=tuple(map(masking.text, settings.build.migrate_after)),
        asks_pending=bool(settings.build.migrate_pending),
        migrate_after_due=due_of(history, here.live.release) if settings.build.migrate_after else None,
        manifests=manifests,
        up=audience.up,
        down={role: tuple(host for of, host in audience.down if of == role) for role in audience.up},
        hosts=status.hosts,
        under_way=status.under_way,
        lock=status.lock,
        workspace_lock=session.build_server.lock_holder("workspace").answer().sentence,
        frozen=session.bus.frozen().answer().frozen,
        problems=(*refusals, *coming.problems),
        waves=plan_waves(settings, audience.up),
        pause_after=settings.rollout.pause_after,
        hooks=hooks_to_come(settings, builds=coming.fetched is not None and coming.reused is None),
        unfinished=status.unfinished,
        proofs={name: asked_proof(role.verify) for name, role in settings.roles.items()},
        hidden=coming.hidden,
    )


def hooks_to_come(settings: "Settings", *, builds: bool) -> tuple[Moment, ...]:
    """The operator's own hooks that a deploy comes to, in their order."""
    moments = (each for each in get_args(Moment) if getattr(settings.hooks, each))
    others = ("after_rollback", "on_failure") if builds else ("after_rollback", "on_failure", *OF_A_BUILD)
    return tuple(each for each in moments if each not in others)


def preview_build(
    session: Session, reference: str, live: Live
) -> tuple[Fetched, Comparison | None, Mapping[str, tuple[str, ...]]]:
    """What a build would begin with, what lies between it and the live revision, and the revision's files that the
    hosts' links would hide. Raises StepError.
    """
    results = session.run(stages.preview(session.settings, session.place, reference, live.revision)).results()
    changes = stages.compared(results) if live.revision else None
    hidden = stages.hidden(session.settings, results)
    return stages.fetched(results), changes if changes is not None and changes.known else None, hidden


def release_to_come(session: Session, reference: str, found: Fetched, key: str) -> Release:
    """What a build would give, as far as it is known before: the id's time, checksum and sizes are not."""
    now = session.now()
    return Release(
        id=release_id_at(now, found.revision),
        application=session.settings.application,
        revision=found.revision,
        branch=reference,
        built_at=ids.recorded(now),
        built_by=str(session.operator),
        build_key=key,
        compression=session.settings.build.compression,
        checksum=_UNKNOWN_CHECKSUM,
        size_bytes=_UNKNOWN_BYTES,
        unpacked_bytes=_UNKNOWN_BYTES,
        subject=printable(found.subject),
    )


def manifest_change(
    session: Session, role: str, release: Release, deployment: DeploymentId | None, rollback_release: ReleaseId | None
) -> ManifestChange:
    """Compare the role's manifest with the one that `wanted` names, as if both were of the same deployment."""
    settings = session.settings
    try:
        new = render_manifest(
            settings,
            role,
            release,
            deployment or NO_DEPLOYMENT,
            settings.directory / TEMPLATES,
            rollback_release=rollback_release,
        )
    except SettingsError as error:
        return ManifestChange(role, deployment, "it can't be rendered: " + "; ".join(error.problems), ())
    old: str | None = ""
    if deployment is not None:
        key = manifest_key(settings.environment, deployment, role)
        old = read_texts(session, [key]).get(key)
    if old is None:
        return ManifestChange(role, deployment, f"the current one, of {deployment}, is no longer in the store", ())
    return ManifestChange(role, deployment, None, manifest_diff(old, new, settings.secrets))


def manifest_diff(old: str, new: str, secrets: Sequence[str]) -> tuple[str, ...]:
    """A unified diff without its two lines of names. What is not known yet in `new` is named so."""
    new = new.replace(_UNKNOWN_CHECKSUM, WHEN_BUILT).replace(str(_UNKNOWN_BYTES), WHEN_BUILT)
    changed = difflib.unified_diff(old.split("\n") if old else [], new.split("\n"), lineterm="")
    masking = Masking(secrets)
    # Masked after they are compared: a secret that changes is a change.
    return tuple(printable(masking.text(line)) for line in list(changed)[2:])


# --- for people


def page(plan: Plan) -> Page:
    """The plan in the order of a deploy; what stands in its way comes last."""
    return Page(
        remarks=(
            *_revision_lines(plan),
            *_release_lines(plan),
            *_migration_lines(plan),
            *_manifest_lines(plan),
            *_host_lines(plan),
            *_problem_lines(plan),
        ),
        next=()
        if plan.problems
        else (Next(f"fab {plan.environment} deploy --branch {plan.reference}", "deploy this"),),
        verdict=_verdict(plan),
        style=BAD if plan.problems else WARNING if plan.lock is not None else GOOD,
    )


def _revision_lines(plan: Plan) -> Iterator[str]:
    if plan.fetched is not None:
        kind = {"heads": "branch", "tags": "tag", "refs": "reference"}.get(plan.fetched.kind, "commit")
        yield f"the {kind} {plan.reference} is {plan.fetched.revision[:10]} {printable(plan.fetched.subject)}"
        yield from stages.remarks(plan.reference, plan.fetched)
    served = plan.served.release
    if served != plan.live.release:
        yield f"the hosts are expected to run {plan.live.release}, and run {served}"
    if served is None and plan.live_deployment is None:
        yield f"nothing is deployed to {plan.environment} yet"
    elif served is None:
        yield f"current: deployment {plan.live_deployment}, of an unknown release: the store no longer has its manifest"
    elif plan.changes is not None:
        yield from change_lines(served, plan.changes)
    elif plan.fetched is not None:
        yield f"current: {served}; the commits since then are unknown"
    else:
        yield f"current: {served}"


def _release_lines(plan: Plan) -> Iterator[str]:
    if plan.reused is not None:
        yield f"reuse: {plan.reused.id} has the same inputs, built at {plan.reused.built_at}; nothing is built"
    elif plan.fetched is not None:
        yield "build: no release in the store matches these inputs"
        yield from _compressor_lines(plan.compressor)
    for path, names in plan.hidden.items():
        yield hides(path, names[:HIDDEN_SHOWN], len(names))


def _compressor_lines(compressor: Compressor) -> Iterator[str]:
    if compressor.warning is not None:
        yield printable(compressor.warning)
    elif not compressor.ready:
        yield f"the build installs {printable(compressor.name)} on the build server first, to compress with"
    elif compressor.name != "none":
        yield f"the build compresses with {printable(compressor.name)}"


def _migration_lines(plan: Plan) -> Iterator[str]:
    changes = plan.changes
    if not plan.migrate and (changes is None or not changes.migrations_told):
        found = "none would run: `build.migrate` is empty"
    elif changes is None or not changes.migrations_told:
        reason = f"the recipe {plan.recipe} can't list them" if changes is not None else "nothing to compare with"
        found = f"pending ones are unknown: {reason}"
    elif changes.migrations_added:
        found = f"{len(changes.migrations_added)} since the current release: {named(changes.migrations_added)}"
    else:
        found = "none since the current release"
    idle = (
        "; build.migrate is empty, nothing would run"
        if changes and changes.migrations_added and not plan.migrate
        else ""
    )
    yield f"migrations: {found}{idle}"
    unless = ", unless nothing is pending" if plan.asks_pending else ""
    yield from (f"before any host switches{unless}: {command_name(command)}" for command in plan.migrate)
    yield from (f"when every host is verified: {command_name(command)}" for command in plan.migrate_after)
    if plan.migrate_after_due is not None:
        yield due_words(plan.migrate_after_due, plan.environment)
    if changes is not None and changes.migrations_taken_away:
        taken = changes.migrations_taken_away
        yield f"migrations of the current release that this one lacks, which stay applied: {named(taken)}"


def _manifest_lines(plan: Plan) -> Iterator[str]:
    for change in plan.manifests:
        if change.problem is not None:
            yield f"manifest of {change.role}: {change.problem}"
        elif change.deployment is None:
            yield f"manifest of {change.role}: the first one, {counted(len(change.diff) - 1, 'line')}; --json shows it"
        elif not change.diff:
            yield f"manifest of {change.role}: unchanged"
        else:
            yield f"manifest of {change.role}, compared with that of {change.deployment}:"
            yield from (f"  {line}" for line in _without_repetition(change.diff))
    if plan.made_up_release is not None and any(change.diff for change in plan.manifests):
        yield f"{plan.made_up_release} is a placeholder for the release that is not built yet"


def _without_repetition(diff: Sequence[str]) -> Iterator[str]:
    """The diff with each change once: a manifest says the same values in each of its four phases."""
    hunks: list[tuple[str, list[str]]] = []
    for line in diff:
        if line.startswith("@@"):
            hunks.append((line, []))
        else:
            hunks[-1][1].append(line)
    shown: list[list[str]] = []
    for place, body in hunks:
        yield place + (" as above" if body in shown else "")
        if body not in shown:
            shown.append(body)
            yield from body


def _host_lines(plan: Plan) -> Iterator[str]:
    for role, hosts in plan.up.items():
        down = plan.down.get(role, ())
        yield f"hosts of {role}: {', '.join(hosts) or 'none'}" + (f"; down: {', '.join(down)}" if down else "")
        if role in plan.proofs:
            yield f"proof of {role}: {PROOFS[plan.proofs[role]]}"
    if len(plan.waves) > 1:
        for number, wave in enumerate(plan.waves):
            names = named([f"{host} ({role})" for role, host in sorted(wave.hosts)])
            yield f"wave {number + 1} of {len(plan.waves)}, {counted(len(wave.hosts), 'host')}: {names}"
            if pauses(plan.waves, number, plan.pause_after):
                yield f"then it pauses, and `fab {plan.environment} promote` continues"
    if plan.hooks:
        yield f"hooks on this machine: {', '.join(plan.hooks)}"
    for release, hosts in plan.unfinished.items():
        yield (
            f"{release} is expected on {named(hosts)}, and not on every host: a deploy starts with all hosts; "
            f"`fab {plan.environment} promote` would continue with that release"
        )
    for host in plan.behind:
        yield f"behind: {host.host} ({host.role}) runs {host.release or 'an unknown release'}" + (
            f", no longer verified: {host.reason}" if host.reason else ""
        )
    for name in plan.under_way:
        yield f"deployment {name} is under way: its hosts wait for `go`"


def _problem_lines(plan: Plan) -> Iterator[str]:
    if plan.workspace_lock is not None:
        yield f"the workspace is locked by {plan.workspace_lock}; a build waits for it"
    if plan.lock is not None:
        yield f"{plan.environment} is locked by {plan.lock}"
    for error in plan.problems:
        first, *others = str(error).split("\n")
        yield f"PROBLEM (exit code {error.exit_code}): {first}"
        yield from others


def _verdict(plan: Plan) -> str:
    if plan.problems:
        problems = counted(len(plan.problems), "problem")
        return (
            f"a deploy of {plan.reference} to {plan.environment} would end with exit code {plan.exit_code}: {problems}"
        )
    if plan.lock is not None:
        return f"a deploy of {plan.reference} to {plan.environment} would end with exit code 3 as long as it is locked"
    what = f"bring {plan.reused.id}" if plan.reused is not None else f"build and bring {plan.reference}"
    hosts = counted(len({host for hosts in plan.up.values() for host in hosts}), "host")
    return f"nothing stands in the way: a deploy would {what} to {hosts} of {plan.environment}"
