"""Moments and ids as text, for both ends: records say `2026-11-23T06:22:33Z`, ids begin with `20261123T062233Z`."""

from __future__ import annotations

import re
from datetime import datetime, timezone

RELEASE = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{7}")
DEPLOYMENT = re.compile(r"[0-9]{8}T[0-9]{6}Z[a-z0-9]{4}")
#: what an id begins with: so many characters
MOMENT = re.compile(r"[0-9]{8}T[0-9]{6}Z")
MOMENT_LENGTH = 16

#: A host's name on the bus: one word, without a slash. It stands in keys, and on a line of what is signed.
NODE = re.compile(r"[^\s/\x00-\x20\x7f-\x9f]+")

#: Clocks of build servers differ by less. What lies further ahead was written by nobody's clock.
AHEAD_SECONDS = 86400.0

_RECORD_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_ID_FORMAT = "%Y%m%dT%H%M%SZ"


def recorded(moment: datetime) -> str:
    return moment.strftime(_RECORD_FORMAT)


def read(text: str) -> datetime:
    """A moment as records have it. Raises ValueError."""
    return datetime.strptime(text, _RECORD_FORMAT).replace(tzinfo=timezone.utc)


def compact(moment: datetime) -> str:
    """In the form that ids begin with, which sorts by time."""
    return moment.strftime(_ID_FORMAT)


def moment_of(name: str) -> datetime:
    """When a release or deployment was made, by its id. Raises ValueError for what begins with no moment."""
    return datetime.strptime(name[:MOMENT_LENGTH], _ID_FORMAT).replace(tzinfo=timezone.utc)


def why_impossible(name: str, moment: datetime) -> str | None:
    """Why no build server can have made this id by that moment, as the rest of a sentence; None if one can."""
    try:
        ahead = (moment_of(name) - moment).total_seconds()
    except ValueError:
        return "begins with no time"
    return "is of {}, {:.0f} days ahead".format(name[:8], ahead / 86400) if ahead > AHEAD_SECONDS else None


def now() -> datetime:
    return datetime.now(timezone.utc)


def deployment_in(wanted: str | None) -> str | None:
    """The deployment that a value of `wanted` names, `<deployment> <manifest URL>`; None if it names none."""
    name = (wanted or "").partition(" ")[0]
    return name if DEPLOYMENT.fullmatch(name) else None
