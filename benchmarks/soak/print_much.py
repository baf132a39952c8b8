"""Prints so many megabytes as fast as it can: `print_much.py KIND MEGABYTES [STATUS]`.

It is a step of the builds that the soak measures, so it stands alone; the same arguments give the same bytes each time.
"""

import os
import random
import sys

BLOCK_BYTES = 1000000
LINE = b"compiling src/components/%07d/index.module.js: 3 warnings, 0 errors, 12.5 ms\n"
LONG_LINE_BLOCKS = 10


def block(kind: str, number: int) -> bytes:
    """One block of that kind, as the `number`th."""
    if kind == "lines":
        first = number * 20000
        return b"".join(LINE % (first + line) for line in range(BLOCK_BYTES // len(LINE % 0)))
    if kind == "short lines":
        return b"ok\n" * (BLOCK_BYTES // 3)
    if kind == "long lines":
        return LINE[:-1] * (BLOCK_BYTES // (len(LINE) - 1)) + b"\n" * (
            number % LONG_LINE_BLOCKS == LONG_LINE_BLOCKS - 1
        )
    if kind == "no newline":
        return LINE[:-1] * (BLOCK_BYTES // (len(LINE) - 1))
    # No text at all: most of it is no UTF-8.
    chance = random.Random(number)  # noqa: S311
    return chance.getrandbits(8 * BLOCK_BYTES).to_bytes(BLOCK_BYTES, "little")


KINDS = ("lines", "short lines", "long lines", "no newline", "invalid UTF-8")

if __name__ == "__main__":
    kind, megabytes = sys.argv[1], int(sys.argv[2])
    made = block(kind, 0)
    for number in range(megabytes):
        # Made anew only where it differs: whoever listens is measured, not this.
        if kind in ("long lines", "invalid UTF-8") and number % LONG_LINE_BLOCKS in (0, 9):
            made = block(kind, number)
        sent = 0
        while sent < len(made):
            sent += os.write(1, made[sent:])
    if len(sys.argv) > 3:
        sys.exit(int(sys.argv[3]))
