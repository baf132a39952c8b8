"""Unpacks an archive into the working directory as `tar xf` does: with that program, or without it where there is none.

Without it, zstd archives can't be unpacked, and names that lead out of the directory are refused.
"""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from deploytool.playground.receiver import ReceiverError
from deploytool.playground.receiver.journal import Journal


def unpack(archive: Path, journal: Journal) -> None:
    """Unpack into the working directory. Raise ReceiverError if the archive is broken."""
    if program := shutil.which("tar"):
        _with_program(program, archive, journal)
    else:
        _without_program(archive)


def _with_program(program: str, archive: Path, journal: Journal) -> None:
    done = subprocess.run(
        [program, "xf", str(archive)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.stdout:
        journal.say(done.stdout)
    if done.returncode != 0:
        raise ReceiverError(f"the archive can't be unpacked: tar ended with exit status {done.returncode}")


def _without_program(archive: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    is_root = os.geteuid() == 0
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                member.name = member.name.lstrip("/") or "."
                if ".." in PurePosixPath(member.name).parts:
                    raise ReceiverError(f"the archive holds {member.name!r}, which leads out of it.")
                # tar gives its user's umask a say, but for root.
                member.mode = member.mode & 0o7777 if is_root else member.mode & 0o777 & ~umask
            # Not the filter that drops bits: the archive's checksum has been compared, so it is ours. Pythons before
            # 3.11.4 know no filters, and do just this.
            if hasattr(tarfile, "fully_trusted_filter"):
                tar.extractall(members=members, filter="fully_trusted")  # noqa: S202
            else:
                tar.extractall(members=members)  # noqa: S202
            for link in (member for member in members if member.issym()):
                # tarfile leaves these out.
                os.utime(link.name, (link.mtime, link.mtime), follow_symlinks=False)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ReceiverError(
            f"the archive can't be unpacked: {error}",
            hint="there is no tar program here; Python alone unpacks gzip, bzip2 and xz, but not zstd.",
        ) from error
