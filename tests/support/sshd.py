"""An sshd of a test's own, for what the playground's can't be: login shells, certificates, banners, few tries."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploytool.playground.parts import PROGRAMS, find_or_install_program
from deploytool.playground.processes import free_ports

#: All run as whoever runs the tests; sshd alone sees them in a passwd of its own. name → login shell
SHELLS = ("sh", "bash", "dash", "zsh", "fish", "tcsh", "busybox")


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running one, and files to reach it with; `me`, `two` and `open` (without a password) are users whose
    shell is bash, and each of SHELLS is one of its name."""

    directory: Path
    port: int
    #: whose login it takes
    key: Path
    host_key: Path
    #: users' home
    home: Path
    log: Path

    @property
    def config(self) -> Path:
        """An ssh_config to be written; `ssh_config` begins one."""
        return self.directory / "config"

    @property
    def known_line(self) -> str:
        return f"[127.0.0.1]:{self.port} {public(self.host_key)}\n"


def public(key: Path) -> str:
    """Kind and key, as known_hosts and authorized_keys have them."""
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


def new_key(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", *options, "-f", str(path)], check=True)
    return path


@contextlib.contextmanager
def running(program: Path, directory: Path, more: str = "", at_end: str = "", port: int = 0) -> Iterator[Sshd]:
    """With `more` lines in its configuration, in which `{directory}` stands for its directory, and some `at_end`."""
    directory.mkdir(exist_ok=True)
    home = directory / "home"
    home.mkdir()
    key, host_key = directory / "key", directory / "host_key"
    for path in (key, host_key):
        if not path.exists():
            new_key(path)
    (directory / "authorized_keys").write_text(public(key) + "\n")
    port = port or free_ports(["sshd"])["sshd"]
    server = Sshd(directory, port, key, host_key, home, directory / "log")
    (directory / "sshd_config").write_text(
        more.replace("{directory}", str(directory))
        + f"Port {port}\nListenAddress 127.0.0.1\nListenAddress ::1\nHostKey {host_key}\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"UsePAM no\nStrictModes no\nUseDNS no\nPrintMotd no\nPrintLastLog no\nLogLevel VERBOSE\n" + at_end
    )
    me = os.getuid()
    entries = Path("/etc/passwd").read_text().rstrip("\n") + "\nsshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
    shadow = "sshd:*:::::::\n"
    users = dict.fromkeys(("me", "two", "open"), "/bin/bash") | {
        shell: login_shell(directory, shell) for shell in SHELLS
    }
    for name, shell in users.items():
        entries = f"{name}:x:{me}:{os.getgid()}::{home}:{shell}\n" + entries
        shadow += f"{name}:{'' if name == 'open' else '*'}:::::::\n"
    (directory / "passwd").write_text(entries)
    (directory / "shadow").write_text(shadow)
    script = (
        'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/shadow" /etc/shadow && '
        '{ test "$(id -u)" != 0 || mkdir -p -m 755 /run/sshd; } && exec "$2" -D -e -f "$1/sshd_config"'
    )
    mine = [] if me == 0 else ["--user", "--map-current-user", "--keep-caps"]
    # Whatever ends the tests ends it.
    argv = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        *mine,
        "--mount",
        "--pid",
        "--fork",
        "--kill-child=KILL",
        "--mount-proc",
        "--",
    ]
    argv += ["sh", "-c", script, "sshd", str(directory), str(program)]
    with server.log.open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert process.poll() is None, server.log.read_text()
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.wait()


def login_shell(directory: Path, name: str) -> str:
    program = find_or_install_program(name, print) if name in PROGRAMS else Path("/bin") / name
    if name != "busybox":
        return str(program)
    # By its name it knows what it is to be.
    script = directory / "busybox-sh"
    script.write_text(f'#!/bin/sh\nexec {program} sh "$@"\n')
    script.chmod(0o755)
    return str(script)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        return connection.recv(4) == b"SSH-"
    return False
