"""What `check` finds out, one thing after the other: a failure of one keeps none of the others from being tried."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from .failure import Failure


class Findings:
    """Each is a name with what was found, or with the failure."""

    def __init__(self) -> None:
        self.all: List[Dict[str, Any]] = []

    def attempt(self, name: str, act: Callable[[], str]) -> Optional[Failure]:
        """Try it; `act` returns in words what it found, or raises Failure, which is returned."""
        try:
            self.all.append({"name": name, "found": act()})
            return None
        except Failure as failure:
            self.failed(name, failure)
            return failure

    def failed(self, name: str, failure: Failure) -> None:
        """It was tried, and this is what became of it."""
        self.all.append({"name": name, "failure": failure.as_json()})

    @property
    def any_failed(self) -> bool:
        return any("failure" in each for each in self.all)
