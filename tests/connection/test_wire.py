"""What a worker answers arrives as it was sent, and only that."""

import json
from dataclasses import asdict, replace
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.connection.protocol import ANSWERS, fits, shape_of
from deploytool.worker import wire

KINDS = sorted({*wire.ANSWERS.values()}, key=lambda kind: str(kind.__name__))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["keys", "removed", "frozen"]), inner),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_answer_arrives_as_it_was_sent(kind: Any) -> None:
    # A number has 64 bits.
    counted = st.integers(-(2**63), 2**63 - 1)
    numbers = {name: counted for name, each in get_type_hints(kind).items() if each is int}

    @given(st.builds(kind, **numbers))
    def arrives(sent: Any) -> None:
        line = json.loads(json.dumps(asdict(sent)))
        assert fits(line, shape_of(kind))
        assert wire.read(kind, line) == sent
        assert wire.read(kind, {**line, "of a later version": 1}) == sent

    arrives()


@given(st.sampled_from(KINDS), JSON)
def test_what_has_the_shape_of_an_answer_is_read_and_nothing_else_gets_that_far(kind: Any, value: Any) -> None:
    if fits(value, shape_of(kind)):
        read = wire.read(kind, value)
        assert isinstance(read, kind)
        assert replace(read) == read


def test_every_request_has_one_shape_of_answer() -> None:
    assert set(wire.ANSWERS) <= set(ANSWERS)
