"""Who may deploy: the file that `trust.signers` names, in the form of ssh-keygen's allowed_signers. Pure.

A line is as in ssh-keygen(1), "ALLOWED SIGNERS": `alice@example.org valid-before="20270101" ssh-ed25519 AAAA…`. Who has
`NAME:ENVIRONMENT` in NAME's place may deploy to that environment alone.
"""

import binascii
import re
from base64 import b64decode
from dataclasses import dataclass
from datetime import datetime

from deploytool.errors import SettingsError

#: of ssh-keygen; what is signed for git, say, is no deployment
NAMESPACE = "deploytool"
#: and what is signed of a release is none either
RELEASE_NAMESPACE = "deploytool-release"

_LINE = re.compile(
    r"(?P<principals>\S+)\s+(?:(?P<options>\S+)\s+)?(?P<kind>(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)\s+(?P<key>[A-Za-z0-9+/]+=*)(?:\s.*)?"
)
_NAME = re.compile(r"[A-Za-z0-9_.@+][A-Za-z0-9_.@+-]*")
#: what ssh-keygen signs and verifies with; certificates are other kinds
_KINDS = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
#: an option whose value ssh-keygen wants in quotes; it takes the name in either case
_OPTION = re.compile(r'(?P<name>namespaces|valid-after|valid-before)="(?P<value>[^"]*)"', re.IGNORECASE)
_BETWEEN_OPTIONS = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')
_NAMESPACES = re.compile(r"[A-Za-z0-9_.@+-]+(?:,[A-Za-z0-9_.@+-]+)*")
_MOMENT = re.compile(r"(?P<digits>[0-9]{8}(?:[0-9]{4}(?:[0-9]{2})?)?)Z?", re.IGNORECASE)
_MOMENT_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


@dataclass(frozen=True, slots=True)
class Signer:
    """Somebody who may deploy to an environment, by one key."""

    names: tuple[str, ...]
    #: as each ssh-keygen takes them, in lower case, but for namespaces
    options: str
    #: the key's kind and its base64, as a public key's file begins
    key: str

    def line(self, namespace: str) -> str:
        options = ",".join(part for part in (f'namespaces="{namespace}"', self.options) if part)
        return f"{','.join(self.names)} {options} {self.key}"


def read_signers(text: str, environment: str | None, environments: frozenset[str], name: str) -> tuple[Signer, ...]:
    """Those of `text` who may deploy to the environment; None: to any. `name` is the file's, for its problems.

    Raises SettingsError with every line that says nothing, and if it names nobody.
    """
    problems, found = list[str](), list[Signer]()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            problems.append(f"{name}, line {number}: is not `NAME [OPTIONS] KEYTYPE KEY`, as in ssh-keygen(1)")
            continue
        where_from = f"{name}, line {number}"
        wrong = [*_key_problems(match["kind"], match["key"])]
        names = []
        for principal in match["principals"].split(","):
            who, colon, where = principal.partition(":")
            if not _NAME.fullmatch(who):
                wrong.append(f"`{principal}` must begin with a name of letters, digits and `_.@+-`, without wildcards")
            if colon and not where:
                wrong.append(f"`{principal}` names no environment: `{who}:ENVIRONMENT`, or `{who}` for all of them")
            elif where and where not in environments:
                wrong.append(f"there is no environment `{where}`")
            if environment is None or where in ("", environment):
                names.append(who)
        options, unusable = _options(match["options"])
        problems += [f"{where_from}: {each}" for each in (*wrong, *unusable)]
        namespaces = options.pop("namespaces", NAMESPACE)
        if names and NAMESPACE in namespaces.split(","):
            rest = ",".join(f'{option}="{value}"' for option, value in options.items())
            found.append(Signer(tuple(names), rest, f"{match['kind']} {match['key']}"))
    if not found and not problems:
        problems.append(f"{name}: does not name anyone who may deploy{f' to {environment}' if environment else ''}")
    if problems:
        raise SettingsError(problems)
    return tuple(found)


def _key_problems(kind: str, key: str) -> list[str]:
    if kind not in _KINDS:
        return [f"`{kind}` is not a key that signs here; there are: {', '.join(_KINDS)}"]
    try:
        held = b64decode(key, validate=True)
    except binascii.Error:
        return ["its key is damaged: it is not base64"]
    if not held.startswith(len(kind).to_bytes(4, "big") + kind.encode()):
        return [f"its key is damaged, or not of the kind {kind}"]
    return []


def _options(text: str | None) -> tuple[dict[str, str], list[str]]:
    """A line's options by their names in lower case; what is wrong with others.

    Hosts read moments in UTC, and older ones of ssh-keygen know no Z: it is left out.
    """
    options, problems = dict[str, str](), list[str]()
    for each in [] if text is None else _BETWEEN_OPTIONS.split(text):
        match = _OPTION.fullmatch(each)
        if each.lower() == "cert-authority":
            problems.append("certificates are not supported; name each key")
            continue
        if match is None:
            problems.append(f'`{each}` must be namespaces="…", valid-after="…" or valid-before="…", with the quotes')
            continue
        option, value = match["name"].lower(), match["value"]
        if option in options:
            problems.append(f"{option} is there twice")
        elif option == "namespaces":
            if not _NAMESPACES.fullmatch(value):
                problems.append(f"`{each}` must hold names with commas between, without wildcards")
            options[option] = value
        elif (moment := _MOMENT.fullmatch(value)) is None or not _is_moment(moment["digits"]):
            problems.append(f"`{each}` must be a time in UTC: YYYYMMDD, YYYYMMDDhhmm or YYYYMMDDhhmmss")
        else:
            options[option] = moment["digits"]
    after, before = (options.get(option, "").ljust(14, "0") for option in ("valid-after", "valid-before"))
    if {"valid-after", "valid-before"} <= options.keys() and before <= after:
        problems.append("its valid-before is not later than its valid-after")
    return options, problems


def _is_moment(digits: str) -> bool:
    try:
        # ssh-keygen has no moments of before.
        return datetime.strptime(digits, _MOMENT_FORMATS[len(digits)]).year > 1970
    except ValueError:
        return False


def allowed_signers(signers: tuple[Signer, ...], namespace: str = NAMESPACE) -> str:
    """The file for ssh-keygen, on hosts of that environment and here."""
    return "".join(f"{signer.line(namespace)}\n" for signer in signers)
