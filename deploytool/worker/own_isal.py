"""python-isal of the worker's own: one exact version in a directory of its own, whatever else this Python has.

Nothing here is imported into the worker: a process of its own compresses. Whether it is there costs a few `stat`s.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from deploytool.text.untrusted import one_line, read_json

from . import pinned
from .processes import Groups, end_group

#: The newest versions that have wheels: for Python 3.8 to 3.13, and for later ones. Another version gives other bytes.
#: `make lock` writes the hashes of their files.
VERSION, VERSION_FOR_LATER = "1.7.2", "1.8.0"
#: The level that igzip and python-isal call their default: nearly as small as gzip's, at the speed of the fastest.
LEVEL = "2"
#: More would wait for tar.
THREADS = 4
#: A package index that does not answer must not hold up a deploy for long, and not every deploy.
PIP_LIMITS = ("--retries", "2", "--timeout", "20")
LIMIT_SECONDS = 120.0
RETRY_SECONDS = 3600.0
LONGEST_REASON = 300
#: Settings of pip that would put the package anywhere else, or refuse to.
ELSEWHERE = ("PIP_PREFIX", "PIP_ROOT", "PIP_TARGET", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PIP_DRY_RUN")

#: In the directory: the files that must be there, with their sizes. It is touched at each use.
MARKER = "installed.json"

#: Reads whole blocks, as their borders decide the bytes. The directory of isal is its first argument, and goes first.
COMPRESS = """
import sys
sys.path.insert(0, sys.argv[1])
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
#: What is compressed to see whether it works: it begins a second block.
SAMPLE = b"deploytool " * 100_000


def version_for(python: Tuple[int, int]) -> str:
    """The version that the worker uses with this version of Python."""
    return VERSION if python <= (3, 13) else VERSION_FOR_LATER


class OwnIsal:
    """The directory of the worker's python-isal, whether it is there or not."""

    def __init__(self, home: str, *, read_only: bool = False) -> None:
        """`home` is the worker's directory for what it installs."""
        self.version = version_for(sys.version_info[:2])
        self.directory = os.path.join(home, "isal-{}-{}".format(self.version, sys.implementation.cache_tag))
        self._home = home
        self._read_only = read_only

    @property
    def argv(self) -> Tuple[str, ...]:
        """The program that compresses its stdin to its stdout."""
        threads = max(1, min(len(os.sched_getaffinity(0)), THREADS))
        # Without anything that this Python or the directory where it starts could have in place of it.
        return (sys.executable, "-ISB", "-c", COMPRESS, self.directory, LEVEL, str(threads))

    def is_whole(self) -> bool:
        """Whether it was installed, and cleaners of old files have left it as it was."""
        try:
            with open(self._marker) as marker:
                sizes = read_json(marker.read())
            for name, size in sizes.items():
                if os.stat(os.path.join(self.directory, name)).st_size != size:
                    return False
        except (OSError, ValueError, AttributeError, TypeError):
            return False
        if not self._read_only:
            # Retention removes what nobody has used for long.
            with contextlib.suppress(OSError):
                os.utime(self._marker)
        return True

    def refusal(self) -> Optional[str]:
        """Why there is no use in installing it now, in words; None if it can be tried."""
        if not any(map(has_module, ("pip", "ensurepip"))):
            return "it has neither pip nor ensurepip"
        try:
            with open(self._failed) as failed:
                last = read_json(failed.read())
            age = time.time() - last["at"]
            return str(last["why"]) if 0 <= age < RETRY_SECONDS else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def install(self, groups: Groups, *, again: bool, mask: Callable[[str], str]) -> Optional[str]:
        """Have it there: None; or the reason why it can't be had, which is remembered for an hour.

        With `again` it is tried even so. Raises Cancelled.
        """
        if self.is_whole():
            return None
        if again:
            with contextlib.suppress(OSError):
                os.unlink(self._failed)
        why = self.refusal()
        if why is not None:
            return why
        asked = time.time()
        try:
            # Of two workers one installs it, and the other waits. The file system frees the lock of one that dies.
            with open(self.directory + ".lock", "ab") as lock:
                self._wait_for(lock.fileno(), groups)
                if self.is_whole():
                    return None
                why = self.refusal() if self._failed_since(asked) else None
                if why is not None:
                    return why
                self._make(groups)
        except _CanNotBeHad as error:
            why = mask(str(error))
        except OSError as error:
            why = mask("{}: {}".format(self.directory, error.strerror or error))
        else:
            return None
        self._remember(why)
        return why

    @property
    def _marker(self) -> str:
        return os.path.join(self.directory, MARKER)

    @property
    def _failed(self) -> str:
        return self.directory + ".failed"

    def _wait_for(self, lock: int, groups: Groups) -> None:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                groups.refuse_if_cancelled("waiting for another worker that installs python-isal")
                time.sleep(0.1)

    def _failed_since(self, moment: float) -> bool:
        """Whether another worker has tried it in vain while this one waited."""
        try:
            return os.stat(self._failed).st_mtime > moment
        except OSError:
            return False

    def _remember(self, why: str) -> None:
        beside = "{}.{}".format(self._failed, os.getpid())
        # Where that can't be written, it is tried again the next time.
        with contextlib.suppress(OSError):
            with open(beside, "w") as failed:
                json.dump({"at": time.time(), "why": why}, failed)
            os.rename(beside, self._failed)

    def _make(self, groups: Groups) -> None:
        """Install it. It counts as there once it has compressed something. The caller holds the lock."""
        import gzip

        beside, environment, damaged = self.directory + ".new", self.directory + ".venv", self.directory + ".old"
        leftovers = (beside, environment, damaged)
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
        deadline = time.monotonic() + LIMIT_SECONDS
        try:
            python = sys.executable
            if not has_module("pip"):
                self._run([python, "-m", "venv", environment], groups, deadline)
                python = os.path.join(environment, "bin", "python")
            install = [python, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
            install += [*PIP_LIMITS, "--no-deps", "--only-binary=:all:", "--target", beside]
            install += ["--require-hashes", "--requirement", "/dev/stdin"]
            self._run(install, groups, deadline, pinned.ISAL.encode())
            if os.path.lexists(self.directory):
                os.rename(self.directory, damaged)
            os.rename(beside, self.directory)
            # Only now, since its path is among the arguments.
            if gzip.decompress(self._run(self.argv, groups, deadline, SAMPLE)) != SAMPLE:
                raise _CanNotBeHad("what it compresses can't be read again")
            with open(self._marker + ".new", "w") as marker:
                json.dump(self._files(), marker)
            os.rename(self._marker + ".new", self._marker)
        except (EOFError, gzip.BadGzipFile) as error:
            raise _CanNotBeHad("what it compresses can't be read again: {}".format(error)) from error
        finally:
            if not os.path.exists(self._marker):
                shutil.rmtree(self.directory, ignore_errors=True)
            for leftover in leftovers:
                shutil.rmtree(leftover, ignore_errors=True)

    def _files(self) -> Dict[str, int]:
        """The modules, all of which are imported, with their sizes. The rest may go."""
        found = {}
        for directory, _, names in os.walk(self.directory):
            for name in names:
                if name.endswith((".py", ".so")):
                    path = os.path.join(directory, name)
                    found[os.path.relpath(path, self.directory)] = os.stat(path).st_size
        return found

    def _run(self, argv: Sequence[str], groups: Groups, deadline: float, data: bytes = b"") -> bytes:
        """What it printed. Raises Cancelled, or _CanNotBeHad if it fails or takes too long."""
        environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        # Nothing in the directory that the worker was started in may be taken for a module.
        process = groups.start(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._home,
            env=environment,
        )
        late = False
        try:
            output, errors = process.communicate(data, timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
            end_group(process.pid)
            output, errors = process.communicate()
        finally:
            groups.finished(process)
        groups.refuse_if_cancelled("installing python-isal")
        called = "`{}`".format(" ".join(words_of(argv)))
        if late:
            raise _CanNotBeHad("{} did not end within {:.0f} s".format(called, LIMIT_SECONDS))
        if process.returncode != 0:
            raise _CanNotBeHad(
                "{} ended with exit status {}{}".format(called, process.returncode, last_words(output + errors))
            )
        return output


def has_module(name: str) -> bool:
    """Whether this Python could import it. It is not imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


class _CanNotBeHad(Exception):
    """The reason, in words."""


def words_of(argv: Sequence[str]) -> List[str]:
    """How a command is named in a sentence: what it does, without its options."""
    if "pip" in argv:
        return ["pip", "install", argv[-1]]
    return ["python3", "-m", "venv"] if "venv" in argv else ["python3", "-c", "…"]


def last_words(output: bytes) -> str:
    """The line that tells most of what a program complained of, after a colon; empty if there is none."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    chosen = (errors or lines or [""])[-1]
    return ": " + one_line(chosen)[:LONGEST_REASON] if chosen else ""
