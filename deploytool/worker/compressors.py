"""What compresses an archive here, and in which version: both decide its bytes.

Every one gives equal bytes for equal input, whatever the number of cores and however the input comes in pieces. igzip
has one thread: with more it cuts the input otherwise, where it was built with threads at all. python-isal and pigz
compress blocks of a fixed size, each with the end of the one before; zstd's jobs are cut by the level alone.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Optional, Tuple

#: The level that igzip and python-isal call their default: nearly as small as gzip's, at the speed of the fastest.
ISAL_LEVEL = "2"
#: More would wait for tar.
ISAL_THREADS = 4

#: Reads whole blocks, as their borders decide the bytes. The directory that isal was found in is its first argument.
PYTHON_ISAL = """
import sys
sys.path.append(sys.argv[1])
from isal import igzip_threaded
level, threads, block_bytes = int(sys.argv[2]), int(sys.argv[3]), 1 << 20
with igzip_threaded.open(
    sys.stdout.buffer, "wb", compresslevel=level, threads=threads, block_size=block_bytes
) as compressed:
    while True:
        block = sys.stdin.buffer.read(block_bytes)
        if not block:
            break
        compressed.write(block)
"""

QUICKER = (
    "install igzip on the build server (on Debian: `apt install isal`; or `pip install isal` for the Python that runs "
    "the worker there), or pigz: gzip takes one core, and by far the longest"
)


@dataclass(frozen=True)
class Compressor:
    """A program that compresses its stdin to its stdout, without a name or a time in it."""

    #: with its version, as in "igzip 2.30.0"
    name: str
    #: None: the archive is not compressed
    argv: Optional[Tuple[str, ...]]
    #: how to get a quicker one
    hint: Optional[str] = None


def choose(compression: str, packages: str) -> Compressor:
    """The quickest one that makes what `build.compression` asks for.

    `packages` is where packages of the worker's own are, if there are any. One that is not installed is chosen all the
    same if there is no other; packing says so.
    """
    if compression == "none":
        return Compressor("none", None)
    if compression == "zstd":
        return _program("zstd", "-q", "-T0", "-3", "-c") or Compressor("zstd", ("zstd",))
    return (
        _program("igzip", "-q", "-n", "-" + ISAL_LEVEL, "-c")
        or _python_isal(packages)
        or _program("pigz", "-n", "-6", "-c")
        or _program("gzip", "-n", "-6", "-c", hint=QUICKER)
        or Compressor("gzip", ("gzip",))
    )


def _program(program: str, *options: str, hint: Optional[str] = None) -> Optional[Compressor]:
    """None if it is not installed, or does not say its version."""
    try:
        told = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(rb"\d+(\.\d+)+", told.stdout)
    if told.returncode != 0 or version is None:
        return None
    return Compressor("{} {}".format(program, version.group().decode()), (program, *options), hint)


def _python_isal(packages: str) -> Optional[Compressor]:
    """Of this Python or of the worker's own packages. What can't be imported, or is too old, is as good as none."""
    sys.path.append(packages)
    try:
        import isal

        if importlib.util.find_spec("isal.igzip_threaded") is None:
            return None
        # A distribution's own links whatever ISA-L it has, and that is what decides the bytes.
        name = "python-isal {} (ISA-L {})".format(isal.__version__, getattr(isal, "ISAL_VERSION", "unknown"))
        directory = os.path.dirname(os.path.dirname(isal.__file__))
    except Exception:
        return None
    finally:
        sys.path.remove(packages)
    threads = max(1, min(len(os.sched_getaffinity(0)), ISAL_THREADS))
    # `-I`: the directory that the worker was started in must have no say in what is imported.
    return Compressor(name, (sys.executable, "-I", "-B", "-c", PYTHON_ISAL, directory, ISAL_LEVEL, str(threads)))
