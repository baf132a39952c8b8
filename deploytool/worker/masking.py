"""Secrets never leave the worker: every line that is logged or sent passes through here."""

from __future__ import annotations

import base64
import json
import re
import shlex
import threading
from typing import Any, Iterable, List, Mapping, Sequence, Set
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
#: A shorter line of a secret with several lines says nothing, and would be found everywhere. The same is true of what
#: is taken for a secret though nobody said that it is one.
SHORTEST_LINE = 6
SHORTEST_GUESS = 8

#: Of a variable that holds a secret, as far as its name can tell: what CI systems and cloud tools call theirs.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|HTTP_AUTH"
    r"|(?:API|ACCESS|SECRET|PRIVATE|MASTER|ENCRYPTION|SIGNING|SSH|DEPLOY)_?KEY|SECRET_KEY_BASE)$",
    re.IGNORECASE,
)
_USER_INFORMATION = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^\s/?#]*)@")
#: User names are shorter, tokens that stand in their place are not.
_SHORTEST_TOKEN = 20


class Masking:
    """Replaces each known secret by `***`, also where it is written as JSON, in a URL, for a shell, or in base64.

    Longer secrets first, so that one that contains another is masked whole. Of a secret with several lines, a key say,
    each line counts by itself: texts are masked line by line.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._whole: Set[str] = set()
        self._forms: List[str] = []
        self._guard = threading.Lock()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """More secrets, from now on."""
        with self._guard:
            self._whole |= {secret for secret in secrets if secret}
            # In one piece: others may be masking.
            self._forms = sorted({form for secret in self._whole for form in _forms(secret)}, key=len, reverse=True)

    @property
    def longest(self) -> int:
        """characters of the longest text that is replaced"""
        return len(self._forms[0]) if self._forms else 0

    def text(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, MASK)
        return text

    def value(self, value: Any) -> Any:
        """The same for every string inside a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value


def _forms(secret: str) -> Set[str]:
    """The texts that give a secret away: itself, each of its lines, and both as other programs write them."""
    lines = {line.strip() for line in secret.splitlines()}
    return {
        form
        for text in {secret, *(line for line in lines if len(line) >= SHORTEST_LINE)}
        for form in (text, *_spellings(text))
    }


def _spellings(text: str) -> Sequence[str]:
    spelled = (
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        quote(text, safe=""),
        quote(text),
        quote_plus(text),
        unquote(text),
        shlex.quote(text)[1:-1],
        # As bash's own `declare -p` has it, between double quotes.
        re.sub(r'([\\"$`])', r"\\\1", text),
        *_in_base64(text.encode("utf-8", "surrogatepass")),
    )
    return [each for each in spelled if len(each) >= SHORTEST_LINE]


def _in_base64(data: bytes) -> List[str]:
    """What is in the base64 of any longer text that holds this one: three digits depend on where it begins there."""
    found = []
    for before in range(3):
        digits = base64.b64encode(b"\0" * before + data).rstrip(b"=").decode()
        # The first digits mix in what stands before, the last one what comes after.
        first = (before * 8 + 5) // 6
        last = (before + len(data)) * 8 // 6
        core = digits[first:last]
        found += [core, core.replace("+", "-").replace("/", "_")]
    return found


def secrets_in(environ: Mapping[str, str]) -> List[str]:
    """What an environment holds of secrets, by the names of its variables, and passwords in URLs.

    A guess: good for what programs print, and not for texts that another program is to understand.
    """
    found = {value for name, value in environ.items() if _SECRET_NAME.search(name)}
    found |= {secret for value in environ.values() for secret in secrets_in_urls(value)}
    return [each for each in found if len(each) >= SHORTEST_GUESS]


def secrets_in_urls(text: str) -> List[str]:
    """Passwords in the URLs of a text, and users' names so long that they are tokens; also as a server gets them."""
    found = []
    for information in _USER_INFORMATION.findall(text):
        user, _, password = information.partition(":")
        found += [each for each in (password, user if len(user) >= _SHORTEST_TOKEN else "") if each]
    return found
