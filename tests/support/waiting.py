"""Waiting for what a test needs to have happened."""

import time
from collections.abc import Callable


def until(holds: Callable[[], object], what: str = "it", *, seconds: float = 60) -> None:
    """Wait until it holds. The limit is for a machine that is busy; a test that waits for it has failed.

    A look that takes long is taken more seldom: what is waited for needs the machine as well.
    """
    deadline = time.monotonic() + seconds
    while (began := time.monotonic()) and not holds():
        now = time.monotonic()
        assert now < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(max(0.05, 4 * (now - began)))
