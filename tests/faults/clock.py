"""A clock of one machine's own, for whatever is linked with the C library: shells, git, Python, `date`.

Go's programs, Consul and stretcher among them, keep the true time.
"""

import subprocess
from pathlib import Path

from deploytool.playground.parts import find_or_install_program

HOUR_SECONDS = 3600
SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """What a machine's environment says of its clock, and the clock's offset."""

    def __init__(self, place: Path, library: Path) -> None:
        self._place = place
        self._library = library
        self.set(0)

    def set(self, offset_seconds: int) -> None:
        """Ahead of the true time by so much; a negative number is behind."""
        beside = self._place.with_suffix(".new")
        beside.write_text(f"{offset_seconds}\n")
        beside.replace(self._place)

    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET": str(self._place)}


def build_library(place: Path) -> Path:
    """Raises PartMissing if no C compiler can be had."""
    compiler = find_or_install_program("cc", print)
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(place), str(SOURCE)], check=True)
    return place
