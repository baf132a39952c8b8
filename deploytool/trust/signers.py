"""Who may deploy: the file that `trust.signers` names, in the form of ssh-keygen's allowed_signers. Pure.

A line is as in ssh-keygen(1), "ALLOWED SIGNERS": `alice@example.org valid-before="20270101" ssh-ed25519 AAAA…`. Who has
`NAME:ENVIRONMENT` in NAME's place may deploy to that environment alone.
"""

import re
from dataclasses import dataclass

from deploytool.errors import SettingsError

#: of ssh-keygen; what is signed for git, say, is no deployment
NAMESPACE = "deploytool"
#: and what is signed of a release is none either
RELEASE_NAMESPACE = "deploytool-release"

_LINE = re.compile(
    r"(?P<principals>\S+)\s+(?:(?P<options>\S+)\s+)?(?P<kind>(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)\s+(?P<key>[A-Za-z0-9+/]+=*)(?:\s.*)?"
)
_NAMESPACES = re.compile(r'(?:^|,)namespaces="([^"]*)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Signer:
    """Somebody who may deploy to an environment, by one key."""

    names: tuple[str, ...]
    #: as ssh-keygen knows them, but for namespaces
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
        options = match["options"] or ""
        if re.search(r"(^|,)cert-authority(,|$)", options, re.IGNORECASE):
            problems.append(f"{name}, line {number}: certificates are not supported; name each key")
            continue
        if re.search(r"[*?!\"]", match["principals"]):
            problems.append(f"{name}, line {number}: `{match['principals']}` must be names, without wildcards")
            continue
        names = []
        for principal in match["principals"].split(","):
            who, _, where = principal.partition(":")
            if where and where not in environments:
                problems.append(f"{name}, line {number}: there is no environment `{where}`")
            if environment is None or where in ("", environment):
                names.append(who)
        namespaces = _NAMESPACES.search(options)
        if names and (namespaces is None or NAMESPACE in namespaces[1].split(",")):
            rest = _NAMESPACES.sub("", options).strip(",")
            found.append(Signer(tuple(names), rest, f"{match['kind']} {match['key']}"))
    if not found and not problems:
        problems.append(f"{name}: names nobody who may deploy{f' to {environment}' if environment else ''}")
    if problems:
        raise SettingsError(problems)
    return tuple(found)


def allowed_signers(signers: tuple[Signer, ...], namespace: str = NAMESPACE) -> str:
    """The file for ssh-keygen, on hosts of that environment and here."""
    return "".join(f"{signer.line(namespace)}\n" for signer in signers)
