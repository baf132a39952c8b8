"""What a host's configuration is. OpenSSH's client says it (`ssh -G`): includes, matches, tokens, jumps, identities.

Without that program there is Fabric's own reading, which knows less of such files; a sentence names what it left out.
"""

import getpass
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deploytool.errors import UsageError

#: More jumps than anybody has: a circle.
MOST_HOPS = 16

#: What Fabric's reading of a file passes over, or understands in part.
_UNREAD = re.compile(
    r"^\s*(Include|Match|CertificateFile|IdentityAgent|PKCS11Provider|SecurityKeyProvider|KnownHostsCommand"
    r"|RevokedHostKeys|ControlPath|IdentitiesOnly|BindAddress|BindInterface|AddressFamily)\b",
    re.IGNORECASE | re.MULTILINE,
)


#: Of clients other than OpenSSH's, as dropbear's, and of very old ones.
_KNOWS_NO_G = re.compile(r"\b(unknown|illegal|invalid|unrecognized) option\b.*\bG\b", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Host:
    """One hop, as configured."""

    #: as it was typed, without user and port
    name: str
    #: by their names in lower case
    options: Mapping[str, tuple[str, ...]]
    #: with which OpenSSH's client is called to get there; None if it is not here
    arguments: tuple[str, ...] | None = None
    #: what its file holds that was not read, as it is known without OpenSSH's client only
    unread: tuple[str, ...] = ()
    #: why OpenSSH's client does not say what the configuration is
    no_client: str = ""

    def one(self, option: str) -> str:
        """Its value; empty if there is none."""
        value = self.options.get(option, ("",))[0]
        return "" if value == "none" else value

    def all(self, option: str) -> tuple[str, ...]:
        return tuple(value for value in self.options.get(option, ()) if value != "none")

    def has(self, option: str) -> bool:
        """Whether it is switched on: older clients print `yes` where newer ones print `true`."""
        return self.one(option) in ("yes", "true")

    @cached_property
    def hostname(self) -> str:
        return self.one("hostname").strip("[]") or self.name

    @cached_property
    def user(self) -> str:
        return self.one("user") or _local_user()

    @cached_property
    def port(self) -> int:
        return int(self.one("port") or 22)

    @property
    def key_name(self) -> str:
        """What known_hosts files call it."""
        name = self.hostname.lower()
        return self.one("hostkeyalias").lower() or (name if self.port == 22 else f"[{name}]:{self.port}")

    @property
    def jumps(self) -> str:
        return self.one("proxyjump")

    def __str__(self) -> str:
        """Where it is, for people."""
        name = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return f"{self.user}@{name}:{self.port}"

    @property
    def by_hand(self) -> str:
        """The command with which somebody gets there without us."""
        words = self.arguments or ()
        file = words[1:3] if words[1:2] == ("-F",) else ()
        port = ("-p", str(self.port)) if "-p" in words else ()
        return shlex.join(["ssh", *file, *port, f"{self.user}@{self.name}"])

    def expand(self, text: str) -> str:
        """With its tokens replaced, which `ssh -G` leaves in some values. Raises LookupError for one that is not known
        here."""
        tokens = {
            "%": "%",
            "d": os.path.expanduser("~"),
            "h": self.hostname,
            "i": str(os.getuid()),
            "k": self.one("hostkeyalias") or self.hostname,
            "L": socket.gethostname().partition(".")[0],
            "l": socket.gethostname(),
            "n": self.name,
            "p": str(self.port),
            "r": self.user,
            "u": _local_user() if "%u" in text else "",
        }
        return re.sub(r"%(.)", lambda found: tokens[found[1]], text)

    def paths(self, option: str) -> list[str]:
        """The files that it names, with all that stands for something replaced. Raises LookupError as `expand`."""
        return [os.path.expanduser(self.expand(_environment(value))) for value in self.all(option)]


def _environment(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: os.environ[found[1]], text)


@dataclass(frozen=True, slots=True)
class OfFabric:
    """What `fab`'s flags and Fabric's own configuration (fabric.yml, FABRIC_…) say of the way; None where nothing."""

    arguments: tuple[str, ...] = ()
    user: str | None = None
    ssh_config_path: str | None = None
    #: a ProxyCommand
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """From where configurations come."""

    #: in place of the user's and the system's; None for these
    file: str | None
    #: what it is called in sentences
    called: str
    #: what goes before all files, as OpenSSH's client takes it
    arguments: tuple[str, ...] = ()
    #: `user` and `gateway` of Fabric's own configuration: for where neither a file nor a name has its own
    user: str | None = None
    proxy_command: str | None = None

    @classmethod
    def of(cls, flag: str | None, setting: str | None, fabric: "OfFabric") -> "Reading":
        """`flag` is -S of the command line, which goes before `build.ssh_config`. Raises UsageError."""
        called = "ssh_config (~/.ssh/config, /etc/ssh/ssh_config)"
        file = os.path.expanduser(flag or setting or fabric.ssh_config_path or "") or None
        if file is not None:
            by = "-S/--ssh-config" if flag else "build.ssh_config" if setting else "Fabric's ssh_config_path"
            called = f"the file {file}, named by {by},"
            if not os.path.isfile(file):
                raise UsageError(f"{called} is not there")
        elif os.path.isfile(own := os.path.expanduser("~/.ssh/config")) and not _is_home():
            # ssh itself asks passwd only. In containers of CI systems HOME is elsewhere, and the files with it.
            file, called = own, f"the file {own}"
        return cls(file, called, fabric.arguments, fabric.user, fabric.gateway)

    def way(self, server: str, jumps: str | None = None) -> list[Host]:
        """The hosts to `server`, those to jump over first; `jumps` are in place of those that are configured.

        Raises UsageError.
        """
        way: list[Host] = []
        rest: str | None = server
        while rest is not None:
            host = self.host(rest, jumps)
            way.insert(0, host)
            if len(way) > MOST_HOPS:
                raise UsageError(f"{self.called} can't be used for {server}: its ProxyJump is circular")
            before, _, last = host.jumps.rpartition(",")
            # Of several only the first is reached as its own configuration says.
            rest, jumps = last or None, before or None
        return way

    def host(self, server: str, jumps: str | None = None, *, proxied: bool = False) -> Host:
        user, name, port = split(server)
        program = shutil.which("ssh")
        if program is None:
            return self._plain(user, name, port, jumps, "there is no `ssh` in PATH")
        arguments = [*(["-F", self.file] if self.file else []), *self.arguments]
        arguments += [*(["-l", user] if user else []), *(["-p", port] if port else [])]
        # They are the caller's to go; ssh would refuse one that has the same name as the host behind it.
        arguments += ["-o", "ProxyJump=none"] if jumps else []
        if proxied:
            arguments += ["-o", f"ProxyCommand={self.proxy_command}"]
        argv = [program, "-G", *arguments, "--", name]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if nobody := re.search(r"No user exists for uid \d+", done.stderr):
            return self._plain(user, name, port, jumps, f"`ssh` does not run here: {nobody[0]}")
        if _KNOWS_NO_G.search(done.stderr) or (done.returncode == 0 and not done.stdout.strip()):
            return self._plain(user, name, port, jumps, f"{program} is not OpenSSH's (it knows no -G)")
        if done.returncode != 0:
            why = " ".join(done.stderr.split("\n")[0].split())
            raise UsageError(
                f"{self.called} can't be used for {name}: {why}",
                hint="fix it, or name another file in `build.ssh_config`",
            )
        options = defaultdict[str, tuple[str, ...]](tuple)
        for line in done.stdout.splitlines():
            option, _, value = line.partition(" ")
            options[option.lower()] += (value,)
        if self.user and not user and options["user"] == (_local_user(),):
            # Also what else depends on it.
            return self.host(f"{self.user}@{server}", jumps)
        if self.proxy_command and not (jumps or proxied or options["proxyjump"] or options["proxycommand"]):
            return self.host(server, jumps, proxied=True)
        if jumps:
            options["proxyjump"] = (jumps,)
        if not _is_home() and (known := _at_home_too(options["userknownhostsfile"])):
            options["userknownhostsfile"] = known
            arguments += ["-o", "UserKnownHostsFile=" + " ".join(f'"{path}"' for path in known)]
            for key in options["identityfile"]:
                arguments += ["-i", os.path.expanduser(key)] if os.path.isfile(os.path.expanduser(key)) else []
        return Host(name, options, (program, *arguments))

    def _plain(self, user: str, name: str, port: str, jumps: str | None, no_client: str) -> Host:
        """As Fabric reads the files, for want of a client."""
        import paramiko

        # paramiko asks for it, whoever logs in.
        _local_user()
        files = [self.file] if self.file else [os.path.expanduser("~/.ssh/config"), "/etc/ssh/ssh_config"]
        config, unread = paramiko.SSHConfig(), []
        try:
            for file in filter(os.path.isfile, files):
                with open(file, encoding="utf-8") as lines:
                    text = lines.read()
                config.parse(text.splitlines())
                unread += [found[1] for found in _UNREAD.finditer(text)]
            found: Mapping[str, Any] = config.lookup(name)
        except (paramiko.SSHException, ValueError, LookupError, TypeError, OSError) as error:
            raise UsageError(
                f"{self.called} can't be used for {name}: {error}",
                hint=f"OpenSSH's client understands more of such files, but {no_client} (on Debian: "
                "`apt install openssh-client`)",
            ) from error
        options = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in found.items()}
        given = {"user": user, "port": port, "proxyjump": jumps}
        if self.user and not user and "user" not in options:
            given["user"] = self.user
        if self.proxy_command and not jumps and not {"proxyjump", "proxycommand"} & options.keys():
            given["proxycommand"] = self.proxy_command
        options |= {key: (value,) for key, value in given.items() if value}
        options.setdefault("stricthostkeychecking", ("yes",))
        return Host(name, options, None, tuple(dict.fromkeys(unread)), no_client)


def _local_user() -> str:
    """Raises UsageError."""
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise UsageError(
            f"your user name is unknown: uid {os.getuid()} has no entry in passwd, and USER is not set",
            hint="set USER",
        ) from error


def split(server: str) -> tuple[str, str, str]:
    """User, host and port of `user@host:port`, `[::1]:2201` or `ssh://…`, as far as they are there."""
    user, _, place = server.removeprefix("ssh://").rstrip("/").rpartition("@")
    found = re.fullmatch(r"\[(?P<address>[^]]+)\](?::(?P<at>\d+))?|(?P<name>[^:]+):(?P<port>\d+)", place)
    if found is None:
        return user, place, ""
    return user, found["address"] or found["name"], found["at"] or found["port"] or ""


def _is_home() -> bool:
    """Whether ssh looks into the directory that we call home."""
    try:
        return os.path.realpath(os.path.expanduser("~")) == os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return True


def _at_home_too(files: tuple[str, ...]) -> tuple[str, ...] | None:
    """The user's own files of known hosts, those in HOME first: ssh takes `~` for what passwd names. None if all are
    elsewhere."""
    own = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, "")
    paths = tuple(path for each in files for path in each.split(" "))
    if not any(path.startswith(own) for path in paths) or not all(path.startswith("/") for path in paths):
        return None
    return (*(os.path.expanduser("~/") + path[len(own) :] for path in paths if path.startswith(own)), *paths)
