"""The part of Go's template language that stretcher after 1.1.0 offers in manifests and that people write. Pure.

Known are `{{ env "A" "default" … }}`, `{{ must_env "A" }}`, literals (`` {{ `{{` }} `` yields two braces), comments,
and the white space trimmed by `{{- ` and ` -}}`. Everything else in braces is refused, also where stretcher would
know it: `json_escape`, pipelines, `if`, `range`, variables.
"""

import re
from collections.abc import Mapping

from deploytool.playground.receiver import ReceiverError

#: What Go's templates take for white space.
_SPACE = r"[ \t\r\n]"
_LITERAL = r'"(?:[^"\\\n]|\\[^\n])*"|`[^`]*`'
_ACTION = re.compile(
    rf"""\{{\{{(?P<trim_left>-(?={_SPACE}))?
    (?: (?P<comment>{_SPACE}*/\*.*?\*/)
      | (?P<call>{_SPACE}*(?:(?P<name>\w+)(?={_SPACE}))?(?P<words>(?:{_SPACE}*(?:{_LITERAL}))*))
    ){_SPACE}*(?P<trim_right>(?<={_SPACE})-)?\}}\}}""",
    re.VERBOSE | re.DOTALL,
)
_ADJACENT = re.compile(rf"(?:{_LITERAL})(?:{_LITERAL})")
_ESCAPE = re.compile(
    r"\\(?:(?P<plain>[abfnrtv\\\"])|x(?P<byte>[0-9a-fA-F]{2})|(?P<octal>[0-3][0-7]{2})"
    r"|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|(?P<wrong>.))",
    re.DOTALL,
)
_PLAIN_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


def expand(text: str, environment: Mapping[str, str]) -> str:
    """`text` with its template actions carried out.

    `env` yields the first of the named variables that is set and not empty, else its last word. Raise ReceiverError
    for an unset variable of `must_env`, and for what only stretcher knows.
    """
    done: list[str] = []
    position = 0
    trims = False
    while (start := text.find("{{", position)) >= 0:
        action = _ACTION.match(text, start)
        if action is None:
            raise _unknown(text, start)
        before = text[position:start]
        if trims:
            before = before.lstrip(" \t\r\n")
        done += [before.rstrip(" \t\r\n") if action["trim_left"] else before, _value(text, action, environment)]
        position = action.end()
        trims = action["trim_right"] is not None
    rest = text[position:]
    return "".join([*done, rest.lstrip(" \t\r\n") if trims else rest])


def _value(text: str, action: re.Match[str], environment: Mapping[str, str]) -> str:
    if action["comment"] is not None:
        return ""
    if _ADJACENT.search(action["words"]):
        raise _unknown(text, action.start())
    words = [_literal(text, action.start(), word) for word in re.findall(_LITERAL, action["words"])]
    match action["name"], words:
        case None, [literal]:
            return literal
        case "env", _:
            return next((environment[name] for name in words if environment.get(name)), words[-1] if words else "")
        case "must_env", [name]:
            if name not in environment:
                raise ReceiverError(f"The manifest needs the environment variable {name}, which is not set (must_env).")
            return environment[name]
    raise _unknown(text, action.start())


def _literal(text: str, start: int, word: str) -> str:
    if word.startswith("`"):
        return word[1:-1].replace("\r", "")

    def one(escape: re.Match[str]) -> str:
        if escape["plain"]:
            return _PLAIN_ESCAPES[escape["plain"]]
        if digits := escape["short"] or escape["long"]:
            code = int(digits, 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise _unknown(text, start)
            return chr(code)
        if escape["wrong"]:
            raise _unknown(text, start)
        return chr(int(escape["byte"], 16) if escape["byte"] else int(escape["octal"], 8))

    return _ESCAPE.sub(one, word[1:-1])


def _unknown(text: str, start: int) -> ReceiverError:
    line = text.count("\n", 0, start) + 1
    shown = text[start : start + 40].split("\n")[0]
    return ReceiverError(
        f"Line {line} of the manifest has {shown!r}: the built-in receiver knows only env, must_env, literals and "
        "comments between two braces.",
        hint="write {{`{{`}} for two braces; for more of Go's templates use stretcher itself.",
    )
