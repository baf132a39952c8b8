"""`make bare`: the README's commands and `.ci/run` on a machine that has Python, git and make, and nothing else.

The machine is a Debian of its own in a temporary directory, made by debootstrap and entered in namespaces of its own:
its processes end, and its mounts are gone, when this program ends, however that happens. It uses this machine's
network, and what this machine's apt, pip, npm and go know of registries; nothing of that is written anywhere else. Each
part begins in a fresh clone of HEAD, with an empty home.

    python -m tools.bare [PART…] [--as-root] [--awscli] [--pytest ARGS] [--run COMMAND] [--keep] [--within DIR]

Needs root, for debootstrap and the mounts. Exit code 1 if a part fails.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploytool.playground.parts import CHECKOUT, PartMissing, debian_mirror

SUITE = "bookworm"
#: All that the machine has besides what every Debian has. In Debian `python3 -m venv` is a package of its own.
PACKAGES = ("python3", "python3-venv", "git", "make", "ca-certificates")
#: What a machine has where somebody installed awscli: its Python has boto3 for everybody.
WITH_AWSCLI = ("awscli", "python3-boto3")
USER, USER_ID = "bare", 1000
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (the other machine's)
HOME, CLONE = Path("/home/bare"), Path("/home/bare/deploytool")

#: part → the command that it stands for
PARTS: Mapping[str, str] = {
    "demo": "make demo && make demo && make demo-down",
    "test": "make test",
    "ci": ".ci/run",
}

#: The disks of tests/faults are mounted, which nobody else may.
NEEDING_ROOT = ("ci",)

#: Prefixes and names of variables that say where registries are and whom to trust.
ABOUT_REGISTRIES = re.compile(
    r"(PIP|NPM_CONFIG|npm_config|GO|BUNDLE|UV)_?[A-Za-z0-9_]*|(https?|no|all|HTTPS?|NO|ALL)_(proxy|PROXY)"
    r"|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_SSL_CAINFO|NODE_EXTRA_CA_CERTS|AWS_CA_BUNDLE"
)
#: What they say of directories of this machine, which the other one has not.
ABOUT_THIS_MACHINE = re.compile(
    r"PIP_(FIND_LINKS|CACHE_DIR|TARGET|PREFIX)|GO(PATH|ROOT|BIN|MODCACHE|CACHE|TMPDIR)|UV_.*DIR"
)
#: The same in files: below /, and below a home.
SYSTEM_FILES = ("etc/pip.conf", "etc/npmrc", "etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt")
HOME_FILES = (".config/pip/pip.conf", ".pip/pip.conf", ".npmrc", ".config/go/env", ".gemrc", ".bundle/config", ".netrc")

#: Inside of new namespaces, as its first process: it makes the directory the root, and leaves the old one.
ENTER = """
set -eu
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for each in null zero full random urandom tty; do
  : >"$root/dev/$each"
  mount --bind "/dev/$each" "$root/dev/$each"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
cd "$root"
pivot_root . .
umount -l .
# Not `exec`: the first process also waits for those that nobody else waits for.
"$@"
exit $?
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """The root directory of the bare machine, and who works there."""

    root: Path
    as_root: bool

    def run(self, command: str, *, directory: Path = Path("/"), as_root: bool = False, quiet: bool = False) -> int:
        """Run a shell command there; its exit code. All that it started ends with it."""
        user = (
            () if as_root or self.as_root else ("setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups")
        )
        variables = {
            **registry_variables(os.environ),
            "HOME": str(HOME) if not as_root else "/root",
            "USER": "root" if as_root or self.as_root else USER,
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        shell = ("/bin/sh", "-c", f"cd {shlex.quote(str(directory))} && {command}")
        process = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--", "/bin/sh", "-c", ENTER, "bare"),
                *(str(self.root), "/usr/bin/env", "-i", *(f"{name}={value}" for name, value in variables.items())),
                *(*user, *shell),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
        )
        try:
            output, _ = process.communicate()
        except BaseException:
            # The first process of the namespace dies with this one, and all others with that.
            process.kill()
            process.wait()
            raise
        if quiet and process.returncode != 0:
            print(output, file=sys.stderr)
        return process.returncode

    def path(self, inside: Path) -> Path:
        return self.root / inside.relative_to("/")


def registry_variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Those variables that say where registries are, and how to reach them."""
    return {
        name: value
        for name, value in environ.items()
        if ABOUT_REGISTRIES.fullmatch(name) and not ABOUT_THIS_MACHINE.fullmatch(name)
    }


def checked(argv: Sequence[str], doing: str, **options: Any) -> None:
    """Run it; its output is shown if it fails. Raises PartMissing."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        tail = (done.stdout + done.stderr).splitlines()[-15:]
        raise PartMissing(f"{doing} failed with exit code {done.returncode}", tail=tail)


def debootstrap(within: Path) -> tuple[Sequence[str], Mapping[str, str]]:
    """The command of debootstrap with its environment; from Debian's archive into `within` if it is not installed."""
    if program := shutil.which("debootstrap"):
        return (program,), os.environ
    place = within / "debootstrap"
    place.mkdir()
    checked(["apt-get", "download", "debootstrap"], "downloading debootstrap", cwd=place)
    checked(["dpkg-deb", "-x", *map(str, place.glob("*.deb")), str(place)], "unpacking debootstrap")
    return (str(place / "usr/sbin/debootstrap"),), {
        **os.environ,
        "DEBOOTSTRAP_DIR": str(place / "usr/share/debootstrap"),
    }


def make_machine(root: Path, within: Path, *, as_root: bool, awscli: bool) -> Machine:
    """A Debian with PACKAGES alone, which knows what this machine knows of registries. Raises PartMissing."""
    mirror, keyring = debian_mirror()
    command, environment = debootstrap(within)
    trust = [f"--keyring={keyring}"] if keyring else []
    packages = ",".join(PACKAGES)
    checked(
        [*command, "--variant=minbase", *trust, f"--include={packages}", SUITE, str(root), mirror],
        "making a Debian",
        env=environment,
    )
    machine = Machine(root, as_root)
    copy_apt(root)
    for name in SYSTEM_FILES:
        copy(Path("/") / name, root / name)
    if awscli and machine.run(
        "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
        + " ".join(WITH_AWSCLI),
        as_root=True,
        quiet=True,
    ):
        raise PartMissing("awscli can't be installed on the bare machine")
    with (root / "etc/passwd").open("a") as users:
        users.write(f"{USER}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash\n")
    with (root / "etc/group").open("a") as groups:
        groups.write(f"{USER}:x:{USER_ID}:\n")
    return machine


def copy_apt(root: Path) -> None:
    """The sources of this machine's apt, and what it needs for them; no setting that runs a program."""
    here, there = Path("/etc/apt"), root / "etc/apt"
    (there / "sources.list").unlink(missing_ok=True)
    for pattern in ("sources.list", "sources.list.d/*", "auth.conf", "auth.conf.d/*", "apt.conf.d/*"):
        for path in here.glob(pattern):
            is_setting = path.parent.name == "apt.conf.d"
            if not is_setting or re.fullmatch(r"(Acquire::.*;|//.*|#.*|\s|\n)*", path.read_text()):
                copy(path, there / path.relative_to(here))
    for keys in (Path("/usr/share/keyrings"), here / "keyrings", here / "trusted.gpg.d"):
        for path in keys.glob("*"):
            copy(path, root / path.relative_to("/"))


def copy(path: Path, to: Path) -> None:
    if path.is_file():
        to.parent.mkdir(parents=True, exist_ok=True)
        to.unlink(missing_ok=True)
        shutil.copy(path, to)


def begin_afresh(machine: Machine) -> None:
    """An empty home with a clone of HEAD in it, and nothing that a part before left in /tmp or /var/tmp."""
    for left, mode in ((HOME, 0o755), *((path, 0o1777) for path in TEMPORARY)):
        shutil.rmtree(machine.path(left), ignore_errors=True)
        machine.path(left).mkdir()
        machine.path(left).chmod(mode)
    for name in HOME_FILES:
        copy(Path.home() / name, machine.path(HOME) / name)
    checked(["git", "clone", "--quiet", "--no-hardlinks", str(CHECKOUT), str(machine.path(CLONE))], "cloning HEAD")
    checked(["git", "-C", str(machine.path(CLONE)), "remote", "remove", "origin"], "leaving this machine's path out")
    owner = 0 if machine.as_root else USER_ID
    checked(["chown", "-R", f"{owner}:{owner}", str(machine.path(HOME))], "giving the clone to its user")


VERSIONS = r"""
echo "  $(python3 --version) ($(command -v python3)), $(git --version), $(make --version | head -n 1)"
echo "  packages of Debian: $(dpkg-query -f . -W | wc -c); of that Python: $(python3 -c '
from importlib.metadata import distributions
found = sorted("{} {}".format(each.metadata["Name"], each.version) for each in distributions())
print(", ".join(found) or "none")')"
"""
#: What a part has installed for itself: programs, packages, and what workers have of their own.
INSTALLED = r"""
find .tools/bin .tools/programs -mindepth 1 -not -name '.*' 2>/dev/null | sort | sed 's/^/  /'
find "$HOME" -xdev -path '*/.worker/*' -prune -type d 2>/dev/null | sort | head -n 8 | sed 's/^/  /'
if test -x .venv/bin/python; then
  echo "  packages in .venv: $(.venv/bin/python -m pip list --format=freeze 2>/dev/null | tr '\n' ' ')"
fi
if test -x .tools/bin/consul; then .venv/bin/python -m deploytool.playground parts; fi
"""


@contextmanager
def temporary(within: Path | None, keep: bool) -> Iterator[Path]:
    """A directory outside of every repository; gone in the end, unless it is to be kept."""
    place = Path(tempfile.mkdtemp(prefix="deploytool-bare.", dir=within or TEMPORARY[1]))
    place.chmod(0o755)
    try:
        yield place
    finally:
        if keep:
            print(f"kept: {place} (`--in {place}` uses it again)", flush=True)
        else:
            # Nothing is mounted here: the mounts went with their namespace.
            shutil.rmtree(place, ignore_errors=True)


def say(line: str) -> None:
    print(f"=== {line}", flush=True)


def run_part(machine: Machine, name: str, command: str) -> int:
    begin_afresh(machine)
    say(f"{name}, as {'root' if machine.as_root else 'an ordinary user'}: {command}")
    begin = time.monotonic()
    status = machine.run(command, directory=CLONE)
    say(f"{name}: exit code {status} after {time.monotonic() - begin:.0f} s; what it was found in:")
    machine.run(VERSIONS + INSTALLED, directory=CLONE)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bare", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--as-root", action="store_true", help="work there as root (default: a user, but for ci)")
    parser.add_argument("--awscli", action="store_true", help="with awscli and boto3 in the machine's Python")
    parser.add_argument("--pytest", metavar="ARGS", default="", help="for `test`: arguments of pytest, such as files")
    parser.add_argument("--run", metavar="COMMAND", action="append", default=[], help="run this in a clone, too")
    parser.add_argument("--keep", action="store_true", help="leave the machine's directory for a look")
    parser.add_argument("--in", dest="again", type=Path, metavar="DIR", help="use what an earlier --keep has left")
    parser.add_argument("--within", type=Path, metavar="DIR", help="where to make it (default: /var/tmp)")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen = given.parts or ([] if given.run else list(PARTS))
    commands = {name: PARTS[name] for name in chosen}
    if given.pytest and "test" in commands:
        commands["test"] += f" PYTEST_ARGS={shlex.quote(given.pytest)}"
    commands |= {f"command {number}": command for number, command in enumerate(given.run, 1)}
    if os.geteuid() != 0:
        print("make bare: debootstrap and mounts need root", file=sys.stderr)
        return 2
    # `kill` must leave nothing behind either.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    try:
        return work(given, commands)
    except PartMissing as missing:
        print("\n".join([f"make bare: {missing}", *missing.tail]), file=sys.stderr)
        return 2


def work(given: argparse.Namespace, commands: Mapping[str, str]) -> int:
    ended: dict[str, int] = {}
    if given.again is not None:
        ended = run_all(Machine(given.again / "root", given.as_root), commands)
    else:
        with temporary(given.within, given.keep) as directory:
            say(f"a Debian {SUITE} with {', '.join(PACKAGES)} in {directory}")
            machine = make_machine(directory / "root", directory, as_root=given.as_root, awscli=given.awscli)
            ended = run_all(machine, commands)
    for name, status in ended.items():
        say(f"{name}: {'passed' if status == 0 else f'FAILED with exit code {status}'}")
    return 1 if any(ended.values()) else 0


def run_all(machine: Machine, commands: Mapping[str, str]) -> dict[str, int]:
    """name → exit code. One that fails does not keep the others from their turn."""
    begin_afresh(machine)
    say(f"the machine, as {'root' if machine.as_root else 'an ordinary user'}:")
    machine.run(VERSIONS, directory=CLONE)
    as_root = replace(machine, as_root=True)
    return {
        name: run_part(as_root if name in NEEDING_ROOT else machine, name, command)
        for name, command in commands.items()
    }


if __name__ == "__main__":
    sys.exit(main())
