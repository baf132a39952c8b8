"""What a machine can't run is left out with a loud line; with CI set that is a failure.

Those of tests/real and tests/faults need the playground's programs. Tests run in processes of their own
(pytest-xdist), and the lines at the end are written by the one above them: the reason travels up.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from deploytool.errors import DeployError
from deploytool.playground import parts
from deploytool.playground.playground import check_namespaces
from tests.faults import table

TESTS = Path(__file__).parent
REAL_PARTS = (TESTS / "real", TESTS / "faults")
#: A large one, which only tests on the real parts need: a C compiler.
LARGE = (parts.ZIG,)
LEFT_OUT = pytest.StashKey[str]()
#: Files that take a minute or more, the longest first. They begin first, so that in the end nobody waits for one alone:
#: a file's tests stay in one process, and share its playground.
LONG = (
    "test_fleet_truth",
    "test_releases",
    "test_host_scripts",
    "test_proof",
    "test_ssh_as_ssh",
    "test_main_job",
    "test_waves",
    "test_trust",
    "test_demo",
    "test_plan",
    "test_check",
    "test_two_products",
    "test_acl",
    "test_app_server",
    "test_operator_hooks",
    "test_dies_later",
    "test_compressor",
    "test_fab_flags",
    "test_linked_paths",
    "test_migrations",
    "test_cache",
    "test_products",
    "test_hostile_input",
    "test_getting_started",
    "test_faults",
    "test_canaries",
    "test_standalone_trees",
    "test_inside",
    "test_host_paths",
    "test_filters",
)


# How long an example takes is no result: machines are busy.
settings.register_profile("deploytool", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("deploytool")

# What this machine lacks of the programs that tests start: the project's own, once they are installed.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(parts.programs_directory())])


def _say(line: str) -> None:
    print(line, flush=True)


def _install_programs(*, large: bool) -> None:
    for name, package in parts.PROGRAMS.items():
        if large or package not in LARGE:
            try:
                parts.find_or_install_program(name, _say)
            except parts.PartMissing as missing:
                # It is missed by few tests, and they fail.
                _say(str(missing))


def _why_not() -> str | None:
    """Why this machine can't have the playground; None if it can."""
    try:
        check_namespaces()
        used = parts.versions(parts.find_or_install(_say))
        _install_programs(large=True)
        print("playground: " + ", ".join(f"{name} ({version})" for name, version in used.items()))
    except DeployError as error:
        return str(error)
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="every fault at every point, not a few (tests/faults)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    needing = [item for item in items if any(directory in item.path.parents for directory in REAL_PARTS)]
    for item in needing:
        item.add_marker("real")
    if config.option.collectonly:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        if not needing:
            _install_programs(large=False)
            return
        reason = _why_not()
    if reason is None:
        return
    config.stash[LEFT_OUT] = f"LEFT OUT: {len(needing)} tests on the real parts. {reason}"
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = config.stash[LEFT_OUT]
    items[:] = [item for item in items if item not in needing]
    config.hook.pytest_deselected(items=needing)


@pytest.fixture(scope="session", autouse=True)
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands remember for completion stays out of the cache of whoever runs the tests; pip's is still used."""
    with pytest.MonkeyPatch.context() as patch:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        patch.setenv("PIP_CACHE_DIR", os.environ.get("PIP_CACHE_DIR") or str(cache / "pip"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """A process of pytest-xdist has ended: what it left out is ours to tell."""
    message = getattr(node, "workeroutput", {}).get("left_out")
    if message is not None:
        node.config.stash[LEFT_OUT] = message  # type: ignore[attr-defined]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(LEFT_OUT, None) is not None and os.environ.get("CI"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--faults"):
        terminalreporter.section("faults")
        terminalreporter.line(table.counts())
        stats = terminalreporter.stats
        ended = {
            how: sum("test_fault[" in each.nodeid for each in stats.get(how, []))
            for how in ("passed", "failed", "error")
        }
        terminalreporter.line("cases that ran: " + ", ".join(f"{count} {how}" for how, count in ended.items()))
    if message := config.stash.get(LEFT_OUT, None):
        terminalreporter.section("LEFT OUT", sep="!", red=True, bold=True)
        terminalreporter.line(message, red=True)
        if os.environ.get("CI"):
            terminalreporter.line("With CI set, none may be left out: this run has failed.", red=True)
