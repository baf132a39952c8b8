"""The story of one run, in stretcher's order.

stdin → manifest → archive with checksum → pre → unpack → sync → post → success, or, where one of these failed, failure.
What comes before the manifest is read runs no hook when it fails. While the archive is unpacked and synced its
temporary directory is the working directory; failure hooks of these steps find themselves in it, already deleted.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from deploytool.playground.receiver import ReceiverError, archive, go_template, sync
from deploytool.playground.receiver.commands import Cancellation, Shell
from deploytool.playground.receiver.download import opened, parse_url
from deploytool.playground.receiver.event import manifest_url
from deploytool.playground.receiver.journal import Journal
from deploytool.playground.receiver.manifest import Manifest, parse
from deploytool.playground.receiver.placeholders import Placeholder, put_in_place

_CHUNK_BYTES = 1024 * 1024
_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


@dataclass(frozen=True, slots=True)
class Receiver:
    """One run's surroundings."""

    journal: Journal
    cancellation: Cancellation
    shell: Shell
    environment: Mapping[str, str]
    placeholders: Sequence[Placeholder]
    #: Whether the manifest is a Go template, as after stretcher 1.1.0.
    expands_templates: bool

    def receive(self, read_stdin: Callable[[int], bytes]) -> None:
        """Execute the manifest that stdin names. Raise ReceiverError if that fails, after its failure hooks."""
        say = self.journal.say
        say("Waiting for an event on stdin")
        try:
            with self.cancellation.interruptible():
                url = manifest_url(read_stdin, is_watch=bool(self.environment.get("CONSUL_INDEX")))
        except ReceiverError as error:
            raise ReceiverError(f"No event: {error}") from error
        say(f"Loading manifest: {url}")
        try:
            with self.cancellation.interruptible():
                manifest = self._load(url)
        except ReceiverError as error:
            raise ReceiverError(f"Manifest can't be loaded, and no hook has run: {error}") from error
        say(f"Executing manifest {manifest!r}")
        try:
            self._deploy(manifest)
        except (ReceiverError, OSError) as error:
            say(f"Deploy manifest failed: {error}")
            self._run_with_log(manifest.commands.failure)
            raise ReceiverError(f"Deploy manifest failed: {error}") from error
        say("Deploy manifest succeeded.")
        self._run_with_log(manifest.commands.success)
        say("Done")

    def _load(self, url: str) -> Manifest:
        with opened(parse_url(url), self.environment) as content:
            read = content.read()
        try:
            text = read.decode()
        except UnicodeDecodeError as error:
            raise ReceiverError(f"The manifest is not UTF-8: {error}.") from error
        if self.expands_templates:
            text = go_template.expand(text)
        return parse(put_in_place(text, self.placeholders))

    def _run_with_log(self, commands: Sequence[str]) -> None:
        """One that fails is logged, ends its phase and changes nothing else."""
        try:
            for command in commands:
                self.shell.run_with_log(command)
        except ReceiverError as error:
            self.journal.say(str(error))

    def _run(self, commands: Sequence[str]) -> None:
        for command in commands:
            self.shell.run(command)

    def _deploy(self, manifest: Manifest) -> None:
        if not manifest.src:
            self._run(manifest.commands.pre)
            self._run(manifest.commands.post)
            return
        if manifest.sync_strategy not in ("", "rsync", "mv"):
            raise ReceiverError(f"sync_strategy is {manifest.sync_strategy}, which is neither rsync nor mv.")
        # As stretcher and all of Unix; what is made there has a name that nobody can guess.
        temporary = self.environment.get("TMPDIR") or "/tmp"  # noqa: S108
        with _temporary_file(temporary) as (file, packed), _temporary_directory(temporary) as unpacked:
            with self.cancellation.interruptible():
                self._fetch(manifest, file)
            self._run(manifest.commands.pre)
            before = Path.cwd()
            os.chdir(unpacked)
            self.journal.say(f"Unpacking {packed} into {unpacked}")
            archive.unpack(packed, self.journal)
            os.chmod(unpacked, manifest.dest_mode)
            self._sync(manifest, unpacked)
            os.chdir(before)
            self._run(manifest.commands.post)

    def _fetch(self, manifest: Manifest, file: BinaryIO) -> None:
        self.journal.say(f"Loading archive: {manifest.src}")
        with opened(parse_url(manifest.src), self.environment) as content:
            algorithm = _ALGORITHMS.get(len(manifest.checksum))
            if algorithm is None:
                raise ReceiverError("checksum must be md5, sha1, sha256 or sha512 in hexadecimal digits.")
            digest = hashlib.new(algorithm, usedforsecurity=False)
            size_bytes = 0
            while chunk := content.read(_CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += file.write(chunk)
        file.flush()
        self.journal.say(f"Wrote {size_bytes:,} bytes")
        if digest.hexdigest() != manifest.checksum.lower():
            raise ReceiverError(
                f"checksum mismatch: the archive's {algorithm} is {digest.hexdigest()}, "
                f"but the manifest says {manifest.checksum}."
            )
        self.journal.say(f"Checksum ok: {digest.hexdigest()}")

    def _sync(self, manifest: Manifest, unpacked: Path) -> None:
        if manifest.sync_strategy == "mv":
            self.journal.say(f"Renaming {unpacked} to {manifest.dest}")
            sync.rename(unpacked, manifest.dest)
            return
        self.journal.say(f"Syncing {unpacked} to {manifest.dest}")
        sync.copy(unpacked, manifest.dest, manifest.excludes, manifest.exclude_from)


@contextmanager
def _temporary_file(directory: str) -> Iterator[tuple[BinaryIO, Path]]:
    descriptor, name = tempfile.mkstemp(prefix="receiver-", dir=directory)
    try:
        with open(descriptor, "wb") as file:
            yield file, Path(name)
    finally:
        with suppress(OSError):
            os.unlink(name)


@contextmanager
def _temporary_directory(directory: str) -> Iterator[Path]:
    name = tempfile.mkdtemp(prefix="receiver-", dir=directory)
    try:
        yield Path(name)
    finally:
        # An ordinary user can't remove what is in a read-only directory. The strategy mv has taken all of it away.
        for folder, _folders, _files in os.walk(name):
            with suppress(OSError):
                os.chmod(folder, 0o700)
        shutil.rmtree(name, ignore_errors=True)
