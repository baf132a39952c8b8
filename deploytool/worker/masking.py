"""Secrets never leave the worker: every line that is logged or sent passes through here."""

from __future__ import annotations

from typing import Any, Sequence

MASK = "***"


class Masking:
    """Replaces each known secret by `***`. Longer secrets first, so that one that contains another is masked whole."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def text(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def value(self, value: Any) -> Any:
        """The same for every string inside a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value
