"""Which release a deployment brings: a new build, one that exists, or what another environment has verified."""

from collections.abc import Iterable
from dataclasses import dataclass

from deploytool.build.build import Fetching, obtain_release
from deploytool.build.linked_paths import refuse_covered
from deploytool.errors import UsageError
from deploytool.model.history import History, Standing, is_proven, latest, reaches_target, standings
from deploytool.model.release import Release, ReleaseId
from deploytool.session import Session
from deploytool.state.history_store import read_history
from deploytool.state.releases import read_release
from deploytool.state.targets import Here

NAME_IT = "`--release ID` names the one that you mean"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The release, whether it existed already, and the branch, tag or SHA by which it was asked for."""

    release: Release
    reused: bool
    reference: str | None


def choose_release(session: Session, request: "Request", here: Here, fetching: Fetching | None) -> Chosen:
    """What the operator's request leads to; `fetching` where they name a branch, tag or SHA.

    Raises UsageError for a release that nothing has verified.
    """
    if fetching is not None:
        built = obtain_release(session, fetching, rebuild=request.rebuild)
        chosen = Chosen(built.release, built.reused, fetching.reference)
    elif request.promote_from is not None:
        chosen = Chosen(promoted(session, request.promote_from, request.force), True, None)
    else:
        assert request.release is not None
        release = read_release(session, request.release)
        refuse_unproven(session, release.id, request.force, here)
        chosen = Chosen(release, True, None)
    if chosen.reused:
        if fetching is None:
            refuse_covered(session, chosen.release)
        refuse_condemned(session, standings(here.history).get(chosen.release.id), request.force)
    return chosen


def refuse_condemned(session: Session, standing: Standing | None, force: str | None) -> None:
    """Raise UsageError for a release that a person has called bad here. What failed here by itself is only told."""
    if standing is None or standing.bad is None:
        return
    what = f"{standing.release} is {standing.words} in {session.settings.environment}"
    if standing.condemned and force is None:
        raise UsageError(
            what,
            hint=f'`fab {session.settings.environment} mark --release {standing.release} --good --why "…"` takes that '
            'back; --force "why" deploys it all the same',
        )
    session.console.note(what + (f"; forced: {force}" if force else ""))


def promoted(session: Session, other: str, force: str | None) -> Release:
    """The release that the other environment runs, and has verified.

    Raises UsageError if there is none: what it ran before is never taken in its place, as nobody asked for that.
    """
    settings = session.settings
    if other == settings.environment:
        raise UsageError(f"--from {other}: that is this environment", hint=f"fab {other} deploy")
    others = [name for name in session.every if name != settings.environment]
    if other not in others:
        raise UsageError(
            f"--from {other}: there is no other environment of that name",
            hint=f"there are: {', '.join(others) or 'no others'}",
        )
    theirs, ours = session.every[other].store, settings.store
    if (theirs.url, theirs.endpoint_url) != (ours.url, ours.endpoint_url):
        raise UsageError(
            f"{other} keeps its releases in {theirs.url}, {settings.environment} in {ours.url}",
            hint="a release can be promoted where both have the same `store`: set it in config/deploy.yml",
        )
    history = read_history(session, other, reaches_target)
    last = latest(history)
    if last is None:
        raise UsageError(f"nothing was deployed to {other} yet", hint=f"fab {other} deploy")
    if last.release is None:
        raise UsageError(f"the last deployment of {other}, {last.id}, can't be read: {last.problem}", hint=NAME_IT)
    known = standings(history)
    standing = known[last.release]
    if standing.verified is None or standing.bad is not None or last.exit_code is None:
        words = f"which is under way, or whose operator is gone; {last.release} is {standing.words} there"
        what = f"{other} was last brought to {last.release} by {last.id}, " + (
            words if last.exit_code is None else f"and it is {standing.words} there"
        )
        if force is None:
            verified = [each for each in known.values() if each.verified is not None and each.bad is None]
            good = max(verified, key=lambda each: each.verified or "", default=None)
            raise UsageError(
                what,
                hint=(f"`--release {good.release}` is the last good one there; " if good else "")
                + '`--force "why"` deploys it all the same',
            )
        session.console.note(f"{what}; forced: {force}")
    release = read_release(session, last.release)
    session.console.note(f"promoting {release.id} from {other}: sha256 {release.checksum}")
    return release


def refuse_unproven(session: Session, release: ReleaseId, force: str | None, here: Here) -> None:
    """Raise UsageError unless the release was verified in some environment, or there is a reason to go on.

    In this one a single host will do, for a failed deployment that is tried again, and what is wanted of it already
    needs no reason either. In another one it must be verified on all hosts, and not be bad.
    """
    name = session.settings.environment

    def enough(history: History) -> bool:
        return is_proven(history, release)

    wanted = {known.release for known in here.history.deployments if known.id in here.expected.wanted}
    if release in wanted or enough(here.history) or enough(read_history(session, name, enough)):
        return
    said = []
    for other in environments_in_store(session):
        standing = standings(read_history(session, other, enough)).get(release) if other != name else None
        if standing is None:
            continue
        said.append(f"in {other} it is {standing.words}")
        if standing.verified is not None and standing.bad is None:
            session.console.note(f"{release}: {said[-1]}")
            return
    what = f"the release {release} was never verified anywhere" + (f": {'; '.join(said)}" if said else "")
    if force is None:
        raise UsageError(
            what,
            hint='deploy it to another environment first, or give a reason, which is kept: --force "why"',
        )
    session.console.note(f"{what}; forced: {force}")


def environments_in_store(session: Session) -> Iterable[str]:
    """The environments that have a history in the store, and those of this project."""
    return sorted({*session.every, *session.store.directories("environments/").answer().names})


@dataclass(frozen=True, slots=True)
class Request:
    """What the operator asked of a deployment."""

    #: branch, tag or SHA
    reference: str
    #: deploy this release instead of building one
    release: str | None = None
    #: deploy what this other environment has verified
    promote_from: str | None = None
    #: why a release is deployed that nothing has verified yet
    force: str | None = None
    #: build, also where equal inputs were built already
    rebuild: bool = False
    migrate: bool = True
    #: go on where there would be a question
    sure: bool = False
    wait: bool = True
    #: only these hosts; empty: all
    nodes: tuple[str, ...] = ()

    @property
    def of_reference(self) -> bool:
        """Whether the release is to be that of `reference`."""
        return self.release is None and self.promote_from is None

    @property
    def what(self) -> str:
        """What is deployed, in words."""
        return self.release or (f"what {self.promote_from} runs" if self.promote_from else self.reference)
