"""Makes a directory like another one: as one rename, or by the program rsync, as stretcher does."""

import errno
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deploytool.playground.receiver import ReceiverError


def rename(source: Path, dest: str) -> None:
    """The strategy mv. Raise OSError if `dest` is on another file system, or is there and more than a symlink."""
    if os.path.isdir(dest) and not os.path.islink(dest):
        # rename(2) would replace an empty one.
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), dest)
    os.rename(source, dest)


def copy(source: Path, dest: str, excludes: Sequence[str], exclude_from: str) -> None:
    """The strategy rsync. `exclude_from` is a file in `source`, or empty. Raise ReceiverError if it fails."""
    program = shutil.which("rsync")
    if program is None:
        raise ReceiverError("sync_strategy is rsync, and there is no program rsync here.", hint="use sync_strategy: mv")
    options = [f"--exclude-from={source / exclude_from.lstrip('/')}"] if exclude_from else []
    options += [f"--exclude={pattern}" for pattern in excludes]
    command = [program, "-a", "--delete", *options, f"{source}/", f"{dest.rstrip('/')}/"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise ReceiverError(f"not all could be synced to {dest}: {done.stderr.strip()}")
