"""What a host's answer means, and which hosts are not asked."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.errors import FleetError, LockedError
from deploytool.model.fleet import LastWord
from deploytool.model.release import DeploymentId
from deploytool.queries.check import page
from deploytool.queries.checks.finding import Check, failed, told
from deploytool.queries.checks.hosts import busy_hosts, judged, read_answer
from deploytool.state.targets import Expected
from deploytool.worker.wire import Finding, Trouble

SETTINGS: Any = SimpleNamespace(
    application="shop", environment="production", wait=SimpleNamespace(fetch_seconds=60, activate_seconds=30)
)
WANTED = DeploymentId("20260101T120000Zaaaa")
GOOD = json.dumps(
    {
        "program": "/usr/local/bin/stretcher",
        "version": "v1.1.0",
        "newer": "",
        "user": "deploy",
        "wanted": WANTED,
        "problems": [],
    }
)


def test_host_that_is_well_says_which_stretcher_it_runs() -> None:
    said = read_answer(GOOD)
    assert judged(SETTINGS, "web", said, WANTED) == "hears, stretcher v1.1.0 (/usr/local/bin/stretcher), as deploy"


@pytest.mark.parametrize(
    ("newer", "words"), [("yes", "newer than 1.1.0, built"), ("{{`yes`}}", "1.1.0 or older, built")]
)
def test_stretcher_without_a_version_is_known_by_its_templates(newer: str, words: str) -> None:
    said = read_answer(GOOD.replace("v1.1.0", "").replace('"newer": ""', f'"newer": "{newer}"'))
    assert words in judged(SETTINGS, "web", said, WANTED)


def test_silent_host_is_told_where_to_look() -> None:
    with pytest.raises(FleetError, match="did not answer") as caught:
        judged(SETTINGS, "web", read_answer(None), WANTED)
    assert "systemctl status deploy-shop-web-production" in str(caught.value.hint)


def test_host_that_sees_nothing_wanted_where_something_is_lacks_a_right() -> None:
    said = read_answer(GOOD.replace(WANTED, ""))
    with pytest.raises(FleetError, match='key_prefix "deploytool/shop/production/wanted/web" read'):
        judged(SETTINGS, "web", said, WANTED)
    assert judged(SETTINGS, "web", said, None)


@pytest.mark.parametrize("value", ["", "[]", "nonsense", "[" * 100_000, '{"problems": ["\\u001b[2Jgone"]}'])
def test_answer_without_sense_is_a_problem_and_forges_no_line(value: str) -> None:
    with pytest.raises(FleetError) as caught:
        judged(SETTINGS, "web", read_answer(value), None)
    assert caught.value.message.isprintable()


def expected(**changes: Any) -> Expected:
    given: dict[str, Any] = {"whole": {"web": WANTED}, "single": {}, "words": {}}
    return Expected(up={"web": ("app1",)}, down=(), wanted=(WANTED,), **(given | changes))


def busy(now: datetime, found: Expected) -> Any:
    session: Any = SimpleNamespace(settings=SETTINGS, now=lambda: now)
    return dict(busy_hosts(session, found))


def test_host_is_busy_until_its_last_word_or_until_it_must_have_ended() -> None:
    early, late = datetime(2026, 1, 1, 12, 1, tzinfo=UTC), datetime(2026, 1, 1, 12, 2, tzinfo=UTC)
    assert busy(early, expected()) == {("web", "app1"): WANTED}
    assert busy(late, expected()) == {}
    assert busy(early, expected(words={("web", "app1"): LastWord(deployment=WANTED)})) == {}
    assert busy(early, expected(whole={})) == {}
    assert busy(early, expected(whole={}, single={("web", "app1"): WANTED})) == {("web", "app1"): WANTED}


def test_findings_of_the_worker_become_lines_with_their_exit_codes() -> None:
    failure = Trouble("store", "refused", [], "ask")
    assert told([Finding("c", None, None)])[0].ok is None
    assert told([Finding("a", "x", None), Finding("b", None, failure)]) == [
        Check("a", True, "x"),
        Check("b", False, "refused", "ask", 6),
    ]


def test_what_is_no_fault_of_what_is_checked_is_raised() -> None:
    with pytest.raises(LockedError):
        failed("x", LockedError("held"))


def test_line_says_how_it_went_and_how_to_mend_it() -> None:
    checks = [Check("a", True, "x"), Check("a", False, "x", "do y", 4), Check("a", None, "x")]
    assert page(checks, "production").lines() == [
        "ok   a: x",
        "BAD  a: x; hint: do y",
        "-    a: x",
        "1 of 3 checks of production failed, 1 could not be tried",
    ]
    assert page(checks[:1], "production").lines()[-1] == "1 check of production passed"
