"""Reports in, verdicts out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.model.fleet import Fleet, Report, State, Verdict, read_last_word, read_report
from deploytool.text.untrusted import printable
from deploytool.worker.wire import STATES


def fleet_of(*hosts: str) -> Fleet:
    return Fleet({"web": hosts})


def hear(fleet: Fleet, host: str, *states: State) -> None:
    for number, state in enumerate(states):
        fleet.hear(Report("web", host, state, reason=f"because {state}"), float(number))
        if state is State.VERIFIED:
            fleet.hear_word("web", host, None)


def test_host_that_said_nothing_is_silent() -> None:
    fleet = fleet_of("app1")
    fleet.listened_seconds = 61.3
    result = fleet.result("web", "app1")
    assert (result.verdict, result.state, result.seconds) == (Verdict.SILENT, None, None)
    assert "no report in 61 s" in result.reason


def test_host_that_only_fetched_is_silent_and_its_state_is_kept() -> None:
    fleet = fleet_of("app1")
    hear(fleet, "app1", State.FETCHED)
    result = fleet.result("web", "app1")
    assert (result.verdict, result.state) == (Verdict.SILENT, State.FETCHED)


def test_verified_host_is_verified_whatever_came_before() -> None:
    fleet = fleet_of("app1")
    hear(fleet, "app1", State.FETCHED, State.ACTIVATED, State.VERIFIED)
    result = fleet.result("web", "app1")
    assert (result.verdict, result.state, result.seconds) == (Verdict.VERIFIED, State.VERIFIED, 2.0)


@pytest.mark.parametrize("weak", [State.ABORTED, State.SUPERSEDED])
@pytest.mark.parametrize("strong", [State.FAILED, State.VERIFIED])
def test_failed_and_verified_beat_aborted_and_superseded_in_any_order(weak: State, strong: State) -> None:
    for order in ((weak, strong), (strong, weak)):
        fleet = fleet_of("app1")
        hear(fleet, "app1", *order)
        assert fleet.result("web", "app1").verdict.value == strong.value


def test_failed_host_keeps_the_state_it_reached_and_says_why() -> None:
    fleet = fleet_of("app1")
    hear(fleet, "app1", State.FETCHED, State.FAILED)
    result = fleet.result("web", "app1")
    assert (result.verdict, result.state, result.reason) == (Verdict.FAILED, State.FETCHED, "because failed")


def test_host_that_was_not_expected_counts_for_nothing() -> None:
    fleet = fleet_of("app1")
    assert not fleet.hear(Report("web", "app9", State.FAILED), 0.0)
    hear(fleet, "app1", State.VERIFIED)
    assert fleet.bad() == ()
    assert [result.host for result in fleet.unexpected()] == ["app9"]


def test_same_host_in_two_roles_is_two_results() -> None:
    fleet = Fleet({"web": ["app1"], "batch": ["app1"]})
    hear(fleet, "app1", State.VERIFIED)
    assert [(result.role, result.verdict) for result in fleet.bad()] == [("batch", Verdict.SILENT)]


def test_worst_hosts_come_first() -> None:
    fleet = fleet_of("a", "b", "c", "d")
    hear(fleet, "a", State.VERIFIED)
    hear(fleet, "b", State.ABORTED)
    hear(fleet, "d", State.FAILED)
    assert [result.host for result in fleet.bad()] == ["d", "c", "b"]


def test_waiting_for_the_archive_ends_with_the_first_report_of_each_host() -> None:
    fleet = fleet_of("app1", "app2")
    hear(fleet, "app1", State.FETCHED)
    assert fleet.waiting_for(fetched=True) == (("web", "app2"),)
    assert fleet.waiting_for(fetched=False) == (("web", "app1"), ("web", "app2"))
    hear(fleet, "app2", State.FAILED)
    assert fleet.waiting_for(fetched=True) == ()


FETCHED, ACTIVATED, VERIFIED, FAILED = State.FETCHED, State.ACTIVATED, State.VERIFIED, State.FAILED


@pytest.mark.parametrize(
    ("written", "odd"),
    [
        ({VERIFIED: 5}, "it has not fetched the release"),
        ({VERIFIED: 5, FETCHED: 6}, "it fetched the release only later"),
        ({FETCHED: 4, VERIFIED: 5, ACTIVATED: 6}, "it switched only later"),
        ({FETCHED: 4, State.ABORTED: 5, VERIFIED: 6}, "it had aborted before, and has not started again"),
    ],
)
def test_order_of_reports_that_can_not_be_is_no_success(written: dict[State, int], odd: str) -> None:
    fleet = fleet_of("app1")
    for state, number in written.items():
        fleet.hear(Report("web", "app1", state, written=number), 1.0)
    fleet.hear_word("web", "app1", None)
    result = fleet.result("web", "app1")
    if State.ABORTED in written:
        assert result.verdict is Verdict.ABORTED
        return
    assert (result.verdict, fleet.waiting_for(fetched=False)) == (Verdict.SILENT, (("web", "app1"),))
    assert odd in result.reason
    assert "which Consul tokens may write `reports/web/app1/`" in result.reason
    # What the host itself says in the end counts.
    for state, number in ((FETCHED, 7), (ACTIVATED, 8), (VERIFIED, 9)):
        fleet.hear(Report("web", "app1", state, written=number), 2.0)
    assert fleet.result("web", "app1").verdict is Verdict.VERIFIED
    assert not fleet.is_waiting(fetched=False)


def test_forged_verified_after_a_failure_hides_no_failure() -> None:
    fleet = fleet_of("app1")
    for state, number in ((FETCHED, 1), (ACTIVATED, 2), (FAILED, 3), (VERIFIED, 4)):
        fleet.hear(Report("web", "app1", state, written=number), 1.0)
    fleet.hear_word("web", "app1", None)
    assert [result.verdict for result in fleet.lost()] == [Verdict.FAILED]
    # A host that tries again fetches again.
    for state, number in ((FETCHED, 5), (ACTIVATED, 6), (VERIFIED, 7)):
        fleet.hear(Report("web", "app1", state, written=number), 2.0)
    assert (fleet.lost(), fleet.bad()) == ((), ())
    fleet.hear(Report("web", "app1", FAILED, written=8), 3.0)
    assert [result.verdict for result in fleet.lost()] == [Verdict.FAILED]


def test_forged_verified_does_not_count_as_having_the_archive() -> None:
    fleet = fleet_of("app1")
    fleet.hear(Report("web", "app1", VERIFIED, written=1), 1.0)
    assert fleet.waiting_for(fetched=True) == (("web", "app1"),)


def test_verified_counts_once_the_last_word_agrees() -> None:
    fleet = fleet_of("app1")
    for state, number in ((FETCHED, 1), (VERIFIED, 2)):
        fleet.hear(Report("web", "app1", state, written=number), 1.0)
    assert "`serving/web/app1` in Consul, does not agree: there is none" in fleet.result("web", "app1").reason
    word = read_last_word(json.dumps({"release": "before", "deployment": "old", "verified": True}))
    fleet.hear_word("web", "app1", word.sentence)
    result = fleet.result("web", "app1")
    assert (result.verdict, result.state) == (Verdict.SILENT, FETCHED)
    assert "does not agree: it serves before by old, verified." in result.reason
    fleet.hear_word("web", "app1", None)
    assert (fleet.bad(), fleet.is_waiting(fetched=False)) == ((), False)


def test_states_are_those_that_the_worker_asks_for() -> None:
    assert tuple(State) == STATES


def test_unknown_state_is_no_report() -> None:
    assert read_report("web", "app1", "exploded", "{}") is None


def test_report_that_is_no_json_is_kept_as_the_log() -> None:
    report = read_report("web", "app1", "failed", "boom\nbang")
    assert report is not None
    assert report.log == ("boom", "bang")


def test_report_keeps_only_the_last_twenty_lines() -> None:
    value = json.dumps({"reason": "x", "log": "\n".join(str(number) for number in range(50))})
    report = read_report("web", "app1", "failed", value)
    assert report is not None
    assert report.log == tuple(str(number) for number in range(30, 50))


@given(st.text(), st.sampled_from([state.value for state in State]))
def test_no_report_can_move_the_cursor_or_forge_a_line(value: str, state: str) -> None:
    report = read_report("web", "app1", state, value)
    assert report is not None
    for text in (report.reason, *report.log):
        assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in text)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_is_read_without_a_crash(value: object) -> None:
    assert read_report("web", "app1", "failed", json.dumps(value)) is not None


def test_escape_sequences_are_made_visible() -> None:
    assert "\x1b" not in printable("\x1b[2Jgone")
