"""What an app server of one role needs: units, directories, policies; as files, as a script, as cloud-init user data.

Pure but for reading our own templates: it connects to nothing.
"""

import gzip
import json
import re
import shlex
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deploytool.errors import UsageError
from deploytool.hosts.probes import unpacking_programs
from deploytool.hosts.scripts import host_part, own_templates, receive_script
from deploytool.hosts.sudo_rules import sudo_rules
from deploytool.hosts.yaml_text import yaml_scalar
from deploytool.model.release import consul_prefix, event_name
from deploytool.text.masking import Masking
from deploytool.trust.signers import allowed_signers
from deploytool.trust.signing import signers_of

if TYPE_CHECKING:
    from deploytool.settings import Settings

RECEIVE = "/usr/local/lib/deploytool/receive.sh"
UNITS = "/etc/systemd/system"
#: what EC2 takes, before base64; other clouds take more
USER_DATA_BYTES = 16384

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: as it becomes part of keys and of Consul's rules
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Stretcher:
    """Where an app server without stretcher gets it from."""

    #: a program, or a .zip or .tar.gz that holds it
    url: str
    #: sha256 of what is there, 64 hexadecimal digits
    checksum: str
    #: what `uname -m` says on machines that it runs on; empty: that is the caller's affair
    machine: str


#: The newest release that its author has built; there is none for other machines.
RELEASED = Stretcher(
    "https://github.com/fujiwara/stretcher/releases/download/v1.1.0/stretcher-v1.1.0-linux-amd64.zip",
    "1506412d1974a6652cb11c601d0566f6063ab39a51bbb0cf0dd687318accd3c0",
    "x86_64",
)


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file on an app server."""

    path: str
    mode: str
    text: str
    #: whether one that is there already stays as it is
    kept: bool = False


@dataclass(frozen=True, slots=True)
class AppServer:
    """All that an app server of one role needs, as texts."""

    #: run as root on the app server, it does everything
    script: str
    #: user data for new machines: the same script
    cloud_init: str
    #: what the script writes
    files: tuple[HostFile, ...]
    #: file name → Consul's and S3's least rights of both ends, for whoever hands out tokens and keys
    policies: Mapping[str, str]

    @property
    def note(self) -> str | None:
        """What is to be known of the user data; None: nothing. Keys of signers hardly get smaller when packed."""
        size_bytes = len(self.cloud_init.encode())
        if size_bytes <= USER_DATA_BYTES:
            return None
        return (
            f"cloud-init's user data has {size_bytes} bytes, and EC2 takes no more than {USER_DATA_BYTES} bytes of user"
            " data: there, put what `--format script` prints into the machine's image, or have user data of your own "
            "fetch it and run it; fewer signers (`trust.signers`) make it smaller"
        )

    def listing(self) -> Mapping[str, str]:
        """Every file of `--output`, by its path below the directory."""
        return {
            "setup.sh": self.script,
            "cloud-init.yml": self.cloud_init,
            **{f"root{file.path}": file.text for file in self.files},
            **{f"policies/{name}": text for name, text in self.policies.items()},
        }


def choose_stretcher(url: str | None, checksum: str | None) -> Stretcher:
    """What `--stretcher` and `--stretcher-sha256` say; the released one without them. Raises UsageError."""
    if checksum is not None and not _SHA256.fullmatch(checksum):
        raise UsageError("--stretcher-sha256 must have 64 hexadecimal digits", hint="`sha256sum FILE` prints them")
    if url is None:
        if checksum is not None:
            raise UsageError("--stretcher-sha256 is of what --stretcher names, which is missing")
        return RELEASED
    if not re.fullmatch(r"https://[!-~]+", url):
        raise UsageError(
            f"--stretcher: {url!r} is not an https URL", hint="app servers run what is there: serve it over https"
        )
    if checksum is None:
        raise UsageError(
            "--stretcher needs --stretcher-sha256: app servers install a download only if its checksum matches",
            hint="`sha256sum FILE` prints it",
        )
    return Stretcher(url, checksum, "")


def choose_role(settings: "Settings", role: str | None) -> str:
    """The role that `--role` names, or the only one. Raises UsageError that lists them."""
    names = tuple(settings.roles)
    if role is None and len(names) == 1:
        return names[0]
    if role not in names:
        problem = "--role is missing" if role is None else f"there is no role {role!r}"
        raise UsageError(f"{problem}; roles of {settings.environment}: {', '.join(names)}")
    return role


def refuse_nobodys_policy(node: str | None, *, shared_token: bool, is_printed: bool) -> None:
    """Raise UsageError unless it is said whose the policy for Consul is that is printed: one host's, or all hosts'."""
    if node is not None and shared_token:
        raise UsageError("--node names one host, --shared-token means all of them", hint="leave one of them out")
    if is_printed and node is None and not shared_token:
        raise UsageError(
            "--node is missing: the policy for Consul is one host's, so that its token can speak for no other host",
            hint="name the host as Consul does: `--node app1`; with `--shared-token` any host of the role can report "
            "that all others are verified",
        )


def app_server(
    settings: "Settings", role: str, *, user: str, stretcher: Stretcher, node: str | None = None, sandbox: bool = False
) -> AppServer:
    """What app servers of the role need; `user` runs stretcher. `node` is the one whose policy it is; see `policies`.
    With `sandbox` neither stretcher nor a hook can gain rights, so that sudo does not work.

    Raises UsageError for pretend hosts, for odd users and nodes, and where it would hold a secret.
    """
    if settings.has_pretend_hosts:
        raise UsageError(
            f"the hosts of {settings.environment} are directories on this machine, and need no set-up",
            hint="name an environment with real app servers",
        )
    if not _USER.fullmatch(user):
        raise UsageError(f"--user: {user!r} can't be the name of a user")
    if node is not None and not _NODE.fullmatch(node):
        raise UsageError(f"--node: {node!r} can't be the name of a Consul node")
    masking = Masking(settings.secrets)
    for setting, text in (("region", settings.store.region), ("endpoint_url", settings.store.endpoint_url)):
        if text is not None and masking.text(text) != text:
            raise UsageError(
                f"store.{setting} holds a secret, and what this prints is installed on every app server",
                hint="write the value itself into the settings, in place of ${NAME}, if it is not a secret",
            )
    application, environment = settings.application, settings.environment
    signers, signers_file = signers_of(settings), f"/etc/deploytool/{application}/{environment}.signers"
    name = f"{application}-{role}-{environment}"
    deploy_to = settings.deploy_to_of(role)
    by_s3 = settings.store.url.startswith("s3:") and settings.store.hosts_url is None
    place = urlsplit(settings.store.url) if by_s3 else None
    values: dict[str, object] = {
        "application": application,
        "environment": environment,
        "role": role,
        "user": user,
        "sandbox": sandbox,
        "deploy_to": deploy_to,
        "temporary": f"{deploy_to}/.tmp",
        "event": event_name(application, role, environment),
        "consul_prefix": consul_prefix(application, environment),
        "receive": RECEIVE,
        # `consul watch` hands its handler to a shell.
        "handler": shlex.join(
            [RECEIVE, "event", application, environment, role, deploy_to, *([signers_file] if signers else [])]
        ),
        "signers_file": signers_file if signers else "",
        "environment_file": f"/etc/deploytool/{application}-{environment}.env",
        "watch_unit": f"deploy-{name}.service",
        "timer_unit": f"catch-up-{name}.timer",
        "region": settings.store.region if place else None,
        "endpoint_url": settings.store.endpoint_url if place else None,
        "bucket": place.netloc if place else None,
        "namespace": settings.consul.namespace,
        "linked_files": settings.linked_files,
        "programs": (
            *unpacking_programs(settings),
            "curl",
            *(["ssh-keygen"] if signers else []),
            *(["unzip"] if stretcher.url.endswith(".zip") else []),
        ),
        "stretcher": stretcher,
        "sudo_rules": () if user == "root" else sudo_rules(settings, role),
        "sudoers": f"/etc/sudoers.d/deploy-{name}",
        "strict": host_part("strict"),
    }
    files = (
        HostFile(f"{UNITS}/deploy-{name}.service", "644", _rendered("watch.service.j2", values)),
        HostFile(f"{UNITS}/catch-up-{name}.service", "644", _rendered("catch-up.service.j2", values)),
        HostFile(f"{UNITS}/catch-up-{name}.timer", "644", _rendered("catch-up.timer.j2", values)),
        HostFile(RECEIVE, "755", receive_script()),
        HostFile(f"/etc/tmpfiles.d/deploy-{name}.conf", "644", _rendered("tmpfiles.conf.j2", values)),
        # systemd reads it as root, and it may get secrets.
        HostFile(str(values["environment_file"]), "600", _rendered("environment.j2", values), kept=True),
        *([HostFile(signers_file, "644", allowed_signers(signers))] if signers else []),
    )
    script = _rendered("setup.sh.j2", {**values, "files": files})
    cloud_init = {
        **values,
        "setup": b64encode(gzip.compress(script.encode(), mtime=0)).decode(),
        "setup_path": f"/usr/local/sbin/app-server-{name}",
    }
    return AppServer(script, _rendered("cloud-init.yml.j2", cloud_init), files, policies(settings, role, node))


def policies(settings: "Settings", role: str, node: str | None = None) -> Mapping[str, str]:
    """The least rights of an app server of the role and of the build server, by file name. None of S3 without S3.

    Those in Consul are the host `node`'s, who can speak for no other; without one they are for any host of the role.
    """
    application, environment = settings.application, settings.environment
    values: dict[str, object] = {
        "application": application,
        "environment": environment,
        "role": role,
        "node": node,
        "event": event_name(application, role, environment),
        "events": [event_name(application, each, environment) for each in settings.roles],
        "services": sorted({each.hosts.service for each in settings.roles.values() if each.hosts.service}),
        "consul_prefix": consul_prefix(application, environment),
    }
    names = ["consul-app-server.hcl", "consul-build-server.hcl"]
    if settings.store.url.startswith("s3:"):
        place = urlsplit(settings.store.url)
        bucket = f"arn:{_partition(settings.store.region)}:s3:::{place.netloc}"
        prefix = place.path.strip("/")
        encryption = settings.store.encryption
        values |= {
            "bucket_arn": bucket,
            "objects": f"{bucket}/{prefix}/" if prefix else f"{bucket}/",
            "acl": settings.store.acl,
            "kms_key": _key_arn(settings.store.region, encryption.kms_key) if encryption else None,
        }
        names += ["s3-build-server.json"] + ["s3-app-server.json"] * (settings.store.hosts_url is None)
    return {name: _rendered(f"{name}.j2", values) for name in names}


def write(server: AppServer, directory: Path) -> list[str]:
    """Write every file below the directory, in place of older ones; their paths. Raises UsageError."""
    try:
        for name, text in server.listing().items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755 if text.startswith("#!") else 0o644)
    except OSError as error:
        raise UsageError(f"--output: {error.filename} can't be written: {error.strerror}") from error
    return list(server.listing())


def _key_arn(region: str | None, key: str | None) -> str | None:
    """The KMS key as a policy names it; None for the account's own key, which asks for no rights. Of an alias, all keys
    of the region: a policy can't name an alias."""
    if key is None or key.startswith("arn:"):
        return key
    found = "*" if key.startswith("alias/") else key
    return f"arn:{_partition(region)}:kms:{region or '*'}:*:key/{found}"


def _partition(region: str | None) -> str:
    """AWS's name for the part of it that a region belongs to, as its ARNs have it."""
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((name for prefix, name in prefixes.items() if (region or "").startswith(prefix)), "aws")


def _rendered(name: str, values: Mapping[str, object]) -> str:
    from deploytool.settings.templates import jinja_environment

    jinja = jinja_environment(own_templates() / "app-server")
    jinja.filters |= {
        "sh": shlex.quote,
        "yaml": yaml_scalar,
        "json": partial(json.dumps, ensure_ascii=False),
        "systemd": systemd_word,
        "systemd_argument": lambda text: systemd_word(text).replace("$", "$$"),
    }
    return jinja.get_template(name).render(values)


def systemd_word(text: str) -> str:
    """`text` as one word of a unit's or tmpfiles' line; in ExecStart a `$` has to be doubled, besides."""
    escaped = text.replace("%", "%%")
    if re.fullmatch(r"[A-Za-z0-9_./=:%+@,$-]+", escaped):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
