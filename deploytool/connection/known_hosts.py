"""The keys of a host, as known_hosts files have them, and what is said of one that is not there."""

import base64
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from deploytool.connection.ssh_config import Host
from deploytool.errors import ConnectionFailed


@dataclass(slots=True)
class KnownHosts:
    """What is known of one host, in the order of its files."""

    host: Host
    files: list[Path]
    keys: list[Any] = field(default_factory=list)
    revoked: list[Any] = field(default_factory=list)
    #: whether an authority may vouch for it
    has_authority: bool = False
    problems: list[str] = field(default_factory=list)

    def check(self, key: Any) -> None:
        """Raises ConnectionFailed unless that is its key."""
        if key in self.revoked:
            raise revoked_key(self.host)
        if files := self.host.one("revokedhostkeys"):
            raise ConnectionFailed(
                f"the host key of {self.host} can't be checked: RevokedHostKeys ({files}) is set, and Fabric "
                "doesn't read it",
                hint="use OpenSSH's client: install it if it is missing, and remove `build.transport: fabric`",
            )
        if key not in self.keys:
            if self.keys:
                offered = f"it offers {key.get_name()} {fingerprint(key)}, and known_hosts has "
                raise changed_key(self.host, offered + " or ".join(fingerprint(each) for each in self.keys))
            raise unknown_key(self.host, self.files, self.problems)


def known_hosts_files(host: Host) -> list[Path]:
    """The files in which ssh looks for this host's key; only those that exist."""
    usual = {
        "globalknownhostsfile": "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",
        "userknownhostsfile": "~/.ssh/known_hosts ~/.ssh/known_hosts2",
    }
    paths = []
    for option, otherwise in usual.items():
        for names in host.all(option) if option in host.options else (otherwise,):
            paths += [Path(os.path.expanduser(name)) for name in _names(names)]
    return [path for path in paths if path.is_file()]


def _names(text: str) -> Iterator[str]:
    """The files of one line. `ssh -G` puts no quotes around one with spaces: it is known by being there."""
    words = text.split(" ")
    while words:
        longest = range(len(words), 1, -1)
        count = next((n for n in longest if os.path.isfile(os.path.expanduser(" ".join(words[:n])))), 1)
        # Where ssh is not here, the quotes are still around them.
        yield " ".join(words[:count]).strip('"')
        del words[:count]


@cache
def known_keys(host: Host) -> KnownHosts:
    """What its files know of a host, read once. A line that can't be read leaves the others good."""
    from paramiko.hostkeys import HostKeyEntry

    known = KnownHosts(host, known_hosts_files(host))
    # A key that is known for the host's own port counts for each other port of which nothing is known.
    for name in dict.fromkeys((host.key_name, host.hostname.lower() if not host.one("hostkeyalias") else "")):
        if known.keys or known.has_authority or not name:
            continue
        for path in known.files:
            for line in _lines(path, name, known.problems):
                marker, *fields = line.split() if line.startswith("@") else ("", *line.split())
                if marker == "@cert-authority":
                    known.has_authority = True
                    continue
                try:
                    entry = HostKeyEntry.from_line(" ".join(fields[:3]))
                except Exception:
                    # Whatever paramiko stumbles over in a line (InvalidHostKey is not even an SSHException).
                    known.problems.append(f"a line of {path} for {name} can't be read")
                    continue
                # None: of a kind that paramiko does not know, which is no fault.
                if entry is not None:
                    (known.revoked if marker else known.keys).append(entry.key)
    return known


def _lines(path: Path, name: str, problems: list[str]) -> Iterator[str]:
    """The lines for that name. ssh-keygen finds them: patterns, hashes and markers mean what they mean to ssh."""
    done = None
    if shutil.which("ssh-keygen"):
        # The name stands for itself, never for an option.
        argv = ["ssh-keygen", f"-F{name}", "-f", str(path)]
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL)
    if done is None or b"No user exists for uid" in done.stderr:
        text = _plain_lines(path, name, problems)
    else:
        text = done.stdout
        if done.returncode not in (0, 1):
            problems.append(done.stderr.decode("utf-8", "replace").strip())
    for line in text.decode("utf-8", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def _plain_lines(path: Path, name: str, problems: list[str]) -> bytes:
    """As paramiko finds them, which knows no patterns: what is revoked for somebody counts as revoked for all."""
    from paramiko.hostkeys import HostKeys

    found = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        problems.append(f"{path} can't be read: {error.strerror}")
        return b""
    for line in lines:
        words = line.split()
        names = (words[1:2] if line.startswith(b"@") else words[:1]) or [b""]
        spelled = names[0].decode("utf-8", "replace").split(",")
        hashed = spelled[0].startswith("|1|") and HostKeys.hash_host(name, spelled[0]) == spelled[0]
        if hashed or name in spelled or "*" in spelled or line.startswith(b"@revoked"):
            found.append(line)
    return b"\n".join(found)


def fingerprint(key: Any) -> str:
    """The key's fingerprint as ssh-keygen prints it."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


# What is said of keys, whoever has seen them


def unknown_key(host: Host, files: list[Path], problems: list[str]) -> ConnectionFailed:
    looked = ", ".join(str(path) for path in files) or "none of the known_hosts files exists"
    alias = host.one("hostkeyalias")
    called = f" as {alias}, its HostKeyAlias" if alias else ""
    return ConnectionFailed(
        f"the host key of {host} is unknown (looked{called} in: {looked})",
        tail=problems[-20:],
        hint=f"compare its fingerprint with the administrator's, then `{_scan(host)}`"
        + (f", with {alias} in place of the host's name" if alias else ""),
    )


def changed_key(host: Host, why: str, tail: tuple[str, ...] = ()) -> ConnectionFailed:
    return ConnectionFailed(
        f"the host key of {host} has CHANGED: {why}",
        tail=tail,
        hint="somebody may be intercepting the connection. If the server was reinstalled, ask its administrator for "
        f"the new fingerprint, then `ssh-keygen -R '{host.key_name}'` and `{_scan(host)}`",
    )


def revoked_key(host: Host, tail: tuple[str, ...] = (), file: str = "known_hosts") -> ConnectionFailed:
    return ConnectionFailed(
        f"the host key of {host} is marked as revoked in {file}",
        tail=tail,
        hint="it may have been stolen: ask the server's administrator for the new key",
    )


def _scan(host: Host) -> str:
    """A command that adds its key, to the first of the user's own files as ssh itself does."""
    own = next((name for names in host.all("userknownhostsfile") for name in _names(names)), "~/.ssh/known_hosts")
    own = own.replace(os.path.expanduser("~/"), "~/", 1)
    return f"ssh-keyscan -p {host.port} {host.hostname} >> {own if own.startswith('~') else shlex.quote(own)}"
