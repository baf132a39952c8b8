"""docs/getting-started.md, block by block, as a newcomer would type it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.project import CHECKOUT, copy_checkout

pytestmark = pytest.mark.timeout(600)

PAGE = CHECKOUT / "docs" / "getting-started.md"

#: stands before the output of each block
MARK = "=== block of line"
#: where the page leaves the rest of an output's line out
REST = "…"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: `sh` is typed, `text` is what the one before it shows, any kind with a path is that file."""

    line: int
    kind: str
    path: str
    text: str


def blocks(page: str) -> list[Block]:
    found = re.finditer(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(page.count("\n", 0, each.start()) + 2, each[1], each[2] or "", each[3]) for each in found]


def script(page: list[Block]) -> str:
    """All of the page as one bash session."""
    parts = ["set -euo pipefail"]
    for block in page:
        if block.path:
            parts.append(f"cat >'{block.path}' <<'END_OF_{block.line}'\n{block.text}END_OF_{block.line}")
        elif block.kind == "sh":
            parts.append(f"echo '{MARK} {block.line}'\n{block.text}")
    return "\n".join(parts)


def lacking(block: Block, output: str) -> list[str]:
    """The lines that a `text` block promises, and the output has not, in this order."""
    shown = iter(output.splitlines())
    patterns = [(line, re.escape(line).replace(re.escape(REST), ".*")) for line in block.text.splitlines()]
    return [line for line, pattern in patterns if not any(re.fullmatch(pattern, each.rstrip()) for each in shown)]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A newcomer's home, with the checkout in `~/deploytool`: its programs and its virtual environment are there."""
    checkout = tmp_path / "deploytool"
    copy_checkout(checkout)
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / ".tools").symlink_to(CHECKOUT / ".tools")
    # Older than the environment: make has nothing to install there.
    os.utime(checkout / "pyproject.toml", (0, 0))
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Newcomer\n\temail = newcomer@localhost\n")
    yield tmp_path
    down = [sys.executable, "-m", "deploytool.playground", "down", "--state", str(checkout / "var" / "playground")]
    subprocess.run(down, check=True, capture_output=True)


def test_page_does_what_it_says(home: Path) -> None:
    page = blocks(PAGE.read_text(encoding="utf-8"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CONSUL_", "MAKE"))}
    with (home / "output").open("w") as output:
        done = subprocess.run(
            ["bash", "-c", script(page)],
            cwd=home,
            env={**kept, "HOME": str(home), "COLUMNS": "120"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    shown = (home / "output").read_text()
    assert done.returncode == 0, shown
    found = re.findall(rf"^{MARK} (\d+)\n(.*?)(?=^{MARK}|\Z)", shown, re.MULTILINE | re.DOTALL)
    outputs = {int(line): text for line, text in found}
    typed = 0
    for block in page:
        if block.kind == "sh" and not block.path:
            typed = block.line
        elif block.kind == "text":
            assert lacking(block, outputs[typed]) == [], f"line {block.line} of the page:\n{outputs[typed]}"
