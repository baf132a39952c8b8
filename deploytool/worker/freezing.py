"""An environment that takes no deploys for a while, only rollbacks: one key says who froze it, when and why.

The key is `deploytool/<application>/<environment>/frozen`, a JSON object of `why`, `operator` and `at`. Whatever else
stands there freezes as well: somebody meant it.
"""

from __future__ import annotations

import json
from typing import Optional

from deploytool.text.untrusted import read_json

from .bus import Bus
from .failure import Failure
from .wire import Freeze

#: How often it is tried again when the key changes between our look and our write.
TRIES = 10


def _key(prefix: str) -> str:
    return "{}/frozen".format(prefix)


def _told(value: str) -> Freeze:
    """What the key says, with words for what it doesn't."""
    try:
        content = read_json(value)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        content = {"why": value.strip()}
    return Freeze(
        why=str(content.get("why") or "no reason was given"),
        operator=str(content.get("operator") or "somebody"),
        at=str(content.get("at") or "an unknown time"),
    )


def read(bus: Bus, prefix: str) -> Optional[Freeze]:
    """Who froze the environment, when and why; None if it is not frozen."""
    entry = bus.get(_key(prefix))
    return _told(entry.value) if entry is not None else None


def refusal(prefix: str, told: Freeze) -> Failure:
    return Failure(
        "locked",
        "{} is {}".format(prefix.rpartition("/")[2], told.words),
        hint="wait until it is lifted; `fab ENV thaw` lifts it",
    )


def freeze(bus: Bus, prefix: str, *, why: str, operator: str, at: str) -> Freeze:
    """Freeze the environment. One that is frozen already is a Failure that says by whom: of two at once one wins."""
    told = Freeze(why, operator, at)
    value = json.dumps(told._asdict(), ensure_ascii=False, sort_keys=True)
    for _ in range(TRIES):
        if bus.put(_key(prefix), value, expected_index=0):
            return told
        current = bus.get(_key(prefix))
        if current is None:
            # Thawed this very moment.
            continue
        if current.value == value:
            # Written, and the answer was lost: the call was repeated.
            return told
        raise refusal(prefix, _told(current.value))
    raise _restless(prefix)


def thaw(bus: Bus, prefix: str) -> Optional[Freeze]:
    """Lift it; returns what it was, None if the environment was not frozen."""
    for _ in range(TRIES):
        current = bus.get(_key(prefix))
        if current is None:
            return None
        if bus.delete(_key(prefix), expected_index=current.modified):
            return _told(current.value)
    raise _restless(prefix)


def _restless(prefix: str) -> Failure:
    return Failure(
        "consul",
        "the key {} changed each time under our hands".format(_key(prefix)),
        hint="somebody freezes and thaws at this moment; look who, and try again",
    )
