"""All cases with `--faults`, else a few; the counts at the end."""

import os
from collections.abc import Iterator

import pytest

from tests.faults import table
from tests.faults.world import World, own_mounts


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        chosen = table.cases(whole=metafunc.config.getoption("--faults"))
        metafunc.parametrize("case", chosen, ids=str)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    asked_for = os.environ.get("CI") or request.config.getoption("--faults")
    if os.geteuid() != 0 and not asked_for:
        pytest.skip("small disks need root")
    own_mounts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        made = World(tmp_path_factory.mktemp("faults"))
        with made.running():
            yield made
