"""The lock files of a work tree, for the operator's side, which knows their forms."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Iterator, Optional

from .wire import LockFile

CHUNK_BYTES = 1 << 20
#: A lock file that is larger is not read: the largest of real applications have a few megabytes.
LOCK_FILE_BYTES = 16 << 20


def lock_file(directory: str, name: str) -> Iterator[LockFile]:
    """That file of the tree, if it is there. A link is none: it may lead anywhere. Nor is anything else but a file."""
    try:
        descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return
    with os.fdopen(descriptor, "rb") as file:
        digest, start = hashlib.sha256(), file.read(LOCK_FILE_BYTES + 1)
        digest.update(start)
        for block in iter(lambda: file.read(CHUNK_BYTES), b""):
            digest.update(block)
    try:
        text: Optional[str] = start.decode() if len(start) <= LOCK_FILE_BYTES else None
    except UnicodeDecodeError:
        text = None
    yield LockFile(name, digest.hexdigest(), text)
