"""Where a deployment is, in one word, and what may come next. Pure.

The model is Nomad's deployment watcher: one status, and a sentence for people.

                 announce   fetch    go       pause   halt    verify    fail    abort    lose     leave
    building     announced  -        -        -       -       -         -       aborted  unknown  -
    announced    -          fetched  -        -       -       -         -       aborted  unknown  -
    fetched      -          -        rolling  -       -       -         -       aborted  unknown  -
    rolling      -          -        -        paused  halted  verified  failed  -        -        unverified
    unknown      -          -        rolling  -       -       -         -       -        -        -

All other statuses are ends. An event that has no place in the row of a status is a bug.
"""

import contextlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from deploytool.errors import FleetError


class Status(StrEnum):
    #: nothing is announced yet
    BUILDING = "building"
    #: hosts were notified, and download
    ANNOUNCED = "announced"
    #: every expected host holds the archive
    FETCHED = "fetched"
    #: hosts were let go, and switch
    ROLLING = "rolling"
    #: it ended after a wave, as the settings ask; the other hosts wait for `promote`
    PAUSED = "paused"
    #: too many hosts failed, or a hook objected: no more hosts were let go
    HALTED = "halted"
    #: every expected host has proved the release
    VERIFIED = "verified"
    #: all hosts were let go, and one at least has not proved the release
    FAILED = "failed"
    #: no host was let go
    ABORTED = "aborted"
    #: hosts were let go, and the command did not wait for all of them
    UNVERIFIED = "unverified"
    #: whether hosts were let go is unknown
    UNKNOWN = "unknown"

    @property
    def let_go(self) -> bool | None:
        """Whether hosts were let go, so that some may have switched; None if that is unknown."""
        if self is Status.UNKNOWN:
            return None
        return self not in (Status.BUILDING, Status.ANNOUNCED, Status.FETCHED, Status.ABORTED)


class Event(StrEnum):
    ANNOUNCE = "announce"
    FETCH = "fetch"
    GO = "go"
    PAUSE = "pause"
    HALT = "halt"
    VERIFY = "verify"
    FAIL = "fail"
    #: taken back before any host was let go
    ABORT = "abort"
    #: it can't be seen whether hosts were let go
    LOSE = "lose"
    #: the operator does not wait any longer
    LEAVE = "leave"


_NEXT: Mapping[Status, Mapping[Event, Status]] = {
    Status.BUILDING: {Event.ANNOUNCE: Status.ANNOUNCED, Event.ABORT: Status.ABORTED, Event.LOSE: Status.UNKNOWN},
    Status.ANNOUNCED: {Event.FETCH: Status.FETCHED, Event.ABORT: Status.ABORTED, Event.LOSE: Status.UNKNOWN},
    Status.FETCHED: {Event.GO: Status.ROLLING, Event.ABORT: Status.ABORTED, Event.LOSE: Status.UNKNOWN},
    Status.ROLLING: {
        Event.PAUSE: Status.PAUSED,
        Event.HALT: Status.HALTED,
        Event.VERIFY: Status.VERIFIED,
        Event.FAIL: Status.FAILED,
        Event.LEAVE: Status.UNVERIFIED,
    },
    Status.UNKNOWN: {Event.GO: Status.ROLLING},
}


def after(status: Status, event: Event) -> Status:
    """The status that comes next. Raises ValueError for an event that can't come now."""
    try:
        return _NEXT[status][event]
    except KeyError:
        raise ValueError(f"a deployment that is {status} can't {event}") from None


def at_its_end(status: Status) -> Status:
    """What a deployment has become that ends here, whatever the reason."""
    if status is Status.ROLLING:
        return after(status, Event.LEAVE)
    return after(status, Event.ABORT) if Event.ABORT in _NEXT.get(status, {}) else status


def recorded(record: Mapping[str, Any], let_go: bool | None) -> Status:
    """The status of a deployment that has ended, by its record; `let_go` is whether its hosts were let go.

    Versions before wrote no status: their records say the same in other words.
    """
    with contextlib.suppress(ValueError):
        return Status(str(record.get("status")))
    for status in (Status.HALTED, Status.PAUSED):
        if record.get(status) is True:
            return status
    if not let_go:
        return Status.UNKNOWN if let_go is None else Status.ABORTED
    if record.get("exit_code") == FleetError.exit_code:
        return Status.FAILED
    seen = record.get("verified", bool(record.get("hosts")))
    return Status.VERIFIED if seen is True and record.get("exit_code") == 0 else Status.UNVERIFIED
