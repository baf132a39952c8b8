"""How strong the proof of a release is. Pure: words for what a host reports, and for what the settings ask of it."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploytool.settings.model import Verify

#: weakest first, by the word in a host's report (templates/host/verify.sh)
PROOFS: Mapping[str, str] = {
    "link": "link only: `current` points to it",
    "process": "its processes run",
    "command": "its own command confirms it",
    "listening": "its processes listen and take connections",
    "answers": "its URL answers",
    "revision": "its URL answers with this release",
}

_ORDER = tuple(PROOFS)


def known_proof(word: str) -> str:
    """The word, if it is one of PROOFS; else nothing: any host may write anything."""
    return word if word in PROOFS else ""


def asked_proof(verify: "Verify") -> str:
    """The strength of the proof that a role's `verify` asks for, one of PROOFS."""
    if verify.url:
        return "revision" if re.search(r"\{\{-?\s*(revision|release)\b", verify.expect or "") else "answers"
    if verify.port:
        return "listening"
    if verify.command:
        return "command"
    return "process" if verify.pid_file else "link"


def is_weaker(one: str, other: str) -> bool:
    """Whether `one` proves less than `other`; both are of PROOFS."""
    return _ORDER.index(one) < _ORDER.index(other)


def weakest(words: list[str]) -> str:
    """The weakest of these, each of PROOFS."""
    return min(words, key=_ORDER.index)
