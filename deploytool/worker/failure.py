"""A failure on the build server, as it travels to the operator."""

from __future__ import annotations

from typing import Optional, Sequence

from deploytool.text.masking import Masking

from .wire import Kind, Trouble


class Failure(Exception):
    """What failed, the last lines of output, and who must do what.

    The operator's side turns its `kind` into an exit code.
    """

    def __init__(self, kind: Kind, message: str, *, tail: Sequence[str] = (), hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.tail = list(tail)
        self.hint = hint

    def masked(self, masking: Masking) -> Trouble:
        """As it travels: nothing in it is a secret."""
        tail, hint = [masking.text(line) for line in self.tail], masking.text(self.hint) if self.hint else None
        return Trouble(self.kind, masking.text(self.message), tail, hint)


class Cancelled(Failure):
    """The operator interrupted or went away, or somebody ended the worker, while this was under way."""

    def __init__(self, doing: str, why: str) -> None:
        super().__init__("interrupted", "interrupted while {}: {}".format(doing, why))
