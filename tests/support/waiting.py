"""Waiting for what a test needs to have happened."""

import time
from collections.abc import Callable


def until(holds: Callable[[], object], what: str = "it", *, seconds: float = 60) -> None:
    """Wait until it holds. The limit is for a machine that is busy; a test that waits for it has failed."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
