"""The playground for integration tests: one for the whole session, gone with it however it ends."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.playground.playground import Playground


@pytest.fixture(scope="session", autouse=True)
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands remember for completion stays out of the cache of whoever runs the tests; pip's is still used."""
    with pytest.MonkeyPatch.context() as patch:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        patch.setenv("PIP_CACHE_DIR", os.environ.get("PIP_CACHE_DIR") or str(cache / "pip"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A running playground with the sample app's roles. Tied to this process: `kill -9` ends it, too."""
    with Playground(tmp_path_factory.mktemp("playground") / "state") as running:
        yield running
