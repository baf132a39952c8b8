"""What a command shows people when it is done: a head, a table, remarks, the next commands, and the verdict, last.

Text only: `Console.page` writes it. On a terminal it is wrapped at words and coloured; elsewhere each line is whole.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deploytool.text.untrusted import one_line

#: rich's names of styles
GOOD, BAD, WARNING, HEAD = "green", "red", "yellow", "bold"
#: A narrower last column is not worth it: cells go one below the other instead.
_NARROWEST = 16


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table. The last cell may be a sentence."""

    cells: tuple[str, ...]
    #: of the cell at `styled`
    style: str = ""
    styled: int = -1


@dataclass(frozen=True, slots=True)
class Next:
    """A command that people may want to type next, and what it does."""

    command: str
    does: str


@dataclass(frozen=True, slots=True)
class Page:
    """The result of one command for people. What is empty is left out."""

    head: str = ""
    #: the table's head; without it the table has none
    columns: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    remarks: tuple[str, ...] = ()
    next: tuple[Next, ...] = ()
    verdict: str = ""
    #: of the verdict
    style: str = ""

    def lines(self, width: int | None = None) -> list[str]:
        """The page as plain text, each line at most `width` characters long where words allow it."""
        return ["".join(text for text, _ in line) for line in self.styled_lines(width)]

    def styled_lines(self, width: int | None = None) -> Iterator[Sequence[tuple[str, str]]]:
        """The same; each line in pieces of text and style."""
        for line in wrapped(one_line(self.head), width) if self.head else ():
            yield [(line, HEAD)]
        rows = [replace(row, cells=tuple(map(one_line, row.cells))) for row in self.rows]
        yield from _table(self.columns, rows, width)
        for remark in self.remarks:
            for line in wrapped(one_line(remark), width):
                yield [(line, "")]
        yield from _next_lines(self.next, width)
        for line in wrapped(one_line(self.verdict), width) if self.verdict else ():
            yield [(line, f"bold {self.style}".strip())]


def wrapped(text: str, width: int | None) -> list[str]:
    """The line, broken at spaces where it is longer than `width`; what goes on is indented like its beginning."""
    if width is None or len(text) <= max(width, 1):
        return [text]
    indent = re.match(r"\s*(\| )?", text)[0]  # type: ignore[index]
    hanging = indent if "|" in indent else indent + "  "
    if len(hanging) > width // 2:
        hanging = ""
    return textwrap.wrap(
        text[len(indent) :],
        max(width, 1),
        initial_indent=indent,
        subsequent_indent=hanging,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [text]


def columns(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines with aligned columns."""
    widths = _widths(table)
    return [_aligned(row, widths).rstrip() for row in table]


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True))


def _table(head: Sequence[str], rows: Sequence[Row], width: int | None) -> Iterator[Sequence[tuple[str, str]]]:
    table = [*([head] if head else []), *(row.cells for row in rows)]
    if not table:
        return
    *fixed, last = _widths(table)
    begin = sum(fixed) + 2 * len(fixed)
    if width is not None and begin + min(last, _NARROWEST) > width:
        yield from _stacked(rows, width)
        return
    if head:
        yield [(_aligned(head, [*fixed, last]).rstrip(), HEAD)]
    for row in rows:
        rest = wrapped(row.cells[-1], None if width is None else width - begin)
        cells = [*row.cells[:-1], rest[0]]
        yield _pieces(cells, [*fixed, 0], row)
        for more in rest[1:]:
            yield [(" " * begin + more, row.style if row.styled in (-1, len(row.cells) - 1) else "")]


def _pieces(cells: Sequence[str], widths: Sequence[int], row: Row) -> Sequence[tuple[str, str]]:
    styled = row.styled % len(cells)
    padded = [cell.ljust(size) for cell, size in zip(cells, widths, strict=True)]
    while padded and not padded[-1].strip():
        padded.pop()
    if not padded:
        return []
    padded[-1] = padded[-1].rstrip()
    return [
        (cell + ("  " if number < len(padded) - 1 else ""), row.style if number == styled else "")
        for number, cell in enumerate(padded)
    ]


def _stacked(rows: Sequence[Row], width: int) -> Iterator[Sequence[tuple[str, str]]]:
    """Where there is no room for columns, the cells of a row follow each other."""
    for row in rows:
        for line in wrapped("  ".join(filter(None, row.cells)), width):
            yield [(line, row.style)]


def _next_lines(commands: Sequence[Next], width: int | None) -> Iterator[Sequence[tuple[str, str]]]:
    commands = [Next(one_line(each.command), each.does) for each in commands]
    size = max((len(each.command) for each in commands), default=0)
    for number, each in enumerate(commands):
        begin = "next: " if number == 0 else "      "
        if width is not None and len(begin) + size + 2 + len(each.does) > width:
            # A command is one line, so that it can be copied.
            yield [(begin + each.command, "")]
            for line in wrapped(f"        {each.does}", width):
                yield [(line, "")]
        else:
            yield [(f"{begin}{each.command.ljust(size)}  {each.does}", "")]
