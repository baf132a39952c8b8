"""How the end of a deployment reads."""

import io

from deploytool.console import Console, conclusion, reasons
from deploytool.fleet import HostResult, State, Verdict
from deploytool.outcome import Outcome

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
