"""`deploytool help TOPIC`: the pages of docs/, in the terminal. They come with the package."""

import os
import re
import sys
from pathlib import Path

from deploytool.errors import UsageError

INDEX = "index"


def directory() -> Path:
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "docs", package.parent / "docs") if (path / f"{INDEX}.md").is_file())


def topics() -> dict[str, str]:
    """Each page that comes along, in the order of the index, with its title there."""
    index = (directory() / f"{INDEX}.md").read_text("utf-8")
    return {name: title for title, name in re.findall(r"(?m)^- \[([^]]+)\]\((\w[\w-]*)\.md\)", index)}


def page(topic: str) -> str:
    """The page's text, or the list of topics."""
    known = topics()
    if not topic:
        width = max(map(len, known))
        lines = (f"  {name:{width}}  {title}" for name, title in known.items())
        return "\n".join(("deploytool help TOPIC shows one of these pages:", "", *lines, ""))
    if topic not in known:
        raise UsageError(
            f"There is no page {topic!r}.", hint=f"The pages are {', '.join(known)}. `deploytool help` describes them."
        )
    return (directory() / f"{topic}.md").read_text("utf-8")


def show(topic: str) -> None:
    """On a terminal in the pager, as text with a layout; elsewhere the Markdown as it is."""
    text = page(topic)
    if not sys.stdout.isatty() or not topic:
        sys.stdout.write(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    # As git does: colours, no pager for what fits on the screen, and the text stays there afterwards.
    os.environ.setdefault("LESS", "FRX")
    console = Console()
    with console.pager(styles="less" in os.environ.get("PAGER", "less")):
        console.print(Markdown(text))
