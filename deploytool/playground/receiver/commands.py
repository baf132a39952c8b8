"""Runs a manifest's commands, each as one `sh -c`; and what SIGTERM and SIGINT do to them.

As with stretcher: a signal ends the command that runs, though not what that command has started, and no further
command is started; what is being downloaded over the network is dropped. Unpacking and syncing are not cut short.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import IO, BinaryIO

from deploytool.playground.receiver import ReceiverError
from deploytool.playground.receiver.journal import Journal


class Cancelled(ReceiverError):
    """A signal has asked us to stop."""


class Cancellation:
    """Whether a signal has come, and what it has to end."""

    def __init__(self) -> None:
        self.requested = False
        self._may_interrupt = False
        self._child: subprocess.Popen[bytes] | None = None

    def listen(self) -> None:
        """From now on SIGTERM and SIGINT come here."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._come)

    def _come(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if self._child is not None:
            self._child.kill()
        if self._may_interrupt:
            self._may_interrupt = False
            raise Cancelled("stopped by a signal.")

    def check(self) -> None:
        """Raise Cancelled if a signal has come."""
        if self.requested:
            raise Cancelled("stopped by a signal.")

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """What runs inside is left with Cancelled as soon as a signal comes."""
        self.check()
        self._may_interrupt = True
        try:
            yield
        finally:
            self._may_interrupt = False

    @contextmanager
    def ending(self, child: "subprocess.Popen[bytes]") -> Iterator[None]:
        """While inside, a signal kills `child`."""
        self._child = child
        try:
            if self.requested:
                child.kill()
            yield
        finally:
            self._child = None


def environment_as_given() -> dict[str, str]:
    """Our environment without what Python has put there: in the C locale it sets LC_CTYPE for itself."""
    environment = dict(os.environ)
    try:
        given = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return environment
    if not any(line.startswith(b"LC_CTYPE=") for line in given):
        environment.pop("LC_CTYPE", None)
    return environment


def signal_name(number: int) -> str:
    """`SIGTERM`, or the number where it has no name of its own, as real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class Shell:
    """Runs commands and logs what they say."""

    def __init__(self, journal: Journal, cancellation: Cancellation, environment: Mapping[str, str]) -> None:
        self._journal = journal
        self._cancellation = cancellation
        self._environment = environment

    def run(self, command: str) -> None:
        """Run a pre or post hook; its output is logged when all who hold its pipe have closed it.

        Raise ReceiverError if it fails.
        """
        self._journal.say(f"invoking command: {command}")
        child = self._start(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        with child, self._cancellation.ending(child):
            output, _none = child.communicate()
        if output:
            self._journal.say(output)
        self._check(command, child)

    def run_with_log(self, command: str) -> None:
        """Run a success or failure hook with the log before it on its stdin; its output goes where ours goes.

        Raise ReceiverError if it fails.
        """
        log = self._journal.text()
        self._journal.say(f"invoking command: {command}")
        child = self._start(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        with child, self._cancellation.ending(child):
            threads = [
                Thread(target=_feed, args=(child.stdin, log)),
                Thread(target=_copy, args=(child.stdout, sys.stdout.buffer)),
                Thread(target=_copy, args=(child.stderr, sys.stderr.buffer)),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self._check(command, child)

    def _start(self, command: str, *, stdin: int, stderr: int) -> "subprocess.Popen[bytes]":
        self._cancellation.check()
        try:
            return subprocess.Popen(
                ["sh", "-c", command], stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=self._environment
            )
        except (OSError, ValueError) as error:
            # Too long a command, or one with a NUL character.
            raise ReceiverError(f"failed: {command} could not be started: {error}") from error

    @staticmethod
    def _check(command: str, child: "subprocess.Popen[bytes]") -> None:
        status = child.returncode
        if status > 0:
            raise ReceiverError(f"failed: {command} exit status {status}")
        if status < 0:
            raise ReceiverError(f"failed: {command} signal: {signal_name(-status)}")


def _feed(pipe: IO[bytes], content: bytes) -> None:
    # A hook need not read its stdin.
    with suppress(BrokenPipeError):
        pipe.write(content)
    with suppress(BrokenPipeError):
        pipe.close()


def _copy(pipe: IO[bytes], to: BinaryIO) -> None:
    while chunk := os.read(pipe.fileno(), 65536):
        # To the end also if nobody listens: a full pipe would stop the hook.
        with suppress(OSError):
            to.write(chunk)
            to.flush()
