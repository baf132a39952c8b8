"""The playground for integration tests: one for the whole session, gone with it however it ends."""

from collections.abc import Iterator

import pytest

from deploytool.playground import Playground


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A running playground with the sample app's roles. Tied to this process: `kill -9` ends it, too."""
    with Playground(tmp_path_factory.mktemp("playground") / "state") as running:
        yield running
