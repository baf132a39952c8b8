"""The one place where values become shell text. A script is a head of quoted assignments and a body without any value.

Variables of ours are called `d_…`, so that they cannot meet a variable of the user's.
"""

import re
import shlex
from collections.abc import Mapping, Sequence

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def quote(value: str) -> str:
    return shlex.quote(value)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a shell variable")
    return name


def assignments(variables: Mapping[str, str | Sequence[str]]) -> str:
    """Lines that set the variables; a sequence becomes a bash array."""
    lines = []
    for name, value in variables.items():
        word = quote(value) if isinstance(value, str) else "(" + shlex.join(value) + ")"
        lines.append(_checked(name) + "=" + word)
    return "\n".join(lines)


def _directory(entry: str) -> str:
    """One entry of PATH; `~` at its start is the home directory on the build server."""
    if entry == "~" or entry.startswith("~/"):
        return '"$HOME"' + (quote(entry[1:]) if entry[1:] else "")
    return quote(entry)


def environment(env: Mapping[str, str], path: Sequence[str] = ()) -> str:
    """Lines that export `env` and put the entries of `path` before PATH."""
    lines = ["export " + _checked(name) + "=" + quote(value) for name, value in env.items()]
    if path:
        lines.append("export PATH=" + ":".join(map(_directory, path)) + '"${PATH:+:$PATH}"')
    return "\n".join(lines)


def script(*parts: str) -> str:
    return "\n".join(part.strip("\n") for part in parts if part.strip("\n")) + "\n"
