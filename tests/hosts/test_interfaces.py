"""Each host script says in its head what it reads from the others and what it sets for them."""

import re
import textwrap

import pytest

from deploytool.hosts.manifest import role_manifest
from deploytool.hosts.scripts import own_templates, values_of
from tests.support.manifests import DEPLOYMENT, RELEASE, given_settings

SCRIPTS = {path.stem: path for path in sorted((own_templates() / "host").glob("*.sh"))}
#: What is no shell text of the script's own: comments, and what it gives to another program. An apostrophe between
#: double quotes begins nothing.
FOREIGN = re.compile(r"""(?m:^\s*\#.*$)|'[^']*'|("(?:\\.|[^"\\])*")""")
WORD = r"[a-z][a-z0-9_]*"


def used(text: str) -> set[str]:
    found = set(re.findall(rf"\$\{{?#?({WORD})", text))
    for arithmetic in re.findall(r"\$\(\((.*?)\)\)", text):
        found |= set(re.findall(rf"\b({WORD})\b", arithmetic))
    return found


def assigned(text: str) -> set[str]:
    found = set(re.findall(rf"(?:^|[\s;&|({{`'\"])({WORD})=", text, re.MULTILINE))
    found |= set(re.findall(rf"\bfor ({WORD})\b", text))
    for names in re.findall(r"\bread -r ((?:\w+ ?)+)", text):
        found |= set(re.findall(WORD, names))
    return found


TEXTS = {name: FOREIGN.sub(lambda found: found[1] or "''", path.read_text()) for name, path in SCRIPTS.items()}
READS = {name: used(text) - assigned(text) for name, text in TEXTS.items()}
SETS = {
    name: assigned(text) & {each for other in READS if other != name for each in READS[other]}
    for name, text in TEXTS.items()
}


def head(name: str) -> str:
    """The lines that the file needs."""
    lines = [
        f"{what}: {', '.join(sorted(names))}."
        for what, names in (("Reads", READS[name]), ("Sets", SETS[name]))
        if names
    ]
    return "".join(f"{textwrap.fill(line, 125, initial_indent='# ', subsequent_indent='#   ')}\n" for line in lines)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_says_what_it_reads_and_sets(name: str) -> None:
    text = SCRIPTS[name].read_text()
    said = "".join(re.findall(r"(?m)^# (?:Reads|Sets): .*\n(?:#   .*\n)*", text))
    assert said == head(name), f"the head of {name}.sh needs the lines\n{head(name)}"


def test_what_a_script_reads_is_set_by_another_one_or_by_the_manifest() -> None:
    manifest = role_manifest(given_settings(), "web", RELEASE, DEPLOYMENT)
    values = [line.partition("=")[0] for line in values_of(manifest)]
    given = {*values, "look_script", "probe_phase", *(name for names in SETS.values() for name in names)}
    assert not {name: missing for name, names in READS.items() if (missing := names - given)}
