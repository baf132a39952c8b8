"""Whether an archive stands alone: looked at while it is packed, and said at its end, before it can be published.

An app server has the archive and nothing else. So no file in it may lead to the place where it was built, nothing that
a step made may lie where the hosts link a directory of `shared/`, and what a lock file asks for must be inside. tar
says which files it packs, and each is read once, as tar has just read it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import struct
import subprocess
import threading
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Pattern, Sequence, Set, Tuple

from deploytool.text.untrusted import one_line

from . import wire
from .failure import Failure

#: What is read to tell a text from anything else: a text has no NUL in there.
HEAD_BYTES = 8 << 10
#: Texts that are larger are data.
TEXT_BYTES = 1 << 20
#: So many files are named.
NAMED = 10
#: So many files are named of those that one linked path hides.
NAMED_HIDDEN = 3

FIRST_LINE, LINK, PTH, CONFIG, NATIVE, TEXT = "first line", "link", "path file", "pyvenv.cfg", "native", "text"

#: What to do about each kind, where there is more to say than "write the path relative to the file's own place".
ADVICE = {
    FIRST_LINE: "make the virtual environment with `uv venv --relocatable` (then `uv sync --no-editable`), or use the "
    "recipe django, which makes pip's scripts find their own Python",
    LINK: "make links relative, to files inside of the application's directory",
    PTH: "install without `--editable` (`uv sync --no-editable` or `--no-install-project`, `poetry install --no-root`)",
    CONFIG: "make the virtual environment with `uv venv --relocatable`",
    NATIVE: "link with `$ORIGIN` in place of the absolute path (`-Wl,-rpath,'$ORIGIN'`, `patchelf --set-rpath`)",
    TEXT: "have the step write relative paths, or take what the app does not need out with `build.exclude`",
}

# Leftovers of tools that name the tree they ran in, and that no running application reads. They excuse texts only, at
# any depth: a first line, a link or a library's search path is followed whatever the file is called.
_LEFTOVERS = (
    # What compiles a native gem or addon keeps its makefiles and logs beside the result.
    r"Makefile",
    r"[^/]+\.(?:mk|d|la|pc|cmake|ninja|gypi|log)",
    r"\.deps/.+",
    r"CMakeFiles/.+",
    r"(?:gem_make\.out|CMakeCache\.txt|compile_commands\.json|config\.status|libtool)",
    r"gems/[^/]+/(?:ext|ports|tmp)/.+",
    # For debuggers, and for the compiler's next run (cargo, Maven, Gradle, .NET).
    r"[^/]+\.(?:map|tsbuildinfo)",
    r"target/(?:[^/]+/)?(?:debug|release)/(?:build|deps|incremental|\.fingerprint)/.+",
    r"(?:target/(?:maven-[^/]+|surefire-reports)|\.gradle|obj|[^/]*_cache)/.+",
    r"[^/]+\.(?:FileListAbsolute\.txt|staticwebassets\.[^/]*json|runtimeconfig\.dev\.json)",
    # Templates of Laravel and Symfony, once compiled, name their source in a comment.
    r"(?:storage/framework/views|var/cache/[^/]+/twig)/.+",
    r"var/cache/.+\.(?:meta|xml)",
    # Installers' notes to themselves; `.project` is pipenv's.
    r"\.project",
    r"node_modules/\.[^/]+",
    r"node_modules/\.(?!pnpm/).+/.+",
    # pnpm's shims find the package beside them; the path is only one more place to look in.
    r"node_modules/\.bin/[^/]+",
    r"[^/]+\.(?:dist-info|egg-info)/[^/]+",
    # A virtual environment for shells that start no service; its `activate` for sh is looked at.
    r"bin/activate(?:\.(?:csh|fish|nu|ps1|xsh|bat)|_this\.py)",
    r"bin/Activate\.ps1",
    # Bundlers (Next.js, Nuxt, Astro, webpack) make names of modules out of paths, and write them into what they make
    # and into reports about it; a server of theirs goes by its own place.
    r"[^/]+\.(?:[cm]?[jt]sx?|css|html)",
    r"\.(?:next|nuxt|output|svelte-kit|angular|astro|turbo|nx|parcel-cache|cache)/.+",
    r"[^/]*stats[^/]*\.json",
)
LEFTOVERS = re.compile("(?:.*/)?(?:{})".format("|".join(_LEFTOVERS)).encode(), re.DOTALL)

GIT_VARIABLES = frozenset(("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_ATTR_NOSYSTEM"))

#: Names of files that only hold a directory's place in a repository.
PLACEHOLDERS = frozenset((b".keep", b".gitkeep", b".gitignore", b".keepme", b".empty"))
# What a step leaves there by the way: the host's own takes its place, and nobody misses it.
_PASSING = re.compile(
    rb"(?:.*/)?(?:logs?|tmp|\.?cache|pids|sockets|sessions|storage/framework)/.*|.*\.(?:log|pid|sock|sqlite3(?:-\w+)?)",
    re.DOTALL,
)

#: A directory of dependencies, and the files of which one asks for it.
_OUTSIDE: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
    ("node_modules", ("package.json",)),
    (".venv", ("pyproject.toml", "requirements.txt", "setup.py", "Pipfile")),
    ("venv", ("pyproject.toml", "requirements.txt", "setup.py", "Pipfile")),
    ("vendor/bundle", ("Gemfile",)),
    ("vendor", ("composer.json",)),
)

_ESCAPED = re.compile(rb"\\(\\|[abfnrtv]|[0-7]{3})")
_ESCAPES = {b"\\": b"\\", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
#: A path that goes on to the left is another one.
_GOES_ON = re.compile(rb"[A-Za-z0-9_.~%})@-]")


class Finding(NamedTuple):
    """A file of the archive, relative to the application's directory, and how it names the build's place."""

    name: bytes
    kind: str
    found: bytes


class Hidden(NamedTuple):
    """What lies in the archive at or below a linked path: how many files, and the first of them."""

    number: int
    names: List[str]


def unescaped(name: bytes) -> bytes:
    """A name as tar prints it with `--quoting-style=escape`, as it is."""
    if b"\\" not in name:
        return name

    def one(match: "re.Match[bytes]") -> bytes:
        code = match.group(1)
        return _ESCAPES[code] if code in _ESCAPES else bytes((int(code, 8),))

    return _ESCAPED.sub(one, name)


def expression(patterns: Iterable[str]) -> Optional[Pattern[bytes]]:
    """What these shell patterns match, by the rules of `tar_command`, and all below it; None without patterns."""
    parts = [_translated(os.fsencode(pattern.strip("/"))) for pattern in patterns if pattern.strip("/")]
    return re.compile(rb"(?:" + b"|".join(parts) + rb")(?:/.*)?", re.DOTALL) if parts else None


def _translated(pattern: bytes) -> bytes:
    """The regular expression of a shell pattern in which nothing but a slash matches a slash."""
    text, at = b"", 0
    while at < len(pattern):
        character = pattern[at : at + 1]
        at += 1
        if character == b"*":
            text += rb"[^/]*"
        elif character == b"?":
            text += rb"[^/]"
        elif character == b"\\" and at < len(pattern):
            text += re.escape(pattern[at : at + 1])
            at += 1
        elif character == b"[":
            # `]` is one of the class if it comes first.
            end = pattern.find(b"]", at + (2 if pattern[at : at + 1] in (b"!", b"^") else 1))
            if end < 0:
                text += rb"\["
                continue
            inner = pattern[at:end]
            denied = inner[:1] in (b"!", b"^")
            text += _class(inner[1:] if denied else inner, denied)
            at = end + 1
        else:
            text += re.escape(character)
    return text


def _class(inner: bytes, denied: bool) -> bytes:
    """The regular expression of a bracket's inside; a range that runs backwards holds nothing."""
    members, at = b"", 0
    while at < len(inner):
        first = last = inner[at]
        at += 1
        if inner[at : at + 1] == b"-" and at + 1 < len(inner):
            last = inner[at + 1]
            at += 2
        if first <= last:
            members += "\\x{:02x}-\\x{:02x}".format(first, last).encode()
    if not members:
        return b"[^/]" if denied else b"(?!)"
    return b"(?!/)[" + (b"^" if denied else b"") + members + b"]"


# --- native files


def native_paths(descriptor: int) -> List[bytes]:
    """Where an ELF file has libraries looked for: its interpreter, RPATH, RUNPATH and what it needs by a path.

    Debugging information may name any path; nothing follows that. A file that is damaged has none.
    """
    try:
        return _native_paths(descriptor)
    except (struct.error, OSError, OverflowError, MemoryError):
        return []


def _native_paths(descriptor: int) -> List[bytes]:
    def read(offset: int, size: int) -> bytes:
        return os.pread(descriptor, min(size, TEXT_BYTES), offset)

    ident = read(0, 64)
    wide, order = ident[4] == 2, "<" if ident[5] == 1 else ">"
    # program headers: where they are, how large one is, how many there are
    if wide:
        (table,) = struct.unpack_from(order + "Q", ident, 32)
        size, count = struct.unpack_from(order + "HH", ident, 54)
    else:
        (table,) = struct.unpack_from(order + "I", ident, 28)
        size, count = struct.unpack_from(order + "HH", ident, 42)
    headers = read(table, size * count)
    segments = []
    for at in range(0, size * count, size or 1):
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", headers, at)
        else:
            kind, offset, address, _, length = struct.unpack_from(order + "IIIII", headers, at)
        segments.append((kind, offset, address, length))
    found = [read(offset, length).split(b"\0")[0] for kind, offset, _, length in segments if kind == 3]
    for kind, offset, _, length in segments:
        if kind != 2:
            continue
        dynamic = read(offset, length)
        form = order + ("qQ" if wide else "iI")
        step = struct.calcsize(form)
        entries = [struct.unpack_from(form, dynamic, at) for at in range(0, len(dynamic) - step + 1, step)]
        strings = next((value for tag, value in entries if tag == 5), None)
        if strings is None:
            continue
        place = next((o + strings - a for k, o, a, n in segments if k == 1 and a <= strings < a + n), None)
        if place is None:
            continue
        # DT_NEEDED, DT_RPATH, DT_RUNPATH
        found += [read(place + value, 4096).split(b"\0")[0] for tag, value in entries if tag in (1, 15, 29)]
    return found


# --- the look at an archive


class Inspection:
    """Reads along with tar: `index` is where tar writes the names of what it packs. `finish` says what was found.

    `places` are the directories that no file may name, as they are called and as they really lie.
    """

    def __init__(
        self,
        directory: str,
        places: Sequence[str],
        *,
        workspace: Optional[str] = None,
        exclude: Sequence[str] = (),
        allow: Sequence[str] = (),
        links: Optional[Dict[str, List[str]]] = None,
        environment: str = "",
        demands: Sequence[wire.Demand] = (),
    ) -> None:
        self._directory = directory
        self._revision = Revision(directory, workspace)
        self._workspace = workspace
        self._excluded = expression(exclude)
        self._allowed = expression(allow)
        named = {os.fsencode(form(place)).rstrip(b"/") + b"/" for place in places for form in (str, os.path.realpath)}
        self._places = sorted(named) + sorted(place.replace(b"/", rb"\/") for place in named)
        self._links = links or {}
        self._environment = environment
        self._demands = demands
        self._watched = self._by_first_name()
        self._packed: Dict[bytes, List[bytes]] = {}
        self._findings: List[Finding] = []
        #: neither files nor directories nor links
        self._special: List[bytes] = []
        self._seen = 0
        self._trouble: Optional[BaseException] = None
        read, self.index = os.pipe()
        self._thread = threading.Thread(target=self._follow, args=(read,), daemon=True)
        self._thread.start()

    def close_index(self) -> None:
        """tar has it now; the reader sees the end when tar's own is closed."""
        if self.index >= 0:
            os.close(self.index)
            self.index = -1

    def _by_first_name(self) -> Dict[bytes, List[bytes]]:
        """The paths below which packed files are remembered, by their first name: a look-up for each file, no more."""
        paths = {path for linked in self._links.values() for path in linked}
        paths |= {demand.directory for demand in self._demands}
        by_name: Dict[bytes, List[bytes]] = {}
        for path in sorted(paths):
            encoded = os.fsencode(path.strip("/"))
            by_name.setdefault(encoded.partition(b"/")[0], []).append(encoded)
        return by_name

    def _follow(self, read: int) -> None:
        try:
            with os.fdopen(read, "rb", buffering=0) as names:
                top = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    rest = b""
                    while True:
                        data = names.read(1 << 16)
                        if not data:
                            break
                        lines = (rest + data).split(b"\n")
                        rest = lines.pop()
                        for line in lines:
                            self._look(top, unescaped(line))
                finally:
                    os.close(top)
        except BaseException as trouble:
            # For whoever waits for the end.
            self._trouble = trouble

    def _look(self, top: int, name: bytes) -> None:
        self._seen += 1
        if name.endswith(b"/"):
            return
        name = name[2:] if name.startswith(b"./") else name
        for path in self._watched.get(name.partition(b"/")[0], ()):
            if name == path or name.startswith(path + b"/"):
                self._packed.setdefault(path, []).append(name)
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top)
        except OSError as error:
            # What can't be read, tar can't either, and says so.
            if error.errno == errno.ELOOP:
                self._look_at_link(name, os.readlink(name, dir_fd=top))
            return
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._special.append(name)
                return
            found = self._in_file(name, descriptor)
        except OSError:
            return
        finally:
            os.close(descriptor)
        if found is not None and not (found.kind == TEXT and LEFTOVERS.fullmatch(name)):
            self._findings.append(found)

    def _in_file(self, name: bytes, descriptor: int) -> Optional[Finding]:
        content = os.read(descriptor, HEAD_BYTES)
        if content.startswith(b"\x7fELF"):
            for path in native_paths(descriptor):
                if self._named(path + b"/"):
                    return Finding(name, NATIVE, path)
            return None
        if content.startswith(b"#!"):
            line = content.partition(b"\n")[0]
            # pip's form for a path that is too long or has a space: the interpreter stands in the second line.
            if line.rstrip() == b"#!/bin/sh":
                line = b"\n".join(content.split(b"\n", 2)[:2])
            if found := self._named(line):
                return Finding(name, FIRST_LINE, found)
        if b"\0" in content:
            return None
        if len(content) == HEAD_BYTES:
            size = os.fstat(descriptor).st_size
            if size > TEXT_BYTES:
                return None
            content += os.read(descriptor, size)
        last = name.rpartition(b"/")[2]
        if last == b"pyvenv.cfg":
            # How it was made is a note that nothing reads.
            content = re.sub(rb"(?m)^command\s*=.*$", b"", content)
        found = self._named(content)
        if not found:
            return None
        if last == b"pyvenv.cfg":
            return Finding(name, CONFIG, found)
        if last.endswith((b".pth", b".egg-link")) or last.startswith(b"__editable__"):
            return Finding(name, PTH, found)
        return Finding(name, TEXT, found)

    def _named(self, content: bytes) -> bytes:
        """How the content names one of the places, up to the end of that word; empty if it does not."""
        for place in self._places:
            at = content.find(place)
            while at >= 0:
                if at == 0 or not _GOES_ON.match(content, at - 1):
                    word = re.compile(rb"[^\s\"'`<>|;,:)}\]]*").match(content, at)
                    return word.group() if word else place
                at = content.find(place, at + 1)
        return b""

    def _look_at_link(self, name: bytes, target: bytes) -> None:
        if target.startswith(b"/"):
            if self._named(target.rstrip(b"/") + b"/"):
                self._findings.append(Finding(name, LINK, target))
            return
        if os.path.normpath(os.path.join(os.path.dirname(name), target)).split(b"/")[0] != b"..":
            return
        # A link of the revision's own may lead to what only a host has. What a step has made leads to what is here.
        reached = os.path.realpath(os.path.join(os.fsencode(self._directory), name))
        if os.path.exists(reached) and self._named(reached + b"/") and not self._revision.holds(name):
            self._findings.append(Finding(name, LINK, target))

    # --- at the end

    def finish(self) -> Dict[str, wire.Hidden]:
        """What lies at linked paths. Raises Failure if the archive does not stand alone; tar has ended by now."""
        self.raise_trouble()
        if self._seen == 0:
            raise Failure("step", "packing failed: tar did not tell what it packed", hint="install GNU tar there")
        self._refuse_special()
        self._refuse_outside()
        self._refuse_empty()
        links = self._linked()
        self._refuse_hidden(links)
        self._refuse_named()
        return {
            path: wire.Hidden(made.number, made.names, ours.number, ours.names) for path, (made, ours) in links.items()
        }

    def raise_trouble(self) -> None:
        """Raise what the reader ended with, if it did not get to the end. Waits for it."""
        self._thread.join()
        if self._trouble is not None:
            raise self._trouble

    def _refuse_special(self) -> None:
        if self._special:
            raise Failure(
                "step",
                "the build left a named pipe or a device in the release: {}".format(_shown(self._special[0])),
                hint="have the step that makes it remove it, or name it in `build.exclude`; nothing was published",
            )

    def _refuse_named(self) -> None:
        findings = [each for each in self._findings if not (self._allowed and self._allowed.fullmatch(each.name))]
        # A text of the revision's own was the same wherever it is built.
        texts = {each.name for each in findings if each.kind == TEXT and self._revision.holds(each.name)}
        texts -= self._revision.changed(texts)
        findings = [each for each in findings if each.name not in texts]
        if not findings:
            return
        kinds = [kind for kind in ADVICE if any(each.kind == kind for each in findings)]
        number = len(findings)
        tail = ["{} ({}): {}".format(_shown(each.name), each.kind, _shown(each.found)) for each in findings[:NAMED]]
        raise Failure(
            "step",
            "{} of the release {} the place where it was built: {}{}".format(
                "1 file" if number == 1 else "{} files".format(number),
                "names" if number == 1 else "name",
                ", ".join(_shown(each.name) for each in findings[:NAMED]),
                " and {} more".format(number - NAMED) if number > NAMED else "",
            ),
            tail=tail,
            hint="{} does not exist on another machine, and on this one a release would run code that is not its own; "
            "{}; a file that nothing reads when the app runs can be named in `build.allow_paths`; nothing was "
            "published".format(_shown(self._places[0].rstrip(b"/")), "; ".join(ADVICE[kind] for kind in kinds)),
        )

    def _linked(self) -> Dict[str, Tuple[Hidden, Hidden]]:
        """For each linked path below which files were packed: what steps made, and what is of the revision."""
        found = {}
        for path in sorted({path for linked in self._links.values() for path in linked}):
            names = self._packed.get(os.fsencode(path.strip("/")), [])
            names = [name for name in names if os.path.basename(name) not in PLACEHOLDERS]
            ours = [name for name in names if self._revision.holds(name)]
            made = [name for name in names if not self._revision.holds(name) and not _PASSING.fullmatch(name)]
            if ours or made:
                found[path] = (_hidden(made), _hidden(ours))
        return found

    def _refuse_hidden(self, links: Dict[str, Tuple[Hidden, Hidden]]) -> None:
        own = self._links.get(self._environment, [])
        covered = [(path, made) for path, (made, _) in links.items() if made.number and path in own]
        if not covered:
            return
        named = "; ".join("{} hides {}".format(_shown(os.fsencode(path)), _counted(made)) for path, made in covered)
        paths = ", ".join(path for path, _ in covered)
        raise Failure(
            "step",
            "the hosts would link a path of shared/ over what the build made: {}".format(named),
            hint="take {} out of `linked_dirs` or `linked_files`; if the hosts are to have their own there, and need "
            "nothing of what the build made, name it in `build.exclude`; nothing was published".format(paths),
        )

    def _refuse_outside(self) -> None:
        """A workspace of npm, yarn, pnpm or uv installs at its own top, which is not in the archive."""
        if self._workspace is None:
            return
        top, here = os.path.realpath(self._workspace), os.path.realpath(self._directory)
        above = os.path.dirname(here)
        while here != top and (above + "/").startswith(top + "/"):
            for name, manifests in _OUTSIDE:
                below = os.path.join(above, name)
                asked = any(
                    os.path.exists(os.path.join(place, each)) for each in manifests for place in {here, self._directory}
                )
                if not asked or not _holds_something(below) or self._is_excluded(name):
                    continue
                if name == "vendor" and not os.path.exists(os.path.join(below, "autoload.php")):
                    continue
                if self._revision.has_below(os.path.relpath(below, top)):
                    continue
                raise Failure(
                    "step",
                    "the build put {} outside of the application's directory: the release would be without it".format(
                        os.path.relpath(below, top)
                    ),
                    hint="this happens with workspaces, which install at the repository's top: install into {} itself "
                    "(`npm install --workspaces=false`, `pnpm deploy`, `UV_PROJECT_ENVIRONMENT=$PWD/.venv`), or deploy "
                    "from the top by taking `subdirectory` out; if the release needs none of it, name {} in "
                    "`build.exclude`; nothing was published".format(os.path.relpath(here, top), name),
                )
            if above == top:
                break
            above = os.path.dirname(above)

    def _refuse_empty(self) -> None:
        """What a lock file asks for, and a step was to install, is in the archive."""
        for demand in self._demands:
            directory = demand.directory
            if self._is_excluded(directory) or self._packed.get(os.fsencode(directory)):
                continue
            lock = next((each for each in demand.locks if self._asks_for_something(each)), None)
            if lock is None or any(os.path.exists(os.path.join(self._directory, each)) for each in demand.unless):
                continue
            raise Failure(
                "step",
                "{} asks for packages, and the build left no {} in the release".format(lock, directory),
                hint="look at what `build.dependencies` installs, and where; if the release needs none of it, name {} "
                "in `build.exclude`; nothing was published".format(directory),
            )

    def _asks_for_something(self, lock: str) -> bool:
        try:
            with open(os.path.join(self._directory, lock), encoding="utf-8", errors="replace") as file:
                text = file.read()
            if lock == "Gemfile.lock" and self._gems_lie_elsewhere():
                return False
            if lock == "Gemfile.lock":
                return re.search(r"(?m)^    \S+ \(", text) is not None
            if lock == "requirements.txt":
                return re.search(r"(?m)^\s*[^#\s]", text) is not None
            with open(os.path.join(self._directory, "package.json"), encoding="utf-8", errors="replace") as file:
                return bool(json.load(file).get("dependencies"))
        except (OSError, ValueError, AttributeError):
            return False

    def _gems_lie_elsewhere(self) -> bool:
        """Whether Bundler's own configuration, which goes before the environment, has the system's gems used."""
        try:
            with open(os.path.join(self._directory, ".bundle/config"), encoding="utf-8", errors="replace") as file:
                return re.search(r"(?m)^BUNDLE_(?:PATH__SYSTEM: \"?true|PATH: \"?/)", file.read()) is not None
        except OSError:
            return False

    def _is_excluded(self, path: str) -> bool:
        """Whether it is left out, as a whole or with all that is in it."""
        names = (os.fsencode(path), os.path.join(os.fsencode(path), b"x"))
        return self._excluded is not None and any(self._excluded.fullmatch(name) for name in names)


def _holds_something(directory: str) -> bool:
    """Whether there is more in it than an installer's own notes."""
    try:
        return any(not name.startswith(".") for name in os.listdir(directory))
    except OSError:
        return False


def _hidden(names: List[bytes]) -> Hidden:
    return Hidden(len(names), [_shown(name) for name in names[:NAMED_HIDDEN]])


def _counted(hidden: Hidden) -> str:
    more = hidden.number - len(hidden.names)
    return ", ".join(hidden.names) + (" and {} more".format(more) if more else "")


def _shown(text: bytes) -> str:
    return one_line(text.decode("utf-8", "replace"))


class Revision:
    """Which of the packed files are of the revision: by the index of the checkout, where no command of the user's is.

    It is asked at most once, and only if something depends on it. Without a workspace nothing is of the revision.
    """

    def __init__(self, directory: str, workspace: Optional[str]) -> None:
        self._workspace = workspace
        self._prefix = b""
        if workspace is not None:
            below = os.path.relpath(os.path.realpath(directory), os.path.realpath(workspace))
            self._prefix = b"" if below == "." else os.fsencode(below) + b"/"
        self._known: Optional[Tuple[FrozenSet[bytes], Tuple[bytes, ...]]] = None

    def holds(self, name: bytes) -> bool:
        """Whether the file, relative to the packed directory, is of the revision or in one of its submodules."""
        files, submodules = self._files()
        path = self._prefix + name
        return path in files or any(path.startswith(each) for each in submodules)

    def has_below(self, path: str) -> bool:
        """Whether the revision has a file below that path, relative to the workspace."""
        files, submodules = self._files()
        top = os.fsencode(path).rstrip(b"/") + b"/"
        return any(each.startswith(top) for each in files) or any(top.startswith(each) for each in submodules)

    def changed(self, names: Set[bytes]) -> Set[bytes]:
        """Those of the revision's files that are not as the revision has them any more."""
        if not names:
            return set()
        paths = [b":(top,literal)" + self._prefix + name for name in sorted(names)]
        options = [b"diff", b"--no-ext-diff", b"--no-textconv", b"--name-only", b"-z"]
        out = self._git([*options, b"--", *paths])
        length = len(self._prefix)
        return {path[length:] for path in out.split(b"\0") if path}

    def _files(self) -> Tuple[FrozenSet[bytes], Tuple[bytes, ...]]:
        if self._known is None:
            files, submodules = [], []
            for line in self._git([b"ls-files", b"--stage", b"-z"]).split(b"\0"):
                about, _, path = line.partition(b"\t")
                if path and about.startswith(b"160000 "):
                    submodules.append(path + b"/")
                elif path:
                    files.append(path)
            self._known = (frozenset(files), tuple(submodules))
        return self._known

    def _git(self, arguments: Sequence[bytes]) -> bytes:
        if self._workspace is None:
            return b""
        git = os.path.join(self._workspace, ".git")
        index = os.path.join(git, "deploytool-index")
        if not os.path.exists(index):
            return b""
        # Where git's configuration is, counts; another repository that somebody is in does not.
        environment = {
            name: value for name, value in os.environ.items() if name in GIT_VARIABLES or not name.startswith("GIT_")
        }
        environment.update(GIT_INDEX_FILE=index, GIT_OPTIONAL_LOCKS="0", LC_ALL="C")
        # As for a checkout; see build/stages/git.py.
        settings = ("fsmonitor=false", "autocrlf=false", "symlinks=true", "fileMode=true", "ignoreStat=false")
        options = ["-c", "diff.autoRefreshIndex=false", *(word for each in settings for word in ("-c", "core." + each))]
        try:
            return subprocess.run(
                ["git", "--git-dir=" + git, "--work-tree=" + self._workspace, *options, *arguments],
                cwd=self._workspace,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=True,
            ).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise Failure(
                "step",
                "git can't tell which files of {} are of the revision: {}".format(self._workspace, error),
                hint="nothing was published; run the command again with --rebuild",
            ) from error
