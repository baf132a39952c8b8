"""Makes a directory like another one: as `rsync -a --delete` with excludes, or as one rename.

As with rsync: contents, symlinks, permissions, owners (as root), times, FIFOs and devices are taken over; files of
equal size and time (to the second) count as equal; files and symlinks are replaced whole, by renaming; hard links
become files of their own; what is excluded is neither copied nor deleted. One bad file does not stop the others, but
fails the whole.

Left out: `dest` on another machine (`host:path`).
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploytool.playground.receiver import ReceiverError
from deploytool.playground.receiver.excludes import Excludes


def rename(source: Path, dest: str) -> None:
    """The strategy mv. Raise OSError if `dest` is on another file system, or is there and more than a symlink."""
    if os.path.isdir(dest) and not os.path.islink(dest):
        # rename(2) would replace an empty one.
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dest)
    os.rename(source, dest)


def copy(source: Path, dest: str, excludes: Excludes) -> int:
    """The strategy rsync: make `dest` like `source`; its parent must be there. Returns how many entries were changed.

    Raise ReceiverError with all that could not be done.
    """
    if not os.path.isdir(dest):
        if os.path.lexists(dest):
            raise ReceiverError(f"{dest} is there and no directory.")
        try:
            os.mkdir(dest)
        except OSError as error:
            raise ReceiverError(f"{dest} can't be made: {error.strerror}; rsync makes no parents either.") from error
    copying = _Copying(excludes)
    # With the slash it is the directory that a symlink at dest leads to.
    copying.directory(os.fsencode(source), os.fsencode(dest.rstrip("/") + "/."), b"")
    if copying.problems:
        raise ReceiverError(f"not all could be synced to {dest}: {'; '.join(copying.problems[:10])}")
    return copying.changed


@dataclass(slots=True)
class _Copying:
    """One run. All paths are bytes, and `path` is relative to the top of both trees."""

    excludes: Excludes
    problems: list[str] = field(default_factory=list)
    changed: int = 0
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)

    @contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problems.append(str(error))

    def directory(self, source: bytes, dest: bytes, path: bytes) -> None:
        """Make the directory `dest`, which is there, like `source`."""
        wanted = os.lstat(source)
        if not self.is_root:
            # While it is worked in; at the end it gets what is wanted.
            os.chmod(dest, stat.S_IMODE(wanted.st_mode) | stat.S_IRWXU)
        entries = {entry.name: entry for entry in self._entries(source, path)}
        for old in self._entries(dest, path):
            if old.name not in entries:
                with self._noting_problems():
                    self._delete(old.path, _join(path, old.name), is_directory=old.is_dir(follow_symlinks=False))
        for name in sorted(entries):
            with self._noting_problems():
                self._entry(entries[name].path, os.path.join(dest, name), _join(path, name))
        self._attributes(dest, wanted)

    def _entries(self, directory: bytes, path: bytes) -> list["os.DirEntry[bytes]"]:
        """What takes part in the sync."""
        with os.scandir(directory) as entries:
            return [
                entry
                for entry in entries
                if not self.excludes.leave_out(
                    _join(path, entry.name), is_directory=entry.is_dir(follow_symlinks=False)
                )
            ]

    def _entry(self, source: bytes, dest: bytes, path: bytes) -> None:
        wanted = os.lstat(source)
        try:
            there: os.stat_result | None = os.lstat(dest)
        except FileNotFoundError:
            there = None
        if there is not None and stat.S_IFMT(there.st_mode) != stat.S_IFMT(wanted.st_mode):
            # A new file takes the place of an old symlink by itself.
            if stat.S_ISDIR(there.st_mode) or stat.S_ISDIR(wanted.st_mode):
                is_directory = stat.S_ISDIR(there.st_mode)
                if not self._delete(dest, path, is_directory=is_directory):
                    raise OSError(errno.ENOTEMPTY, "holds excluded files and can't make way", os.fsdecode(dest))
            there = None
        if stat.S_ISDIR(wanted.st_mode):
            if there is None:
                os.mkdir(dest, 0o700)
                self.changed += 1
            self.directory(source, dest, path)
        elif stat.S_ISREG(wanted.st_mode):
            self._file(source, dest, wanted, there)
        elif stat.S_ISLNK(wanted.st_mode):
            self._symlink(os.readlink(source), dest, wanted, there)
        else:
            self._special(dest, wanted, there)

    def _file(self, source: bytes, dest: bytes, wanted: os.stat_result, there: os.stat_result | None) -> None:
        if there and there.st_size == wanted.st_size and int(there.st_mtime) == int(wanted.st_mtime):
            self._attributes(dest, wanted)
            return
        descriptor, beside = tempfile.mkstemp(prefix=b".receiver-", dir=os.path.dirname(dest))
        try:
            with open(descriptor, "wb") as new, open(source, "rb") as old:
                shutil.copyfileobj(old, new, 1024 * 1024)
            self._replace(beside, dest, wanted)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(beside)
            raise

    def _symlink(self, target: bytes, dest: bytes, wanted: os.stat_result, there: os.stat_result | None) -> None:
        if there and os.readlink(dest) == target:
            self._attributes(dest, wanted)
            return
        beside = self._name_beside(dest)
        os.symlink(target, beside)
        self._replace(beside, dest, wanted)

    def _special(self, dest: bytes, wanted: os.stat_result, there: os.stat_result | None) -> None:
        if there and there.st_rdev == wanted.st_rdev:
            self._attributes(dest, wanted)
            return
        beside = self._name_beside(dest)
        os.mknod(beside, stat.S_IFMT(wanted.st_mode) | 0o600, wanted.st_rdev)
        self._replace(beside, dest, wanted)

    @staticmethod
    def _name_beside(dest: bytes) -> bytes:
        descriptor, name = tempfile.mkstemp(prefix=b".receiver-", dir=os.path.dirname(dest))
        os.close(descriptor)
        os.unlink(name)
        return name

    def _replace(self, beside: bytes, dest: bytes, wanted: os.stat_result) -> None:
        self._attributes(beside, wanted, is_new=True)
        os.replace(beside, dest)
        self.changed += 1

    def _attributes(self, dest: bytes, wanted: os.stat_result, *, is_new: bool = False) -> None:
        """Owner, permissions and time of `dest` as wanted. As an ordinary user, of the owner only the group.

        What was there before keeps the fraction of its second, if that is all that differs.
        """
        now = os.lstat(dest)
        if self.is_root and (now.st_uid, now.st_gid) != (wanted.st_uid, wanted.st_gid):
            os.chown(dest, wanted.st_uid, wanted.st_gid, follow_symlinks=False)
        elif now.st_gid != wanted.st_gid:
            with suppress(PermissionError):
                os.chown(dest, -1, wanted.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(wanted.st_mode):
            # After chown, which takes setuid away.
            os.chmod(dest, stat.S_IMODE(wanted.st_mode))
        if is_new or int(now.st_mtime) != int(wanted.st_mtime):
            os.utime(dest, ns=(now.st_atime_ns, wanted.st_mtime_ns), follow_symlinks=False)

    def _delete(self, dest: bytes, path: bytes, *, is_directory: bool) -> bool:
        """Delete what is not excluded. Returns whether all of it is gone."""
        if not is_directory:
            os.unlink(dest)
            self.changed += 1
            return True
        if not self.is_root:
            with suppress(PermissionError):
                os.chmod(dest, stat.S_IMODE(os.lstat(dest).st_mode) | stat.S_IRWXU)
        with os.scandir(dest) as entries:
            found = list(entries)
        is_empty = True
        for entry in found:
            inner = _join(path, entry.name)
            inner_is_directory = entry.is_dir(follow_symlinks=False)
            if self.excludes.leave_out(inner, is_directory=inner_is_directory):
                is_empty = False
            else:
                is_empty = self._delete(entry.path, inner, is_directory=inner_is_directory) and is_empty
        if is_empty:
            os.rmdir(dest)
            self.changed += 1
        return is_empty


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
