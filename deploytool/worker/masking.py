"""Secrets never leave the worker: every line that is logged or sent passes through here."""

from __future__ import annotations

from typing import Any, Sequence

MASK = "***"
#: A shorter line of a secret with several lines says nothing, and would be found everywhere.
SHORTEST_LINE = 6


class Masking:
    """Replaces each known secret by `***`.

    Longer secrets first, so that one that contains another is masked whole. Of a secret with several lines, a key say,
    each line counts by itself: texts are masked line by line.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        whole = {secret for secret in secrets if secret}
        lines = {line.strip() for secret in whole for line in secret.splitlines() if len(line.strip()) >= SHORTEST_LINE}
        self._secrets = sorted(whole | lines, key=len, reverse=True)

    @property
    def longest(self) -> int:
        """characters of the longest secret"""
        return len(self._secrets[0]) if self._secrets else 0

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
