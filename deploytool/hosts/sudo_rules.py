"""The rules that sudo needs on a host, read from the commands that run there. Pure."""

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploytool.hosts.manifest import made_up_release, role_manifest
from deploytool.model.release import NO_DEPLOYMENT

if TYPE_CHECKING:
    from deploytool.hosts.role_manifest import HostCommand
    from deploytool.settings import Settings

#: sudo's options that take a word of their own
_WITH_WORD = frozenset("ughprtCDRT")
#: What a shell would put something else in the place of, and what has a meaning in sudoers that no backslash takes.
_CHANGES = re.compile(r"[$`*?\[\]~{}\s\"']")


@dataclass(frozen=True, slots=True)
class SudoRule:
    """One command that is run by sudo."""

    #: the setting with the command, as in `roles.web.restart[0]`
    label: str
    runas: str
    #: a name to be looked up on the host, or a path; empty: a line can't be made of the command
    program: str
    #: as sudoers has them, with what stands between
    arguments: str


def sudo_rules(settings: "Settings", role: str) -> tuple[SudoRule, ...]:
    """What the role's commands run by sudo, each once. Raises SettingsError for templates that can't be rendered."""
    manifest = role_manifest(settings, role, made_up_release(settings), NO_DEPLOYMENT)
    commands = (*manifest.restart, *manifest.drain, *manifest.undrain, *sum(manifest.hooks.values(), ()))
    changing = (manifest.release.id, manifest.release.revision, str(NO_DEPLOYMENT))
    found: dict[object, SudoRule] = {}
    for rule in (rule for command in commands for rule in rules_of(command, changing)):
        found.setdefault((rule.runas, rule.program, rule.arguments) if rule.program else rule.label, rule)
    return tuple(found.values())


def rules_of(command: "HostCommand", changing: Iterable[str] = ()) -> Iterator[SudoRule]:
    """A rule for each `sudo` in a shell command; with no program where the words differ from one time to the next."""
    for line in command.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=False, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            # A quote that is closed on another line.
            if re.search(r"\bsudo\b", line):
                yield SudoRule(command.label, "root", "", "")
            continue
        for at, word in enumerate(words):
            if word.rpartition("/")[2] == "sudo":
                yield _rule(command.label, _until_punctuation(words[at + 1 :]), changing)


def _until_punctuation(words: Iterable[str]) -> list[str]:
    taken: list[str] = []
    for word in words:
        if set(word) <= set("();<>|&"):
            # `2>/dev/null`: the number belongs to what follows.
            if taken and word[0] in "<>" and taken[-1].isdigit():
                taken.pop()
            break
        taken.append(word)
    return taken


def _rule(label: str, words: list[str], changing: Iterable[str]) -> SudoRule:
    runas = "root"
    while words and words[0].startswith("-") and words[0] != "--":
        option = words.pop(0)
        name, _, value = option.partition("=")
        if not option.startswith("--") and option[1:2] in _WITH_WORD:
            value = option[2:] or (words.pop(0) if words else "")
        if name == "--user" or option.startswith("-u"):
            runas = value
        elif option.startswith(("-i", "-s", "-e", "--login", "--shell", "--edit", "-E", "--preserve-env")):
            # A shell of the other user, or its environment: no line that allows one command allows these.
            return SudoRule(label, runas, "", "")
    if words[:1] == ["--"]:
        words.pop(0)
    plain = [word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word for word in words]
    text = " ".join((runas, *plain))
    if (
        not plain
        or "=" in plain[0]
        or any(map(_CHANGES.search, (runas, *plain)))
        or any(map(text.__contains__, changing))
    ):
        return SudoRule(label, runas, "", "")
    escaped = [re.sub(r"([,:=\\#!])", r"\\\1", word) for word in plain[1:]]
    return SudoRule(label, runas, plain[0], " ".join(escaped) or '""')
