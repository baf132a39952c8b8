"""Placeholder paths of pretend hosts, each put in its real place in a manifest's text, as a chroot would. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deploytool.playground.receiver import ReceiverError

#: In a text that is YAML with shell in it: what ends or changes a quoted word in either of them.
_BREAKS_QUOTING = re.compile(r"""['"\\{}$`\x00-\x1f\x7f]|: | #""")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """The path `placeholder` stands for the path `place`."""

    placeholder: str
    place: str


def parse(said: str) -> Placeholder:
    """`FROM=TO` of the option --map. Raise ReceiverError if one of them could not stand in a manifest safely."""
    placeholder, equals, place = said.partition("=")
    if not equals or not re.fullmatch(r"(?:/[\w.-]+)+", placeholder, re.ASCII):
        raise ReceiverError(
            f"--map {said}: must be FROM=TO, where FROM is an absolute path of letters, digits, '.', '_' and '-'."
        )
    if not place.startswith("/"):
        raise ReceiverError(f"--map {said}: TO must be an absolute path.")
    if found := _BREAKS_QUOTING.search(place):
        raise ReceiverError(
            f"--map {said}: TO holds {found[0]!r}, which would break the quoting of the manifest or of its commands.",
            hint="choose a path without quotes, backslashes, braces, dollar signs, line breaks, ': ' and ' #'.",
        )
    return Placeholder(placeholder, place.rstrip("/") or "/")


def put_in_place(text: str, placeholders: Sequence[Placeholder]) -> str:
    """`text` with each placeholder, alone or with more path behind it, replaced once; the longest one counts."""
    if not placeholders:
        return text
    places = {each.placeholder: each.place for each in placeholders}
    longest_first = sorted(places, key=len, reverse=True)
    # /pretend/host1 is not in /pretend/host10 nor in /pretend/host1.bak.
    pattern = re.compile("(?:" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])(?!\.\w)")
    return pattern.sub(lambda found: places[found[0]], text)
