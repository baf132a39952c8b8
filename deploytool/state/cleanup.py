"""`fab ENV cleanup`, and the end of every deployment: old releases, leftovers of killed builds, keys and logs go.

In an order in which the store never has a record that points to something missing: whoever is killed on the way leaves
what the next cleanup takes up again.
"""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Annotated, TypedDict

from deploytool.connection.client import Asked
from deploytool.errors import ConnectionFailed, DeployError, LockedError, UsageError
from deploytool.model.history import History, read_deployment
from deploytool.model.release import (
    DeploymentId,
    Release,
    ReleaseId,
    begun_key,
    build_record_key,
    deployment_record_key,
    is_release_id,
    provenance_key,
    read_record,
    record_key,
)
from deploytool.model.retention import Known, doomed, is_recent, protected, reaches_back, unreadable
from deploytool.session import Session
from deploytool.state.history_store import RETENTION_LOCK, read_history, read_texts, recent, release_of
from deploytool.state.status import running_releases
from deploytool.text import ids
from deploytool.text.untrusted import read_json
from deploytool.text.words import counted

#: How many deployments' keys stay in Consul, for reading.
DEPLOYMENTS = 10
#: How many logs stay on the build server besides those of the releases that stay.
LOGS = 50
#: How long a cleanup that failed waits for its lock to be freed.
FAREWELL_SECONDS = 15.0
#: How many small objects one request reads.
READ_AT_ONCE = 500


class RemovedReleaseJson(TypedDict):
    """A release that was removed from the store."""

    release: Annotated[str, "the release"]
    size_bytes: Annotated[int | None, "the archive's size; null if unknown"]


class UnreadableJson(TypedDict):
    """A deployment whose record can't be read, so that nothing was removed from the store."""

    environment: Annotated[str, "its environment"]
    deployment: Annotated[str, "the deployment"]


class CleanupJson(TypedDict):
    """What was removed."""

    releases: Annotated[list[RemovedReleaseJson], "releases, from the store"]
    leftovers: Annotated[list[str], "releases without a record, left by a killed build or cleanup, from the store"]
    deployments: Annotated[list[str], "deployments whose keys were removed from Consul"]
    uploads: Annotated[list[str], "keys of unfinished uploads to the store"]
    files: Annotated[list[str], "files and directories of the build server"]
    freed_bytes: Annotated[int, "the size of those files"]
    unreadable: Annotated[list[UnreadableJson], "deployments whose records can't be read"]
    filled: Annotated[str | None, "which hosts had filled their places in Consul with rubbish; null if none had"]


@dataclass(frozen=True, slots=True)
class RemovedRelease:
    """A release that is gone from the store."""

    release: ReleaseId
    #: of its archive; None if its record did not tell
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a cleanup has removed."""

    #: from the store
    releases: tuple[RemovedRelease, ...] = ()
    #: from the store: what killed builds and killed cleanups had left
    leftovers: tuple[ReleaseId, ...] = ()
    #: whose keys are gone from Consul
    deployments: tuple[str, ...] = ()
    #: archives in the store whose upload began more than a day ago and never ended
    uploads: tuple[str, ...] = ()
    #: of the build server
    files: tuple[str, ...] = ()
    #: by the files
    freed_bytes: int = 0
    #: environments and deployments whose records can't be read, for which the store was left alone
    unreadable: tuple[tuple[str, DeploymentId], ...] = ()
    #: about hosts that had filled their places in Consul with reports of no deployment, which are gone
    filled: str | None = None

    def as_dict(self) -> CleanupJson:
        return {
            "releases": [{"release": each.release, "size_bytes": each.size_bytes} for each in self.releases],
            "leftovers": list(self.leftovers),
            "deployments": list(self.deployments),
            "uploads": list(self.uploads),
            "files": list(self.files),
            "freed_bytes": self.freed_bytes,
            "unreadable": [{"environment": name, "deployment": each} for name, each in self.unreadable],
            "filled": self.filled,
        }

    def sentences(self) -> list[str]:
        """One for each place; none if there is nothing to tell."""
        lines = [
            f"nothing was removed from the store: the records of {name}'s deployment {each} can't be read, so the "
            f"release it needs is unknown; if it is over, delete environments/{name}/deployments/{each}* there"
            for name, each in self.unreadable
        ]
        if self.releases:
            size_bytes = sum(each.size_bytes or 0 for each in self.releases)
            names = ", ".join(each.release for each in self.releases)
            lines.append(
                f"removed {counted(len(self.releases), 'release')} from the store ({_megabytes(size_bytes)}): {names}"
            )
        if self.leftovers:
            lines.append(f"removed leftovers of {', '.join(self.leftovers)} from the store, which had no record")
        if self.uploads:
            lines.append(f"removed {counted(len(self.uploads), 'unfinished upload')} from the store")
        if self.deployments:
            lines.append(f"removed the keys of {counted(len(self.deployments), 'deployment')} from Consul")
        if self.filled is not None:
            lines.append(self.filled)
        if self.files:
            lines.append(
                f"removed {counted(len(self.files), 'old log or leftover', 'old logs and leftovers')} from the build "
                f"server ({_megabytes(self.freed_bytes)})"
            )
        return lines


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


def clean_up(session: Session, live: Collection[ReleaseId]) -> Cleaned:
    """Remove what nobody needs from the store, the build server and Consul.

    `live` is what this environment is wanted to run, and what its hosts say they serve. Raises DeployError; running it
    again goes on where it stopped.
    """
    with session.console.step("cleanup", quiet=True):
        with session.lock_ahead(RETENTION_LOCK, wait=True) as held:
            swept = _sweep(session, frozenset(live), held)
        # Consul comes last: it is the likeliest to be out of reach, and no disk fills up for want of it.
        sweeping = session.store.prune_uploads()
        pruning = session.build_server.prune(list(swept.staying), LOGS, after=sweeping)
        keys = session.bus.prune_keys(swept.newest, after=pruning).answer()
        pruned, uploads = pruning.answer(), sweeping.answer()
    if uploads.trouble is not None:
        session.console.note(f"unfinished uploads stay in the store: {uploads.trouble}")
    return Cleaned(
        releases=swept.releases,
        leftovers=swept.leftovers,
        deployments=tuple(keys.removed),
        uploads=tuple(uploads.removed),
        files=tuple(pruned.removed),
        freed_bytes=pruned.freed_bytes,
        unreadable=swept.unreadable,
        filled=keys.note,
    )


@contextmanager
def cleaned_up(session: Session) -> Iterator[None]:
    """Clean up at the end of a deployment, also of a failed one: failures must not fill a disk.

    Trouble with that is noted: it must not make a deployment fail.
    """
    try:
        yield
    except (ConnectionFailed, LockedError, UsageError):
        # Nobody is there to do it, or nothing has been done.
        raise
    except DeployError:
        _clean_up_quietly(session)
        raise
    _clean_up_quietly(session)


def _clean_up_quietly(session: Session) -> None:
    try:
        # A deployment that failed while it claimed its release holds the lock still, and would wait for itself.
        freed = session.let_go(RETENTION_LOCK)
        live = running_releases(session)
        freed.answer()
        for sentence in clean_up(session, live).sentences():
            session.console.note(sentence)
    except DeployError as trouble:
        session.console.note(f"old releases could not be cleaned up, the next deployment tries again: {trouble}")
        # What failed has ended, and nothing else runs under this lock; if it was never taken, this does nothing.
        with contextlib.suppress(DeployError):
            session.let_go(RETENTION_LOCK).answer(limit_seconds=FAREWELL_SECONDS)
    except KeyboardInterrupt:
        # The deployment is over, and its result stands.
        session.console.note("interrupted while cleaning up; the next deployment continues")


@dataclass(frozen=True, slots=True)
class _Swept:
    """What happened to the store."""

    #: the releases that are there still, unfinished ones too
    staying: tuple[ReleaseId, ...]
    #: the newest deployments of this environment
    newest: tuple[DeploymentId, ...]
    releases: tuple[RemovedRelease, ...] = ()
    leftovers: tuple[ReleaseId, ...] = ()
    unreadable: tuple[tuple[str, DeploymentId], ...] = ()


_MANIFEST = re.compile(rf"environments/([^/]+)/deployments/({ids.DEPLOYMENT.pattern})/(?:kept/)?([^/]+)\.yml")


def _sweep(session: Session, live: frozenset[ReleaseId], held: Asked) -> _Swept:
    """Remove releases from the store, once the lock is held."""
    settings, now = session.settings, session.now()
    # Environments may share a store, and each has its say in how much it keeps.
    keep = max(
        each.store.keep_releases for each in (settings, *session.every.values()) if each.store.url == settings.store.url
    )
    asked = session.store.list("releases/", after=held)
    deployments = session.store.newest(
        f"environments/{settings.environment}/",
        [(_deployment_of(settings.environment), DEPLOYMENTS)],
        recent(session, settings.environment),
        read=False,
        after=held,
    )
    named = session.store.directories("environments/", after=held)
    listed = _by_release(asked.answer().keys)
    stored = [release for release, keys in listed.items() if record_key(release) in keys]
    known_here = set(stored)
    orphans = [release for release in listed if release not in known_here and not is_recent(release, now)]
    all_stay = _Swept(tuple(listed), _newest(deployments.answer().keys, settings.environment))
    # What was built within the last day stays anyway, however many there are.
    if not orphans and (len(stored) <= keep or all(is_recent(release, now) for release in stored)):
        return all_stay
    deployed = _since(session, named.answer().names, min(listed))
    known = {name: Known(deployed.history(session, name, keep, stored)) for name in deployed.environments}
    known[settings.environment] = replace(known.get(settings.environment, Known(History())), live=live)
    if unknown := unreadable(known, now):
        return replace(all_stay, unreadable=unknown)
    guarded = protected(known, now)
    left = [release for release in orphans if release not in guarded]
    going = _of_this_application(session, doomed(stored, known, keep, now), left)
    if not going:
        return all_stay
    _remove(session, going, listed, deployed.manifests(session, known))
    return replace(
        all_stay,
        staying=tuple(release for release in listed if release not in going),
        releases=tuple(
            RemovedRelease(release, record.size_bytes if (record := going[release]) is not None else None)
            for release in going
            if release in known_here
        ),
        leftovers=tuple(release for release in going if release not in known_here),
    )


def _of_this_application(
    session: Session, stored: Sequence[ReleaseId], left: Sequence[ReleaseId]
) -> Mapping[ReleaseId, Release | None]:
    """Of releases that may go, those that are ours, each with its record; None where that is gone or damaged.

    Several applications may have shared the store before it had an owner: what is not ours is not ours to remove.
    """
    texts = _read(session, [record_key(release) for release in stored])
    records = {release: _record(texts.get(record_key(release)), release) for release in stored}
    application = session.settings.application
    return {
        release: record
        for release in (*stored, *left)
        if (record := records.get(release)) is None or record.application == application
    }


def _remove(
    session: Session,
    going: Mapping[ReleaseId, Release | None],
    listed: Mapping[ReleaseId, Sequence[str]],
    manifests: Mapping[ReleaseId, Sequence[str]],
) -> None:
    """Remove each release, oldest first: whatever points to something else goes before it."""
    reuse = _build_records(session, going)
    for release in going:
        order = [
            *reuse[release],
            *manifests.get(release, ()),
            *(key for key in listed[release] if key.startswith(f"releases/{release}/manifests/")),
            *(key for key in (record_key(release), provenance_key(release)) if key in listed[release]),
            *listed[release],
        ]
        session.store.delete(list(dict.fromkeys(order))).answer()


def _by_release(keys: Iterable[str]) -> dict[ReleaseId, list[str]]:
    """What lies under each release's id, oldest release first. Whatever else is there is nobody's business.

    Nor are keys that a file manager of S3 makes for what it shows as directories: the worker deletes none.
    """
    found: dict[ReleaseId, list[str]] = {}
    for key in sorted(keys):
        _, name, *rest = key.split("/")
        if rest and is_release_id(name) and not {"", ".", ".."} & set(rest):
            found.setdefault(ReleaseId(name), []).append(key)
    return found


def _deployment_of(environment: str) -> str:
    """The pattern of all that a deployment writes; its group is the deployment's id."""
    return rf"environments/{re.escape(environment)}/deployments/({ids.DEPLOYMENT.pattern})[./].+"


def _newest(keys: Iterable[str], environment: str) -> tuple[DeploymentId, ...]:
    names = {found[1] for key in keys if (found := re.fullmatch(_deployment_of(environment), key))}
    return tuple(DeploymentId(name) for name in sorted(names)[-DEPLOYMENTS:])


def _read(session: Session, keys: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for begin in range(0, len(keys), READ_AT_ONCE):
        found |= read_texts(session, keys[begin : begin + READ_AT_ONCE])
    return found


def _record(text: str | None, release: ReleaseId) -> Release | None:
    try:
        return read_record(text or "", release)
    except ValueError:
        return None


def _build_records(
    session: Session, records: Mapping[ReleaseId, Release | None]
) -> Mapping[ReleaseId, tuple[str, ...]]:
    """The keys below builds/ that give each of these releases for reuse; usually one."""
    told = {record.build_key for record in records.values() if record is not None}
    keys = [build_record_key(key) for key in told]
    if None in records.values():
        # A release whose record is gone or damaged can't tell its key.
        keys = session.store.list("builds/").answer().keys
    found: dict[ReleaseId, list[str]] = {release: [] for release in records}
    for key, text in _read(session, keys).items():
        release = _named(text)
        if release in found:
            found[release].append(key)
    return {release: tuple(sorted(names)) for release, names in found.items()}


def _named(text: str) -> ReleaseId | None:
    try:
        return ReleaseId(str(read_json(text)["release"]))
    except (ValueError, LookupError, TypeError):
        return None


def _a_day_before(release: ReleaseId) -> str:
    """A day, as the clocks of two build servers may differ; empty, which is before all, for an id that is no time."""
    try:
        return ids.compact(ids.moment_of(release) - timedelta(days=1))
    except (ValueError, OverflowError):
        return ""


def _since(session: Session, environments: Sequence[str], oldest: ReleaseId) -> "_Deployed":
    """What was deployed in all environments that the store knows, since the oldest release was built.

    What was deployed before that is of releases that have gone, and so have its manifests.
    """
    begin = _a_day_before(oldest)
    asked = [
        session.store.list(below, below + begin)
        for below in (f"environments/{name}/deployments/" for name in environments)
    ]
    return _Deployed(tuple(environments), [key for each in asked for key in each.answer().keys])


@dataclass(frozen=True, slots=True)
class _Deployed:
    """What deployments have written, those that may be of a release that is still there."""

    environments: tuple[str, ...]
    keys: Sequence[str]
    #: environment and deployment → its manifests, and a role that it has one of
    _manifests: dict[tuple[str, DeploymentId], list[str]] = field(default_factory=dict)
    _roles: dict[tuple[str, DeploymentId], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in sorted(self.keys):
            if found := _MANIFEST.fullmatch(key):
                place = (found[1], DeploymentId(found[2]))
                self._manifests.setdefault(place, []).append(key)
                self._roles[place] = found[3]

    def history(self, session: Session, environment: str, keep: int, stored: Collection[ReleaseId]) -> History:
        """The environment's history, as far back as it takes."""
        history = read_history(session, environment, lambda found: reaches_back(found, keep, stored))
        deployments = tuple(
            each if each.release else replace(each, release=self._release(session, environment, each.id))
            for each in history.deployments
        )
        return replace(history, deployments=deployments)

    def _release(self, session: Session, environment: str, deployment: DeploymentId) -> ReleaseId | None:
        """By its manifest: a deployment of an older deploytool that was killed has written nothing else."""
        role = self._roles.get((environment, deployment))
        return release_of(session, environment, deployment, role) if role is not None else None

    def manifests(self, session: Session, environments: Mapping[str, Known]) -> Mapping[ReleaseId, list[str]]:
        """The manifests of all deployments, by release; without those of which nobody can tell."""
        releases = {
            (environment, each.id): each.release
            for environment, known in environments.items()
            for each in known.history.deployments
        }
        older = [place for place in self._manifests if place not in releases]
        texts = _read(session, [key for place in older for key in (begun_key(*place), deployment_record_key(*place))])
        for place in older:
            record, begun = texts.get(deployment_record_key(*place)), texts.get(begun_key(*place))
            releases[place] = read_deployment(place[1], record, begun).release or self._release(session, *place)
        found: dict[ReleaseId, list[str]] = {}
        for place, keys in self._manifests.items():
            if (release := releases[place]) is not None:
                found.setdefault(release, []).extend(keys)
        return found
