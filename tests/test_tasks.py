"""What the command line answers, as far as it needs no build server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploytool import tasks
from deploytool.cli import parser, runner
from deploytool.connection.build_server import BuildServer
from deploytool.connection.unlock import Unlocking, free_locks
from deploytool.model.fleet import HostResult, State, Verdict
from deploytool.model.lifecycle import Status
from deploytool.queries import check
from deploytool.queries.checks.finding import Check
from deploytool.screen.summary import Outcome
from deploytool.settings.files import RESERVED
from tests.support.answering import Answering

COMMANDS = tasks.make_namespace(())


def result(host: str, verdict: Verdict) -> HostResult:
    return HostResult("web", host, verdict, State.FETCHED, 1.0, "", ())


def test_no_environment_can_take_the_name_of_a_command() -> None:
    assert set(COMMANDS.task_names) <= RESERVED


def test_every_task_has_a_line_of_help_that_does_not_wrap() -> None:
    for name, task in tasks.make_namespace(("production",)).tasks.items():
        first = (task.__doc__ or "").splitlines()[0]
        assert 0 < len(first) <= 60, name


# --- words and flags


def test_unknown_word_is_told_what_was_meant_and_what_exists(tmp_path: Path) -> None:
    error = parser.unknown_word("plaground", ["playground"], ["build", "deploy"], tmp_path)
    assert error.message == (
        "there is no environment or command 'plaground'. Did you mean playground? Environments: playground. "
        "Commands: build, deploy; for instance `fab playground deploy`"
    )


def test_word_whose_file_can_not_be_an_environment_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/workspace.yml").touch()
    (tmp_path / "config/staging.yaml").touch()
    assert "`workspace` is the name of a lock" in parser.unknown_word("workspace", [], [], tmp_path).message
    assert "Rename config/staging.yaml" in parser.unknown_word("staging", [], [], tmp_path).message


def test_unknown_flag_is_told_the_flags_of_its_command() -> None:
    error = parser.unknown_flag("--brnch", "deploy", ["--branch", "--json", "--no-wait"])
    assert error.message == (
        "`deploy` has no flag --brnch. Did you mean --branch? Its flags: --branch, --json, --no-wait"
    )


# --- errors of `--json`


def test_failed_check_is_the_error_and_not_an_interruption() -> None:
    checks = [
        Check("store", False, "the bucket x does not exist", "create it", 6),
        Check("Consul", False, "does not answer", None, 7),
        Check("settings", True, "all well"),
    ]
    assert check.check_error(checks) == {
        "kind": "store",
        "message": "store: the bucket x does not exist",
        "tail": [],
        "hint": "create it",
    }


@pytest.mark.parametrize(
    ("exit_code", "kind"), [(2, "settings"), (5, "connection"), (6, "store"), (7, "consul"), (4, "step"), (8, "fleet")]
)
def test_kind_of_a_failed_checks_error_is_that_of_its_exit_code(exit_code: int, kind: str) -> None:
    assert check.check_error([Check("one", False, "bad", None, exit_code)])["kind"] == kind


def test_bad_hosts_are_named_in_the_error() -> None:
    outcome = Outcome(exit_code=8, hosts=(result("app1", Verdict.VERIFIED), result("app2", Verdict.FAILED)))
    error = runner.outcome_error(outcome)
    assert (error.kind, error.message) == ("fleet", "not verified: app2 (web) failed")


def test_interruption_after_all_hosts_are_verified_does_not_say_that_they_are_not() -> None:
    outcome = Outcome(exit_code=130, hosts=(result("app1", Verdict.VERIFIED),))
    error = runner.outcome_error(outcome)
    assert (error.kind, error.message) == ("interrupted", "interrupted after `go`, but every host is verified")


def test_interruption_between_two_waves_does_not_call_all_hosts_verified() -> None:
    hosts = (result("app1", Verdict.VERIFIED), result("app2", Verdict.ABORTED), result("app3", Verdict.SILENT))
    outcome = Outcome(exit_code=130, hosts=hosts, gone=frozenset({("web", "app1")}))
    error = runner.outcome_error(outcome)
    assert error.message == "interrupted after `go`; all hosts that switched are verified, 2 untouched"


def test_host_that_left_the_barrier_before_it_was_let_go_is_named_where_that_halts_a_rollout() -> None:
    hosts = (result("app1", Verdict.ABORTED), result("app2", Verdict.ABORTED))
    outcome = Outcome(exit_code=8, hosts=hosts, gone=frozenset({("web", "app1")}), status=Status.HALTED)
    error = runner.outcome_error(outcome)
    assert error.message == "halted after 1 of 2 hosts; not verified: app1 (web) aborted"


def test_interruption_before_all_hosts_are_verified_names_the_others() -> None:
    outcome = Outcome(exit_code=130, hosts=(result("app1", Verdict.VERIFIED), result("app2", Verdict.SILENT)))
    error = runner.outcome_error(outcome)
    assert (error.kind, error.message) == ("interrupted", "interrupted after `go`; not verified: app2 (web) silent")


# --- unlock


class Holders(Answering):
    """A worker whose locks are held as a test says."""

    def __init__(self, holders: Mapping[str, Mapping[str, Any]]) -> None:
        self.holders = dict(holders)
        self.broken: list[str] = []

    def ask(self, do: str, **parameters: Any) -> Mapping[str, Any]:
        name = parameters["name"]
        if do == "break_lock":
            self.broken.append(name)
            return {"ended": "somebody"}
        assert do == "lock_holder"
        holder = self.holders.get(name)
        return {"holder": holder, "sentence": f"{holder['operator']} since noon" if holder else None}


def unlock(holders: Mapping[str, Mapping[str, Any]]) -> tuple[Unlocking, Holders]:
    worker = Holders(holders)
    return free_locks(BuildServer(worker), "staging", lambda line: None), worker


def test_unlock_ends_the_holders_of_both_locks() -> None:
    holder = {"operator": "ann@laptop", "environment": "staging"}
    unlocking, worker = unlock({"staging": holder, "workspace": holder})
    assert worker.broken == ["staging", "workspace"]
    assert unlocking.sentence == "ended 2 holders; the locks are free"
    assert unlocking.left == []


@pytest.mark.parametrize("of", [{"environment": "production"}, {}])
def test_unlock_leaves_another_environments_build_in_the_workspace_alone(of: Mapping[str, str]) -> None:
    holder = {"operator": "ben@ci", **of}
    unlocking, worker = unlock({"staging": {"operator": "ann@laptop"}, "workspace": holder})
    assert worker.broken == ["staging"]
    assert unlocking.left == [{"lock": "workspace", "holder": holder}]
    assert "ended 1 holder; the lock of staging is free; the workspace is in use by ben@ci" in unlocking.sentence
    assert ("`fab production unlock` would end it" in unlocking.sentence) == bool(of)


def test_unlock_of_free_locks_ends_nobody() -> None:
    unlocking, worker = unlock({})
    assert (worker.broken, unlocking.sentence) == ([], "ended 0 holders; the locks are free")
