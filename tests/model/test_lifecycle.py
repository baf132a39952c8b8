"""Where a deployment is: the table, and what its records of before say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.model import lifecycle
from deploytool.model.lifecycle import Event, Status, after, at_its_end, recorded

EVENTS = st.lists(st.sampled_from(list(Event)), max_size=30)


def written() -> dict[tuple[Status, Event], Status]:
    """The table in the docstring."""
    head, *rows = [line.split() for line in (lifecycle.__doc__ or "").splitlines() if line.startswith("    ")]
    return {
        (Status(row[0]), Event(event)): Status(cell)
        for row in rows
        for event, cell in zip(head, row[1:], strict=True)
        if cell != "-"
    }


def test_table_of_the_docstring_is_what_happens() -> None:
    table = written()
    for status in Status:
        for event in Event:
            if (status, event) in table:
                assert after(status, event) is table[status, event]
            else:
                with pytest.raises(ValueError, match=f"that is {status} can't {event}"):
                    after(status, event)


@given(EVENTS)
def test_whatever_happens_a_deployment_stays_in_the_table_and_comes_to_an_end(events: list[Event]) -> None:
    status, gone = Status.BUILDING, False
    for event in events:
        try:
            status = after(status, event)
        except ValueError:
            continue
        gone = gone or event is Event.GO
        # Once hosts were let go, nothing ever says that none was; and the other way round.
        assert (status.let_go is True) is gone
    end = at_its_end(status)
    assert end in (
        *(Status.PAUSED, Status.HALTED, Status.VERIFIED, Status.FAILED),
        *(Status.ABORTED, Status.UNVERIFIED, Status.UNKNOWN),
    )
    assert at_its_end(end) is end
    assert end.let_go is (None if end is Status.UNKNOWN else gone)


@pytest.mark.parametrize(
    ("record", "let_go", "status"),
    [
        ({"status": "paused", "halted": True}, True, Status.PAUSED),
        ({"status": "of another version", "halted": True, "exit_code": 8}, True, Status.HALTED),
        ({"paused": True, "exit_code": 0}, True, Status.PAUSED),
        ({"exit_code": 8, "hosts": ["one"]}, True, Status.FAILED),
        ({"exit_code": 8}, False, Status.ABORTED),
        ({"exit_code": 7}, None, Status.UNKNOWN),
        ({"exit_code": 0, "hosts": ["one"], "verified": True}, True, Status.VERIFIED),
        ({"exit_code": 0, "hosts": ["one"]}, True, Status.VERIFIED),
        ({"exit_code": 0, "hosts": [], "verified": False}, True, Status.UNVERIFIED),
        ({"exit_code": 130, "hosts": ["one"], "verified": False}, True, Status.UNVERIFIED),
        ({"exit_code": 1, "hosts": ["one"]}, True, Status.UNVERIFIED),
    ],
)
def test_records_of_before_have_a_status(record: dict[str, Any], let_go: bool | None, status: Status) -> None:
    assert recorded(record, let_go) is status
