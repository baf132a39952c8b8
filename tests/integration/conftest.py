"""The playground for integration tests: one for the whole session, gone with it however it ends.

On a machine that can't have the programs, these tests are left out with a loud line; with CI set that is a failure.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.errors import DeployError
from deploytool.playground import Playground, parts
from deploytool.playground.playground import check_namespaces

HERE = Path(__file__).parent
LEFT_OUT = pytest.StashKey[str]()


def _why_not(config: pytest.Config) -> str | None:
    """Why this machine can't have the playground; None if it can."""
    capture = config.pluginmanager.getplugin("capturemanager")
    try:
        check_namespaces()
        with capture.global_and_fixture_disabled():
            used = parts.versions(parts.find_or_install(lambda line: print(line, flush=True)))
            print("playground: " + ", ".join(f"{name} ({version})" for name, version in used.items()))
    except DeployError as error:
        return str(error)
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    needing = [item for item in items if HERE in item.path.parents]
    for item in needing:
        item.add_marker("integration")
    if not needing or config.option.collectonly:
        return
    reason = _why_not(config)
    if reason is None:
        return
    message = f"LEFT OUT: {len(needing)} integration tests. {reason}"
    if os.environ.get("CI"):
        raise pytest.UsageError(f"{message}\nWith CI set, none may be left out.")
    config.stash[LEFT_OUT] = message
    items[:] = [item for item in items if item not in needing]
    config.hook.pytest_deselected(items=needing)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if message := config.stash.get(LEFT_OUT, None):
        terminalreporter.section("LEFT OUT", sep="!", red=True, bold=True)
        terminalreporter.line(message, red=True)


@pytest.fixture(scope="session")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A running playground with the sample app's roles. Tied to this process: `kill -9` ends it, too."""
    with Playground(tmp_path_factory.mktemp("playground") / "state") as running:
        yield running
