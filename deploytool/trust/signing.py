"""Signs statements with the operator's own key, by ssh-keygen: a file's, an agent's or a hardware key.

Nothing is asked of any server. With pretend hosts nothing is signed: they are directories of whoever deploys to them.
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from deploytool.errors import SettingsError, UsageError
from deploytool.settings.files import environments
from deploytool.text import ids
from deploytool.text.untrusted import printable
from deploytool.trust.signers import NAMESPACE, RELEASE_NAMESPACE, Signer, allowed_signers, read_signers

if TYPE_CHECKING:
    from deploytool.settings import Settings

#: A hardware key waits to be touched, a key file for its passphrase.
SIGN_SECONDS = 120
CALL_SECONDS = 20

_SIGNED: Mapping[str, str] = {NAMESPACE: "the deployment", RELEASE_NAMESPACE: "the release"}


def signers_of(settings: "Settings", *, anywhere: bool = False) -> tuple[Signer, ...] | None:
    """Who may deploy to this environment, or `anywhere`; None if the settings name no signers. Raises SettingsError."""
    named = settings.trust.signers
    if named is None:
        return None
    path = settings.directory / named
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not text"
        raise SettingsError([f"trust.signers: {named} can't be read: {why}."]) from error
    known = frozenset(environments(settings.directory))
    environment = None if anywhere else settings.environment
    return read_signers(text, environment, known, f"trust.signers: {named}")


def asks_for_signatures(settings: "Settings") -> bool:
    """Whether what hosts of this environment run has to be signed: pretend hosts ask for nothing."""
    return settings.trust.signers is not None and not settings.has_pretend_hosts


def find_key(settings: "Settings", *, anywhere: bool = False) -> tuple[Path | str, tuple[Signer, ...]] | None:
    """What would sign for this environment, and who may; None where nothing is signed. Raises SettingsError."""
    signers = None if settings.has_pretend_hosts else signers_of(settings, anywhere=anywhere)
    return None if signers is None else (signing_key(settings, signers), signers)


def signing_key(settings: "Settings", signers: Sequence[Signer]) -> Path | str:
    """The key to sign with: what `trust.key` names, or the first of the agent's and the user's that may deploy.

    A path, or a public key that the agent has. Raises SettingsError if there is none.
    """
    allowed = {signer.key for signer in signers}
    named = settings.trust.key
    if named is not None:
        path = settings.directory / Path(named).expanduser()
        if not path.is_file():
            raise SettingsError([f"trust.key: there is no file {path}."])
        # Without its public half only ssh-keygen can tell whose it is; it is looked at once something is signed.
        return path
    for line in _agent_keys():
        if _key_of(line) in allowed:
            return line
    for path in sorted((Path.home() / ".ssh").glob("id_*.pub")):
        if path.is_file() and _key_of(path.read_text(encoding="utf-8", errors="replace")) in allowed:
            return path
    who = ", ".join(name for signer in signers[:5] for name in signer.names)
    raise SettingsError(
        [f"trust.signers: none of your keys may deploy to {settings.environment}; those of {who} may."],
        hint="`ssh-add` one of them, or set `trust.key` to its file; who is new is added to the file, and "
        "`fab ENV app-server` run again for each host",
    )


class SigningFailed(UsageError):
    """There is a key that may sign, and it has not: it was not touched, say, or its passphrase was not given."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What ssh-keygen has made, and the name of whom hosts take it for."""

    text: str
    name: str


def sign(
    settings: "Settings",
    text: str,
    moment: datetime,
    namespace: str = NAMESPACE,
    *,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Signature | None:
    """The signature of a statement, which hosts will accept; None where nothing is signed.

    `tell` shows a line to the operator: a hardware key waits for a touch, and whose turn it is should be known.

    `moment` is the time by which it is checked later: the one in the deployment's id, or when the release was built.
    The key must be valid then and now: the build server's clock is not this machine's.

    A release is of no environment: whoever may deploy to any may sign one.

    Raises SettingsError if no key may sign, SigningFailed if it does not, UsageError if hosts would refuse what it has
    signed.
    """
    found = find_key(settings, anywhere=namespace == RELEASE_NAMESPACE)
    if found is None:
        return None
    if (ahead := (moment - ids.now()).total_seconds()) > ids.AHEAD_SECONDS:
        # Hosts would take nothing any more that is signed before then.
        raise UsageError(
            f"nothing is signed that is of {ids.recorded(moment)}: by this machine's clock that is in "
            f"{ahead / 86400:.0f} days",
            hint="set the clock of this machine, or of the build server",
        )
    key, signers = found
    with tempfile.TemporaryDirectory(prefix="deploytool-") as directory:
        if isinstance(key, str):
            place = Path(directory) / "key.pub"
            place.write_text(f"{key}\n", encoding="utf-8")
            key = place
        if is_hardware(key):
            tell(f"touch the hardware key {settings.trust.key or key_name(found[0])}: it signs {_SIGNED[namespace]}")
        signed = _ssh_keygen("sign", "-f", str(key), "-n", namespace, text=text, seconds=SIGN_SECONDS)
    named = settings.trust.key or "your key"
    if signed.returncode != 0:
        raise SigningFailed(
            f"{named} can't sign",
            tail=_said(signed),
            hint="is the key in the agent (`ssh-add -l`)? Is its hardware plugged in? `trust.key` names another",
        )
    refused = f"hosts would refuse what {named} signs: it may not deploy to {settings.environment}"
    if _signer(signers, text, signed.stdout, namespace) is None:
        raise UsageError(
            f"{refused}, or its time is over", hint=f"{settings.trust.signers} names those who may, and how long"
        )
    name = _signer(signers, text, signed.stdout, namespace, moment)
    if name is None:
        raise UsageError(
            f"{refused} at {ids.recorded(moment)}, the time by which it is checked",
            hint=f"{settings.trust.signers} has its valid-after and valid-before; is the build server's clock right?",
        )
    return Signature(signed.stdout, name)


def signer_of_release(settings: "Settings", text: str, signature: str, moment: datetime) -> str | None:
    """Who of those who may deploy anywhere has signed what tells of a release; None: nobody. Raises SettingsError.

    Keys count that were valid at that moment.
    """
    return _signer(signers_of(settings, anywhere=True) or (), text, signature, RELEASE_NAMESPACE, moment)


def _signer(
    signers: tuple[Signer, ...], text: str, signature: str, namespace: str, moment: datetime | None = None
) -> str | None:
    # Older ones of OpenSSH know neither the option nor what it is for.
    timed = moment and any("valid-" in signer.options.lower() for signer in signers)
    at = ("-O", f"verify-time={moment:%Y%m%d%H%M%S}") if timed else ()
    with tempfile.TemporaryDirectory(prefix="deploytool-") as directory:
        place = Path(directory)
        (place / "signature").write_text(signature, encoding="utf-8")
        (place / "signers").write_text(allowed_signers(signers, namespace), encoding="utf-8")
        files = (*at, "-f", str(place / "signers"), "-s", str(place / "signature"))
        for name in _ssh_keygen("find-principals", *files, text="").stdout.split():
            if _ssh_keygen("verify", *files, "-I", name, "-n", namespace, text=text).returncode == 0:
                return name
    return None


def _agent_keys() -> Iterator[str]:
    if not os.environ.get("SSH_AUTH_SOCK"):
        return
    command = ["ssh-add", "-L"]
    try:
        listed = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=CALL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        # One that is not there, or does not answer, has no key for us.
        return
    if listed.returncode == 0:
        yield from listed.stdout.splitlines()


def is_hardware(key: Path | str) -> bool:
    """Whether the key is a token's, which somebody has to touch; its public half says so."""
    if isinstance(key, str):
        return key.startswith("sk-")
    public = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    return public.is_file() and public.read_text(encoding="utf-8", errors="replace").startswith("sk-")


def is_agents(key: Path | str) -> bool:
    """Whether the agent alone has it: a public half that stands by itself is the name of one that it has."""
    return isinstance(key, str) or (key.suffix == ".pub" and not key.with_suffix("").exists())


def key_name(key: Path | str) -> str:
    """What the operator calls it: its file, or the comment that the agent has."""
    return str(key) if isinstance(key, Path) else key.split()[-1]


def _key_of(line: str) -> str:
    """A public key's kind and base64, without its comment."""
    return " ".join(line.split()[:2])


def _ssh_keygen(do: str, *arguments: str, text: str, seconds: int = CALL_SECONDS) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["ssh-keygen", "-Y", do, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            env={**os.environ, "TZ": "UTC0"},
        )
    except FileNotFoundError as error:
        raise SigningFailed(
            "nothing can be signed, nor a signature checked: this machine has no ssh-keygen",
            hint="install OpenSSH's client, 8.2 or later",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SigningFailed(
            f"ssh-keygen has not ended within {seconds} s",
            hint="a hardware key waits to be touched, a key for its passphrase",
        ) from error


def _said(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return [printable(line) for line in done.stderr.splitlines() if line.strip()][-5:]
