"""The one thing of Go's template language that a manifest of ours may hold: a literal. Pure.

stretcher after 1.1.0 runs templates over manifests. Of the tool's own manifests only a probe has an action, which shows
whether it does; a template of the user's own may have none (`hosts/manifest_check.py`).
"""

import re

from deploytool.playground.receiver import ReceiverError

_LITERAL = re.compile(r"\{\{`([^`]*)`\}\}")


def expand(text: str) -> str:
    """`text` with its literals in place of their actions. Raises ReceiverError for any other action."""
    left = _LITERAL.sub(lambda literal: re.sub("[^\n]", " ", literal[0]), text)
    if action := re.search(r"\{\{[^\n]{,40}", left):
        line = text.count("\n", 0, action.start()) + 1
        raise ReceiverError(
            f"Line {line} of the manifest has {action[0]!r}: the built-in receiver runs no templates.",
            hint="write {{`{{`}} for two braces; for Go's templates use stretcher itself.",
        )
    return _LITERAL.sub(lambda literal: literal[1], text)
