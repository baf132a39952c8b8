"""Secrets never leave the worker: every line that is logged or sent passes through here."""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from typing import Any, Iterable, Iterator, List, Mapping, Sequence, Set, Tuple
from urllib.parse import quote, unquote

from .untrusted import TAB_COLUMNS, one_line, read_json

MASK = "***"
#: A shorter line of a secret with several lines says nothing, and would be found everywhere. The same is true of what
#: is taken for a secret though nobody said that it is one.
SHORTEST_LINE = 6
SHORTEST_GUESS = 8

#: Of a variable that holds a secret, as far as its name can tell: what CI systems and cloud tools call theirs.
_SECRET_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|PASSPHRASE|AUTHTOKEN)$"
    r"|(?:^|_)(?:TOKEN|SECRET|PASS|PAT|JWT(?:_V[0-9])?"
    r"|(?:API|ACCESS|SECRET|PRIVATE|MASTER|ENCRYPTION|SIGNING|SSH|DEPLOY|STORAGE|LICENSE)_?KEY|SECRET_KEY_BASE)$",
    re.IGNORECASE,
)
#: A value in which a name is followed by a secret, as in `Server=db;Password=…`, or a password by a host.
_PAIR = r"(?:pass(?:word)?|pwd|[a-z]*key|secret|token|sig(?:nature)?)\s*=\s*"
#: Of others that may hold one, or something that programs print all the time: name → how the value begins if it does.
_PERHAPS_SECRET = tuple(
    (re.compile(name, re.IGNORECASE), re.compile(value, re.IGNORECASE | re.DOTALL))
    for name, value in (
        # No directory: ORIGINAL_PWD and the like.
        ("_PWD$", "[^/]"),
        # No word: HTTPD_AUTH=disabled.
        ("(?:^|_)AUTH$", ".*[^a-z]"),
        # API_TOKEN_PROD, but neither TOKEN_FILE nor TOKEN_URL, TOKEN_TTL or TOKEN_ISSUER; no name of a cookie.
        ("(?:^|_)(?:TOKEN_|COOKIE$)", r"(?!/|.*://)(?=.*\d)(?=.*[a-z])"),
        # A document, or no path, word or URL: GOOGLE_APPLICATION_CREDENTIALS names a file.
        (
            "(?:^|_)(?:CREDENTIALS?|CREDS|AUTH_CONFIG|SERVICE_ACCOUNT(?:_KEY)?(?:_JSON)?)$",
            r"\s*\{|(?![/~.]|[a-z]:[\\/]|.*://)(?=.*[^a-z_-])",
        ),
        # Whoever knows the URL may post there; its host alone is no secret.
        ("(?:^|_)WEBHOOK(?:_UR[LI])?(?:_[A-Z0-9]+)?$", r"[a-z]+://[^/\s]+/\S"),
        ("(?:^|_)(?:CONN(?:ECTION)?_?STR(?:ING)?|DSN)$", ".*(?:@|" + _PAIR + ")"),
        # Bundler's for a host: BUNDLE_GEMS__EXAMPLE__COM=user:password.
        ("^BUNDLE_[A-Z0-9_]*__", r"[^/\s:-][^/\s:]*:[^/\s]\S*$"),
    )
)
#: the secrets in a value that is one as a whole
_PARTS = re.compile(_PAIR + r"([^;&\s]+)|^[^:/@\s]+:(?!//)([^@\s]+)@", re.IGNORECASE)
_USER_INFORMATION = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^\s/?#]*)@")
_FIELD = re.compile("[a-z_]+")
#: User names are shorter, tokens that stand in their place are not.
_SHORTEST_TOKEN = 20


class Masking:
    """Replaces each known secret by `***`, also as other programs write it: see `_spellings`.

    Longer secrets first, so that one that contains another is masked whole. Of a secret with several lines, a key say,
    each line counts by itself: texts are masked line by line.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._whole: Set[str] = set()
        #: (what a form can't do without, the form), the longest form first
        self._forms: List[Tuple[str, str]] = []
        self._guard = threading.Lock()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """More secrets, from now on."""
        with self._guard:
            self._whole |= {secret for secret in secrets if secret}
            # In one piece: others may be masking.
            forms = {form for secret in self._whole for form in _forms(secret)}
            self._forms = sorted(forms, key=lambda form: len(form[1]), reverse=True)

    @property
    def longest(self) -> int:
        """characters of the longest text that is replaced"""
        forms = self._forms
        return len(forms[0][1]) if forms else 0

    def text(self, text: str) -> str:
        # All output of a build passes here, and there is hardly ever a secret in it: few searches tell that.
        forms = self._forms
        there = {core for core in {core for core, _ in forms} if core in text}
        if there:
            for core, form in forms:
                if core in there:
                    text = text.replace(form, MASK)
        return text

    def value(self, value: Any) -> Any:
        """The same for every string inside a JSON value.

        And for names, but for those that are fields of ours: whoever reads them would not find `release` again because
        a secret is the same word.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self._name(key): self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def _name(self, name: Any) -> Any:
        return name if not isinstance(name, str) or _FIELD.fullmatch(name) else self.text(name)


def _forms(secret: str) -> Set[Tuple[str, str]]:
    """The texts that give a secret away: itself, each of its lines, and both as other programs write them.

    Each with a part that it can't do without: letters and digits, which most spellings leave as they are.
    """
    found = set()
    for text in {secret, *(line.strip() for line in secret.splitlines()), unquote(secret)}:
        if text == secret or len(text) >= SHORTEST_LINE:
            core = max(re.findall("[A-Za-z0-9]+", text), key=len, default=text)
            forms = {text, *(each for each in _spellings(text) if len(each) >= SHORTEST_LINE)}
            found |= {(core if core in form else form, form) for form in forms}
    return found


def _spellings(text: str) -> Iterator[str]:
    """The text as others write it, without the quotes around it; most of these are the text itself, for most texts."""
    yield from _shown(text)
    yield from _in_json(text)
    yield from _percent_encoded(text)
    yield from _for_a_shell(text)
    yield from _as_markup(text)
    yield from _in_base64(_bytes_of(text))
    # Python, as part of a longer text that may have quotes of either kind; in ASCII, and as bytes.
    for mark in "\"'":
        for quoted in (repr(mark + text), ascii(mark + text), repr(_bytes_of(mark + text))[1:]):
            # Without the quote at the beginning, and the mark, which may have a backslash before it.
            yield quoted[1:-1].partition(mark)[2]
    # YAML, SQL, CSV; and YAML between double quotes, where it has ASCII only.
    yield text.replace("'", "''")
    yield text.replace('"', '""')
    yield re.sub("[\x80-\xff]", lambda found: "\\x{:02X}".format(ord(found.group())), _json_text(text, "")[0])


def _bytes_of(text: str) -> bytes:
    """What the text is on the wire; an environment may hold bytes that are no UTF-8, and JSON half a character."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _shown(text: str) -> Iterator[str]:
    """As our own messages have it: within one line. A tab's width depends on the column where the text begins."""
    yield _bytes_of(text).decode("utf-8", "replace")
    for column in range(TAB_COLUMNS):
        yield one_line(" " * column + text)[column:]


def _in_json(text: str) -> Iterator[str]:
    """As JSON, by those who write more than they must as numbers, and as JSON within JSON."""
    # Python, JavaScript, Jackson; Go, Rails; Gson; PHP with all its flags; .NET.
    for as_numbers in ("", "<>&", "<>&='", "<>&'\"", "<>&'\"+`"):
        for written in _json_text(text, as_numbers):
            yield written
            yield written.replace("/", "\\/")
            yield json.dumps(written, ensure_ascii=False)[1:-1]


def _json_text(text: str, as_numbers: str) -> Sequence[str]:
    """As it is in JSON; with nothing but ASCII; and the same with numbers in upper case."""

    def number(letter: str, digits: str) -> str:
        halves = letter.encode("utf-16-be", "surrogatepass")
        return "".join("\\u" + format(halves[at] << 8 | halves[at + 1], digits) for at in range(0, len(halves), 2))

    def written(digits: str, ascii_only: bool) -> str:
        return "".join(
            number(letter, digits)
            if letter in as_numbers or (ascii_only and letter > "~")
            else json.dumps(letter, ensure_ascii=False)[1:-1]
            for letter in text
        )

    return written("04x", False), written("04x", True), written("04X", True)


def _percent_encoded(text: str) -> Iterator[str]:
    """As part of a URL, or of a form: each has its own idea of what may stay as it is."""
    data = _bytes_of(text)
    # RFC 3986 for all of it, and for a path; JavaScript's encodeURIComponent and encodeURI; Go's PathEscape.
    for safe in ("", "/", "!'()*", "!'()*;,/?:@&=+$#", "$&+=:@"):
        for written in {quote(data, safe=safe), quote(data, safe=safe + " ").replace(" ", "+")}:
            for form in (written, written.replace("~", "%7E")):
                yield form
                yield re.sub("%[0-9A-F]{2}", lambda found: found.group().lower(), form)


#: What bash's `printf %q` puts a backslash before. It does so before `#` and `~` at the beginning as well: what follows
#: that backslash is the text all the same.
_FOR_BASH = re.compile(r"""[\t\n !"$&'()*,;<>?\[\\\]^`{|}]|(?<=[:=])~""")
_BASH_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 27: "E", 39: "'", 92: "\\"}


def _for_a_shell(text: str) -> Iterator[str]:
    """Quoted for a shell, and as shells themselves show what they have and do (`set`, `set -x`, `export -p`)."""
    # By programs; by bash; by dash.
    yield text.replace("'", "'\"'\"'")
    yield text.replace("'", "'\\''")
    yield re.sub("'+", lambda found: "'\"{}\"'".format(found.group()), text)
    # As bash's own `declare -p` has it, between double quotes.
    yield re.sub(r'([\\"$`])', r"\\\1", text)
    yield _FOR_BASH.sub(lambda found: "\\" + found.group(), text)
    # $'…', in a locale that knows the letters, and in one that does not.
    yield "".join(_for_bash_in_ascii(letter.encode()) if letter <= "\x7f" else letter for letter in text)
    yield _for_bash_in_ascii(_bytes_of(text))


def _for_bash_in_ascii(data: bytes) -> str:
    return "".join(
        "\\" + _BASH_ESCAPES[byte]
        if byte in _BASH_ESCAPES
        else chr(byte)
        if 32 <= byte < 127
        else "\\{:03o}".format(byte)
        for byte in data
    )


def _as_markup(text: str) -> Iterator[str]:
    """In HTML and XML."""
    yield html.escape(text, quote=False)
    # Python; Ruby, JavaScript; Go, Jinja; PHP; XML.
    for double, single in (("quot", "#x27"), ("quot", "#39"), ("#34", "#39"), ("quot", "#039"), ("quot", "apos")):
        begun = html.escape(text, quote=False).replace('"', "&{};".format(double))
        yield begun
        yield begun.replace("'", "&{};".format(single))


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
    found = {
        value
        for name, value in environ.items()
        if _SECRET_NAME.search(name)
        or any(perhaps.search(name) and secret.match(value) for perhaps, secret in _PERHAPS_SECRET)
    }
    found |= {part for value in found for part in _parts(value)}
    found |= {secret for value in environ.values() for secret in secrets_in_urls(value)}
    return [each for each in found if len(each) >= SHORTEST_GUESS]


def _parts(secret: str) -> Iterator[str]:
    """What is secret in it by itself: programs print the password of a connection, and the key of a JSON document."""
    try:
        document = read_json(secret) if secret.lstrip().startswith("{") else None
    except ValueError:
        document = None
    if document is None:
        for part in (part for found in _PARTS.findall(secret) for part in found if part):
            yield part
            # Some divide by commas, and some passwords have one.
            yield part.partition(",")[0]
        return
    below = [document]
    while below:
        inner = below.pop()
        for value in inner.values() if isinstance(inner, dict) else inner:
            if isinstance(value, (dict, list)):
                below.append(value)
        if isinstance(inner, dict):
            yield from secrets_in({name: value for name, value in inner.items() if isinstance(value, str)})


def secrets_in_urls(text: str) -> List[str]:
    """Passwords in the URLs of a text, and users' names so long that they are tokens; also as a server gets them."""
    found = []
    for information in _USER_INFORMATION.findall(text):
        user, _, password = information.partition(":")
        found += [each for each in (password, user if len(user) >= _SHORTEST_TOKEN else "") if each]
    return found
