"""Fabric's own flags: the table in the docs, what is refused, and what it says."""

import re
from pathlib import Path

import pytest
from fabric.main import make_program

from deploytool import tasks
from deploytool.cli.fab_flags import FLAGS, WRITING, Flag, dry_refusal, for_others, help_lines, refusal

PAGE = Path(__file__).parents[2] / "docs/fab-flags.md"
ROW = re.compile(r"^\| (`-.*?) \| (works|own tasks|refused) \| .+ \|$", re.MULTILINE)


def names(typed: str) -> frozenset[str]:
    return frozenset(re.findall(r"-[\w-]+", typed))


def of_fabric() -> set[frozenset[str]]:
    """The flags of the Fabric that is installed, each with its names."""
    running = make_program()
    known = (*running.core_args(), *running.task_args())
    return {frozenset(f"{'-' if len(name) == 1 else '--'}{name}" for name in each.names) for each in known}


def test_every_flag_of_fabric_is_known() -> None:
    assert {names(flag.typed) for flag in FLAGS} == of_fabric()


def test_every_flag_of_fabric_is_in_the_docs_as_it_is() -> None:
    rows = {names(typed): word for typed, word in ROW.findall(PAGE.read_text())}
    assert rows.keys() == of_fabric()
    for flag in FLAGS:
        word = "works" if flag.does else "own tasks" if flag.for_own_tasks else "refused"
        assert rows[names(flag.typed)] == word, flag.typed
        assert bool(flag.does) != bool(flag.instead), flag.typed


def test_help_names_every_flag_and_does_not_wrap() -> None:
    lines = help_lines()
    assert all(flag.typed in "\n".join(lines) for flag in FLAGS)
    assert max(map(len, lines)) < 120


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.instead], ids=lambda flag: flag.typed)
def test_flag_without_use_for_a_command_is_refused_by_name(flag: Flag) -> None:
    error = refusal({flag.name: True}, ["deploy"], [], "staging")
    assert error is not None
    assert error.message.startswith(f"{flag.typed} does not work with `deploy`: ")
    assert refusal({flag.name: True}, [], ["uptime"], "staging") is None


def test_flag_for_own_tasks_in_a_mixed_line_is_theirs_and_says_so() -> None:
    assert refusal({"echo": True}, ["deploy"], ["test"], "staging") is None
    assert for_others({"echo": True, "dry": True}, ["test"]) == "-e/--echo: only for test"
    assert for_others({"dry": True}, ["test"]) is None
    assert refusal({"hosts": "a"}, ["deploy"], ["test"], "staging") is not None


def test_every_command_runs_dry_or_names_what_to_use_instead() -> None:
    reading = {"app-server", "settings", "plan", "status", "releases"}
    assert {each.name for each in tasks.COMMANDS} == {"deploy", *reading, *WRITING}
    for name in WRITING:
        error = dry_refusal(name, "staging", "--dry")
        assert error is not None
        assert "`fab staging " in error.message
    assert dry_refusal("deploy", "staging", "--dry") is None


def test_password_is_not_shown_by_debugging() -> None:
    error = refusal({"debug": True, "prompt-for-passphrase": True}, ["deploy"], [], "staging")
    assert error is not None
    assert error.message.startswith("-d/--debug and --prompt-for-passphrase")
