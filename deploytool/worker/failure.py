"""A failure on the build server, as it travels to the operator."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence


class Failure(Exception):
    """What failed, the last lines of output, and who must do what.

    `kind` is one of deploytool.errors' kinds (step, store, consul, locked, usage, interrupted); the operator's side
    turns it into an exit code.
    """

    def __init__(self, kind: str, message: str, *, tail: Sequence[str] = (), hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.tail = list(tail)
        self.hint = hint

    def as_json(self) -> Dict[str, Any]:
        return {"kind": self.kind, "message": self.message, "tail": self.tail, "hint": self.hint}


class Cancelled(Failure):
    """The operator interrupted or went away, or somebody ended the worker, while this was under way."""

    def __init__(self, doing: str, why: str) -> None:
        super().__init__("interrupted", "interrupted while {}: {}".format(doing, why))
