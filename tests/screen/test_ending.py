"""How the end of a deployment reads."""

from typing import Any

import pytest

from deploytool.model.fleet import HostResult, State, Verdict
from deploytool.model.lifecycle import Status
from deploytool.screen.ending import causes, deployment_page, message, next_commands, verdict
from deploytool.screen.summary import Outcome

GOOD = HostResult("web", "app1", Verdict.VERIFIED, State.VERIFIED, 15.9, "R1 serves", ())
BAD = HostResult("web", "app2", Verdict.FAILED, State.FETCHED, 3.2, "hooks.post[0] failed: " + "why " * 30, ("broke",))
MUTE = HostResult("batch", "app3", Verdict.SILENT, None, None, "no report", ())
LEFT = HostResult("web", "app4", Verdict.ABORTED, State.FETCHED, 1.0, "the operator interrupted", ("a log",))


def outcome(*hosts: HostResult, exit_code: int = 0, **changes: Any) -> Outcome:
    made = Outcome(release="R1", deployment="D1", exit_code=exit_code, hosts=hosts, phases={"activate": 2.0})
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def page(made: Outcome, width: int | None = None) -> list[str]:
    return deployment_page(made, "staging").lines(width)


def test_good_deployment_is_a_table_and_a_sentence() -> None:
    assert page(outcome(GOOD)) == [
        "role  host  verdict   state     seconds",
        "web   app1  verified  verified     15.9",
        "R1 is verified on 1 host of staging (D1, 2.0 s)",
    ]


def test_host_with_two_roles_is_one_host() -> None:
    twice = HostResult("batch", "app1", Verdict.VERIFIED, State.VERIFIED, 1.0, "", ())
    assert verdict(outcome(GOOD, twice), "staging") == "R1 is verified on 1 host of staging (D1, 2.0 s)"
    other = HostResult("web", "app2", Verdict.VERIFIED, State.VERIFIED, 1.0, "", ())
    assert verdict(outcome(GOOD, twice, other), "staging").startswith("R1 is verified on all 2 hosts of staging")


def test_bad_host_has_its_cause_below_the_table_and_the_verdict_is_last() -> None:
    assert page(outcome(GOOD, BAD, exit_code=8)) == [
        "role  host  verdict   state     seconds",
        "web   app2  failed    fetched       3.2",
        "web   app1  verified  verified     15.9",
        "",
        "app2 (web) failed: " + BAD.reason,
        "  | broke",
        "",
        "next: fab staging status                            which host runs what",
        "      fab staging deploy --release R1 --nodes app2  try these hosts again",
        "      fab staging rollback                          go back to the release before",
        "R1 is NOT verified on 1 of 2 hosts of staging (D1)",
    ]


def thirty(*, differing: bool = False) -> list[HostResult]:
    hosts = []
    for number in range(1, 31):
        name = f"app{number:02}"
        own = (f"2026/12/01 12:00:{number:02} {name} pid {3000 + number}: it does not start",)
        log = (*own, *(f"line {each}" for each in range(11)), "Executing manifest &stretcher.Manifest{Src: x…")
        reason = f"hook roles.web.post[0] failed on {name} after {number}.5 s" + ("!" * number if differing else "")
        hosts.append(HostResult("web", name, Verdict.FAILED, State.FETCHED, 3.0 + number / 10, reason, log))
    return hosts


def test_thirty_hosts_that_fail_for_one_cause_are_one_cause_with_one_log() -> None:
    lines = page(outcome(*thirty(), exit_code=8))
    assert len(lines) <= 40
    assert sum("it does not start" in line for line in lines) == 1
    assert not any("Manifest{" in line for line in lines)
    (named,) = (line for line in lines if line.startswith("  app01 (web), "))
    assert all(f"app{number:02} (web)" in named for number in range(1, 31))
    assert lines[-1] == "R1 is NOT verified on 30 of 30 hosts of staging (D1)"
    # Where nothing succeeded, nobody needs thirty names to try again.
    assert "      fab staging deploy --release R1  try again" in lines
    assert lines[-2].strip().startswith("fab staging rollback")


def test_hosts_that_fail_for_different_causes_are_told_apart() -> None:
    assert sum(" failed: " in line for line in causes(thirty(differing=True))) == 30
    one = HostResult("web", "a", Verdict.FAILED, None, 1.0, "hook roles.web.post[0] failed", ("x",))
    other = HostResult("web", "b", Verdict.FAILED, None, 1.0, "hook roles.web.post[1] failed", ("x",))
    assert sum(" failed: " in line for line in causes([one, other])) == 2


def test_hosts_of_one_cause_with_other_logs_say_whose_log_is_shown() -> None:
    one = HostResult("web", "a", Verdict.FAILED, None, 1.0, "it died", ("because of x",))
    other = HostResult("web", "b", Verdict.FAILED, None, 1.0, "it died", ("because of y",))
    assert causes([one, other]) == [
        "",
        "a (web), b (web) failed: it died",
        "  the log of a (web); --json has the others:",
        "  | because of x",
        "",
    ]


def test_fleet_of_hundreds_is_folded_and_every_host_that_failed_is_named() -> None:
    good = [HostResult("web", f"w{n}", Verdict.VERIFIED, State.VERIFIED, 1.0, "", ()) for n in range(400)]
    lines = page(outcome(*good, *thirty(), exit_code=8))
    assert len(lines) <= 42
    assert "      400 hosts    verified" in [line.replace("web ", "    ", 1) for line in lines] or any(
        "400 hosts" in line and "verified" in line for line in lines
    )
    assert any("and 20 more" in line for line in lines)


def test_every_line_fits_a_narrow_terminal_and_no_word_is_broken() -> None:
    made = outcome(GOOD, BAD, MUTE, exit_code=8)
    words = set(" ".join(page(made)).split())
    for width in (44, 60, 80):
        lines = page(made, width)
        assert set(" ".join(lines).split()) == words
        for line in lines:
            # A command is one line, so that it can be copied.
            assert len(line) <= width or "fab staging" in line


def test_interruption_before_any_host_was_let_go_is_no_table_of_silent_hosts() -> None:
    made = outcome(MUTE, LEFT, exit_code=130, status=Status.ABORTED)
    assert page(made) == ["R1 was not deployed: no host of staging was switched (D1)"]


def test_interruption_still_shows_a_host_that_had_failed() -> None:
    lines = page(outcome(MUTE, BAD, exit_code=130, status=Status.ABORTED))
    assert [line.split()[:3] for line in lines[1:3]] == [["web", "app2", "failed"], ["batch", "app3", "unchanged"]]
    assert any(line.startswith("app2 (web) failed: ") for line in lines)
    assert not any("no report" in line for line in lines)


def test_failed_migration_shows_no_logs_of_hosts_that_only_left_the_barrier() -> None:
    made = outcome(LEFT, exit_code=4, status=Status.ABORTED)
    assert page(made) == ["R1 was not deployed: no host of staging was switched (D1)"]


def test_host_that_ended_a_deployment_is_shown_and_the_others_are_unchanged() -> None:
    lines = page(outcome(LEFT, BAD, exit_code=8, status=Status.ABORTED))
    assert [line.split()[:3] for line in lines[1:3]] == [["web", "app2", "failed"], ["web", "app4", "unchanged"]]
    assert "a log" not in "\n".join(lines)
    assert lines[-1] == "R1 was not deployed: no host of staging was switched (D1)"


def test_what_is_due_is_said() -> None:
    made = outcome(GOOD, migrate_after="due")
    assert "migrate_after of R1 is due: it runs once a deploy or promote has verified every host" in page(made)


def test_long_names_of_hosts_are_whole() -> None:
    name = "app-" + "x" * 120
    for width in (None, 80):
        lines = page(outcome(HostResult("web", name, Verdict.VERIFIED, State.VERIFIED, 1.0, "", ())), width)
        assert sum(name in line for line in lines) == 1


def test_interrupted_deployment_with_all_hosts_verified_names_no_hosts_to_try_again() -> None:
    made = outcome(GOOD, exit_code=130)
    assert verdict(made, "staging") == (
        "the command was interrupted after `go`, but R1 is verified on 1 host of staging (D1)"
    )
    assert not next_commands(made, "staging")


def test_connection_that_broke_after_all_hosts_were_verified_is_no_failed_fleet() -> None:
    made = outcome(GOOD, exit_code=5)
    assert verdict(made, "staging") == "the command did not end well, but R1 is verified on 1 host of staging (D1)"


def test_interrupted_deployment_names_the_hosts_without_a_verdict() -> None:
    lines = message(outcome(GOOD, MUTE, exit_code=130), "staging")
    assert lines[:2] == [
        "R1 is NOT verified on 1 of 2 hosts of staging (D1)",
        "silent hosts may still be switching by themselves",
    ]
    assert any("--nodes app3" in line for line in lines)


# --- rollouts that were stopped

WAITED = HostResult("web", "app9", Verdict.ABORTED, State.FETCHED, 4.0, "the rollout was stopped before its turn", ())


def stopped(*hosts: HostResult, **changes: Any) -> Outcome:
    """One whose other hosts than the last had gone."""
    made = outcome(*hosts, WAITED, exit_code=changes.pop("exit_code", 8), **changes)
    made.gone = frozenset((each.role, each.host) for each in hosts)
    return made


def test_paused_canary_shows_the_others_as_waiting_below_it_and_both_ways_on() -> None:
    assert page(stopped(GOOD, status=Status.PAUSED, exit_code=0)) == [
        "role  host  verdict   state     seconds",
        "web   app1  verified  verified     15.9",
        "web   app9  waiting   fetched       4.0",
        "next: fab staging promote   continue with the other hosts",
        "      fab staging rollback  go back to the release before",
        "PAUSED: R1 is verified on 1 of 2 hosts of staging; 1 host waits (D1)",
    ]
    made = stopped(GOOD, BAD, status=Status.PAUSED)
    assert "of staging, not on 1; 1 host waits" in verdict(made, "staging").replace("hosts of", "of")


def test_halted_rollout_counts_those_that_were_not_touched_and_shows_no_reason_of_theirs() -> None:
    made = stopped(GOOD, BAD, status=Status.HALTED)
    lines = page(made)
    assert lines[-1] == ("HALTED: R1 was let go on 2 of 3 hosts of staging; not verified: 1; unchanged: 1 host (D1)")
    assert "now on R1: 1 host" in lines
    assert [each.command for each in next_commands(made, "staging")] == ["fab staging promote", "fab staging rollback"]
    assert any(line.startswith("app2 (web) failed: hooks.post[0] failed") for line in lines)
    assert not any("before its turn" in line for line in lines)
    # Where nothing has switched, there is nothing to go on with.
    assert not next_commands(stopped(BAD, status=Status.HALTED), "staging")


def test_halted_rollout_that_went_back_tells_both_stories() -> None:
    silent = HostResult("web", "app4", Verdict.SILENT, State.FETCHED, 1.0, "it reported nothing since", ())
    back = Outcome(release="R0", deployment="D2", hosts=(GOOD, silent), told=(("web", "app5"),), exit_code=8)
    made = stopped(GOOD, BAD, status=Status.HALTED, undone=(back,), not_undone=("R9 is gone",))
    assert message(made, "production")[1:] == [
        "rolled back to R0: verified on 1 of 2 hosts (D2)",
        "  app4 (web) silent: it reported nothing since",
        "  app5 (web) is silent: notified, and not waited for",
        "NOT rolled back: R9 is gone",
        "next: fab production status    which host runs what",
        "      fab production rollback  go back to the release before",
    ]


def test_promotion_that_went_back_says_who_still_has_the_release_and_both_ways_on() -> None:
    back = Outcome(release="R0", deployment="D2", hosts=(GOOD,))
    made = stopped(GOOD, BAD, status=Status.HALTED, undone=(back,), spared=(("web", "app8"),))
    assert message(made, "production")[1:3] == [
        "rolled back to R0: verified on 1 of 1 host (D2)",
        "still on R1: 1 host",
    ]
    assert next_commands(made, "production")[0].command == "fab production promote"


@pytest.mark.parametrize("status", [Status.UNVERIFIED, Status.ROLLING])
def test_interrupted_rollout_is_stopped_and_not_halted(status: Status) -> None:
    made = stopped(GOOD, exit_code=130, status=status)
    assert verdict(made, "production").startswith("STOPPED: R1 was let go on 1 of 2 hosts")
