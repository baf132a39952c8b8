"""A channel of bytes to the worker, and the one to a worker on this machine."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Protocol

#: How long the worker may take to put things in order once its line has ended.
FAREWELL_SECONDS = 15.0


class Channel(Protocol):
    """A process on the build server, as a line of bytes."""

    def write(self, data: bytes) -> None:
        """Send; raises OSError when the line is cut."""

    def read(self) -> bytes:
        """The next bytes; empty when the process or the connection has ended."""

    def set_patience(self, seconds: float | None) -> None:
        """How long `read` and `write` wait before they raise TimeoutError; None: for ever."""

    def end(self, patience_seconds: float = FAREWELL_SECONDS) -> int | None:
        """Close the process's stdin, wait for it for a while, close everything; its exit status if it had one."""

    def last_words(self) -> tuple[str, ...]:
        """The last lines of its stderr."""


class LocalChannel:
    """The worker on this machine, `build.server: local`."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._words = LastWords()
        # A session of its own: Ctrl-C at the terminal is for us, and we tell the worker what it means.
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stderr is not None
        stderr = self._process.stderr
        self._listener = threading.Thread(
            target=lambda: self._words.listen(lambda: os.read(stderr.fileno(), 4096)), daemon=True
        )
        self._listener.start()

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self) -> bytes:
        assert self._process.stdout is not None
        try:
            return os.read(self._process.stdout.fileno(), 1 << 16)
        except ValueError:
            # `end` does not wait for whoever reads, who may be on the way here only now.
            return b""

    def set_patience(self, seconds: float | None) -> None:
        """No limit is needed: what hangs on this machine, its user can see."""

    def end(self, patience_seconds: float = FAREWELL_SECONDS) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        without_waiting(self._process.stdin.close)
        try:
            return self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._listener.join(1)
            self._process.stdout.close()
            self._process.stderr.close()

    def last_words(self) -> tuple[str, ...]:
        return self._words.lines()


def without_waiting(farewell: Callable[[], object]) -> None:
    """Say it without waiting for it: to a server that is stopped or gone even a good-bye can block for ever."""

    def say() -> None:
        # paramiko raises its own when keys are being exchanged, or the line is cut already.
        with contextlib.suppress(Exception):
            farewell()

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    # In nearly all cases it is said at once, and then things end in their order.
    thread.join(0.5)


class LastWords:
    def __init__(self) -> None:
        self._data = b""

    def listen(self, read: Callable[[], bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := read():
                self._data = (self._data + data)[-8192:]

    def lines(self) -> tuple[str, ...]:
        return tuple(self._data.decode("utf-8", "replace").splitlines()[-20:])
