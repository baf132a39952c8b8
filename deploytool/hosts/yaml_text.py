"""Texts as YAML, in a way that each YAML and each stretcher reads the same. Pure."""

import json
import re

OPENING_BRACES = "{" * 2


#: What YAML takes as it is, both 1.1 and 1.2: no line separators but \n, no byte order mark, no control characters.
_PLAIN = re.compile(r"[\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*")


def yaml_scalar(text: str, indent: int = 2) -> str:
    """One YAML value that reads as exactly `text`, without two opening braces in a row.

    Several lines make a literal block, `indent` spaces deep; everything else is double-quoted, and so is a text that
    needs escapes.
    """
    lines = text.split("\n")
    is_literal = (
        len(lines) > 1
        and OPENING_BRACES not in text
        and _PLAIN.fullmatch(text) is not None
        and not text.endswith("\n")
        and all(line == "" or line.strip(" \t") for line in lines)
        and lines[0][:1] not in ("", " ", "\t")
    )
    if is_literal:
        return "\n".join(["|-", *(" " * indent + line if line else "" for line in lines)])
    quoted = json.dumps(text, ensure_ascii=True)
    # JSON writes what is beyond 16 bits as two halves, which YAML does not join.
    quoted = re.sub(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", _joined, quoted)
    return re.sub(r"\{(?=\{)", r"\\x7b", quoted.replace("\x7f", r"\x7f"))


def _joined(halves: re.Match[str]) -> str:
    return f"\\U{0x10000 + ((int(halves[1], 16) - 0xD800) << 10) + int(halves[2], 16) - 0xDC00:08x}"
