"""What is written where while a command runs."""

import io

import pytest

from deploytool.model.fleet import Fleet, Report, State
from deploytool.screen.console import Console, waiting_words
from deploytool.screen.page import Page


def test_note_of_several_lines_is_one_line_of_progress() -> None:
    progress = io.StringIO()
    Console(as_json=False, progress=progress, results=io.StringIO()).note("Consul is away\nhint: wait")
    assert progress.getvalue().endswith("] Consul is away; hint: wait\n")


def test_hosts_are_counted_as_hosts_and_not_once_for_each_role() -> None:
    fleet = Fleet({"web": ("app1", "app2"), "batch": ("app2",)})
    assert waiting_words(fleet, "fetch", None) == "fetch: 0 of 2 hosts; waiting for app1, app2"
    fleet.hear(Report("web", "app2", State.FETCHED), 1.0)
    assert waiting_words(fleet, "fetch", None) == "fetch: 0 of 2 hosts; waiting for app1, app2"
    fleet.hear(Report("batch", "app2", State.FETCHED), 1.0)
    assert waiting_words(fleet, "fetch", None) == "fetch: 1 of 2 hosts; waiting for app1"


def test_host_that_only_left_the_barrier_is_no_line_of_progress() -> None:
    progress = io.StringIO()
    console = Console(as_json=False, progress=progress, results=io.StringIO())
    console.report(Report("web", "app1", State.ABORTED, "its turn did not come"), 1.0, expected=True)
    assert progress.getvalue() == ""
    console.report(Report("web", "app1", State.FAILED, "broken"), 1.0, expected=True)
    assert progress.getvalue().endswith("app1 (web) failed after 1.0 s: broken\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_page_is_coloured_on_a_terminal_and_not_where_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = Terminal()
    Console(as_json=False, progress=io.StringIO(), results=shown).page(Page(verdict="all is well", style="green"))
    assert "\x1b[1;32mall is well" in shown.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    shown = Terminal()
    Console(as_json=False, progress=io.StringIO(), results=shown).page(Page(verdict="all is well", style="green"))
    assert "32m" not in shown.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    shown = Terminal()
    Console(as_json=False, progress=io.StringIO(), results=shown).page(Page(verdict="all is well", style="green"))
    assert shown.getvalue() == "all is well\n"


def test_step_says_how_long_it_took_before() -> None:
    progress = io.StringIO()
    console = Console(as_json=False, progress=progress, results=io.StringIO())
    console.expected = {"dependencies": 41.3, "checkout": 0.4}
    with console.step("checkout"), console.step("dependencies"):
        pass
    assert [line.split("] ")[1] for line in progress.getvalue().splitlines()[:2]] == [
        "checkout …",
        "dependencies … (about 41 s)",
    ]
    assert set(console.took) == {"checkout", "dependencies"}
