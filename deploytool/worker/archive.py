"""Packs a work tree and hashes it on its way to the store, in one pass; unpacks a release for its migrations.

The archive is reproducible: entries in order of their names, one time for all (the commit's), no owner. An archive
counts only when every program in the pipe has ended well: a tar that dies half-way must never be published.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import threading
from typing import IO, Any, Dict, List, Optional, Sequence

from .failure import Failure
from .processes import Groups

CHUNK_BYTES = 1 << 20

#: Compressors write no name and no time into what they make. zstd: one frame, whatever the number of cores.
COMPRESSORS: Dict[str, Optional[List[str]]] = {
    "gzip": ["gzip", "-n", "-6"],
    "zstd": ["zstd", "-q", "-T0", "-3", "-c"],
    "none": None,
}


def tar_command(directory: str, exclude: Sequence[str], epoch: int) -> List[str]:
    """GNU tar's command line for a reproducible archive of `directory`, written to stdout.

    `exclude` holds shell patterns anchored at the root of the tree: `tmp` leaves out the top one only, `*` does not
    match a slash. `.git` is left out at every depth. A pattern that starts with a slash or ends with one means the same
    without.
    """
    patterns = ["--exclude=./" + pattern.strip("/") for pattern in exclude if pattern.strip("/")]
    return [
        "tar",
        "--create",
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


class PackedStream(io.RawIOBase):
    """The archive as a stream to upload: `read` hashes what it hands out.

    The end of the stream is only reached when tar and the compressor both ended with status 0; otherwise the last
    `read` raises, so that an upload which needs the end to be complete is given up, never completed.
    """

    def __init__(self, directory: str, *, exclude: Sequence[str], epoch: int, compression: str, groups: Groups) -> None:
        self.size_bytes = 0
        self.unpacked_bytes = 0
        self._hash = hashlib.sha256()
        self._groups = groups
        self._ended = False
        self._processes: List[subprocess.Popen[bytes]] = []
        self._errors: List[IO[bytes]] = []
        self._pump: Optional[threading.Thread] = None
        environment = {**os.environ, "LC_ALL": "C", "TAR_OPTIONS": "", "GZIP": ""}
        tar = self._start(tar_command(directory, exclude, epoch), environment, stdin=subprocess.DEVNULL)
        assert tar.stdout is not None
        self._source = tar.stdout
        compressor = COMPRESSORS[compression]
        if compressor is None:
            self._counted = True
        else:
            self._counted = False
            try:
                packer = self._start(compressor, environment, stdin=subprocess.PIPE)
            except Failure:
                self.stop()
                raise
            assert packer.stdin is not None
            assert packer.stdout is not None
            self._pump = threading.Thread(target=self._feed, args=(tar.stdout, packer.stdin), daemon=True)
            self._pump.start()
            self._source = packer.stdout

    def _start(self, argv: List[str], environment: Dict[str, str], stdin: int) -> "subprocess.Popen[bytes]":
        # A file, not a pipe: nobody reads a pipe while the archive flows.
        errors = os.fdopen(os.memfd_create("deploytool-" + argv[0]), "w+b")
        try:
            process = self._groups.start(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, env=environment)
        except FileNotFoundError:
            errors.close()
            raise Failure(
                "step",
                "packing needs {}, which is not installed on the build server".format(argv[0]),
                hint="install {} there, or choose another build.compression".format(argv[0]),
            ) from None
        self._processes.append(process)
        self._errors.append(errors)
        return process

    def _feed(self, source: IO[bytes], sink: IO[bytes]) -> None:
        try:
            while True:
                data = source.read(CHUNK_BYTES)
                if not data:
                    break
                self.unpacked_bytes += len(data)
                sink.write(data)
        except (BrokenPipeError, ValueError):
            # The compressor died; its exit status says why.
            source.close()
        finally:
            with contextlib.suppress(BrokenPipeError):
                sink.close()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        self._groups.refuse_if_cancelled("packing the release")
        # s3transfer cuts parts of exactly the size it asks for, so a short read must mean the end.
        data = self._source.read(size) if size is not None and size >= 0 else self._source.read()
        if self._counted:
            self.unpacked_bytes += len(data)
        self._hash.update(data)
        self.size_bytes += len(data)
        if size is None or size < 0 or len(data) < size:
            self._check_end()
        return data

    def _check_end(self) -> None:
        if self._ended:
            return
        if self._pump is not None:
            self._pump.join()
        for process, errors in zip(self._processes, self._errors):  # noqa: B905 (Python 3.8 has no `strict`)
            status = process.wait()
            self._groups.finished(process)
            if status != 0:
                self._groups.refuse_if_cancelled("packing the release")
                errors.seek(0)
                lines = errors.read().decode("utf-8", "replace").splitlines()
                raise Failure(
                    "step",
                    "packing failed: {} {}".format(
                        process.args[0] if isinstance(process.args, list) else "tar",
                        "was ended by signal {}".format(-status)
                        if status < 0
                        else "ended with exit status {}".format(status),
                    ),
                    tail=lines[-20:],
                    hint="nothing was published; look at the files named above on the build server",
                )
        self._ended = True

    @property
    def checksum(self) -> str:
        """sha256 of all that was read; meaningful once the stream has ended"""
        return self._hash.hexdigest()

    def stop(self) -> None:
        """End what still runs; after a whole read there is nothing left to do."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
            self._groups.finished(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
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
    decompress = {"gzip": ["--gzip"], "zstd": ["--zstd"], "none": []}[compression]
    with os.fdopen(os.memfd_create("deploytool-tar"), "w+b") as errors:
        process = groups.start(
            ["tar", "--extract", "--file=-", "--directory=" + beside, "--no-same-owner", *decompress],
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
