"""A repository with one file, and a build server that builds it."""

from pathlib import Path

import pytest

from tests.support.stage_server import Repository, Server


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "git" / "shop")
    made.commit({"app.txt": "one\n"})
    return made


@pytest.fixture
def server(tmp_path: Path, repository: Repository) -> Server:
    return Server(tmp_path / "build", str(repository.path))
