"""The keys of a host, as known_hosts files have them."""

import hashlib
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def known_hosts_files(ssh_config: Any) -> list[Path]:
    """The files in which ssh would look for this host's key, as its ssh_config says; only those that exist.

    Raises ValueError if they are badly quoted.
    """
    defaults = {
        "UserKnownHostsFile": "~/.ssh/known_hosts ~/.ssh/known_hosts2",
        "GlobalKnownHostsFile": "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",
    }
    paths = []
    for option in ("GlobalKnownHostsFile", "UserKnownHostsFile"):
        text = ssh_config.get(option.lower(), defaults[option])
        try:
            # paramiko has taken the quotes from around a single path with spaces already.
            names = [text] if os.path.isfile(os.path.expanduser(text)) else shlex.split(text)
            paths += [Path(os.path.expanduser(name)) for name in names]
        except ValueError as error:
            raise ValueError(f"{option} {text}: {error}") from error
    return [path for path in paths if path.is_file()]


@dataclass(slots=True)
class KnownHosts:
    """Keys of one host in known_hosts files, in their order, and what could not be read there."""

    keys: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def known_keys(files: list[Path], name: str) -> KnownHosts:
    """The keys of the host `name`, as known_hosts files spell it. A line that can't be read leaves the others good.

    paramiko by itself gives up at the first bad line, and takes the marker of a revoked key for a host's name.
    """
    from paramiko.hostkeys import HostKeyEntry, HostKeys

    known = KnownHosts()
    revoked = []
    for path in files:
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            known.problems.append(f"{path} can't be read: {error.strerror}")
            continue
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith(b"#") or words[0] == b"@cert-authority":
                continue
            is_revoked = words[0] == b"@revoked"
            fields = words[1:4] if is_revoked else words[:3]
            try:
                if len(fields) < 3:
                    raise ValueError("too few words")
                entry = HostKeyEntry.from_line(b" ".join(fields).decode("utf-8"))
                # None: of a kind that paramiko does not know, which is no fault.
                if entry is None:
                    continue
                if is_revoked:
                    revoked.append(entry.key)
                    continue
                entries = HostKeys()
                for host in entry.hostnames:
                    entries.add(host, entry.key.get_name(), entry.key)
                if entries.lookup(name) is not None:
                    known.keys.append(entry.key)
            except Exception:
                # Whatever paramiko stumbles over in a line (InvalidHostKey is not even an SSHException).
                known.problems.append(f"line {number} of {path} can't be read")
    if any(key in revoked for key in known.keys):
        known.problems.append(f"a key of {name} is marked as revoked")
    known.keys = [key for key in known.keys if key not in revoked]
    return known


def fingerprint(key: Any) -> str:
    """The key's fingerprint as ssh-keygen prints it."""
    import base64

    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
