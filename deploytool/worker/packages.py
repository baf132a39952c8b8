"""boto3, which the worker needs for S3 and its Python may lack: in a virtual environment, made once, with the versions
and hashes of `pinned`.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import subprocess
import sys
from typing import Optional

from . import pinned
from .failure import Failure
from .processes import Groups


def environment_below(python_directory: str) -> str:
    """Where the virtual environment for this version of Python is, if there is one."""
    return os.path.join(python_directory, "python{}.{}".format(*sys.version_info[:2]))


def packages_below(python_directory: str) -> str:
    """Where that environment has its packages."""
    environment = environment_below(python_directory)
    return os.path.join(environment, "lib", os.path.basename(environment), "site-packages")


def import_boto3(python_directory: str, groups: Groups, *, read_only: bool) -> None:
    """Make `import boto3` work: from this Python, or from a virtual environment of the worker's own, made once.

    Cleaners of old files may have taken parts of one that was whole: what can't be imported is made anew. A worker that
    may write nothing makes none: Failure.
    """
    try:
        import boto3  # noqa: F401

        return
    except ImportError:
        pass
    environment, packages = environment_below(python_directory), packages_below(python_directory)
    if _import_boto3_from(packages) is None:
        return
    if read_only:
        raise Failure(
            "step",
            "the build server's {} has no boto3, and a command that writes nothing can't install it there".format(
                sys.executable
            ),
            hint="`fab ENV check` installs it for the worker alone; or install it there by hand (on Debian: "
            "`apt install python3-boto3`)",
        )
    try:
        # Of two workers one makes it, and the other waits. The file system frees the lock of one that dies.
        with open(environment + ".lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _import_boto3_from(packages) is None:
                return
            _make_environment(environment, groups)
    except OSError as error:
        raise Failure(
            "step",
            "the virtual environment for boto3, {}, can't be made on the build server: {}".format(environment, error),
            hint="free some space there, or mend the rights",
        ) from error
    problem = _import_boto3_from(packages)
    if problem is not None:
        raise Failure(
            "step",
            "boto3 was installed into {} on the build server, and {} can't import it: {}: {}".format(
                environment, sys.executable, type(problem).__name__, problem
            ),
            hint="install it there by hand (on Debian: `apt install python3-boto3`)",
        )


def _make_environment(environment: str, groups: Groups) -> None:
    """A new virtual environment with boto3; it appears whole or not at all. The caller holds its lock."""
    beside, unusable = environment + ".new", environment + ".old"
    for leftover in (beside, unusable):
        shutil.rmtree(leftover, ignore_errors=True)
    install = [os.path.join(beside, "bin", "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    install += ["--only-binary=:all:", "--require-hashes", "--requirement", "/dev/stdin"]
    try:
        for command in ([sys.executable, "-m", "venv", beside], install):
            process = groups.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            output, _ = process.communicate(pinned.BOTO3.encode())
            groups.finished(process)
            groups.refuse_if_cancelled("installing boto3")
            if process.returncode != 0:
                raise Failure(
                    "step",
                    "the build server's {} has no boto3, and it can't be installed there: `{}` ended with exit "
                    "status {}".format(sys.executable, " ".join(command[1:4]), process.returncode),
                    tail=output.decode("utf-8", "replace").splitlines()[-20:],
                    hint="install it there by hand (on Debian: `apt install python3-boto3`, or python3-venv and a "
                    "reachable package index with these very versions), or set build.server to a machine that has it",
                )
        if os.path.lexists(environment):
            os.rename(environment, unusable)
        os.rename(beside, environment)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(unusable, ignore_errors=True)


def _import_boto3_from(packages: str) -> Optional[Exception]:
    """Import it from that directory, and keep it in the path; else the reason, with no trace left."""
    before = set(sys.modules)
    sys.path.append(packages)
    importlib.invalidate_caches()
    try:
        import boto3.s3.transfer  # noqa: F401
    except Exception as error:
        sys.path.remove(packages)
        for name in set(sys.modules) - before:
            module = sys.modules[name]
            # A directory that lost its files is a namespace package: it has a path and no file.
            places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
            if any(place.startswith(packages) for place in places):
                del sys.modules[name]
        return error
    return None
