"""Packs a work tree and hashes it on its way to the store, in one pass; unpacks a release for its migrations.

The archive is reproducible: entries in order of their names, one time for all (the commit's), no owner. An archive
counts only when every program in the pipe has ended well: a tar that dies half-way must never be published.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import signal
import subprocess
import tempfile
from typing import IO, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, cast

from deploytool.text.compressions import COMPRESSIONS

from .compressors import Compressor
from .failure import Failure
from .processes import Groups
from .standalone import Inspection
from .wire import Hidden

CHUNK_BYTES = 1 << 20
#: As much as an unprivileged process may have in one pipe: fewer turns between the programs.
PIPE_BYTES = 1 << 20
#: Linux; Python has a name for it since 3.10.
F_SETPIPE_SZ = 1031

BLOCK_BYTES = 512
#: A file's size in a header of the archive.
SIZE = re.compile(rb"([0-7]+)[\0 ]*")
#: The kinds of entries that `tar_command` makes: files, links, directories, and the long names of these.
KINDS = frozenset((b"0", b"\0", b"2", b"5", b"L", b"K"))
PLAIN, LONG_NAME = frozenset((b"0", b"\0")), b"L"
NO_CONTENT = frozenset((b"2", b"5"))
SPECIAL = {b"1": "hard link", b"3": "device", b"4": "device", b"6": "named pipe"}

#: What tar's `--totals` says at its end, in the C locale.
TOTAL = re.compile(rb"^Total bytes written: (\d+)", re.MULTILINE)


def tar_command(directory: str, exclude: Sequence[str], epoch: int, index: Optional[int] = None) -> List[str]:
    """GNU tar's command line for a reproducible archive of `directory`, written to stdout.

    `exclude` holds shell patterns anchored at the root of the tree: `tmp` leaves out the top one only, `*` does not
    match a slash. `.git` is left out at every depth. A pattern that starts with a slash or ends with one means the same
    without. `index` is the descriptor that gets the name of each entry, in a line of its own.
    """
    names = (
        ["--verbose", "--quoting-style=escape", "--index-file=/dev/fd/{}".format(index)] if index is not None else []
    )
    patterns = ["--exclude=./" + pattern.strip("/") for pattern in exclude if pattern.strip("/")]
    return [
        "tar",
        "--create",
        "--totals",
        *names,
        "--file=-",
        "--directory=" + directory,
        "--format=gnu",
        "--sort=name",
        "--mtime=@{}".format(epoch),
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        # A directory below one with setgid has it, too.
        "--mode=ug-s",
        "--hard-dereference",
        "--wildcards",
        "--no-wildcards-match-slash",
        "--no-anchored",
        "--exclude=.git",
        "--anchored",
        *patterns,
        ".",
    ]


class Known(NamedTuple):
    """What a release's record says of its archive."""

    compression: str
    #: sha256
    checksum: str
    size_bytes: int
    #: of the archive before it is compressed
    unpacked_bytes: int


class PackedStream:
    """The archive as a stream to upload: `readinto` hashes what it hands out.

    The end of the stream is only reached when tar and the compressor both ended with status 0, and the inspection has
    nothing against the archive; otherwise the last `readinto` raises, so that an upload which needs the end to be
    complete is given up, never completed.
    """

    def __init__(
        self,
        directory: str,
        *,
        exclude: Sequence[str],
        epoch: int,
        compressor: Compressor,
        groups: Groups,
        inspection: Optional[Inspection] = None,
    ) -> None:
        self.size_bytes = 0
        #: of the archive before it is compressed; known once the stream has ended
        self.unpacked_bytes = 0
        #: what the archive holds at paths that hosts link; see `Inspection.finish`
        self.links: Dict[str, Hidden] = {}
        self._hash = hashlib.sha256()
        self._inspection = inspection
        self._groups = groups
        self._ended = False
        self._processes: List[subprocess.Popen[bytes]] = []
        self._errors: List[IO[bytes]] = []
        environment = {**os.environ, "LC_ALL": "C", "TAR_OPTIONS": "", "GZIP": "", "PIGZ": ""}
        try:
            index = inspection.index if inspection is not None else None
            command = tar_command(directory, exclude, epoch, index)
            self._source = self._start(command, environment, subprocess.DEVNULL, () if index is None else (index,))
            if inspection is not None:
                inspection.close_index()
            if compressor.argv is not None:
                # tar writes right into the compressor's stdin: nothing of that passes through this process.
                with self._source as archive:
                    self._source = self._start(compressor.argv, environment, archive.fileno())
        except Failure:
            self.stop()
            raise

    def _start(
        self, argv: Sequence[str], environment: Dict[str, str], stdin: int, pass_fds: Tuple[int, ...] = ()
    ) -> IO[bytes]:
        """Start the program; its stdout."""
        # A file, not a pipe: nobody reads a pipe while the archive flows.
        errors = os.fdopen(os.memfd_create("deploytool-" + os.path.basename(argv[0])), "w+b")
        try:
            process = self._groups.start(
                argv, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, env=environment, bufsize=0, pass_fds=pass_fds
            )
        except FileNotFoundError:
            errors.close()
            raise Failure(
                "step",
                "packing needs {}, which is not installed on the build server".format(argv[0]),
                hint="install {} there, or choose another build.compression".format(argv[0]),
            ) from None
        self._processes.append(process)
        self._errors.append(errors)
        assert process.stdout is not None
        # Where the user has too many large pipes already, this one stays as it is.
        with contextlib.suppress(OSError):
            fcntl.fcntl(process.stdout, F_SETPIPE_SZ, PIPE_BYTES)
        return process.stdout

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of the buffer; 0 only at the end of an archive that is whole. Raises Failure if it isn't."""
        self._groups.refuse_if_cancelled("packing the release")
        # Without a buffer of Python's own in between: straight from the pipe.
        length = int(self._source.readinto(buffer))  # type: ignore[attr-defined]
        with buffer[:length] as read:
            self._hash.update(read)
        self.size_bytes += length
        if length == 0:
            self._check_end()
        return length

    def _check_end(self) -> None:
        if self._ended:
            return
        failed = []
        for process, errors in zip(self._processes, self._errors):  # noqa: B905 (Python 3.8 has no `strict`)
            status = process.wait()
            self._groups.finished(process)
            if status != 0:
                failed.append((process, status, errors))
        if failed:
            self._groups.refuse_if_cancelled("packing the release")
            if self._inspection is not None:
                self._inspection.raise_trouble()
            # A tar that nobody listens to any more only follows its compressor.
            process, status, errors = next((each for each in failed if each[1] != -signal.SIGPIPE), failed[0])
            errors.seek(0)
            lines = TOTAL.sub(b"", errors.read()).decode("utf-8", "replace").splitlines()
            raise Failure(
                "step",
                "packing failed: {} {}".format(
                    os.path.basename(str(process.args[0])) if isinstance(process.args, list) else "tar",
                    "was ended by signal {}".format(-status)
                    if status < 0
                    else "ended with exit status {}".format(status),
                ),
                tail=lines[-20:],
                hint="nothing was published; look at the files named above on the build server",
            )
        self._errors[0].seek(0)
        total = TOTAL.search(self._errors[0].read())
        if total is None:
            raise Failure("step", "packing failed: tar did not tell how much it packed", hint="install GNU tar there")
        self.unpacked_bytes = int(total.group(1))
        if self._inspection is not None:
            self.links = self._inspection.finish()
        self._ended = True

    @property
    def checksum(self) -> str:
        """sha256 of all that was read; meaningful once the stream has ended"""
        return self._hash.hexdigest()

    def stop(self) -> None:
        """End what still runs; after a whole read there is nothing left to do."""
        if self._inspection is not None:
            self._inspection.close_index()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            self._groups.finished(process)
            if process.stdout is not None:
                process.stdout.close()
        for errors in self._errors:
            errors.close()


def unpack(archive: IO[Any], directory: str, known: Known, groups: Groups) -> None:
    """Unpack the archive into `directory`, which must not exist yet; its parent does.

    Nothing is unpacked before all of the archive is there and its sha256 is the known one. What is unpacked is ours,
    without setuid and setgid; a device, a named pipe, a hard link, or more than the known size is refused. The tree
    appears under its name only when it is whole, and whatever fails leaves nothing. Raises Failure.
    """
    beside = directory + ".part"
    subprocess.run(["rm", "-rf", "--", beside, directory], check=True, stdin=subprocess.DEVNULL)
    # It has no name, so that a killed worker leaves none of it.
    with tempfile.TemporaryFile(dir=os.path.dirname(directory)) as whole:
        _fetch(archive, whole, known, groups)
        os.makedirs(beside, mode=0o755)
        try:
            _extract(whole, beside, known, groups)
            os.rename(beside, directory)
        except BaseException:
            subprocess.run(["rm", "-rf", "--", beside], stdin=subprocess.DEVNULL)
            raise


def _fetch(archive: IO[Any], whole: IO[bytes], known: Known, groups: Groups) -> None:
    """Copy the archive. Raises Failure unless it is the known one, and reads no more than that one has."""
    digest, size_bytes = hashlib.sha256(), 0
    while size_bytes <= known.size_bytes:
        groups.refuse_if_cancelled("fetching the release")
        data = archive.read(CHUNK_BYTES)
        if not data:
            break
        size_bytes += len(data)
        digest.update(data)
        whole.write(data)
    if (size_bytes, digest.hexdigest()) != (known.size_bytes, known.checksum):
        raise Failure(
            "step",
            "the archive in the store is not the one that was built: {}; its record says {} bytes, sha256 {}".format(
                "it has more bytes"
                if size_bytes > known.size_bytes
                else "it has {} bytes, sha256 {}".format(size_bytes, digest.hexdigest()),
                known.size_bytes,
                known.checksum,
            ),
            hint="nothing of it was unpacked; somebody changed it: build a new release",
        )
    whole.flush()
    whole.seek(0)


def _extract(whole: IO[bytes], directory: str, known: Known, groups: Groups) -> None:
    """Have tar unpack it, which gets only what was looked at. Raises Failure."""
    programs = COMPRESSIONS[known.compression].programs
    # tar itself refuses names with `..`, and puts no file behind a link that leads out.
    command = ["tar", "--extract", "--file=-", "--directory=" + directory, "--no-same-owner", "--no-same-permissions"]
    started: List[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as opened:
        errors = opened.enter_context(os.fdopen(os.memfd_create("deploytool-tar"), "w+b"))
        try:
            source = whole
            for argv in [[each, "-dc"] for each in programs]:
                started.append(groups.start(argv, stdin=whole, stdout=subprocess.PIPE, stderr=errors))
                source = cast("IO[bytes]", started[-1].stdout)
                opened.callback(source.close)
            environment = {**os.environ, "LC_ALL": "C", "TAR_OPTIONS": ""}
            tar = groups.start(command, stdin=subprocess.PIPE, stdout=errors, stderr=errors, env=environment)
            started.append(tar)
            with contextlib.suppress(BrokenPipeError), cast("IO[bytes]", tar.stdin) as target:
                for data in _looked_at(source, known.unpacked_bytes):
                    groups.refuse_if_cancelled("unpacking the release")
                    target.write(data)
            # Where tar has died, nobody reads the rest.
            source.close()
            ends = [(name, process.wait()) for name, process in zip((*programs, "tar"), started)]  # noqa: B905
            failed = [end for end in ends if end[1] != 0]
        finally:
            for process in started:
                process.kill()
                process.wait()
                groups.finished(process)
        groups.refuse_if_cancelled("unpacking the release")
        if failed:
            program, status = failed[-1]
            errors.seek(0)
            raise Failure(
                "step",
                "unpacking on the build server failed: {} ended with exit status {}".format(program, status),
                tail=errors.read().decode("utf-8", "replace").splitlines()[-20:],
            )


def _looked_at(source: IO[bytes], most_bytes: int) -> Iterator[bytes]:
    """The uncompressed archive, piece by piece. Raises Failure before the first piece that `tar_command` makes not."""
    left = most_bytes

    def read(size_bytes: int) -> bytes:
        nonlocal left
        data = source.read(size_bytes)
        left -= len(data)
        if left < 0:
            raise _refused("it unpacks to more than the {} bytes of its record".format(most_bytes))
        return data

    long_name = b""
    while True:
        header = read(BLOCK_BYTES)
        yield header
        if not header.strip(b"\0"):
            break
        size, kind = header[124:136], header[156:157]
        plain = SIZE.fullmatch(size)
        if not plain and size[:1] != b"\x80":
            raise _refused("it has a header that makes no sense")
        size_bytes = int(plain.group(1), 8) if plain else int.from_bytes(size[1:], "big")
        if kind not in KINDS or (kind in NO_CONTENT and size_bytes):
            shown = header[:100].rstrip(b"\0").decode("utf-8", "replace")
            raise _refused("{} in it is a {}".format(shown, SPECIAL.get(kind, "file of an unknown kind")))
        if sum(header[:148] + b" " * 8 + header[156:]) != int(header[148:156].strip(b"\0 ") or b"0", 8):
            raise _refused("it has a header that makes no sense")
        name = (long_name or header[:100]).partition(b"\0")[0]
        if kind in PLAIN and name.endswith(b"/"):
            # tar makes a directory of it, and would read its content as headers that nobody has looked at.
            raise _refused("{} in it is a file and a directory".format(name.decode("utf-8", "replace")))
        long_name = b"" if kind in PLAIN or kind in NO_CONTENT else long_name
        rest = -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        if kind == LONG_NAME and rest > CHUNK_BYTES:
            raise _refused("it has a name that no file can have")
        while rest > 0:
            data = read(min(rest, CHUNK_BYTES))
            if not data:
                raise _refused("it ends in the middle of a file")
            rest -= len(data)
            long_name = data if kind == LONG_NAME else long_name
            yield data
    while True:
        data = read(CHUNK_BYTES)
        if data.strip(b"\0"):
            raise _refused("it goes on after its end")
        if not data:
            return
        yield data


def _refused(why: str) -> Failure:
    return Failure(
        "step",
        "the archive in the store is refused: {}".format(why),
        hint="deploytool packs no such archive: somebody else made it; what was unpacked of it is removed; build a new "
        "release",
    )
