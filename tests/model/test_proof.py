"""How strong a proof is, by the settings and by a host's own word."""

import itertools
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.model.fleet import Fleet, read_last_word, read_report
from deploytool.model.proof import PROOFS, asked_proof, is_weaker
from deploytool.model.status import HostStatus, Status
from deploytool.queries.status import age_words, page
from deploytool.screen.ending import proofs
from deploytool.screen.summary import Outcome


def verify(**given: Any) -> Any:
    none = {"pid_file": None, "port": None, "url": None, "expect": None, "command": None}
    return SimpleNamespace(**(none | given))


@pytest.mark.parametrize(
    ("given", "proof"),
    [
        ({}, "link"),
        ({"pid_file": "a.pid"}, "process"),
        ({"pid_file": "a.pid", "command": "true"}, "command"),
        ({"port": 8000, "command": "true"}, "listening"),
        ({"url": "http://127.0.0.1/", "port": 8000}, "answers"),
        ({"url": "http://127.0.0.1/", "expect": "ok"}, "answers"),
        ({"url": "http://127.0.0.1/", "expect": "{{revision}}"}, "revision"),
        ({"url": "http://127.0.0.1/", "expect": "at {{ release }}"}, "revision"),
    ],
)
def test_proof_is_as_strong_as_the_strongest_thing_that_is_asked(given: Any, proof: str) -> None:
    assert asked_proof(verify(**given)) == proof


def test_each_proof_is_stronger_than_those_before_it() -> None:
    words = list(PROOFS)
    assert all(is_weaker(one, other) for one, other in itertools.pairwise(words))


def heard(value: str, host: str = "app1") -> Any:
    report = read_report("web", host, "verified", value)
    assert report is not None
    return report


def test_proof_and_notes_of_a_report_are_in_the_result_and_in_its_json() -> None:
    fleet = Fleet({"web": ["app1"]})
    fleet.hear(heard('{"reason": "R serves", "proof": "listening", "notes": "12 of R1\\nstill runs"}'), 1.0)
    fleet.hear_word("web", "app1", None)
    (result,) = fleet.results()
    assert (result.proof, result.notes) == ("listening", "12 of R1 still runs")
    assert result.as_dict()["proof"] == "listening"


@pytest.mark.parametrize("word", ['"<b>"', "7", "null", '["listening"]', '{"a": 1}'])
def test_proof_that_nobody_knows_is_none(word: str) -> None:
    assert heard(f'{{"proof": {word}}}').proof == ""
    assert read_last_word(f'{{"release": "R", "proof": {word}}}').proof == ""


def test_weakest_proof_of_each_role_is_shown_and_every_note_once() -> None:
    fleet = Fleet({"web": ["app1", "app2"]})
    fleet.hear(heard('{"proof": "listening", "notes": "12 still runs"}'), 1.0)
    fleet.hear(heard('{"proof": "process", "notes": "12 still runs"}', "app2"), 1.0)
    for host in ("app1", "app2"):
        fleet.hear_word("web", host, None)
    assert proofs(Outcome(hosts=fleet.results())) == [
        "proof of web: its processes run",
        "app1 (web), app2 (web): 12 still runs",
    ]


def test_hosts_of_the_version_before_say_nothing_of_their_proof() -> None:
    fleet = Fleet({"web": ["app1"]})
    fleet.hear(heard('{"time": "2026-11-23T06:00:00Z", "reason": "", "log": ""}'), 1.0)
    assert proofs(Outcome(hosts=fleet.results())) == []


NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("2026-11-23T11:59:50Z", "10 s ago"),
        ("2026-11-23T11:58:30Z", "90 s ago"),
        ("2026-11-23T11:57:00Z", "3 min ago"),
        ("2026-11-23T09:30:00Z", "2 h ago"),
        ("2026-11-20T12:00:00Z", "3 d ago"),
        ("2026-11-23T12:00:09Z", ""),
        ("long ago", ""),
        (None, ""),
    ],
)
def test_age_of_a_last_word(then: str | None, words: str) -> None:
    assert age_words(then, NOW) == words


def test_status_says_why_a_release_is_not_proven_any_more_and_how_old_that_is() -> None:
    host = HostStatus("web", "app1", True, "R1", "D1", "2026-11-23T11:57:00Z", False, "R1", "D1", "process 7 has ended")
    status = Status((host,), (), None, asked_at=NOW)
    text = "\n".join(page(status, "production").lines())
    assert "2026-11-23T11:57:00Z (3 min ago)  no longer verified" in text
    assert "app1 (web): process 7 has ended" in text
    assert status.exit_code == 8
    assert status.as_dict()["hosts"][0]["reason"] == "process 7 has ended"
