"""What compresses an archive here, and in which version: both decide its bytes.

Every one gives equal bytes for equal input, whatever the number of cores and however the input comes in pieces. igzip
has one thread: with more it cuts the input otherwise, where it was built with threads at all. python-isal and pigz
compress blocks of a fixed size, each with the end of the one before; zstd's jobs are cut by the level alone.

For gzip it is the worker's own python-isal, so that every build server gives the same bytes. What a build server has
besides is used only where that can't be had.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Optional, Tuple

from .own_isal import LEVEL, OwnIsal


@dataclass(frozen=True)
class Compressor:
    """A program that compresses its stdin to its stdout, without a name or a time in it."""

    #: with its version, as in "python-isal 1.7.2"
    name: str
    #: None: the archive is not compressed
    argv: Optional[Tuple[str, ...]]
    #: False: it is the worker's own, and has to be installed before it can compress
    ready: bool = True
    #: a sentence, if it stands in for the worker's own: why, what follows from that, and what to do
    warning: Optional[str] = None


def choose(compression: str, own: OwnIsal) -> Compressor:
    """The one that a build would use now for what `build.compression` asks for. Installs nothing.

    One that is not installed is chosen all the same if there is no other; packing says so.
    """
    if compression == "none":
        return Compressor("none", None)
    if compression == "zstd":
        return _program("zstd", "-q", "-T0", "-3", "-c") or Compressor("zstd", ("zstd",))
    if own.is_whole():
        return _own(own, ready=True)
    why = own.refusal()
    return _own(own, ready=False) if why is None else substitute(own, why)


def after_installing(own: OwnIsal, why_not: Optional[str]) -> Compressor:
    """The one that compresses once it was tried to install the worker's own; `why_not` is what that ended with."""
    return _own(own, ready=True) if why_not is None else substitute(own, why_not)


def substitute(own: OwnIsal, why: str) -> Compressor:
    """The quickest of those that this machine has, with a warning."""
    found = (
        _program("igzip", "-q", "-n", "-" + LEVEL, "-c")
        or _program("pigz", "-n", "-6", "-c")
        or _program("gzip", "-n", "-6", "-c")
        or Compressor("gzip", ("gzip",))
    )
    slower = "" if found.name.startswith("igzip") else "packing takes several times as long, and "
    return Compressor(
        found.name,
        found.argv,
        warning="{} compresses the archives, because python-isal {} can't be installed for {} on the build server "
        "({}): {}other build servers make other bytes of the same tree. Give that Python pip or venv (on Debian: `apt "
        "install python3-venv`) and a package index that it can reach, then run `fab ENV check`; a deploy tries again "
        "after an hour".format(found.name, own.version, sys.executable, why, slower),
    )


def _own(own: OwnIsal, *, ready: bool) -> Compressor:
    return Compressor("python-isal " + own.version, own.argv, ready)


def _program(program: str, *options: str) -> Optional[Compressor]:
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
    return Compressor("{} {}".format(program, version.group().decode()), (program, *options))
