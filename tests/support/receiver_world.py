"""A small world for one run of a receiver: an archive, a manifest, a disk; and what all of it looks like afterwards.

Every receiver runs at the very same paths, one after the other, so that outcomes can be compared as they are.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import yaml

from deploytool.playground.parts import programs_directory

#: The modification time of everything in archives: whole seconds, long ago.
LONG_AGO = 1_600_000_000

WORLD, HTTP, OTHER_FILE_SYSTEM = "@WORLD@", "@HTTP@", "@SHM@"
SHM = Path("/dev/shm")
#: Left in a case's environment to be removed from it.
UNSET = "\0"


# What archives and disks hold


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in an archive or on a disk."""

    path: str
    kind: Literal["file", "directory", "symlink", "hard link", "fifo"] = "file"
    #: A file's text, or where a link leads.
    content: str = ""
    mode: int = 0o644
    mtime: float = LONG_AGO
    #: The owner's number, for both user and group.
    owner: int = field(default_factory=os.getuid)

    def tar_member(self) -> tarfile.TarInfo:
        member = tarfile.TarInfo(self.path)
        kinds = {
            "file": tarfile.REGTYPE,
            "directory": tarfile.DIRTYPE,
            "symlink": tarfile.SYMTYPE,
            "hard link": tarfile.LNKTYPE,
            "fifo": tarfile.FIFOTYPE,
        }
        member.type = kinds[self.kind]
        member.mode, member.mtime, member.uid, member.gid = self.mode, self.mtime, self.owner, self.owner
        if self.kind == "file":
            member.size = len(self.content.encode())
        elif self.kind in ("symlink", "hard link"):
            member.linkname = self.content
        return member

    def make_below(self, top: Path, world: Path) -> None:
        path = top / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        match self.kind:
            case "file":
                path.write_text(self.content)
            case "directory":
                path.mkdir(exist_ok=True)
            case "symlink":
                path.symlink_to(self.content.replace(WORLD, str(world)))
            case "hard link":
                os.link(top / self.content, path)
            case "fifo":
                os.mkfifo(path)
        if self.kind != "symlink":
            path.chmod(self.mode)
        os.utime(path, (self.mtime, self.mtime), follow_symlinks=False)


def file(path: str, content: str = "", mode: int = 0o644, mtime: float = LONG_AGO, **other: Any) -> Entry:
    return Entry(path, "file", content, mode, mtime, **other)


def directory(path: str, mode: int = 0o755, mtime: float = LONG_AGO, **other: Any) -> Entry:
    return Entry(path, "directory", "", mode, mtime, **other)


def symlink(path: str, to: str, **other: Any) -> Entry:
    return Entry(path, "symlink", to, 0o777, **other)


def hard_link(path: str, to: str) -> Entry:
    return Entry(path, "hard link", to)


def fifo(path: str, mode: int = 0o640) -> Entry:
    return Entry(path, "fifo", "", mode)


def pack(entries: Sequence[Entry], compression: str = "gz") -> bytes:
    """A tar archive of `entries`, compressed as `tarfile` names it."""
    packed = io.BytesIO()
    mode: Any = f"w:{compression}"
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for entry in entries:
            tar.addfile(entry.tar_member(), io.BytesIO(entry.content.encode()) if entry.kind == "file" else None)
    return packed.getvalue()


ORDINARY = (file("app.py", "print('hello')\n"), file("bin/start", "#!/bin/sh\n", 0o755), directory("empty"))


# Cases


@dataclass(frozen=True, slots=True)
class Case:
    """One sentence about receivers. In its texts `@WORLD@` is the world's directory, `@HTTP@` its URL."""

    sentence: str
    #: Entries, or the bytes of something that claims to be an archive.
    archive: tuple[Entry, ...] | bytes = ORDINARY
    #: What is below `disk/` beforehand. `disk/www` is the manifest's `dest`.
    disk: tuple[Entry, ...] = ()
    #: Laid over the manifest that has src, checksum and dest; None removes a field.
    manifest: Mapping[str, Any] = field(default_factory=dict)
    #: The manifest's whole text, if it can't be said in fields.
    text: str | None = None
    #: What stdin holds; None is the manifest's URL in a line. `@EVENT@` is a Consul event with it, `@NOTHING@` one
    #: with the URL of nothing.
    stdin: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Options that the built-in receiver needs for this.
    options: tuple[str, ...] = ()
    #: When this file below `disk/` is there, SIGTERM is sent.
    sigterm_when: str | None = None
    #: Which stretchers behave so; where they differ the receiver follows the newest one, but for `options`.
    holds_for: tuple[Literal["1.1.0", "newest"], ...] = ("1.1.0", "newest")
    needs_shm: bool = False

    # what must come of it, with every receiver
    exit_status: int = 0
    #: Text of files below `disk/`; None: not there.
    leaves: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Receiver:
    """A program under test."""

    name: Literal["1.1.0", "newest", "built-in"]
    version: str
    command: tuple[str, ...]
    rsync: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left behind; two that are equal can't be told apart from the disk."""

    exit_status: int
    #: All below `disk/` and the temporary directory, one line each.
    tree: tuple[str, ...]
    log: str = field(compare=False)


BUILT_IN = (sys.executable, "-m", "deploytool.playground.receiver")


class WebServer:
    """Serves a directory on loopback. What is below `/missing/` comes with status 404, `/redirect/` sends on."""

    def __init__(self, directory: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/redirect/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/redirect"))
                    self.end_headers()
                    return
                name = self.path.removeprefix("/missing").partition("?")[0].lstrip("/")
                found = directory / name
                content = found.read_bytes() if found.is_file() else b"there is no such page\n"
                self.send_response(404 if self.path.startswith("/missing") or not found.is_file() else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "WebServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


#: Called by hooks to write down what the log on their stdin says, in words that no manifest holds.
FACTS = r"""#!/bin/sh
cat >"$1.log"
{
  count() { printf '%s: %s\n' "$1" "$(LC_ALL=C grep -c "^[0-9/]\{10\} [0-9:]\{8\} $2" "$3")"; }
  count executing 'Executing manifest ' "$1.log"
  count commands 'invoking command: ' "$1.log"
  count failed 'Deploy manifest failed: ' "$1.log"
  count succeeded 'Deploy manifest succeeded' "$1.log"
  printf 'said by hooks:\n'
  grep '^[0-9/]\{10\} [0-9:]\{8\} said by\|^said by' "$1.log" | sed 's/^[0-9/]\{10\} [0-9:]\{8\} //'
} >"$1"
rm -f "$1.log"
"""


def run(case: Case, receiver: Receiver, world: Path, web: WebServer, extra: Mapping[str, str] | None = None) -> Outcome:
    """Make the world anew, run `receiver` in it, and look at what came of it."""
    for folder, _names, _files in os.walk(world):
        # An ordinary user can't remove what is in a read-only directory.
        Path(folder).chmod(0o755)
    shutil.rmtree(world, ignore_errors=True)
    disk, temporary, program = world / "disk", world / "tmp", world / "bin"
    for path in (disk, temporary, program):
        path.mkdir(parents=True)
    for entry in case.disk:
        entry.make_below(disk, world)
    # Making what is in a directory has changed its time.
    for entry in case.disk:
        if entry.kind == "directory":
            os.utime(disk / entry.path, (entry.mtime, entry.mtime))
    (world / "facts.sh").write_text(FACTS)
    (program / "rsync").symlink_to(receiver.rsync)

    def put(text: str) -> str:
        shm = SHM / f"receiver-{os.getpid()}"
        return text.replace(WORLD, str(world)).replace(HTTP, web.url).replace(OTHER_FILE_SYSTEM, str(shm))

    packed = case.archive if isinstance(case.archive, bytes) else pack(case.archive)
    (world / "archive.tar.gz").write_bytes(packed)
    fields: dict[str, Any] = {
        "src": "file://@WORLD@/archive.tar.gz",
        "checksum": hashlib.sha256(packed).hexdigest(),
        "dest": "@WORLD@/disk/www",
    }
    fields = {name: value for name, value in {**fields, **case.manifest}.items() if value is not None}
    text = case.text
    if text is None:
        text = yaml.safe_dump(fields, width=10_000)
    for name in ("md5", "sha1", "sha256", "sha512"):
        text = text.replace(f"@{name.upper()}@", hashlib.new(name, packed).hexdigest())
    text = text.replace("@UPPER@", hashlib.sha256(packed).hexdigest().upper())
    (world / "manifest.yml").write_text(put(text))
    stdin = put("file://@WORLD@/manifest.yml\n" if case.stdin is None else case.stdin)
    stdin = stdin.replace("@EVENT@", _event(f"file://{world}/manifest.yml"))
    stdin = stdin.replace("@NOTHING@", _event("file:///nothing"))

    environment = {
        "PATH": f"{program}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{programs_directory()}",
        "HOME": str(world),
        "TMPDIR": str(temporary),
        **(extra or {}),
        **{name: put(value) for name, value in case.environment.items()},
    }
    environment = {name: value for name, value in environment.items() if value != UNSET}
    if case.needs_shm:
        Path(environment["TMPDIR"]).mkdir()
    try:
        status, log = _execute(case, receiver, world, environment, stdin, [put(option) for option in case.options])
        tree = [*_listing(disk, "disk"), *_listing(Path(environment["TMPDIR"]), "tmp")]
    finally:
        if case.needs_shm:
            shutil.rmtree(environment["TMPDIR"])
    return Outcome(status, tuple(tree), log)


def _event(url: str) -> str:
    payload = base64.b64encode(url.encode()).decode()
    return json.dumps({"ID": "b54fe110", "Name": "deploy_shop_web_production", "Payload": payload, "LTime": 7})


def _execute(
    case: Case, receiver: Receiver, world: Path, environment: Mapping[str, str], stdin: str, options: Sequence[str]
) -> tuple[int, str]:
    options = options if receiver.name == "built-in" else []
    with (world / "stdin").open("w+") as given, (world / "log").open("w+", errors="surrogateescape") as log:
        given.write(stdin)
        given.seek(0)
        child = subprocess.Popen(
            [*receiver.command, *options], stdin=given, stdout=log, stderr=log, env=environment, cwd=world / "disk"
        )
        if case.sigterm_when is not None:
            deadline = time.monotonic() + 20
            sign = world / "disk" / case.sigterm_when
            # Not as soon as it exists: a shell opens a file before it writes.
            while not (sign.exists() and sign.stat().st_size) and time.monotonic() < deadline:
                time.sleep(0.01)
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(30)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        log.seek(0)
        return child.returncode, log.read()


def _listing(top: Path, shown: str) -> list[str]:
    """All below `top`: kind, permissions, owner, time, content. Times of today are only called new."""
    lines = []
    for folder, folders, names in os.walk(top):
        folders.sort()
        for path in sorted(Path(folder) / name for name in [*folders, *names]):
            lines.append(f"{shown}/{path.relative_to(top)}: {_description(path)}")
    return sorted(lines)


def _description(path: Path) -> str:
    found = path.lstat()
    links = f", {found.st_nlink} links" if stat.S_ISREG(found.st_mode) and found.st_nlink > 1 else ""
    when = "new" if found.st_mtime > time.time() - 86400 else f"{found.st_mtime_ns / 1e9:.6f}"
    about = f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} {when}{links}"
    if stat.S_ISLNK(found.st_mode):
        return f"{about} -> {os.readlink(path)}"
    if stat.S_ISREG(found.st_mode):
        return f"{about} {path.read_bytes()!r}"
    return about
