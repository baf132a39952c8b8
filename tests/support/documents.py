"""The schema of what `--json` prints, held against real documents."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema


@functools.cache
def _validator(commands: tuple[str, ...]) -> Any:
    # Few of those who import this have a document.
    from deploytool.cli.documents import documents_of

    several = [documents_of(command) for command in commands]
    whole = {**several[0], "anyOf": [each for one in several for each in one["anyOf"]]}
    jsonschema.Draft202012Validator.check_schema(whole)
    return jsonschema.Draft202012Validator(whole)


def check_document(document: Mapping[str, Any], arguments: Sequence[str] = ()) -> None:
    """Raise AssertionError unless it is one that a command among these words prints; any command, if there is none."""
    from deploytool.cli.documents import DOCUMENTS

    named = tuple(word for word in arguments if word in DOCUMENTS) or tuple(DOCUMENTS)
    error = jsonschema.exceptions.best_match(_validator(named).iter_errors(document))
    assert error is None, f"{error.json_path}: {error.message}\n{[each.message for each in error.context]}"
