"""What users see is in plain English: words and idioms that have to be decoded are kept out.

Looked at are the texts of the code (all of its string literals but docstrings, and the docstrings of tasks, which are
their help) and the scripts that go to hosts. The documentation has its own test, in `test_docs.py`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "deploytool"

#: What is not written, and what is written instead.
BANNED = {
    r"\banew\b|\bonce more\b": "again",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bborne\b|\bas good as\b|\bwhat becomes of\b": "a plain verb",
    r"\bnobody\b|\bwhoever\b": "name the person or program, or use the passive",
    r"(?<!there )\bis no (?!longer\b|more\b)": "is not a",
    r"\bcan't be told\b": "is unknown",
    r"\b(is|are|was|were) (not )?told\b": "notified, reported, printed or logged",
    r"\bis to say\b": "needs",
    r"\brefused us\b": "authentication failed",
    r"\bequal inputs\b": "the same inputs",
    r"\btakes? away (\d|\{)": "drops",
    r"\bits turn had come\b": "it was pruned",
    r"\bgo on without a question\b": "don't ask before",
    r"\bunheard\b|\bspared\b": "unresponsive; already on the release",
    r"\bserves?, proven\b|\bproven to serve\b": "is verified on",
    r"\bas wanted\b|\bwanted of (it|a host)\b|\bnothing wanted yet\b": "expected, up to date",
    r"\bthat is none\b|\bwhat is none\b": "is not a",
}

#: Rooms that have not been rewritten yet. None may be added, and one that has been rewritten goes.
NOT_YET = frozenset(
    {
        *("worker", "templates"),
    }
)

#: Not for people: what files of earlier versions are known by.
KEPT = ("# Nobody has edited this file as long as",)


def rooms() -> dict[str, list[Path]]:
    """Each room of the package by its name, then what else is read."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        below = path.relative_to(PACKAGE)
        found.setdefault(below.parts[0].removesuffix(".py"), []).append(path)
    found["templates"] = sorted((ROOT / "templates").rglob("*.sh"))
    return found


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """What users see of that file, each with its line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for number, literal in literals(ast.parse(text)):
            # Scripts have comments; a single word is a name.
            shown = "\n".join(line for line in literal.split("\n") if not line.lstrip().startswith("# "))
            if " " in shown.strip():
                yield number, shown
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#"):
            yield number, line


def literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    hidden = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if is_docstring and not is_task(node):
                hidden.add(id(first.value))  # type: ignore[attr-defined]
        if isinstance(node, ast.JoinedStr):
            # Seen as a whole: a place for a value is a pair of braces.
            hidden.update(id(part) for part in node.values)
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values),
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in hidden:
            yield node.lineno, node.value


def is_task(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "command"
        for each in node.decorator_list
    )


def banned(paths: list[Path]) -> list[str]:
    """A line for each banned word: where it is, and what to write."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {found[0].strip()!r}: write {instead}"
        for path in paths
        for number, text in texts(path)
        for pattern, instead in BANNED.items()
        if not text.startswith(KEPT) and (found := re.search(pattern, text, re.IGNORECASE))
    ]


@pytest.mark.parametrize("room", rooms())
def test_users_read_plain_words(room: str) -> None:
    found = banned(rooms()[room])
    if room in NOT_YET:
        assert found, f"{room} has been rewritten: take it out of NOT_YET"
    else:
        assert not found, "\n".join(found)


def test_each_exemption_is_a_room() -> None:
    assert rooms().keys() >= NOT_YET


@pytest.mark.parametrize(
    ("source", "is_seen"),
    [
        ('"""It is mended anew."""', False),
        ('print("mend it")', True),
        ('print(f"{it} is no host")', True),
        ('print("there is no host", "it is no longer there")', False),
        ('class Refused(Exception):\n    """It is told anew."""', False),
        ('@command(help={})\ndef deploy():\n    """Mend what nobody mended"""', True),
        ("# mend it\nx = 1", False),
    ],
)
def test_what_users_see_is_told_from_what_they_do_not(source: str, is_seen: bool) -> None:
    seen = [text for _, text in literals(ast.parse(source))]
    assert any(re.search(pattern, text, re.IGNORECASE) for text in seen for pattern in BANNED) == is_seen
