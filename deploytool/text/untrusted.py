"""What others wrote: hosts, repositories, whoever may write to store and bus. How it is read, and how it may be shown.

The one room for that, on both sides of the line. Whatever reaches a screen, a log of CI's or a message passes through
`printable` or `one_line` there, whoever wrote it; texts are kept and compared as they came.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Union

#: All that moves a cursor, forges a line, or has a line read in another order, and halves of surrogate pairs, which no
#: file takes: C0, DEL, C1, the marks and overrides of direction, the separators of lines and paragraphs.
CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")

TAB_COLUMNS = 4

#: Nothing that anybody means is nested so deeply; what is would end in a RecursionError, here or where it is shown.
DEEPEST = 60


def printable(text: str) -> str:
    """The text as what can be shown within one line: a replacement character for each that is not of it."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.expandtabs(TAB_COLUMNS))


def one_line(text: str) -> str:
    """The same of a text that may have several lines: they stand beside each other, with `; ` between."""
    return printable("; ".join(text.splitlines()))


def read_json(text: Union[str, bytes]) -> Any:
    """The value that a JSON text has. Raises ValueError for what is none, or could not be written as JSON again.

    Python's own reader takes `NaN`, makes infinity of `1e999`, and dies of deep nesting.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _within(each)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _within(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse(name: str) -> None:
    raise ValueError("{} is not a number in JSON".format(name))


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("{}… is a number out of range".format(text[:20]))
    return number
