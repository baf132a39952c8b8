"""`fab ENV settings`: what was set, what the recipe adds, and the defaults on request. Pure."""

import json
from collections.abc import Sequence

from deploytool.screen.page import wrapped
from deploytool.settings import EffectiveSetting
from deploytool.settings.files import is_shared
from deploytool.text.words import counted

_DEFAULT = "default"
#: In a narrower column every word of a value would be on a line of its own.
_NARROWEST = 24


def lines(rows: Sequence[EffectiveSetting], environment: str, *, every: bool, width: int | None) -> list[str]:
    """The settings, each below the file or recipe that it comes from; `width` is the terminal's, None without one."""
    shown = [row for row in rows if every or row.source != _DEFAULT]
    column = max((len(row.path) for row in shown), default=0) + 4
    beside = width is None or width - column >= _NARROWEST
    text = []
    for source in sorted({row.source for row in shown}, key=_rank):
        text.append(source)
        for path, value in ((row.path, row.value) for row in shown if row.source == source):
            own = [] if _has_lines(value) or not beside else wrapped(_words(value), width and width - column)
            if not own or (len(own) > 1 and isinstance(value, list)):
                text += [f"  {path}", *_block(value, width)]
            else:
                text += [f"  {path:<{column - 2}}{own[0]}", *(" " * column + line for line in own[1:])]
    if left := len(rows) - len(shown):
        rest = f"{counted(left, 'more setting')} at the default; show all: fab {environment} settings --all"
        text += wrapped(rest, width)
    return text


def _rank(source: str) -> tuple[bool, bool, bool]:
    """The file for all environments, the environment's own, the recipe, the defaults."""
    return source == _DEFAULT, not source.endswith(".yml"), not is_shared(source)


def _block(value: object, width: int | None) -> list[str]:
    """A value on lines of its own: as it is, and the items of a list one below the other."""
    if not isinstance(value, list):
        return [f"    {line}" for line in _code(_words(value), width and width - 4)]
    text = []
    for item in map(_words, value):
        first, *others = _code(item, width and width - 6)
        text += [f"    - {first}", *(f"      {line}".rstrip() for line in others)]
    return text or ["    []"]


def _code(text: str, width: int | None) -> list[str]:
    return [part for line in text.split("\n") for part in wrapped(line, width)]


def _has_lines(value: object) -> bool:
    return any("\n" in item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str))


def _words(value: object) -> str:
    """Texts as they are, all else as JSON."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
