"""What GitHub Actions is told, and what it must not take for a command. The runner's rules are written here anew."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.model.fleet import HostResult, State, Verdict
from deploytool.screen.console import Console
from deploytool.screen.ending import causes, deployment_page
from deploytool.screen.github_actions import (
    MOST_ANNOTATIONS,
    Annotation,
    GitHubActions,
    annotations,
    github_actions,
    harmless,
    harmless_json,
    summary,
)
from deploytool.screen.summary import Outcome
from deploytool.session import operator_of
from deploytool.text.untrusted import printable
from tests.support.github_commands import commands, page, read_command

GOOD = HostResult("web", "app1", Verdict.VERIFIED, State.VERIFIED, 15.9, "R1 serves", ())
BAD = HostResult("web", "app2", Verdict.FAILED, State.FETCHED, 3.2, "hooks.post[0] failed", ("one", "two"))
MUTE = HostResult("batch", "app3", Verdict.SILENT, None, None, "not a word", ())

FORGED = (
    "::set-output name=approved::true",
    "  \t::add-mask::e",
    "\u00a0\u3000::error::forged",
    "harmless ##[set-env name=PATH]/tmp",
    "###[group]x",
    "one\r::stop-commands::token",
    "\n\n ::error::after empty lines",
)


# --- the log


@pytest.mark.parametrize("text", FORGED)
def test_text_of_others_is_no_command(text: str) -> None:
    assert commands(text)
    assert not commands(harmless(text))
    assert not commands(harmless_json(json.dumps([text, {text: text}], indent=2)))


@given(st.text(alphabet="::##[]a \t\r\n-"))
def test_no_text_is_a_command(text: str) -> None:
    assert not commands(harmless(text))
    assert re.sub(" ", "", harmless(text)) == re.sub(" ", "", text), "it can still be read"
    document = json.dumps({text: [text]}, indent=2)
    assert not commands(harmless_json(document))
    assert json.loads(harmless_json(document)) == json.loads(document)


def test_text_that_is_no_command_stays_as_it_is() -> None:
    for text in ("Foo::Bar failed", "[00:01] ::error::x", "# [x]", "std::vector", "http://[::1]:8500"):
        assert harmless(text) == text


def test_all_that_a_console_writes_is_harmless() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(as_json=False, progress=err, results=out, actions=GitHubActions(None))
    for text in FORGED:
        console.note(text)
        console.print(text)
        console.document({"log": [text]})
        forged = replace(BAD, host=text, role=text, reason=text, log=(text,))
        outcome = Outcome(release="R1", deployment="D1", exit_code=8, hosts=(forged, GOOD), down=((text, text),))
        console.page(deployment_page(outcome, "staging"))
    assert out.getvalue()
    assert not commands(out.getvalue())
    assert not commands(err.getvalue())


def test_elsewhere_nothing_is_changed_and_nothing_annotated() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(as_json=False, progress=err, results=out, actions=github_actions({"CI": "true"}))
    console.print("::notice::of an app's own log")
    console.annotate([Annotation("title", "message")])
    console.summarise("title", (), ["line"])
    assert (out.getvalue(), err.getvalue()) == ("::notice::of an app's own log\n", "")


# --- annotations


@given(st.text(max_size=40), st.text(max_size=40))
def test_annotation_arrives_as_it_was_meant(title: str, message: str) -> None:
    line = Annotation(title, message).command()
    assert len(commands(line)) == 1
    assert not set("\r\n") & set(line)
    lines = "\n".join(printable(line) for line in message.split("\n"))
    assert read_command(line) == ({"title": printable(title)}, lines)


def test_hosts_that_are_bad_for_one_reason_share_an_annotation() -> None:
    mute = [replace(MUTE, host=f"app{number}") for number in range(7)]
    left = replace(MUTE, host="app8", verdict=Verdict.ABORTED)
    told = annotations("fab production deploy: exit code 8", ["not verified: …"], [GOOD, *mute, left, BAD])
    assert [each.title for each in told] == [
        "fab production deploy: exit code 8",
        "app2 (web) failed",
        "app0 (batch), app1 (batch), app2 (batch), app3 (batch), app4 (batch) and 2 more silent",
    ]
    assert told[1].message == "hooks.post[0] failed\none\ntwo"


def test_no_more_annotations_than_github_shows() -> None:
    hosts = [replace(BAD, host=f"app{number}", reason=f"reason {number}") for number in range(40)]
    assert len(annotations("title", ["error"], hosts)) == MOST_ANNOTATIONS


def test_annotations_go_to_stderr_where_stdout_is_one_document() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(as_json=True, progress=err, results=out, actions=GitHubActions(None))
    console.document({"exit_code": 8})
    console.annotate([Annotation("title", "message")])
    assert json.loads(out.getvalue()) == {"exit_code": 8}
    assert commands(err.getvalue()) == ["::error title=title::message"]


# --- the summary


def test_summary_is_the_table_the_reasons_and_what_comes_next() -> None:
    text = summary("fab staging deploy: exit code 8", [GOOD, MUTE, BAD], ["R1 is NOT verified on 2 of 3 hosts"])
    found = page(text)
    assert found[0] == ("h3", "fab staging deploy: exit code 8")
    assert [words.strip() for tag, words in found if tag == "td"] == [
        *("web", "app2", "❌ failed", "fetched", "3.2"),
        *("batch", "app3", "❌ silent", "-", "-"),
        *("web", "app1", "verified", "verified", "15.9"),
    ]
    assert [words for tag, words in found if tag == "pre"] == [
        "\nR1 is NOT verified on 2 of 3 hosts\n",
        "\none\ntwo\n",
        "\nno log\n",
    ]
    assert [words.strip() for tag, words in found if tag == "summary"] == [
        "app2 (web) failed: hooks.post[0] failed",
        "app3 (batch) silent: not a word",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a | b | c",
        "</pre><script>alert(1)</script>",
        "</summary></details># heading",
        "[link](https://example.com) ![image](x) **bold** `code` _it_ ~~no~~ $x$",
        "&lt;b&gt; &amp;",
        "<!-- unseen",
        "\\| \\`",
        "日本語 ❌",
    ],
)
def test_what_a_host_says_is_shown_as_it_is(text: str) -> None:
    plain = summary("title", [BAD], ["line"])
    forged = replace(BAD, host=text, role=text, reason=text, log=(text, "", text))
    found = page(summary("title", [forged], [text]))
    assert [tag for tag, _ in found] == [tag for tag, _ in page(plain)]
    assert [words.strip() for tag, words in found if tag == "td"][:2] == [text, text]
    assert [words for tag, words in found if tag == "pre"] == [f"\n{text}\n", f"\n{text}\n\n{text}\n"]
    assert next(words for tag, words in found if tag == "summary").strip() == f"{text} ({text}) failed: {text}"


def test_summary_that_is_too_large_is_cut_between_its_parts_and_says_so() -> None:
    hosts = [
        replace(BAD, host=f"app{number}", reason=f"why {'!' * number}", log=("x" * 1000, str(number)))
        for number in range(50)
    ]
    text = summary("title", hosts, ["line"], room_bytes=20_000)
    assert len(text.encode()) <= 20_000
    assert text.count("<pre>") == text.count("</pre>") > 2
    assert text.count("<details>") == text.count("</details>")
    assert text.endswith("There was more than GitHub takes: see the step's log.\n")


def test_several_commands_of_one_step_add_to_its_summary(tmp_path: Path) -> None:
    path, err = tmp_path / "summary.md", io.StringIO()
    console = Console(as_json=True, progress=err, actions=github_actions(_environment(path)))
    console.summarise("fab staging deploy", (GOOD,), ["one"])
    console.summarise("fab production deploy", (GOOD,), ["two"])
    assert [words for tag, words in page(path.read_text()) if tag == "pre"] == ["\none\n", "\ntwo\n"]
    path.unlink()
    path.mkdir()
    console.summarise("fab production deploy", (GOOD,), ["three"])
    assert "the step's summary could not be written" in err.getvalue()


def _environment(path: Path) -> dict[str, str]:
    return {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(path)}


def test_reasons_of_the_log_and_of_the_summary_are_the_same() -> None:
    hosts = [GOOD, MUTE, BAD, replace(MUTE, host="app4")]
    assert [line for line in causes(hosts) if line and not line.startswith("  |")] == [
        words.strip() for tag, words in page(summary("title", hosts, ())) if tag == "summary"
    ]


# --- who deploys


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        (
            {
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_REPOSITORY": "acme/shop",
                "GITHUB_RUN_ID": "7",
                "GITHUB_RUN_ATTEMPT": "2",
            },
            "https://github.com/acme/shop/actions/runs/7/attempts/2",
        ),
        (
            {"CI_JOB_URL": "https://gitlab.example.com/acme/shop/-/jobs/9"},
            "https://gitlab.example.com/acme/shop/-/jobs/9",
        ),
        ({}, None),
    ],
)
def test_job_of_a_ci_system_is_known_by_its_address(environ: dict[str, str], job: str | None) -> None:
    assert operator_of(environ).ci_job == job
