"""What `fab ENV releases` shows, whatever lies in the store."""

import json
from typing import Any

import pytest

from deploytool.errors import ConsulError
from deploytool.model.history import read_deployment
from deploytool.model.release import DeploymentId, deployment_record_key, record_key
from deploytool.queries.releases import Deployments, ending, list_deployments, list_releases
from deploytool.text.untrusted import printable
from tests.support.histories import RELEASES, deployment_id, good, one_after_the_other
from tests.support.stores import Session, Store, store_of


def listed(worker: Store) -> tuple[list[str], Any, str]:
    """The lines, the document and what was noted."""
    session: Any = Session(worker)
    found = list_releases(session)
    return found.page().lines(), json.loads(json.dumps(found.as_dict())), session.progress.getvalue()


def shown(*texts: str) -> Deployments:
    worker = Store({deployment_record_key("production", deployment_id(9 - at)): text for at, text in enumerate(texts)})
    return list_deployments(Session(worker))  # type: ignore[arg-type]


# --- deployments


@pytest.mark.parametrize(
    "text",
    [
        *(
            json.dumps({"release": RELEASES[0], "exit_code": 4, **changes})
            for changes in (
                {"phases": [1]},
                {"phases": {"fetch": "long", "build": None, "go": True}},
                {"phases": {"fetch": 10**400}},
                {"hosts": "x"},
                {"hosts": [7, {"role": "\x1b[2J", "host": []}]},
                {"error": "\x1b[2J"},
                {"error": ["\x1b[2J"]},
                {"operator": "ann\x1b]0;x\x07\n@desk"},
                {"from": 5},
                {"from": "\x1b[2J"},
                {"release": {"\x1b": 1}},
                {"exit_code": "\x1b[2J"},
                {"exit_code": 10**100},
                {"kind": "\x1b[2J"},
                {"nodes": {"one": 1}},
                {"verified": "\x1b[2J", "exit_code": 0},
                {"fell_back": "\x1b[2J"},
                {"ended_at": "\x1b[2J"},
            )
        ),
        "",
        "\x1b[2J",
        "{",
        "[]",
        "[" * 100_000,
        '{"phases": {"fetch": NaN, "go": 1e999}}',
    ],
)
def test_any_record_is_shown_on_one_line_without_control_characters(text: str) -> None:
    for document in (shown(text), Deployments((read_deployment(DeploymentId(deployment_id(9)), text, text),))):
        lines = document.page().lines()
        assert len(lines) == 3
        assert deployment_id(9) in lines[1]
        assert [printable(line) for line in lines] == lines
        json.dumps(document.as_dict())


def test_damaged_record_is_called_that_and_the_others_are_shown() -> None:
    whole = json.dumps({"release": RELEASES[0], "exit_code": 0, "verified": True, "operator": "ann@desk"})
    lines = shown(whole, "{").page().lines()
    assert "the record is damaged" in lines[1]
    assert lines[2].endswith("verified")
    assert "ann@desk" in lines[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exit_code": 0, "verified": True}, "verified"),
        ({"exit_code": 0, "verified": False}, "announced, unverified"),
        ({"exit_code": 8, "let_go": True}, "failed, exit code 8"),
        ({"exit_code": 4, "error": "pip failed"}, "aborted, exit code 4: pip failed"),
        ({"exit_code": 8, "fell_back": True}, "a host no longer had the release; began again"),
        ({}, "under way, or its operator is gone"),
    ],
)
def test_how_a_deployment_ended_is_told_in_words(changes: dict[str, Any], words: str) -> None:
    line = shown(json.dumps({"release": RELEASES[0], **changes})).page().lines()[1]
    assert line.split("  ")[-1].startswith(words)


def test_hosts_and_seconds_are_counted() -> None:
    hosts = [{"role": "web", "host": host, "verdict": host} for host in ("verified", "failed")]
    record = {"release": RELEASES[1], "from": RELEASES[0], "hosts": hosts, "phases": {"fetch": 1.5, "go": 2}}
    line = shown(json.dumps({**record, "nodes": ["verified"], "kind": "rollback", "exit_code": 8})).page().lines()[1]
    for word in ("1 of 2", "3.5", RELEASES[0], RELEASES[1], "rollback --nodes"):
        assert word in line


def test_environment_without_a_deployment_says_so() -> None:
    assert shown().page().lines() == ["nothing was deployed yet"]


# --- releases


def test_releases_are_listed_newest_first_with_where_they_run_and_what_is_known_here() -> None:
    worker = Store(store_of(RELEASES[:3], production=one_after_the_other(RELEASES[:2])))
    worker.serving = {"one": json.dumps({"release": RELEASES[1]}), "two": json.dumps({"release": RELEASES[0]})}
    lines, document, _ = listed(worker)
    assert [line.split()[0] for line in lines[1:-1]] == list(reversed(RELEASES[:3]))
    assert lines[-1] == "3 releases in the store, 2 running"
    rows = {row["release"]: row for row in document["releases"]}
    assert [rows[release]["runs_in"] for release in RELEASES[:3]] == [["production"], ["production"], []]
    assert rows[RELEASES[1]]["verified"] is not None
    assert rows[RELEASES[2]]["verified"] is None


def test_another_environment_runs_what_it_proved_last() -> None:
    failed = good(3, RELEASES[2], exit_code=8, verified=frozenset())
    worker = Store(store_of(RELEASES[:3], staging=one_after_the_other(RELEASES[:2]).then(failed)))
    _, document, _ = listed(worker)
    assert {row["release"]: row["runs_in"] for row in document["releases"]} == {
        RELEASES[0]: [],
        RELEASES[1]: ["staging"],
        RELEASES[2]: [],
    }


def test_releases_are_listed_without_consul_and_it_is_said() -> None:
    worker = Store(store_of(RELEASES[:2], production=one_after_the_other(RELEASES[:2])))
    worker.refusals["status"] = ConsulError("no answer")
    _, document, noted = listed(worker)
    assert document["releases"][0]["runs_in"] == ["production"]
    assert "by the history only: no answer" in noted


@pytest.mark.parametrize("text", ["", "{", "[]", '{"subject": "\x1b[2J"}', "[" * 100_000])
def test_release_with_a_damaged_record_is_shown_as_that(text: str) -> None:
    worker = Store({**store_of(RELEASES[:2]), record_key(RELEASES[0]): text})
    lines, document, _ = listed(worker)
    assert lines[2].endswith("its record is damaged")
    assert [printable(line) for line in lines] == lines
    assert document["releases"][1]["revision"] is None


def test_what_hosts_say_they_serve_may_be_anything() -> None:
    worker = Store(store_of(RELEASES[:1]))
    worker.serving = {"one": "\x1b[2J", "two": json.dumps({"release": ["x"]})}
    assert listed(worker)[1]["releases"][0]["runs_in"] == []


def test_store_without_a_release_says_so() -> None:
    assert listed(Store({}))[0] == ["the store has no release yet"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"halted": True, "exit_code": 8}, "halted, verified on 1 of 2"),
        ({"paused": True, "exit_code": 0}, "paused, verified on 1 of 2"),
    ],
)
def test_rollout_that_was_stopped_says_how_far_it_came(said: dict[str, Any], words: str) -> None:
    hosts = [{"role": "web", "host": "one", "verdict": "verified"}, {"role": "web", "host": "two", "verdict": "failed"}]
    found = read_deployment(DeploymentId("20260201T000001Zabcd"), json.dumps({**said, "hosts": hosts}), None)
    assert ending(found) == words
