"""What GitHub Actions takes for a command, and what a page of its shows."""

import re
from html.parser import HTMLParser

from markdown_it import MarkdownIt


def commands(output: str) -> list[str]:
    """What the runner would obey: `ActionCommand.TryParseV2`, then the older `TryParse`, for each line."""
    return [
        line
        for line in re.split(r"\r\n|\r|\n", output)
        if re.match(r"\s*::[\w-]+( [^:]*)?::", line) or re.search(r"##\[[\w-]+[^\]]*\]", line)
    ]


def read_command(line: str) -> tuple[dict[str, str], str]:
    """The properties and the data of a command, as the runner reads them."""
    found = re.fullmatch(r"::error (.*?)::(.*)", line)
    assert found is not None, line
    properties = {}
    for pair in found[1].split(","):
        name, _, value = pair.partition("=")
        for escaped, text in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            value = value.replace(escaped, text)
        properties[name] = value
    data = found[2]
    for escaped, text in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        data = data.replace(escaped, text)
    return properties, data


def page(markdown: str) -> list[tuple[str, str]]:
    """What a reader of GitHub's Markdown makes of it: HTML passes, tables are tables."""
    text = _Text()
    text.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
    return text.found


class _Text(HTMLParser):
    """The elements of a page, with the text of each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("", ""))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, text = self.found[-1]
            self.found[-1] = (tag, text + data)
