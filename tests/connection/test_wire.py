"""What a worker answers arrives as it was sent, and only that."""

import json
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from deploytool.errors import BY_KIND
from deploytool.worker import wire
from deploytool.worker.shapes import fits, plain, read
from tests.support.shapes import of_kind

KINDS = sorted(
    {*wire.ANSWERS.values(), *wire.EVENTS.values(), wire.Greeting, wire.Target, wire.Question, wire.Demand},
    key=lambda kind: str(kind.__name__),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["keys", "removed", "frozen"]), inner),
    max_leaves=6,
)


@given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), of_kind(kind))))
def test_what_is_sent_arrives_as_it_was(case: tuple[Any, Any]) -> None:
    kind, line = case
    assert fits(line, kind)
    sent = read(kind, line)
    assert json.loads(json.dumps(plain(sent))) == line
    assert read(kind, {**line, "of a later version": 1}) == sent


@given(st.sampled_from(KINDS), JSON)
def test_what_has_the_shape_of_an_answer_is_read_and_nothing_else_gets_that_far(kind: Any, value: Any) -> None:
    if fits(value, kind):
        assert isinstance(read(kind, value), kind)


def test_failure_of_each_kind_can_travel() -> None:
    assert set(get_args(wire.Kind)) == set(BY_KIND)
