"""How Sphinx makes a website of the Markdown files: `make site`.

The sources are the files as GitHub shows them, README.md included, so a link means the same in both places. The
order of the site is that of docs/index.md.
"""

import re
from pathlib import PurePosixPath
from typing import Any

project = "deploytool"
author = "the deploytool authors"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "README.ja.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md"]
exclude_patterns = [".*", "var", "deploytool", "tests", "templates", "benchmarks", "tools", "requirements", "examples"]
myst_heading_anchors = 4
# A block may name a file beside its language, as in getting-started.md; Sphinx takes the first word only.
suppress_warnings = ["misc.highlighting_failure"]
nitpicky = True

html_theme = "furo"
html_title = "deploytool"
html_theme_options: dict[str, Any] = {"top_of_page_buttons": []}


def sections(index: str) -> list[tuple[str, list[str]]]:
    """Each heading of index.md, with the pages that its list links to, named from the top of the repository."""
    found = []
    for section in index.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        targets = re.findall(r"\]\(([^)]+)\.md\)", text)
        names = [target.removeprefix("../") if target.startswith("../") else f"docs/{target}" for target in targets]
        found.append((title, names))
    return found


def add_contents(app: Any, name: str, source: list[str]) -> None:
    """The lists of index.md, as Sphinx wants them, so that nobody writes them twice."""
    if name != root_doc:
        return
    for title, names in sections(source[0]):
        entries = "\n".join(f"/{PurePosixPath(each)}" for each in names)
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", add_contents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
