"""Every fault at every point, see table.py, on the real sshd, git, S3 server, Consul and stretcher."""

import contextlib
import signal
import subprocess
import time

import pytest

from tests.faults import invariants, table
from tests.faults.clock import HOUR_SECONDS
from tests.faults.striking import FAULTS
from tests.faults.table import Case
from tests.faults.world import BIG_BYTES, HOSTS, SMALL_BYTES, World
from tests.support.fab import Result

COMMAND = ("playground", "deploy", "--json")
COMMAND_SECONDS = 200
#: It can be counted how many requests they have spoilt.
MET_AT_RELAYS = ("s3_hangs", "s3_500", "s3_503", "s3_403", "consul_403")
#: After these a command still has all that it needs to leave nothing behind.
ORDERLY = ("sigterm", "ctrl_c")


def test_table_is_about_what_there_is() -> None:
    assert set(FAULTS) == set(table.FAULTS) == set(table.EXIT_CODES)
    for exclusion in table.EXCLUSIONS:
        assert set(exclusion.faults) <= set(table.FAULTS)
        assert set(exclusion.points) <= set(table.POINTS)
    assert {case.fault for case in table.cases(whole=True)} == set(table.FAULTS)
    assert {case.point for case in table.cases(whole=True)} == set(table.POINTS)
    assert set(table.SELECTION) <= set(table.cases(whole=True))


def test_clocks_are_wrong_when_they_are_set(world: World) -> None:
    """What the clock's cases rest on."""
    playground = world.playground
    playground.host_clock.set(HOUR_SECONDS)
    playground.clock.set(-HOUR_SECONDS)
    try:
        ssh = ["ssh", "-F", str(playground.ssh_config), "-p", str(playground.ssh.port), playground.ssh_host]
        told = subprocess.run([*ssh, "date +%s"], capture_output=True, text=True, check=True, timeout=30)
        assert int(told.stdout) == pytest.approx(time.time() - HOUR_SECONDS, abs=60)
        for host, ahead in ((HOSTS[0], HOUR_SECONDS), (HOSTS[1], 0)):
            seen = int(playground.run_on_host(host, ["date", "+%s"]).stdout)
            assert seen == pytest.approx(time.time() + ahead, abs=60)
    finally:
        playground.host_clock.set(0)
        playground.clock.set(0)


def struck(world: World, case: Case) -> Result | None:
    """How the command ended that was struck; None if it was killed. All is mended."""
    strike, mend = FAULTS[case.fault]
    world.gates.hold(case.point)
    broken = world.broken()
    fab = world.project.start(*COMMAND)
    try:
        world.until(lambda: world.gates.reached() or fab.poll() is not None, f"{case.point} is reached")
        assert world.gates.reached(), f"ended before {case.point}:\n{''.join(fab.communicate())}"
        with contextlib.ExitStack() as struck:
            struck.callback(mend, world)
            strike(world, fab)
            if case.fault == "sigkill":
                # Whatever was held goes on only once nobody is there any more.
                fab.wait(timeout=30)
            world.gates.open()
            with contextlib.suppress(subprocess.TimeoutExpired):
                fab.communicate(timeout=case.lasts_seconds)
        out, err = fab.communicate(timeout=COMMAND_SECONDS)
    except BaseException:
        world.gates.open()
        fab.kill()
        raise
    assert "Traceback" not in err, err
    if case.fault in MET_AT_RELAYS:
        assert world.broken() > broken, "nobody has met the fault"
    assert fab.returncode in {0, *table.EXIT_CODES[case.fault]} or fab.returncode == -signal.SIGKILL, err
    return None if fab.returncode == -signal.SIGKILL else Result(fab.returncode, out, err)


@pytest.mark.timeout(600)
def test_fault(world: World, case: Case) -> None:
    world.begin_anew()
    before, let_go = world.project.served(), world.let_go()
    revision = world.commit(BIG_BYTES if case.point in table.IN_PARTS else SMALL_BYTES)
    with invariants.Watching(world) as watching:
        first = struck(world, case)
        invariants.hosts_are_quiet(world)
        invariants.exit_code_agrees(world, first, revision, before)
        invariants.nobody_switches_before_go(world, before, let_go)
        invariants.all_hold(world)
        if case.fault in ORDERLY:
            invariants.nothing_is_left(world, journal=False)

        again = world.project.fab(*COMMAND, timeout_seconds=COMMAND_SECONDS)
        assert again.code == 0, f"{case}\n--- first:\n{first}\n--- again:\n{again.out}\n{again.err}"
        invariants.exit_code_agrees(world, again, revision, before)
        invariants.all_hold(world)
        invariants.nothing_is_left(world)
    assert watching.looks
    assert watching.missing == []
    world.is_well = True
