"""The configuration files of the playground's programs, as text. Pure: starts nothing, writes nothing."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml


def _quoted(text: object) -> str:
    """A word as OpenSSH's configuration files want it if it may hold spaces."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def consul_agent(
    *,
    node_name: str,
    data_dir: Path,
    ports: Mapping[str, int],
    server_serf_port: int,
    is_server: bool,
    node_meta: Mapping[str, str] | None = None,
) -> str:
    """One agent's configuration; `ports` holds `http`, `serf_lan` and `server`."""
    config: dict[str, object] = {
        "datacenter": "playground",
        "node_name": node_name,
        "data_dir": str(data_dir),
        "server": is_server,
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "ports": {**ports, "dns": -1, "serf_wan": -1, "grpc": -1},
        "retry_join": [f"127.0.0.1:{server_serf_port}"],
        "retry_interval": "1s",
        "rejoin_after_leave": True,
        # All of them are on one machine, whose own id they must not share.
        "disable_host_node_id": True,
        "disable_update_check": True,
        # Quick to start and to notice a dead host, also where tests keep the machine busy, and many such clusters idle
        # side by side; a real network needs the defaults.
        "gossip_lan": {
            "probe_interval": "500ms",
            "probe_timeout": "250ms",
            "suspicion_mult": 3,
        },
        "performance": {"raft_multiplier": 1},
    }
    if is_server:
        config["bootstrap_expect"] = 1
    if node_meta:
        config["node_meta"] = dict(node_meta)
    return json.dumps(config, indent=2)


@dataclass(frozen=True, slots=True)
class Keys:
    """What one identity shows to the S3 server."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"<Keys {self.access_key}>"


def s3_identities(owner: Keys, deploy: Keys, reader: Keys) -> str:
    """SeaweedFS's identities: the owner may make buckets, `deploy` may read and write, `reader` may read."""

    def identity(name: str, keys: Keys, actions: Sequence[str]) -> Mapping[str, object]:
        credentials = [{"accessKey": keys.access_key, "secretKey": keys.secret_key}]
        return {"name": name, "credentials": credentials, "actions": list(actions)}

    return json.dumps(
        {
            "identities": [
                identity("owner", owner, ["Admin", "Read", "Write", "List", "Tagging"]),
                # Not Admin: SeaweedFS makes a missing bucket for an Admin who writes into it, which S3 never does.
                identity("deploy", deploy, ["Read", "Write", "List", "Tagging"]),
                identity("reader", reader, ["Read", "List"]),
            ]
        },
        indent=2,
    )


def sshd(
    *, port: int, host_key: Path, authorized_keys: Path, pid_file: Path, user: str, environment: Mapping[str, str]
) -> str:
    # Of several SetEnv lines only the first would count.
    set_env = " ".join(_quoted(f"{name}={value}") for name, value in environment.items())
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {_quoted(host_key)}",
        f"PidFile {_quoted(pid_file)}",
        f"AuthorizedKeysFile {_quoted(authorized_keys)}",
        f"AllowUsers {user}",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "UsePAM no",
        # The state directory may lie below /tmp, which everybody may write to.
        "StrictModes no",
        "UseDNS no",
        "PrintMotd no",
        "PrintLastLog no",
        "LogLevel VERBOSE",
        "Subsystem sftp internal-sftp",
        f"SetEnv {set_env}",
    ]
    return "\n".join(lines) + "\n"


def ssh_config(*, port: int, user: str, identity_file: Path, known_hosts: Path) -> str:
    """The operator's side; `ssh -F FILE playground` works as well."""
    lines = [
        "Host playground 127.0.0.1",
        "    HostName 127.0.0.1",
        f"    Port {port}",
        f"    User {user}",
        f"    IdentityFile {_quoted(identity_file)}",
        "    IdentitiesOnly yes",
        f"    UserKnownHostsFile {_quoted(known_hosts)}",
        "    StrictHostKeyChecking yes",
        "    ServerAliveInterval 15",
        "    ConnectTimeout 10",
    ]
    return "\n".join(lines) + "\n"


def dotenv(before: str, values: Mapping[str, object], defaults: Mapping[str, object] | None = None) -> str:
    """The `.env` whose text was `before`, with these values; every other line stays as it is, where it is.

    `defaults` are for names that it does not have yet. Values are written without quotes, as most readers of such files
    want them.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", before)
    missing = dict(values) | dict(defaults or {})
    for at, line in enumerate(lines):
        if not (found := _ASSIGNMENT.match(line)):
            continue
        name, said = found["name"], found["value"].strip().strip("\"'")
        missing.pop(name, None)
        if name in values and said != str(values[name]):
            lines[at] = f"{found['before']}{name}={values[name]}\n"
    if missing and lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join((*lines, *(f"{name}={value}\n" for name, value in missing.items())))


def values_of(text: str) -> Mapping[str, str]:
    """The names that a `.env` sets, with their values as far as they are plain; the last of each."""
    found = filter(None, map(_ASSIGNMENT.match, text.splitlines()))
    return {each["name"]: each["value"].strip().strip("\"'") for each in found}


_ASSIGNMENT = re.compile(r"(?P<before>\s*(?:export\s+)?)(?P<name>\w+)\s*=(?P<value>.*)")
_CHECKSUM = "# Unedited as long as this is the checksum of what follows: "
#: As earlier versions wrote it.
_CHECKSUM_BEFORE = "# Nobody has edited this file as long as this is the checksum of what follows: "


def settings(values: Mapping[str, object], *, head: str) -> str:
    """A settings file of deploytool, with a comment above it; see `is_unedited`."""
    comment = "".join(f"# {line}\n" for line in head.splitlines())
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1000)
    return f"{comment}{_CHECKSUM}{_checksum(text)}\n{text}"


def is_unedited(text: str) -> bool:
    """Whether this is a settings file as `settings` made it, so that nothing is lost with it."""
    head, found, rest = text.replace(_CHECKSUM_BEFORE, _CHECKSUM, 1).partition(_CHECKSUM)
    checksum, _, body = rest.partition("\n")
    return bool(found) and all(line.startswith("#") for line in head.splitlines()) and checksum == _checksum(body)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
