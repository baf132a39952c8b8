"""rsync's exclude patterns, as its manual tells them. Pure.

A pattern without a slash is compared with the last name of a path, one with a slash with the end of the whole path; a
leading `/` ties it to the top of the tree, a trailing `/` makes it one for directories only. `*` and `?` stop at a
slash, `**` does not, `[…]` is one character out of a class, and `dir/***` is the directory with all that is in it. A
backslash takes the meaning from the next character, but only in a pattern that has a wildcard. The first rule that
fits decides; `+ pattern` is one that includes, and a lone `!` forgets all rules before it.

Left out: rsync's other filter rules (merge files, `--filter` modifiers), which neither of stretcher's two lists takes.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: POSIX classes, as bytes of ASCII.
_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": rb"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-/:-@\[-`{-~",
    b"space": rb"\t-\r ",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
#: Never matches.
_NOTHING = rb"(?!)"


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern, ready to be compared."""

    excludes: bool
    directories_only: bool
    #: Compared with the last name only, not with the path.
    name_only: bool
    #: A directory is shown to it with a slash at its end: `***` means what is in it, too.
    takes_directory_slash: bool
    expression: re.Pattern[bytes]

    def fits(self, path: bytes, *, is_directory: bool) -> bool:
        """`path` is relative to the top of the tree, without a slash at either end."""
        if self.directories_only and not is_directory:
            return False
        shown = path.rpartition(b"/")[2] if self.name_only else path
        end = b"/" if self.takes_directory_slash and is_directory else b""
        return self.expression.fullmatch(b"/" + shown + end) is not None


class Excludes:
    """All rules of one sync, in their order."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = tuple(rules)

    def leave_out(self, path: bytes, *, is_directory: bool) -> bool:
        """Whether this path takes no part: neither copied from the archive nor deleted from the destination."""
        first = next((rule for rule in self._rules if rule.fits(path, is_directory=is_directory)), None)
        return first is not None and first.excludes


def patterns_in_file(content: bytes) -> list[bytes]:
    """The patterns of an `exclude_from` file: a line each, but for empty ones and those that begin with `#` or `;`."""
    lines = re.split(rb"[\r\n]", content)
    return [line for line in lines if line and not line.startswith((b"#", b";"))]


def parse(patterns: Iterable[bytes]) -> Excludes:
    """The rules that `patterns` are."""
    rules: list[Rule] = []
    for text in patterns:
        if text == b"!":
            rules = []
        elif text[:2] in (b"- ", b"+ "):
            rules.append(_rule(text[2:], excludes=text[:1] == b"-"))
        elif text:
            rules.append(_rule(text, excludes=True))
    return Excludes(rules)


def _rule(pattern: bytes, *, excludes: bool) -> Rule:
    directories_only = len(pattern) > 1 and pattern.endswith(b"/")
    if directories_only:
        pattern = pattern[:-1]
    is_wild = re.search(rb"[*?[]", pattern) is not None
    crosses_slashes = is_wild and b"**" in pattern
    is_anchored = pattern.startswith(b"/")
    body = _wildcards(pattern[is_anchored:]) if is_wild else re.escape(pattern[is_anchored:])
    if is_anchored:
        start = rb"/"
    elif crosses_slashes and pattern.startswith(b"**"):
        # It begins at the top, with the slash there: so **/x finds the x at the top, too.
        start = rb""
    elif crosses_slashes:
        start = rb"(?:.*/)"
    else:
        # As many names as the pattern has, counting also a slash in a class, which matches nothing.
        start = rb"(?:.*/)(?=(?:[^/]*/){%d}[^/]*\Z)" % pattern.count(b"/")
    return Rule(
        excludes=excludes,
        directories_only=directories_only,
        name_only=b"/" not in pattern and not crosses_slashes,
        takes_directory_slash=is_wild and pattern.endswith(b"***"),
        expression=re.compile(start + body, re.DOTALL),
    )


def _wildcards(pattern: bytes) -> bytes:
    """A regular expression for a pattern with wildcards."""
    done: list[bytes] = []
    position = 0
    while position < len(pattern):
        character = pattern[position : position + 1]
        if character == b"*":
            end = position + len(pattern[position:]) - len(pattern[position:].lstrip(b"*"))
            done.append(rb"[^/]*" if end - position == 1 else rb".*")
            position = end
        elif character == b"[":
            expression, position = _class(pattern, position + 1)
            done.append(expression)
        elif character == b"\\" and position + 1 < len(pattern):
            done.append(re.escape(pattern[position + 1 : position + 2]))
            position += 2
        else:
            done.append(rb"[^/]" if character == b"?" else re.escape(character))
            position += 1
    return b"".join(done)


def _class(pattern: bytes, position: int) -> tuple[bytes, int]:
    """The regular expression of the class that begins after its bracket, and where it ends. None matches a slash."""
    negates = pattern[position : position + 1] in (b"!", b"^")
    position += negates
    members: list[bytes] = []
    is_first = True
    while position < len(pattern):
        if pattern[position : position + 1] == b"]" and not is_first:
            members_text = b"".join(members)
            inside = rb"[^%b]" % members_text if negates else rb"[%b]" % members_text
            return (rb"(?!/)" + inside if members else _NOTHING), position + 1
        is_first = False
        named = re.compile(rb"\[:([a-z]*):\]").match(pattern, position)
        if named:
            if named[1] not in _CLASSES:
                break
            members.append(_CLASSES[named[1]])
            position = named.end()
            continue
        low, position = _member(pattern, position)
        has_range = pattern[position : position + 1] == b"-" and pattern[position + 1 : position + 2] not in (b"]", b"")
        if has_range:
            high, position = _member(pattern, position + 1)
            # A range the wrong way round is its first end only.
            members.append(_in_class(low) + (b"-" + _in_class(high) if low <= high else b""))
        else:
            members.append(_in_class(low))
    return _NOTHING, len(pattern)


def _member(pattern: bytes, position: int) -> tuple[bytes, int]:
    if pattern[position : position + 1] == b"\\" and position + 1 < len(pattern):
        position += 1
    return pattern[position : position + 1], position + 1


def _in_class(character: bytes) -> bytes:
    return re.escape(character) if character not in b"^]-[" else b"\\" + character
