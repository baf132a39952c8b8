"""stdin, stdout and stderr of a command, whatever the shell made of them: a closed pipe, or no stream at all."""

import io
import os
import sys
from typing import Any, TextIO


class _Outlasting(io.FileIO):
    """A file descriptor that takes text even after its reader has gone, as in `fab --list | head -1`.

    What is under way goes on, and the exit code stays what it is.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, self.fileno())
            os.close(silence)
            return len(data)


def outlast_readers() -> None:
    """Let no reader of this process's output end it. May be called again."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Else the next connection or file would get this number, and with it what is printed.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    # What somebody has put in their place, a test for instance, stays there.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _outlasting(sys.stdout, 1, "<stdout>")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _outlasting(sys.stderr, 2, "<stderr>")


def _outlasting(stream: TextIO | None, number: int, name: str) -> TextIO:
    raw = _Outlasting(number, "w", closefd=False)
    raw.name = name
    if not isinstance(stream, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
    stream.flush()
    # With `python -u` there is no buffer between.
    buffer = raw if isinstance(stream.buffer, io.RawIOBase) else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
