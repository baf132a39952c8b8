"""What an application told Capistrano, as far as it stands there in plain literals. Pure: runs no Ruby.

Nothing is guessed: a value that Ruby would have to compute, or a statement that only may run, is named as unclear.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

Value = str | int | tuple[str, ...]

#: Capistrano's name → ours; `repository` was the name in Capistrano 2.
NAMES: Mapping[str, str] = {
    "application": "application",
    "repo_url": "repository",
    "repository": "repository",
    "branch": "branch",
    "deploy_to": "deploy_to",
    "keep_releases": "keep_releases",
    "linked_dirs": "linked_dirs",
    "linked_files": "linked_files",
}
_LISTS = ("linked_dirs", "linked_files")

_STATEMENT = re.compile(
    rf"^(?P<indent>[ \t]*)(?P<verb>set|append|remove|ask)\b[ \t]*\(?[ \t]*:(?P<name>{'|'.join(NAMES)})\b[ \t]*,\s*",
    re.MULTILINE,
)
#: Without interpolation and escapes.
_STRING = r"""'[^'\\\n]*'|"(?:[^"\\#\n]|\#(?!\{))*\""""
_STRINGS = rf"(?:{_STRING})(?:\s*,\s*(?:{_STRING}))*,?"
_LITERAL = re.compile(
    rf"""
    (?: (?P<number>\d+)
      | :(?P<symbol>\w+)
      | (?: fetch\([ ]*:(?P<before>\w+)(?:,[ ]*\[\])?[ ]*\)[ ]*
            (?: \.(?:push|concat|append|union)\(\s* | (?:\+|\||<<)\s* )
        )?
        (?: \*?%[wW]
            (?: \{{(?P<braces>[^{{}}\#\\]*)\}} | \[(?P<brackets>[^\[\]\#\\]*)\] | \((?P<parens>[^()\#\\]*)\) )
          | \*?\[?\s*(?P<strings>{_STRINGS})\s*\]?
        )
    )
    \s*\)?\)?[ \t]*(?:\#.*)?$
    """,
    re.VERBOSE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Capistrano:
    """What was said, by our names of the settings."""

    values: Mapping[str, Value]
    #: Capistrano's names of what is said, but not in a plain literal
    unclear: tuple[str, ...]


def read_capistrano(text: str) -> Capistrano:
    """What `text`, a Capfile or a `config/deploy.rb`, says of the settings that we have as well."""
    values: dict[str, Value] = {}
    unclear: dict[str, None] = {}
    for statement in _STATEMENT.finditer(text):
        name, ours = statement["name"], NAMES[statement["name"]]
        literal = _LITERAL.match(text, statement.end())
        value = _value(literal, ours) if literal and not statement["indent"] and statement["verb"] != "ask" else None
        if literal and literal["before"] not in (None, name):
            # What another name says.
            value = None
        if value is None:
            unclear[name] = None
            continue
        before = values.get(ours, ())
        if isinstance(before, tuple) and isinstance(value, tuple):
            if statement["verb"] == "remove":
                value = tuple(each for each in before if each not in value)
            elif statement["verb"] == "append" or (literal and literal["before"]):
                value = tuple(dict.fromkeys((*before, *value)))
        values[ours] = value
    known = {ours: value for ours, value in values.items() if not any(NAMES[name] == ours for name in unclear)}
    return Capistrano(known, tuple(unclear))


def _value(literal: re.Match[str], ours: str) -> Value | None:
    """The literal as a setting of ours takes it; None if it is of another kind."""
    words = next((literal[kind] for kind in ("braces", "brackets", "parens") if literal[kind] is not None), None)
    texts = tuple(words.split()) if words is not None else _texts(literal["strings"])
    if ours in _LISTS:
        return texts
    if ours == "keep_releases":
        return int(literal["number"]) if literal["number"] else None
    if literal["symbol"]:
        return literal["symbol"]
    return texts[0] if texts and len(texts) == 1 and words is None else None


def _texts(strings: str | None) -> tuple[str, ...] | None:
    return None if strings is None else tuple(found[1:-1] for found in re.findall(_STRING, strings))
