"""Where is measured: a file system of its own, empty, that nobody else has aged.

The usual root file system is several times slower at creating files right after many were deleted. With the rights to
mount one, an ext4 in an image file is used; without them a temporary directory. Either way nothing is left behind.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

IMAGE_BYTES = 40 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """An empty directory and, in words, what it lies on."""

    directory: Path
    description: str


@contextmanager
def measuring_place(within: Path | None = None) -> Iterator[Place]:
    """A place that is gone afterwards; its image lies in `within`, else where temporary files do."""
    with tempfile.TemporaryDirectory(prefix="deploytool-bench-", dir=within) as name:
        home = Path(name)
        mounted = _mount(home / "image", home / "mounted") if os.geteuid() == 0 else None
        if mounted is None:
            (home / "plain").mkdir()
            yield Place(home / "plain", "a temporary directory")
            return
        try:
            yield Place(mounted, "ext4 in an image file, freshly made")
        finally:
            # Its processes have been ended; the kernel may need a moment to let go of what they had open.
            subprocess.run(["umount", str(mounted)], check=False, capture_output=True)
            if os.path.ismount(mounted):
                subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def _mount(image: Path, mounted: Path) -> Path | None:
    """A new file system in a sparse file; None if this machine does not let us."""
    if not (shutil.which("mkfs.ext4") and shutil.which("mount")):
        return None
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    mounted.mkdir()
    # Without the kernel's thread that would go on making inode tables while something is measured.
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(image)]
    mount = ["mount", "-o", "loop,noinit_itable", str(image), str(mounted)]
    try:
        for command in (make, mount):
            subprocess.run(command, check=True, capture_output=True)
    except subprocess.CalledProcessError:
        return None
    finally:
        # The mount holds on to it: whatever becomes of us, no file is left.
        image.unlink()
    return mounted
