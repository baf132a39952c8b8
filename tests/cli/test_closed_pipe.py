"""What is printed for a reader that has gone, or with a closed stream: no traceback, and the exit code stays."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.fab import FAB

SETTINGS = """\
application: shop
repository: {at}/none.git
deploy_to: /srv/shop
build: {{server: local, root: {at}/build}}
store: {{url: "file://{at}/store"}}
consul: {{address: "file://{at}/bus"}}
roles: {{web: {{hosts: {{nodes: [app1]}}, restart: "true", verify: {{port: null}}}}}}
"""
DEPLOYTOOL = str(Path(FAB).with_name("deploytool"))
#: command line → its exit code
SHORT = {
    (FAB,): 0,
    (FAB, "--version"): 0,
    (FAB, "--help"): 0,
    (FAB, "--list"): 0,
    (FAB, "--list", "--list-format", "json"): 0,
    (FAB, "--print-completion-script", "bash"): 0,
    (FAB, "--complete", "--", "fab", ""): 0,
    (FAB, "deploy", "--help"): 0,
    (FAB, "local", "settings"): 0,
    (FAB, "local", "settings", "--json"): 0,
    (FAB, "local", "status", "--json"): 0,
    (FAB, "local", "rollback", "--json"): 2,
    (FAB, "local", "nonsense"): 2,
    (DEPLOYTOOL, "completion", "bash"): 0,
    (DEPLOYTOOL, "init", "--help"): 0,
    (DEPLOYTOOL, "nonsense"): 2,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("project")
    (at / "config").mkdir()
    (at / "fabfile.py").write_text("from deploytool.tasks import namespace\n")
    (at / "config/deploy.yml").write_text(SETTINGS.format(at=at))
    (at / "config/local.yml").write_text("{}\n")
    return at


def run(project: Path, *argv: str, **streams: int) -> "subprocess.CompletedProcess[bytes]":
    chosen = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(argv, cwd=project, timeout=60, **chosen)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def gone() -> "int":
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("argv", SHORT, ids=lambda argv: " ".join([Path(argv[0]).name, *argv[1:]]))
def test_reader_that_has_gone_changes_nothing_and_causes_no_traceback(
    project: Path, gone: int, argv: tuple[str, ...]
) -> None:
    try:
        without_stdout = run(project, *argv, stdout=gone)
        without_stderr = run(project, *argv, stderr=gone)
    finally:
        os.close(gone)
    for done, text in ((without_stdout, without_stdout.stderr), (without_stderr, without_stderr.stdout)):
        assert done.returncode == SHORT[argv], text.decode()
        assert b"Traceback" not in text
        assert b"Exception ignored" not in text


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("argv", [("local", "settings"), ("local", "rollback", "--json"), ("--version",)])
def test_closed_stream_changes_nothing(project: Path, argv: tuple[str, ...], closed: str) -> None:
    done = run(project, "sh", "-c", f'exec "$@" {closed}', "sh", FAB, *argv)
    assert done.returncode == SHORT[FAB, *argv], done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_unbuffered_output_is_whole(project: Path) -> None:
    command = [sys.executable, "-u", FAB, "--list"]
    assert run(project, *command).stdout == run(project, FAB, "--list").stdout


def test_version_names_deploytool_first(project: Path) -> None:
    lines = run(project, FAB, "--version").stdout.decode().splitlines()
    assert lines[0] == f"deploytool {version('deploytool')}"
    assert [line.split()[0] for line in lines[1:]] == ["Fabric", "Paramiko", "Invoke"]


def test_fab_alone_shows_the_list(project: Path) -> None:
    alone = run(project, FAB)
    assert (alone.returncode, alone.stdout) == (0, run(project, FAB, "--list").stdout)
    assert b"--command-timeout" not in alone.stdout
    assert alone.stdout.decode().splitlines()[-1].endswith("Help on fab's own flags: fab --help")


def test_help_says_which_flags_are_for_deploytool(project: Path) -> None:
    shown = run(project, FAB, "--help").stdout.decode()
    assert shown.startswith("Usage: fab ")
    assert "With the commands of deploytool:" in shown


@pytest.mark.parametrize(
    "fabfile", ["import invoke\n\n@invoke.task\ndef own(context):\n    ...\n", "raise OSError\n", None]
)
def test_other_fabfiles_have_fabrics_own_help(tmp_path: Path, fabfile: str | None) -> None:
    if fabfile is not None:
        (tmp_path / "fabfile.py").write_text(fabfile)
    done = run(tmp_path, FAB, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(b"Usage: fab ")
    assert b"deploytool" not in done.stdout
