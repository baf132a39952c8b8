"""The receiver's log: each entry goes to stderr at once, and is kept for the success and failure hooks.

Its form is stretcher's, since the host scripts look for it: local time as `YYYY/MM/DD HH:MM:SS `, then the text.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress


def _to_stderr(entry: bytes) -> None:
    # Whoever listened may be gone; a deployment does not stop for that.
    with suppress(OSError):
        sys.stderr.buffer.write(entry)
        sys.stderr.buffer.flush()


class Journal:
    """Takes entries, and hands out all of them so far."""

    def __init__(
        self,
        write: Callable[[bytes], None] = _to_stderr,
        now: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        self._write = write
        self._now = now
        self._kept = bytearray()

    def say(self, text: str | bytes) -> None:
        """Log `text`, which may have several lines; only the first gets the time."""
        body = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        entry = time.strftime("%Y/%m/%d %H:%M:%S ", self._now()).encode() + body + b"\n"
        self._kept += entry
        self._write(entry)

    def text(self) -> bytes:
        """The whole log so far."""
        return bytes(self._kept)
