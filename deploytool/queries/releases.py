"""`fab ENV releases`: what the store has, which environment runs which, and every deployment that there was.

It changes nothing, and what is damaged is shown as that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypedDict

from deploytool.errors import ConsulError
from deploytool.model.history import Deployment, History, Standing, standings
from deploytool.model.lifecycle import Status
from deploytool.model.release import Release, ReleaseId, read_record, record_key
from deploytool.rollout.choose_release import environments_in_store
from deploytool.screen.page import BAD, GOOD, WARNING, Page, Row
from deploytool.session import Session
from deploytool.state.history_store import read_history, read_texts
from deploytool.state.targets import expected_hosts
from deploytool.text import ids
from deploytool.text.untrusted import printable
from deploytool.text.words import counted


class ReleaseJson(TypedDict):
    """One release of the store. What comes from its record is null if the record is damaged."""

    release: Annotated[str, "the release"]
    revision: Annotated[str | None, "the full SHA of its commit"]
    branch: Annotated[str | None, "the branch, tag or commit that was built"]
    subject: Annotated[str | None, "the first line of the commit's message"]
    built_at: Annotated[str | None, "when it was built, in UTC"]
    built_by: Annotated[str | None, "who built it"]
    checksum: Annotated[str | None, "the archive's sha256"]
    size_bytes: Annotated[int | None, "the archive's size"]
    runs_in: Annotated[list[str], "the environments whose hosts run it"]
    verified: Annotated[
        str | None, "the last deployment that verified it on every host of this environment; null if none has"
    ]
    bad: Annotated[str | None, "why it is bad in this environment; null if it is not"]


class ReleasesJson(TypedDict):
    """The releases of the store."""

    releases: Annotated[list[ReleaseJson], "the releases, newest first"]


class DeploymentsJson(TypedDict):
    """The deployments of the environment."""

    deployments: Annotated[
        list[Mapping[str, object]],
        "the deployments, newest first: each the record in the store as it was written, with `deployment` (its id) "
        "and `problem` (why the record can't be read, or null); see releases.md",
    ]


@dataclass(frozen=True, slots=True)
class Listed:
    """One release of the store."""

    id: ReleaseId
    #: None if its record is damaged
    release: Release | None
    runs_in: tuple[str, ...]
    #: None if this environment has never met it
    standing: Standing | None

    def as_dict(self) -> ReleaseJson:
        standing = self.standing
        return {
            "release": self.id,
            "revision": self.release.revision if self.release else None,
            "branch": self.release.branch if self.release else None,
            "subject": self.release.subject if self.release else None,
            "built_at": self.release.built_at if self.release else None,
            "built_by": self.release.built_by if self.release else None,
            "checksum": self.release.checksum if self.release else None,
            "size_bytes": self.release.size_bytes if self.release else None,
            "runs_in": list(self.runs_in),
            "verified": standing.verified if standing else None,
            "bad": standing.bad if standing else None,
        }


@dataclass(frozen=True, slots=True)
class Releases:
    """The releases of the store, newest first."""

    rows: tuple[Listed, ...]

    def as_dict(self) -> ReleasesJson:
        return {"releases": [row.as_dict() for row in self.rows]}

    def page(self) -> Page:
        if not self.rows:
            return Page(verdict="the store has no release yet")
        running = sum(bool(row.runs_in) for row in self.rows)
        return Page(
            columns=("release", "revision", "MB", "runs in", "here", "commit"),
            rows=tuple(map(_release_row, self.rows)),
            verdict=f"{counted(len(self.rows), 'release')} in the store, {running} running",
        )


def _release_row(row: Listed) -> Row:
    release, standing = row.release, row.standing
    style = BAD if release is None or (standing and standing.bad) else GOOD if row.runs_in else ""
    return Row(
        (
            row.id,
            release.revision[:10] if release else "?",
            f"{release.size_bytes / 1e6:.1f}" if release else "?",
            ", ".join(row.runs_in) or "-",
            standing.words if standing else "-",
            (release.subject or release.branch) if release else "its record is damaged",
        ),
        style,
        0,
    )


@dataclass(frozen=True, slots=True)
class Deployments:
    """The deployments of an environment, newest first."""

    rows: tuple[Deployment, ...]

    def as_dict(self) -> DeploymentsJson:
        return {
            "deployments": [{**row.record, "deployment": row.id, "problem": row.problem} for row in self.rows],
        }

    def page(self) -> Page:
        if not self.rows:
            return Page(verdict="nothing was deployed yet")
        verified = sum(row.status is Status.VERIFIED and row.problem is None for row in self.rows)
        return Page(
            columns=("deployment", "by", "what", "from", "to", "hosts", "seconds", "how it ended"),
            rows=tuple(map(_deployment_row, self.rows)),
            verdict=f"{counted(len(self.rows), 'deployment')}, {verified} verified",
        )


def _deployment_row(row: Deployment) -> Row:
    phases = row.record.get("phases")
    phases = phases if isinstance(phases, dict) else {}
    # Anybody may have written there, also numbers that no float holds.
    seconds = [value for value in phases.values() if isinstance(value, int | float) and 0 <= value < 1e9]
    good = row.status is Status.VERIFIED and row.problem is None
    return Row(
        (
            row.id,
            row.operator or "?",
            row.kind if row.whole else f"{row.kind} --nodes",
            row.origin or "-",
            row.release or "?",
            f"{len(row.verified)} of {len(row.expected)}" if row.expected else "-",
            f"{sum(seconds):.1f}" if seconds else "-",
            ending(row),
        ),
        GOOD if good else BAD if row.exit_code or row.problem is not None else WARNING,
    )


def ending(row: Deployment) -> str:
    """How a deployment ended, in words."""
    if row.problem is not None:
        return row.problem
    if row.exit_code is None:
        return "under way, or its operator is gone"
    if row.fell_back:
        return "a host no longer had the release; began again with a download"
    match row.status:
        case Status.PAUSED | Status.HALTED:
            return f"{row.status}, verified on {len(row.verified)} of {len(row.expected)}"
        case Status.VERIFIED:
            return "verified"
        case Status.UNVERIFIED if row.exit_code == 0:
            return "announced, unverified"
    error = row.record.get("error")
    return f"{row.status}, exit code {row.exit_code}" + (f": {printable(error)}" if isinstance(error, str) else "")


def list_releases(session: Session) -> Releases:
    """Every release of the store. Raises StoreError."""
    here = session.settings.environment
    keys = session.store.list("releases/").answer().keys
    names = sorted({ReleaseId(name) for key in keys if ids.RELEASE.fullmatch(name := key.split("/")[1])})
    texts = read_texts(session, [record_key(name) for name in names])
    histories = {name: read_history(session, name) for name in environments_in_store(session)}
    running = {name: served_in(session, name, history) for name, history in histories.items()}
    known = standings(histories[here])
    return Releases(
        tuple(
            Listed(
                id=name,
                release=readable(texts.get(record_key(name)), name),
                runs_in=tuple(where for where, served in running.items() if name in served),
                standing=known.get(name),
            )
            for name in reversed(names)
        )
    )


def served_in(session: Session, environment: str, history: History) -> frozenset[ReleaseId]:
    """What an environment's hosts serve: this one's by their last words, another's by what they proved last."""
    if environment == session.settings.environment:
        try:
            expected = expected_hosts(session, ())
            return frozenset(ReleaseId(word.release) for word in expected.words.values() if word.release is not None)
        except ConsulError as error:
            session.console.note(f"by the history only: {error.message}")
    all_had = (each for each in reversed(history.deployments) if each.whole and not each.partial)
    last = next((each for each in all_had if each.verified), None)
    return frozenset() if last is None or last.release is None else frozenset({last.release})


def readable(text: str | None, name: ReleaseId) -> Release | None:
    try:
        return read_record(text, name) if text is not None else None
    except ValueError:
        return None


def list_deployments(session: Session) -> Deployments:
    """The newest deployments of the environment. Raises StoreError."""
    return Deployments(tuple(reversed(read_history(session, session.settings.environment).deployments)))
