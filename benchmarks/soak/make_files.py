"""Makes many files of bytes that no compressor makes smaller: `make_files.py DIRECTORY FILES BYTES`.

It is a step of the build that the soak measures, so it stands alone; the same numbers give the same bytes each time.
"""

import os
import random
import sys
from collections.abc import Iterator

SEED = 20261126
TOGETHER = 500


def name(number: int) -> str:
    return f"d{number // TOGETHER:04}/f{number:06}"


def contents(files: int, size_bytes: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file."""
    chance = random.Random(SEED)  # noqa: S311
    for number in range(files):
        yield name(number), chance.getrandbits(8 * size_bytes).to_bytes(size_bytes, "little")


if __name__ == "__main__":
    top = sys.argv[1]
    for path, content in contents(int(sys.argv[2]), int(sys.argv[3])):
        place = os.path.join(top, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(content)
