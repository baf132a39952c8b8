"""What the pages in docs/ quote, and where their links go."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
#: history, and what the settings' model says
NOT_OURS = ("CHANGELOG.md", "settings.md")
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").glob("*.md")])


def anchors(page: Path) -> set[str]:
    """What a link can name in a page: its headings, as GitHub and the site spell them."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    headings = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text())
    assert [target for target, _ in targets if not (page.parent / target).exists()] == []
    places = [(page.parent / target if target else page, anchor) for target, anchor in targets if anchor]
    assert [(str(place), anchor) for place, anchor in places if anchor not in anchors(place)] == []


def test_index_lists_every_page_once() -> None:
    """It is also the order of the site."""
    index = TOP / "docs" / "index.md"
    listed = [(index.parent / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", index.read_text())]
    assert sorted(listed) == [page for page in PAGES if page != index]


def test_readme_is_short_and_begins_with_two_commands() -> None:
    lines = (TOP / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if line.startswith("make ")] == ["make demo", "make test"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in NOT_OURS], ids=lambda page: page.name)
def test_page_is_in_plain_english(page: Path) -> None:
    """Words that a reader has to decode. What a page quotes is as the tool prints it."""
    prose = re.sub(r"(?ms)^```.*?^```$|`[^`]*`|\"[^\"]*\"", "", page.read_text())
    assert (
        re.findall(r"\b(?:anew|mend(?:s|ed)?|borne|of before|(?:is|are) told|once more|as ever|nobody but)\b", prose)
        == []
    )


def test_security_names_tests_that_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (TOP / "SECURITY.md").read_text()))
    sources = "\n".join(path.read_text() for path in (TOP / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert named - set(re.findall(r"^def (test_\w+)\(", sources, re.MULTILINE)) == set()


def test_troubleshooting_quotes_what_the_tool_says() -> None:
    sources = [*(TOP / "deploytool").rglob("*.py"), *(TOP / "templates").glob("*/*.sh")]
    said = re.sub(r'"\s*\n\s*f?"', "", "\n".join(source.read_text() for source in sources))
    quoted = re.findall(r'\*\*"(.+?)"\*\*', (TOP / "docs" / "troubleshooting.md").read_text())
    assert len(quoted) > 10
    assert [words for words in quoted if words not in said] == []


def test_troubleshooting_has_every_exit_code() -> None:
    contract = re.findall(r"^\| (\d+) \| [^|]+ \|$", (TOP / "docs" / "commands.md").read_text(), re.MULTILINE)
    headings = re.findall(r"^## (\d+):", (TOP / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert headings == [code for code in contract if code != "0"]


def test_japanese_readme_has_what_the_english_one_has() -> None:
    """Sections, tables, commands and pictures, block by block; only the words are others."""
    english, japanese = ((TOP / name).read_text() for name in ("README.md", "README.ja.md"))
    for pattern in (
        r"^(#+) ",
        r"(?:^\| |, )`(fab ENV [^`]+)`",
        r"^\| (\d+) \|",
        r"^```(\w*)$",
        r"^!\[[^]]*\]\(([^)]+)\)",
        r"\]\((docs/[^)]+)\)",
    ):
        found = [re.findall(pattern, text.replace("、`", ", `"), re.MULTILINE) for text in (english, japanese)]
        assert sorted(found[0]) == sorted(found[1]), pattern
