"""What `check` finds out, one thing after the other: a failure of one keeps none of the others from being tried."""

from __future__ import annotations

from typing import Callable, List, Optional

from deploytool.text.masking import Masking

from .failure import Failure
from .wire import Finding


class Findings:
    """Each is a name with what was found, or with the failure."""

    def __init__(self, masking: Masking) -> None:
        self._masking = masking
        self.all: List[Finding] = []

    def attempt(self, name: str, act: Callable[[], str]) -> Optional[Failure]:
        """Try it; `act` returns in words what it found, or raises Failure, which is returned."""
        try:
            self.all.append(Finding(name, self._masking.text(act()), None))
            return None
        except Failure as failure:
            self.failed(name, failure)
            return failure

    def failed(self, name: str, failure: Failure) -> None:
        """It was tried, and this is what became of it."""
        self.all.append(Finding(name, None, failure.masked(self._masking)))

    @property
    def any_failed(self) -> bool:
        return any(each.failure is not None for each in self.all)
