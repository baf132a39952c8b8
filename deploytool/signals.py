"""What Ctrl-C, SIGTERM and SIGHUP do to a command, phase by phase. It decides nothing else.

Before a command has begun they end `fab` at once; while it runs they interrupt it, so that what it left on the build
server is put in order; once its result is known they are ignored, so that the result is told whole. An ended CI job
is an interrupted one: SIGTERM and SIGHUP mean the same as Ctrl-C.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

from deploytool.errors import Interrupted, refusal

#: What was ignored when `fab` was started stays ignored: that is what `nohup` is for.
_SIGNALS = tuple(
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if signal.getsignal(number) is not signal.SIG_IGN
)


def leave_at_once() -> None:
    """From here on a signal ends the process with one line, and with the JSON document if that was asked for."""
    for number in _SIGNALS:
        signal.signal(number, _leave)


def interrupt() -> None:
    """From here on a signal raises KeyboardInterrupt, each one anew: a second one also gets out of what the first
    set going."""
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)


def ignore() -> None:
    """From here on a signal does nothing."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """A signal that comes meanwhile interrupts at the end: for what must not be left half-begun, and takes no time."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def in_a_running_fab() -> bool:
    """Whether `fab` is loading its tasks, rather than somebody importing them, a test for instance."""
    main = sys.modules.get("fabric.main")
    return main is not None and hasattr(main.program, "core")


def _leave(number: int, frame: FrameType | None) -> None:
    error = Interrupted("interrupted before anything started")
    _write(sys.stderr, error.message)
    if "--json" in sys.argv:
        _write(sys.stdout, json.dumps(refusal(error), indent=2))
    # An exception would be lost in whatever module is being imported right now.
    os._exit(error.exit_code)


def _write(stream: TextIO, text: str) -> None:
    # Its reader may have gone.
    with suppress(OSError):
        os.write(stream.fileno(), f"{text}\n".encode())
