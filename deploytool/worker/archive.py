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
from typing import IO, Any, Dict, List, Optional, Sequence, Tuple

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
        "--hard-dereference",
        "--wildcards",
        "--no-wildcards-match-slash",
        "--no-anchored",
        "--exclude=.git",
        "--anchored",
        *patterns,
        ".",
    ]


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


def unpack(archive: IO[Any], directory: str, compression: str, checksum: str, groups: Groups) -> None:
    """Unpack the archive into `directory`, which must not exist yet. The checksum is verified before anything is used.

    The tree appears under its name only when it is whole. Raises Failure if the archive is not what the record says.
    """
    beside = directory + ".part"
    subprocess.run(["rm", "-rf", "--", beside, directory], check=True, stdin=subprocess.DEVNULL)
    os.makedirs(beside, mode=0o755)
    digest = hashlib.sha256()
    options = ["--directory=" + beside, "--no-same-owner", *COMPRESSIONS[compression].tar_options]
    with os.fdopen(os.memfd_create("deploytool-tar"), "w+b") as errors:
        process = groups.start(
            ["tar", "--extract", "--file=-", *options],
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
        )
        assert process.stdin is not None
        try:
            while True:
                data = archive.read(CHUNK_BYTES)
                if not data:
                    break
                digest.update(data)
                process.stdin.write(data)
            process.stdin.close()
        except BrokenPipeError:
            pass
        status = process.wait()
        groups.finished(process)
        groups.refuse_if_cancelled("unpacking the release")
        errors.seek(0)
        if digest.hexdigest() != checksum:
            raise Failure(
                "step",
                "the archive in the store is not the one that was built: sha256 {}, its record says {}".format(
                    digest.hexdigest(), checksum
                ),
                hint="somebody changed it; build a new release",
            )
        if status != 0:
            raise Failure(
                "step",
                "unpacking the release on the build server failed: tar ended with exit status {}".format(status),
                tail=errors.read().decode("utf-8", "replace").splitlines()[-20:],
            )
    os.rename(beside, directory)
