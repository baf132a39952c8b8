"""The playground: one for the whole session, gone with it however it ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.playground.playground import Playground
from tests.support.truth import bring_back
from tests.support.waves import Waves, left_as_found


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A running playground with the sample app's roles. Tied to this process: `kill -9` ends it, too."""
    with Playground(tmp_path_factory.mktemp("playground") / "state") as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_stays_stopped(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails between stopping a host and starting it again is one failure, and not one for each after it."""
    shared = request.getfixturevalue("playground") if "playground" in request.fixturenames else None
    yield
    if shared is not None:
        bring_back(shared)


@pytest.fixture
def waves(playground: Playground, tmp_path: Path) -> Iterator[Waves]:
    with left_as_found(playground):
        yield Waves(playground, tmp_path)
