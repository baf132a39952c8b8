"""What has happened in an environment, and what follows from it: which releases are good, where a rollback goes. Pure.

Records come from the store, where anybody may have written them: what can't be read is kept as a deployment of which
nothing is known but its id, and never stops anything.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypedDict

from deploytool.errors import FleetError
from deploytool.model.fleet import LastWord, Verdict
from deploytool.model.lifecycle import Status, recorded
from deploytool.model.release import DeploymentId, ReleaseId, is_deployment_id, is_release_id
from deploytool.text import ids
from deploytool.text.untrusted import printable, read_json

Kind = Literal["deploy", "rollback"]

#: `build.migrate_after` of a deployment: it has run, or is to run once all hosts are verified
AfterMigration = Literal["done", "due"]

#: How a host ended that has not switched.
UNTOUCHED = (Verdict.ABORTED.value, Verdict.SUPERSEDED.value)

#: a role and a host that has it
RoleHost = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment, as its records tell it."""

    id: DeploymentId
    release: ReleaseId | None = None
    revision: str | None = None
    #: what the environment was wanted to run before
    origin: ReleaseId | None = None
    kind: Kind = "deploy"
    #: whether it was for all hosts, not for those of `--nodes`
    whole: bool = True
    #: None: under way, or nobody was there to write down how it ended
    exit_code: int | None = None
    #: how it ended; None as the exit code is
    status: Status | None = None
    #: in waves, and nobody has written down that the last of them went: some hosts have what they had before
    partial: bool = False
    #: a rollback that found a host without the release, and began again as an ordinary deployment
    fell_back: bool = False
    #: with those that ran the release already, by a deployment that this one goes on with
    expected: frozenset[RoleHost] = frozenset()
    verified: frozenset[RoleHost] = frozenset()
    #: those of the expected that ran the release already
    spared: frozenset[RoleHost] = frozenset()
    #: those of the expected that left before they were switched
    untouched: frozenset[RoleHost] = frozenset()
    #: as text, in UTC, for instance 2026-11-23T06:22:33Z
    began_at: str | None = None
    ended_at: str | None = None
    #: user@host
    operator: str | None = None
    #: what became of `build.migrate_after`; None if there was nothing to run, or nobody was let go
    migrate_after: AfterMigration | None = None
    #: why its record can't be read
    problem: str | None = None
    #: the whole record, for `--json`
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> Mapping[str, float]:
        """How long each of its steps took, in seconds; of a version before: none."""
        found = self.record.get("steps")
        steps = found.items() if isinstance(found, dict) else ()
        return {name: each for name, each in steps if isinstance(each, int | float) and 0 <= each < 1e6}

    @property
    def let_go(self) -> bool | None:
        """Whether its hosts were let go; None if that is unknown."""
        return self.status.let_go if self.status is not None else None

    @property
    def moment(self) -> str:
        """When it ended, or began, in the form of the ids."""
        ended = compact(self.ended_at or "")
        return ended if ids.MOMENT.fullmatch(ended) else self.id[: ids.MOMENT_LENGTH]


@dataclass(frozen=True, slots=True)
class Mark:
    """A person's word on a release in an environment."""

    release: ReleaseId
    good: bool
    why: str
    operator: str
    #: in the form of the ids
    moment: str


@dataclass(frozen=True, slots=True)
class MigratedAfter:
    """That a release's `build.migrate_after` has run."""

    release: ReleaseId | None
    #: in the form of the ids
    moment: str


@dataclass(frozen=True, slots=True)
class History:
    """The deployments of an environment, oldest first, and its marks, by time."""

    deployments: tuple[Deployment, ...] = ()
    marks: tuple[Mark, ...] = ()
    #: what was run by hand
    migrated_after: tuple[MigratedAfter, ...] = ()

    def then(self, deployment: Deployment) -> "History":
        """The history with one more deployment."""
        return replace(self, deployments=(*self.deployments, deployment))


@dataclass(frozen=True, slots=True)
class Learned:
    """A host's proof that came when nobody listened any more."""

    deployment: DeploymentId
    role: str
    host: str


def news(history: History, words: Mapping[RoleHost, LastWord]) -> tuple[Learned, ...]:
    """What hosts say they have proved, and the history does not know: nobody waited, or the operator went away."""
    known = {each.id: each for each in history.deployments}
    found = []
    for (role, host), word in words.items():
        deployment = known.get(DeploymentId(word.deployment or ""))
        if (
            deployment is not None
            and word.verified
            and word.release == deployment.release
            and (role, host) not in deployment.verified
            # A host that failed has said its last word of that deployment.
            and (deployment.exit_code != FleetError.exit_code or (role, host) not in deployment.expected)
        ):
            found.append(Learned(deployment.id, role, host))
    return tuple(found)


def with_learned(history: History, learned: Iterable[Learned]) -> History:
    """The history with these proofs in it."""
    hosts: dict[DeploymentId, set[RoleHost]] = {}
    for each in learned:
        hosts.setdefault(each.deployment, set()).add((each.role, each.host))
    return replace(
        history,
        deployments=tuple(
            _proved(each, each.verified | hosts[each.id]) if each.id in hosts else each for each in history.deployments
        ),
    )


def _proved(deployment: Deployment, verified: frozenset[RoleHost]) -> Deployment:
    """With these proofs. Where every host has proved it, all had gone, though nobody was there to write that down."""
    partial = deployment.partial and not deployment.expected - deployment.spared <= verified
    whole = deployment.expected - deployment.spared <= verified
    status = Status.VERIFIED if whole else deployment.status if deployment.let_go else Status.UNVERIFIED
    return replace(deployment, status=status, verified=verified, partial=partial)


def read_learned(record: Mapping[str, Any]) -> Iterator[Learned]:
    """What a deployment had learned of earlier ones when it began."""
    for each in _list(record.get("learned")):
        if isinstance(each, dict) and is_deployment_id(str(each.get("deployment"))):
            yield Learned(DeploymentId(str(each["deployment"])), str(each.get("role")), str(each.get("host")))


@dataclass(slots=True)
class Standing:
    """What an environment knows of one release."""

    release: ReleaseId
    revision: str | None = None
    #: the last deployment with which every host of its time had proved the release
    verified: DeploymentId | None = None
    #: the hosts that have ever proved it here
    proven: set[RoleHost] = field(default_factory=set)
    #: its place in the order of releases: the last deployment that brought it forward, not back
    brought: DeploymentId | None = None
    #: why it is bad; None if it is not
    bad: str | None = None
    #: the rollback that went back from it, if nothing has brought it again
    left: DeploymentId | None = None
    #: a person has called it good since anything was known against it
    vouched: bool = False
    #: a person has called it bad, which only a person takes back
    condemned: bool = False

    @property
    def may_return(self) -> bool:
        """Whether a rollback may choose it."""
        good = self.verified is not None or (self.vouched and bool(self.proven))
        return good and self.bad is None and self.left is None

    @property
    def words(self) -> str:
        if self.bad is not None:
            return f"bad: {self.bad}"
        if self.verified is None and not self.proven:
            return "never verified"
        words = (
            f"verified ({self.verified})"
            if self.verified is not None
            else f"verified on {len(self.proven)} of its hosts"
        )
        if self.left is not None:
            words += f", abandoned by the rollback {self.left}"
        return words + (", marked good" if self.vouched else "")


def compact(time: str) -> str:
    """2026-11-23T06:22:33Z → 20261123T062233Z, which sorts among ids"""
    return time.replace("-", "").replace(":", "")


def standings(history: History) -> dict[ReleaseId, Standing]:
    """Every release that the environment has met.

    A release is verified when all hosts that were expected last have proved it, in one deployment or in several. A
    deployment that ends with exit code 8 makes its release bad, until a later one verifies it or a person calls it
    good; one that switched no host says nothing against a release that was verified before. What a person calls bad is
    bad until a person calls it good. What a rollback went back from is left, until something brings it again. A rollout
    that was not brought to its end proves what it proves, and moves nothing.
    """
    found: dict[ReleaseId, Standing] = {}
    expected: frozenset[RoleHost] | None = None
    events: list[tuple[str, int, Deployment | Mark]] = [
        *((deployment.moment, 0, deployment) for deployment in history.deployments),
        *((mark.moment, 1, mark) for mark in history.marks),
    ]
    for _, _, event in sorted(events, key=lambda item: item[:2]):
        if event.release is None:
            continue
        standing = found.setdefault(event.release, Standing(event.release))
        if isinstance(event, Mark):
            standing.vouched, standing.condemned = event.good, not event.good
            standing.bad = None if event.good else f"{event.why} ({event.operator})"
            standing.left = None if event.good else standing.left
            continue
        standing.revision = standing.revision or event.revision
        if event.whole and event.let_go is not False:
            expected = event.expected or expected
            # One that nobody saw the end of may have ended before anything was switched.
            if event.let_go and not event.partial:
                _bring(found, standing, event)
        _judge(standing, event, expected)
    return found


def _bring(found: Mapping[ReleaseId, Standing], standing: Standing, event: Deployment) -> None:
    standing.left = None
    if event.kind == "deploy":
        standing.brought = max(event.id, standing.brought or event.id)
        return
    origin = found.get(event.origin) if event.origin is not None else None
    # Forth again, by name, leaves nothing behind.
    if origin is not None and origin is not standing and (origin.brought or "") > (standing.brought or ""):
        origin.left = event.id


def _judge(standing: Standing, event: Deployment, expected: frozenset[RoleHost] | None) -> None:
    standing.proven |= event.verified
    if event.exit_code == FleetError.exit_code:
        if event.fell_back or (event.let_go is False and standing.verified is not None):
            return
        if event.let_go is not False:
            standing.proven -= event.expected - event.verified - event.untouched
        standing.vouched = False
        if not standing.condemned:
            standing.bad = f"its deployment {event.id} ended with exit code 8"
    elif event.verified and expected is not None and expected <= standing.proven:
        standing.verified = event.id
        if not standing.condemned:
            standing.bad = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The releases before the current one, newest first, and the one that a rollback goes to; None if none will do."""

    current: ReleaseId | None
    #: None if the history does not know it
    standing: Standing | None
    before: tuple[Standing, ...]
    target: ReleaseId | None
    #: of those before, what the store has no more
    gone: frozenset[ReleaseId] = frozenset()


def rollback_choice(history: History, current: ReleaseId | None, gone: frozenset[ReleaseId] = frozenset()) -> Choice:
    """Where `rollback` goes: the last release that was verified here before the current one, and is not bad.

    Releases stand in the order in which deployments brought them forward. A rollback moves none, and what it went back
    from is no target any more: a second one goes further back, not forth again. `gone` is what can't be had any more.
    """
    known = standings(history)
    place = {release: _place(history, standing, release == current) for release, standing in known.items()}
    limit = place.get(current) if current is not None else None
    before = sorted(
        (
            standing
            for release, standing in known.items()
            if release != current and (place_of := place[release]) is not None and (limit is None or place_of < limit)
        ),
        key=lambda standing: place[standing.release] or "",
        reverse=True,
    )
    target = next((each.release for each in before if each.may_return and each.release not in gone), None)
    return Choice(current, known.get(current) if current is not None else None, tuple(before), target, gone)


def _place(history: History, standing: Standing, is_current: bool) -> str | None:
    """Where it stands among the releases. Deployments whose end nobody saw count for what runs, as they brought it."""
    mine = [each for each in history.deployments if each.release == standing.release and each.let_go is not False]
    if is_current:
        unseen = [
            each.id
            for each in mine
            if (each.let_go is None or each.exit_code is None) and each.whole and each.kind == "deploy"
        ]
        return max((standing.brought or "", *unseen)) or min((each.id for each in mine), default=None)
    return standing.brought or min((each.id for each in mine), default=None)


def latest(history: History) -> Deployment | None:
    """The last deployment that let hosts go, or may have; None if there is none."""
    return next((each for each in reversed(history.deployments) if each.let_go is not False and each.whole), None)


def reaches_target(history: History) -> bool:
    """Whether so much of a history tells where a rollback would go, from its last deployment that all hosts had."""
    last = latest(replace(history, deployments=tuple(each for each in history.deployments if not each.partial)))
    return last is not None and rollback_choice(history, last.release).target is not None


def is_proven(history: History, release: ReleaseId) -> bool:
    """Whether any host of the environment has proved the release."""
    standing = standings(history).get(release)
    return standing is not None and bool(standing.proven)


def target_after(
    history: History, release: ReleaseId, kind: Kind, hosts: frozenset[RoleHost], live: ReleaseId | None
) -> ReleaseId | None:
    """Where a rollback would go once all these hosts have proved the release, which comes after `live`."""
    coming = Deployment(
        id=DeploymentId("9" * 8 + "T" + "9" * 6 + "Znext"),
        release=release,
        origin=live,
        kind=kind,
        exit_code=0,
        status=Status.VERIFIED,
        expected=hosts,
        verified=hosts,
    )
    return rollback_choice(history.then(coming), release).target


class DueJson(TypedDict):
    """Drops and renames (`build.migrate_after`) that have not run yet."""

    release: Annotated[ReleaseId, "the release that they belong to"]
    since: Annotated[str, "since when they are due, in UTC"]


@dataclass(frozen=True, slots=True)
class Due:
    """The `build.migrate_after` of a release that all hosts are wanted to run, and that nobody has run yet."""

    release: ReleaseId
    #: as text, in UTC
    since: str

    def as_dict(self) -> DueJson:
        return {"release": self.release, "since": self.since}


def due_of(history: History, live: ReleaseId | None) -> Due | None:
    """What is due for the release that all hosts are wanted to run.

    What has run since, of whichever release, has done it, too: migrations add up. Nothing is due of a release that
    hosts have gone back from; when it is deployed again, it runs its own.
    """
    last = max((each.moment for each in after_runs(history)), default="")
    since = next(
        (
            each
            for each in history.deployments
            if each.migrate_after == "due" and each.release == live and each.moment > last
        ),
        None,
    )
    if live is None or since is None:
        return None
    return Due(live, since.ended_at or since.began_at or since.moment)


def after_runs(history: History) -> tuple[MigratedAfter, ...]:
    """Each time that `build.migrate_after` has run, in no order."""
    done = (each for each in history.deployments if each.migrate_after == "done")
    return (*history.migrated_after, *(MigratedAfter(each.release, each.moment) for each in done))


# --- reading


def read_deployment(name: DeploymentId, record: str | None, begun: str | None) -> Deployment:
    """The deployment of which the store has these two texts. What makes no sense in them is left out."""
    problems: list[str] = []
    written = _object(record, "the record", problems)
    ended = bool(written)
    said = {**_object(begun, "begun.json", problems), **written}
    hosts = [each for each in _list(said.get("hosts")) if isinstance(each, dict)]
    exit_code = said.get("exit_code")
    expected = hosts or [each for each in _list(said.get("expected")) if isinstance(each, dict)]
    spared = [each for each in _list(said.get("spared")) if isinstance(each, dict)]
    return Deployment(
        id=name,
        release=_release(said.get("release")),
        revision=_text(said.get("revision")),
        origin=_release(said.get("from")),
        kind="rollback" if said.get("kind") == "rollback" else "deploy",
        whole=not _list(said.get("nodes")),
        exit_code=exit_code if ended and isinstance(exit_code, int) and not isinstance(exit_code, bool) else None,
        status=recorded(said, _let_go(said, hosts)) if ended else None,
        partial=bool(said.get("waves")) and said.get("settled") is not True,
        fell_back=said.get("fell_back") is True,
        expected=_role_hosts([*expected, *spared]),
        spared=_role_hosts(spared),
        untouched=_role_hosts(each for each in hosts if each.get("verdict") in UNTOUCHED),
        verified=_role_hosts(each for each in hosts if each.get("verdict") == Verdict.VERIFIED.value),
        began_at=_text(said.get("began_at")),
        ended_at=_text(said.get("ended_at")),
        operator=_text(said.get("operator")),
        migrate_after=after if (after := said.get("migrate_after")) in ("done", "due") else None,
        problem="; ".join(problems) or None,
        record=said,
    )


def _let_go(said: Mapping[str, Any], hosts: Iterable[Mapping[str, Any]]) -> bool | None:
    given = said.get("let_go")
    if isinstance(given, bool) or (given is None and "let_go" in said):
        return given
    # Records of before that was written down. Those of `--no-wait` end well, and know of no host.
    phases = said.get("phases")
    return (
        said.get("exit_code") == 0
        or (isinstance(phases, dict) and "activate" in phases)
        or any(each.get("state") == "verified" for each in hosts)
    )


def _release(value: Any) -> ReleaseId | None:
    return ReleaseId(value) if isinstance(value, str) and is_release_id(value) else None


def read_mark(moment: str, release: ReleaseId, text: str | None) -> Mark:
    """A mark as it stands in the store. One that can't be read speaks against its release: better one good too few."""
    said = _object(text, "the mark", [])
    if not isinstance(said.get("good"), bool):
        return Mark(release, False, f"its mark {moment} can't be read", "unknown", moment)
    why, operator = _text(said.get("why")), _text(said.get("operator"))
    return Mark(release, said["good"], why or "no reason given", operator or "somebody", moment)


def _object(text: str | None, name: str, problems: list[str]) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        content = read_json(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        problems.append(f"{name} is damaged")
        return {}
    return content


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _role_hosts(hosts: Iterable[Mapping[str, Any]]) -> frozenset[RoleHost]:
    return frozenset((str(each.get("role")), str(each.get("host"))) for each in hosts)


def usual_steps(history: History) -> Mapping[str, float]:
    """Step → how long it took when it ran last, in seconds."""
    found: dict[str, float] = {}
    for deployment in history.deployments:
        found |= deployment.steps
    return found
