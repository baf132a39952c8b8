"""Whatever others write, wherever: the cursor stays where it is, no line is forged, `--json` is one JSON document.

Every place where text leaves is given text of others in every place where it may come in: stdout, stderr, annotations
and summaries of CI, messages.
"""

import html
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploytool.errors import ConsulError, DeployError
from deploytool.hooks.notify import end_text, escaped
from deploytool.model.fleet import Fleet, HostResult, Report, State, Verdict, read_last_word, read_report
from deploytool.model.history import read_deployment, read_mark
from deploytool.model.operator import Operator
from deploytool.model.release import DeploymentId, ReleaseId
from deploytool.model.status import HostStatus, Status
from deploytool.queries.checks.finding import failed
from deploytool.queries.releases import Deployments
from deploytool.queries.status import page as status_page
from deploytool.screen.console import Console
from deploytool.screen.ending import deployment_page
from deploytool.screen.github_actions import Annotation, GitHubActions, annotations, summary
from deploytool.screen.summary import Outcome
from deploytool.text.untrusted import DEEPEST, one_line, printable, read_json
from deploytool.worker.wire import Freeze
from tests.support.github_commands import commands
from tests.support.hostile import JSON, NASTY, TEXTS, is_sound

few = settings(max_examples=60, deadline=None)


def consoles() -> tuple[Console, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Console(as_json=False, progress=err, results=out), out, err


# --- the room itself


@given(st.text())
@example("".join(NASTY))
def test_what_is_shown_stays_within_its_line(text: str) -> None:
    for shown in (printable(text), one_line(text)):
        assert is_sound(shown)
        assert "\n" not in shown
        shown.encode()
    assert printable(printable(text)) == printable(text)


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_what_anybody_means_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == one_line(text) == text


@given(JSON)
def test_json_is_read_only_if_it_can_be_written_again(value: object) -> None:
    text = json.dumps(value)
    try:
        read = read_json(text)
    except ValueError:
        assert re.search("NaN|Infinity", text)
    else:
        assert read == value
        json.dumps(read, allow_nan=False)


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "-Infinity", "[1e999]", '{"a": -1e999}', "", "{", "1" * 5000),
        *("[" * depth + "]" * depth for depth in (DEEPEST + 1, 900, 100_000)),
        '{"a":' * 900 + "1" + "}" * 900,
    ],
)
def test_what_could_not_be_written_again_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_json(text)


def test_json_that_is_no_utf8_is_no_json() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        read_json(b'"\xff"')


# --- the screen


@few
@given(TEXTS)
def test_each_thing_that_is_told_is_one_line(text: str) -> None:
    console, out, err = consoles()
    for tell in (console.note, console.print, console.trace):
        tell(f"[{text}]".replace("\n", " ") if tell == console.trace else f"[{text}]")
    with console.step(text) as progress:
        progress(text)
    assert is_sound(out.getvalue())
    assert is_sound(err.getvalue())
    assert out.getvalue().count("\n") == 1
    assert err.getvalue().count("\n") == 4


@few
@given(TEXTS, TEXTS, TEXTS, st.booleans())
def test_error_has_a_line_for_each_of_its_parts(message: str, tail: str, hint: str, with_hint: bool) -> None:
    error = ConsulError(message, tail=[tail, tail], hint=hint or "x" if with_hint else None)
    lines = str(error).split("\n")
    assert is_sound(str(error))
    assert [line.startswith("  | ") for line in lines[1:3]] == [True, True]
    assert len(lines) == 3 + with_hint
    assert is_sound(failed("name", error).text)


@few
@given(TEXTS, TEXTS, TEXTS, st.booleans())
def test_end_of_a_deployment_forges_nothing(host: str, reason: str, log: str, in_ci: bool) -> None:
    out = io.StringIO()
    console = Console(
        as_json=False, progress=io.StringIO(), results=out, actions=GitHubActions(None) if in_ci else None
    )
    bad = HostResult("web", host, Verdict.FAILED, State.FETCHED, 1.0, reason, (log,))
    good = HostResult("web", "app1", Verdict.VERIFIED, State.VERIFIED, 1.0, "", ())
    outcome = Outcome(
        release="R1",
        deployment="D1",
        exit_code=8,
        hosts=(bad, good),
        down=(("web", host),),
        unexpected=(bad,),
        objection=reason,
        not_undone=(reason,),
    )
    console.page(deployment_page(outcome, "staging"))
    assert is_sound(out.getvalue())
    plain = io.StringIO()
    harmless = replace(bad, host="app2", reason="why", log=("line",))
    outcome.hosts, outcome.down, outcome.unexpected = (harmless, good), (("web", "app2"),), (harmless,)
    Console(as_json=False, progress=io.StringIO(), results=plain).page(deployment_page(outcome, "staging"))
    assert out.getvalue().count("\n") == plain.getvalue().count("\n")
    assert not in_ci or not commands(out.getvalue())


@few
@given(TEXTS, TEXTS, TEXTS)
def test_status_has_a_line_for_each_host(host: str, release: str, frozen: str) -> None:
    console, out, _ = consoles()
    said = HostStatus("web", host, True, release, None, release, False, "R2", "D2")
    told = Status((said, said), ("D1",), frozen, Freeze(frozen, frozen, frozen), {"R2": (host,)})
    console.page(status_page(told, "staging"))
    assert is_sound(out.getvalue())
    # Two rows below their head, four remarks, the verdict.
    assert out.getvalue().count("\n") == 8


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@few
@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1))
@example("app/models/x.rb:100:in 'foo'")
@example("a:x:b")
@example("[red]a[/red] [link=http://a]b[/link] \\[c]")
@example("http://[::1]:80/x True None 'x' 12 <a b=1>")
def test_what_a_host_says_is_shown_as_it_said_it(text: str) -> None:
    said = f"<{text}>"
    for screen in (Screen(), io.StringIO()):
        console = Console(as_json=False, progress=screen, results=io.StringIO())
        console.note(said)
        assert screen.getvalue()[len("[00:00]") :] == f" {said}\n"
    out = io.StringIO()
    bad = HostResult(said, said, Verdict.FAILED, State.FETCHED, 1.0, said, (said,))
    outcome = Outcome(release="R1", deployment="D1", exit_code=8, hosts=(bad,), objection=said)
    Console(as_json=False, progress=io.StringIO(), results=out).page(deployment_page(outcome, "staging"))
    _, row, _, reason, log, *_ = out.getvalue().split("\n")
    assert row.count(said) == 2
    assert reason == f"{said} ({said}) failed: {said}"
    assert log == f"  | {said}"
    # On a terminal as well, broken at spaces only.
    screen = Screen()
    Console(as_json=False, progress=io.StringIO(), results=screen).page(deployment_page(outcome, "staging"))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert f"{reason} {log.strip()}".split() == shown[shown.index("\n\n") :].split()[: len(f"{reason} {log}".split())]


def test_character_that_the_terminal_has_not_is_written_by_number() -> None:
    written = io.BytesIO()
    screen = io.TextIOWrapper(written, encoding="ascii")
    Console(as_json=False, progress=screen, results=screen).print("später …")
    screen.flush()
    assert written.getvalue() == b"sp\\xe4ter \\u2026\n"


# --- records, reports


@few
@given(JSON, JSON, st.text(max_size=3))
def test_no_record_breaks_the_list_of_deployments(record: Any, begun: Any, text: str) -> None:
    known = {"phases": record, "hosts": [begun], "error": record, "operator": begun, "exit_code": 4, "kind": record}
    for one, other in ((record, begun), (known, known), ({**known, "exit_code": 0}, record)):
        found = read_deployment(
            DeploymentId("20260101T000000Zaaaa"), json.dumps(one) + text, json.dumps(other) if text else None
        )
        told = Deployments((found,))
        console, out, _ = consoles()
        console.page(told.page())
        console.document(told.as_dict())
        assert is_sound(out.getvalue())
        json.loads(out.getvalue().split("\n", 3)[3], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert is_sound(str(read_mark("20260101T000000Zaaaa", ReleaseId("R1"), json.dumps(record)).why))


@few
@given(JSON, st.sampled_from([*State]), st.text(max_size=5))
def test_any_report_is_read_and_is_of_the_host_in_its_key(value: Any, state: State, more: str) -> None:
    claim = {"host": "app2", "role": "batch", "node": "app2", "state": "verified", "log": value, "reason": value}
    for content in (value, claim):
        report = read_report("web", "app1", state.value, json.dumps(content) + more)
        assert report is not None
        assert (report.role, report.host, report.state) == ("web", "app1", state)
        assert all(is_sound(line) for line in (report.reason, *report.log))
        word = read_last_word(json.dumps(content) + more)
        assert all(is_sound(text) for text in (word.release or "", word.deployment or "", word.time or "", *word.kept))


def test_deeply_nested_report_is_a_log_like_any_other_text() -> None:
    report = read_report("web", "app1", "failed", "[" * 100_000)
    assert report is not None
    assert report.log[0].startswith("[[[[")


def test_text_without_an_end_leaves_room_for_the_others() -> None:
    endless = "x" * 500_000
    report = read_report("web", "app1", "failed", json.dumps({"reason": endless, "log": f"{endless}\n{endless}"}))
    assert report is not None
    assert len("".join((report.reason, *report.log))) < 10_000
    word = read_last_word(json.dumps({"release": endless, "time": endless, "releases": [endless]}))
    assert len("".join((word.release or "", word.time or "", *word.kept))) < 1_000


def test_hosts_whose_names_look_alike_stay_two() -> None:
    fleet = Fleet({"web": ["app\x01", "app\x02"]})
    fleet.hear(Report("web", "app\x01", State.VERIFIED), 1.0)
    fleet.hear_word("web", "app\x01", None)
    assert [result.verdict for result in fleet.results()] == [Verdict.VERIFIED, Verdict.SILENT]


# --- CI


@few
@given(TEXTS, TEXTS, TEXTS)
def test_annotations_are_one_command_each(host: str, reason: str, log: str) -> None:
    bad = HostResult("web", host, Verdict.FAILED, State.FETCHED, 1.0, reason, (log,))
    for each in annotations(reason, [reason, log], [bad]):
        assert is_sound(each.command())
        assert len(commands(each.command())) == 1
        assert "\n" not in each.command()


@few
@given(TEXTS, TEXTS, TEXTS)
def test_summary_is_text_and_no_markup(host: str, reason: str, log: str) -> None:
    bad = HostResult("web", host, Verdict.FAILED, State.FETCHED, 1.0, reason, (log,))
    text = summary(reason, [bad], [reason, log])
    assert is_sound(html.unescape(text))
    ours = {"pre", "/pre", "details", "/details", "summary", "/summary"}
    assert set(re.findall(r"<([^>]*)>", text)) <= ours
    title, *_ = text.split("\n")
    assert re.fullmatch(r"### (?:[0-9A-Za-z ]|&#[0-9]+;)*", title)


def test_message_of_an_annotation_keeps_its_lines() -> None:
    assert Annotation("t\x1b", "one\ntwo\r").command() == "::error title=t\ufffd::one%0Atwo\ufffd"


def test_bug_is_told_in_one_line_as_well() -> None:
    assert str(DeployError("KeyError: 'a\n\x1b[2J'")) == "KeyError: 'a; \ufffd[2J'"


# --- messages


@few
@given(TEXTS, TEXTS, TEXTS)
def test_message_has_its_lines_and_no_links(host: str, reason: str, message: str) -> None:
    told: Any = SimpleNamespace(application="shop", environment="staging")
    bad = HostResult("web", host, Verdict.FAILED, State.FETCHED, 1.0, reason, ())
    outcome = Outcome(release="R1", deployment="D1", exit_code=8, hosts=(bad,), objection=reason)
    for error in (None, ConsulError(message, hint=reason or "x")):
        for exit_code in (8, 7):
            text = escaped(end_text(told, Operator("me@here"), "deploy", outcome, exit_code, error))
            assert is_sound(text)
            # The verdict, the objection, three commands; or the error with its hint.
            assert text.count("\n") == (2 if error is not None and exit_code == 7 else 5)
            assert not set("<>") & set(text)
