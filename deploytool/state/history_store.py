"""An environment's history in the store: reading it, and adding to it. What is written is never changed again.

A deployment writes twice: `begun.json` before its manifests, which claims its release, and its record at its end.
"""

import json
import random
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from deploytool.connection.client import Asked, Pending
from deploytool.model.history import (
    Deployment,
    History,
    Mark,
    MigratedAfter,
    read_deployment,
    read_learned,
    read_mark,
    with_learned,
)
from deploytool.model.release import (
    DeploymentId,
    ReleaseId,
    begun_key,
    deployment_record_key,
    manifest_key,
    mark_key,
    migrated_after_key,
)
from deploytool.session import Session
from deploytool.text import ids
from deploytool.worker.wire import Newest

#: So many deployments are read at first where there is a question; if they do not answer it, five times as many. Each
#: costs the build server two requests, and the last few answer nearly always.
AT_FIRST = 20
#: So many where they are shown.
NEWEST = 100
#: Of a long history only so many last days are listed, if these have that many deployments; else more.
RECENT_DAYS = (7, 30, 365)

#: Held while anything is removed from the store, and by every deployment while it makes sure of its release and claims
#: it. No environment's name begins with a dot.
RETENTION_LOCK = ".retention"

_DEPLOYMENT = re.compile(rf"environments/[^/]+/deployments/({ids.DEPLOYMENT.pattern})(\.json|/begun\.json|/[^/]+\.yml)")
#: What tells of a deployment; the first group is its id.
_RECORD = re.compile(rf"environments/[^/]+/deployments/({ids.DEPLOYMENT.pattern})(?:\.json|/begun\.json)")
_MARK = re.compile(rf"environments/[^/]+/marks/({ids.RELEASE.pattern})/({ids.DEPLOYMENT.pattern})\.json")
_MIGRATED_AFTER = re.compile(
    rf"environments/[^/]+/migrated_after/({ids.RELEASE.pattern})/({ids.DEPLOYMENT.pattern})\.json"
)
_SRC = re.compile(r"^src:.*/releases/([^/\"]+)/", re.MULTILINE)


def ask_history(
    session: Session, environment: str, *, newest: int = AT_FIRST, after: Asked | None = None
) -> Pending[Newest]:
    """Ask for what `read_history` needs in most cases: the `newest` deployments, and all marks."""
    return session.store.newest(
        f"environments/{environment}/",
        [(_RECORD.pattern, newest), (_MARK.pattern, None)],
        recent(session, environment),
        after=after,
    )


def recent(session: Session, environment: str) -> list[str]:
    """Where to begin in the store with an environment's newest deployments: after these keys, the latest first.

    Marks, and what was migrated by hand, come after all deployments.
    """
    now = session.now()
    return [f"environments/{environment}/deployments/{now - timedelta(days=days):%Y%m%d}" for days in RECENT_DAYS]


def read_history(
    session: Session,
    environment: str,
    enough: Callable[[History], bool] | None = None,
    *,
    asked: Pending[Newest] | None = None,
) -> History:
    """The newest deployments of the environment, and all its marks: as many as it takes until that is `enough`.

    Without `enough`, the `NEWEST`. `asked` is the question, if it was put already. Raises StoreError if the store
    can't be read.
    """
    newest = NEWEST if enough is None else AT_FIRST
    answer = (asked or ask_history(session, environment, newest=newest)).answer()
    keys, whole, texts = answer.keys, answer.whole, _present(answer.contents)
    names = _deployments(keys)
    marked = [found for key in keys if (found := _MARK.fullmatch(key))]
    marks = [read_mark(found[2], ReleaseId(found[1]), texts.get(found[0])) for found in marked]
    marks.sort(key=lambda mark: mark.moment)
    by_hand = tuple(
        MigratedAfter(ReleaseId(found[1]), found[2]) for key in keys if (found := _MIGRATED_AFTER.fullmatch(key))
    )
    present, deployments = set(keys), list[Deployment]()
    while True:
        fresh = names[len(deployments) : newest]
        both = [
            key for name in fresh for key in (begun_key(environment, name), deployment_record_key(environment, name))
        ]
        texts |= read_texts(session, [key for key in both if key in present and key not in texts])
        deployments += [
            read_deployment(
                name, texts.get(deployment_record_key(environment, name)), texts.get(begun_key(environment, name))
            )
            for name in fresh
        ]
        history = History(tuple(reversed(deployments)), tuple(marks), by_hand)
        history = with_learned(history, (each for known in deployments for each in read_learned(known.record)))
        if enough is None or enough(history):
            return history
        if newest >= len(names):
            if whole:
                return history
            keys, whole = session.store.list(f"environments/{environment}/").answer().keys, True
            present, names = set(keys), _deployments(keys)
        newest *= 5


def _deployments(keys: Iterable[str]) -> list[DeploymentId]:
    """Those that have keys, newest first."""
    return sorted({DeploymentId(found[1]) for key in keys if (found := _DEPLOYMENT.fullmatch(key))}, reverse=True)


def read_texts(session: Session, keys: Sequence[str]) -> Mapping[str, str]:
    """The objects of these keys that the store has."""
    if not keys:
        return {}
    return _present(session.store.read(keys).answer().contents)


def _present(contents: Mapping[str, str | None]) -> dict[str, str]:
    return {key: text for key, text in contents.items() if text is not None}


def release_of(session: Session, environment: str, deployment: DeploymentId, role: str | None) -> ReleaseId | None:
    """The release that a deployment is about; None if the store does not tell.

    By what it wrote when it began or ended; for deployments from before that was written, by the manifest of `role`.
    """
    begun, record = begun_key(environment, deployment), deployment_record_key(environment, deployment)
    manifest = manifest_key(environment, deployment, role) if role is not None else None
    texts = read_texts(session, [begun, record, *([manifest] if manifest else [])])
    found = read_deployment(deployment, texts.get(record), texts.get(begun)).release
    if found is None and manifest and (src := _SRC.search(texts.get(manifest, ""))):
        found = ReleaseId(src[1]) if ids.RELEASE.fullmatch(src[1]) else None
    return found


def write_begun(
    session: Session, deployment: DeploymentId, content: Mapping[str, Any], *, after: Asked | None = None
) -> Asked:
    """Claim the deployment's release, without waiting for the answer."""
    return put(session, begun_key(session.settings.environment, deployment), content, after=after)


def write_mark(session: Session, mark: Mark) -> None:
    """Add a person's word. Raises StoreError."""
    content = {
        "release": mark.release,
        "good": mark.good,
        "why": mark.why,
        "operator": mark.operator,
        "at": mark.moment,
    }
    put(session, mark_key(session.settings.environment, mark.release, mark.moment), content).answer()


def write_migrated_after(session: Session, release: ReleaseId) -> None:
    """Write down that the release's `build.migrate_after` was run by hand. Raises StoreError."""
    moment = moment_name(session.now())
    content = {"release": release, "operator": session.operator.name, "at": moment}
    put(session, migrated_after_key(session.settings.environment, release, moment), content).answer()


def put(session: Session, key: str, content: Mapping[str, Any], *, after: Asked | None = None) -> Asked:
    return session.store.put([(key, json.dumps(content, indent=2) + "\n")], after=after)


def moment_name(moment: datetime) -> str:
    """A name in the form of a deployment's id that sorts by time: its last characters are the microseconds."""
    digits = string.digits + string.ascii_lowercase
    left, text = moment.microsecond, ""
    for _ in range(4):
        left, digit = divmod(left, len(digits))
        text = digits[digit] + text
    return ids.compact(moment) + text


def random_characters() -> str:
    return "".join(random.SystemRandom().choices(string.ascii_lowercase + string.digits, k=4))
