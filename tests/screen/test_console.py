"""How the end of a deployment reads."""

import io
from typing import Any

from deploytool.model.fleet import HostResult, State, Verdict
from deploytool.model.lifecycle import Status
from deploytool.screen.console import Console, conclusion, reasons
from deploytool.screen.summary import Outcome

GOOD = HostResult("web", "app1", Verdict.VERIFIED, State.VERIFIED, 15.9, "R1 serves", ())
BAD = HostResult("web", "app2", Verdict.FAILED, State.FETCHED, 3.2, "hooks.post[0] failed: " + "why " * 30, ("broke",))
MUTE = HostResult("batch", "app3", Verdict.SILENT, None, None, "not a word", ())


def outcome(*hosts: HostResult, exit_code: int = 0) -> Outcome:
    return Outcome(release="R1", deployment="D1", exit_code=exit_code, hosts=hosts, phases={"activate": 2.0})


def summary(outcome: Outcome) -> list[str]:
    out = io.StringIO()
    Console(as_json=False, progress=io.StringIO(), results=out).summary(outcome, "staging", outcome.hosts)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_summary_of_a_good_deployment_is_a_table_and_a_sentence() -> None:
    assert summary(outcome(GOOD)) == [
        "role  host  verdict   state     seconds",
        "web   app1  verified  verified     15.9",
        "R1 is verified on 1 host of staging (D1, 2.0 s)",
    ]


def test_reason_of_a_bad_host_stands_below_the_table_and_is_not_broken_into_a_column() -> None:
    assert summary(outcome(GOOD, BAD, exit_code=8)) == [
        "role  host  verdict   state     seconds",
        "web   app2  failed    fetched       3.2",
        "web   app1  verified  verified     15.9",
        "",
        ("app2 (web) failed: " + BAD.reason).rstrip(),
        "  | broke",
        "",
        "R1 is NOT verified on 1 of 2 hosts of staging (D1)",
        "try them again: fab staging deploy --release R1 --nodes app2",
    ]


def test_summary_ends_with_what_is_due() -> None:
    ended = outcome(GOOD)
    ended.migrate_after = "due"
    assert summary(ended)[-1] == (
        "migrate_after of R1 is due: it runs once a deploy or promote has verified every host"
    )


def test_long_names_of_hosts_are_whole_where_no_screen_has_an_edge() -> None:
    name = "app-" + "x" * 120
    lines = summary(outcome(HostResult("web", name, Verdict.VERIFIED, State.VERIFIED, 1.0, "", ())))
    assert sum(name in line for line in lines) == 1


def test_hosts_that_are_bad_for_one_reason_share_a_line_and_are_all_named() -> None:
    mute = [HostResult("web", f"app{n}", Verdict.SILENT, None, None, "not a word", ()) for n in range(40)]
    lines = reasons([*mute, GOOD])
    assert len(lines) == 3
    assert all(f"app{n} (web)" in lines[1] for n in range(40))
    assert lines[1].endswith(" silent: not a word")


def test_interrupted_deployment_with_all_hosts_verified_names_no_hosts_to_try_again() -> None:
    (line,) = conclusion(outcome(GOOD, exit_code=130), "staging")
    assert line == "the command was interrupted after `go`, but R1 is verified on 1 host of staging (D1)"


def test_connection_that_broke_after_all_hosts_were_verified_is_no_failed_fleet() -> None:
    (line,) = conclusion(outcome(GOOD, exit_code=5), "staging")
    assert line == "the command did not end well, but R1 is verified on 1 host of staging (D1)"


def test_interrupted_deployment_names_the_hosts_without_a_verdict() -> None:
    assert conclusion(outcome(GOOD, MUTE, exit_code=130), "staging") == [
        "R1 is NOT verified on 1 of 2 hosts of staging (D1)",
        "silent hosts may still be finishing by themselves",
        "try them again: fab staging deploy --release R1 --nodes app3",
    ]


def test_note_of_several_lines_is_one_line_of_progress() -> None:
    progress = io.StringIO()
    Console(as_json=False, progress=progress, results=io.StringIO()).note("Consul is away\nhint: wait")
    assert progress.getvalue().endswith("] Consul is away; hint: wait\n")


# --- rollouts that were stopped

WAITED = HostResult("web", "app3", Verdict.ABORTED, State.FETCHED, 4.0, "the rollout was stopped before its turn", ())


def stopped(*hosts: HostResult, **changes: Any) -> Outcome:
    """One whose other hosts than the last had gone."""
    made = outcome(*hosts, WAITED, exit_code=changes.pop("exit_code", 8))
    made.gone = frozenset((each.role, each.host) for each in hosts)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_paused_rollout_says_how_far_it_is_and_both_ways_on() -> None:
    assert conclusion(stopped(GOOD, status=Status.PAUSED, exit_code=0), "production") == [
        "R1 is verified on 1 of 2 hosts of production, and PAUSED (D1)",
        "the other host keeps what it has, for as long as you like",
        "go on: fab production promote      go back: fab production rollback",
    ]
    assert (
        "of production, not on 1, and PAUSED" in conclusion(stopped(GOOD, BAD, status=Status.PAUSED), "production")[0]
    )


def test_halted_rollout_counts_those_that_were_not_touched_and_does_not_list_them() -> None:
    made = stopped(GOOD, BAD, status=Status.HALTED)
    assert conclusion(made, "production") == [
        "R1 was HALTED (D1): 2 of 3 hosts of production let go; not verified: 1; not touched: 1",
        "1 host now on R1",
        "go on: fab production promote      go back: fab production rollback",
    ]
    results = io.StringIO()
    Console(as_json=False, progress=io.StringIO(), results=results).summary(made, "production", made.hosts)
    assert "app2 (web) failed: hooks.post[0] failed" in results.getvalue()
    assert "before its turn" not in results.getvalue()
    # Where nothing has switched, there is nothing to go on with.
    assert len(conclusion(stopped(BAD, status=Status.HALTED), "production")) == 1


def test_halted_rollout_that_went_back_tells_both_stories() -> None:
    silent = HostResult("web", "app4", Verdict.SILENT, State.FETCHED, 1.0, "it said nothing more", ())
    back = Outcome(release="R0", deployment="D2", hosts=(GOOD, silent), told=(("web", "app5"),), exit_code=8)
    lines = conclusion(
        stopped(GOOD, BAD, status=Status.HALTED, undone=(back,), not_undone=("R9 is gone",)), "production"
    )
    assert lines[1:] == [
        "went back to R0: verified on 1 of 2 hosts (D2)",
        "  app4 (web) silent: it said nothing more",
        "  app5 (web) is silent: told to go back as well, not waited for",
        "NOT taken back: R9 is gone",
        "what is where: fab production status      go back: fab production rollback",
    ]


def test_promotion_that_went_back_says_who_has_the_release_still_and_both_ways_on() -> None:
    back = Outcome(release="R0", deployment="D2", hosts=(GOOD,))
    made = stopped(GOOD, BAD, status=Status.HALTED, undone=(back,), spared=(("web", "app9"),))
    assert conclusion(made, "production")[1:] == [
        "went back to R0: verified on 1 of 1 host (D2)",
        "on R1 as before: 1 host",
        "go on: fab production promote      go back: fab production rollback",
    ]


def test_interrupted_rollout_is_stopped_and_not_halted() -> None:
    assert conclusion(stopped(GOOD, exit_code=130), "production")[0].startswith("R1 was STOPPED (D1): 1 of 2 hosts")
