"""Every fault at every point, see table.py, on the real sshd, git, S3 server, Consul and stretcher."""

import signal

import pytest

from tests.faults import invariants, table
from tests.faults.striking import FAULTS
from tests.faults.table import Case
from tests.faults.world import World
from tests.integration.project import Result

COMMAND = ("playground", "deploy", "--json")
COMMAND_SECONDS = 200


def test_table_is_about_what_there_is() -> None:
    assert set(FAULTS) == set(table.FAULTS)
    for exclusion in table.EXCLUSIONS:
        assert set(exclusion.faults) <= set(table.FAULTS)
        assert set(exclusion.points) <= set(table.POINTS)
    assert {case.fault for case in table.cases(whole=True)} == set(table.FAULTS)
    assert {case.point for case in table.cases(whole=True)} == set(table.POINTS)
    assert set(table.SELECTION) <= set(table.cases(whole=True))


@pytest.mark.timeout(600)
def test_fault(world: World, case: Case) -> None:
    strike, mend = FAULTS[case.fault]
    before, revision = world.project.served(), world.commit()
    with invariants.Watching(world) as watching:
        world.gates.hold(case.point)
        fab = world.project.start(*COMMAND)
        try:
            world.until(lambda: world.gates.reached() or fab.poll() is not None, f"{case.point} is reached")
            assert world.gates.reached(), f"ended before {case.point}:\n{''.join(fab.communicate())}"
            strike(world, fab)
            try:
                if case.fault == "sigkill":
                    # Whatever was held goes on only once nobody is there any more.
                    fab.wait(timeout=30)
                world.gates.open()
                out, err = fab.communicate(timeout=COMMAND_SECONDS)
            finally:
                mend(world)
        except BaseException:
            world.gates.open()
            fab.kill()
            raise
        assert "Traceback" not in err, err
        assert fab.returncode != 1, err
        result = None if fab.returncode == -signal.SIGKILL else Result(fab.returncode, out, err)
        invariants.hosts_are_quiet(world)
        invariants.exit_code_agrees(world, result, revision, before)
        invariants.all_hold(world)

        again = world.project.fab(*COMMAND, timeout_seconds=COMMAND_SECONDS)
        assert again.code == 0, f"{case}\n--- first:\n{out}\n{err}\n--- again:\n{again.out}\n{again.err}"
        invariants.exit_code_agrees(world, again, revision, before)
        invariants.all_hold(world)
        with invariants.Store(world) as store:
            invariants.nothing_is_left(world, store)
    assert watching.looks
    assert watching.missing == []
