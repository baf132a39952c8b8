"""What `fab` imports and reads before it does what it was asked for, and what it tells when that goes wrong."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SHARED = """\
application: shop
repository: /srv/shop.git
deploy_to: /srv/shop
store: {url: s3://bucket/shop}
roles: {web: {hosts: {nodes: [app1]}, restart: "touch {{ release_path }}/restarted"}}
"""

#: Notes the modules that are there when the first thread starts, and at the end.
NOTE = """\
import atexit, json, sys, threading
from pathlib import Path

def note(name):
    if not Path(name).exists():
        Path(name).write_text(json.dumps(sorted(sys.modules)))

start = threading.Thread.start
threading.Thread.start = lambda thread: (note("first_thread"), start(thread))
atexit.register(note, "end")
from deploytool.tasks import namespace
"""

SLOW = {"boto3", "botocore", "jinja2", "rich", "deploytool.state.status", "deploytool.build.build"}


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A build server that listens and is never heard."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture
def project(tmp_path: Path, server: socket.socket) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "fabfile.py").write_text(NOTE)
    (tmp_path / "config/deploy.yml").write_text(SHARED)
    at = f"me@127.0.0.1:{server.getsockname()[1]}"
    (tmp_path / "ssh_config").write_text("")
    (tmp_path / "config/production.yml").write_text(f"build: {{server: {at}, ssh_config: {tmp_path}/ssh_config}}\n")
    (tmp_path / "config/staging.yml").write_text(f"build: {{server: {at}}}\n")
    return tmp_path


def fab(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(Path(sys.executable).parent / "fab"), *arguments],
        cwd=project,
        env={**os.environ, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refuse_connections(server: socket.socket) -> None:
    server.close()


def packages(project: Path, moment: str) -> set[str]:
    return set(json.loads((project / moment).read_text()))


def error_of(result: "subprocess.CompletedProcess[str]") -> Mapping[str, object]:
    error = json.loads(result.stdout)["error"]
    assert isinstance(error, dict)
    return error


def was_called(server: socket.socket) -> bool:
    try:
        connection, _ = server.accept()
    except BlockingIOError:
        return False
    connection.close()
    return True


def test_list_reads_no_settings_and_imports_nothing_that_is_slow(project: Path) -> None:
    (project / "config/production.yml").write_text("[ no settings at all")
    result = fab(project, "--list")
    assert (result.returncode, result.stderr) == (0, "")
    assert "production" in result.stdout
    assert not packages(project, "end") & {*SLOW, "pydantic", "deploytool.settings.load", "deploytool.connection.ssh"}


def test_connection_is_begun_before_anything_is_imported_that_it_does_not_need(
    project: Path, server: socket.socket
) -> None:
    refuse_connections(server)
    assert fab(project, "production", "status").returncode == 5
    assert "deploytool.connection.ssh" in packages(project, "first_thread")
    assert not packages(project, "first_thread") & SLOW
    assert "deploytool.state.status" in packages(project, "end")
    assert not packages(project, "end") & {"boto3", "botocore", "rich"}


@pytest.mark.parametrize(
    ("file", "mistake", "named"),
    [
        ("staging", "keep_releases: 0\n", "config/staging.yml:1: keep_releases"),
        ("staging", "roles: {web: {restart: '{{ relaese }}'}}\n", "config/staging.yml:1: roles.web.restart"),
        ("production", "roles: {web: {restart: '{{ relaese }}'}}\n", "config/production.yml:2: roles.web.restart"),
        ("production", "keep_releases: 0\n", "config/production.yml:2: keep_releases"),
    ],
)
def test_mistake_in_the_settings_is_told_in_place_of_a_server_that_is_down(
    project: Path, server: socket.socket, file: str, mistake: str, named: str
) -> None:
    refuse_connections(server)
    path = project / f"config/{file}.yml"
    path.write_text((path.read_text() if file == "production" else "") + mistake)
    result = fab(project, "production", "deploy", "--json")
    assert result.returncode == 2, result.stderr
    assert error_of(result)["kind"] == "settings"
    assert named in result.stderr
    assert "reached" not in result.stderr


def test_mistake_on_the_command_line_is_told_in_place_of_a_server_that_is_down(
    project: Path, server: socket.socket
) -> None:
    refuse_connections(server)
    result = fab(project, "production", "deploy", "--release", "nonsense", "--json")
    assert (result.returncode, error_of(result)["kind"]) == (2, "usage")


def test_server_is_not_called_with_settings_of_its_own_that_are_wrong(project: Path, server: socket.socket) -> None:
    path = project / "config/production.yml"
    path.write_text(path.read_text() + "keep_releases: 0\n")
    assert fab(project, "production", "status").returncode == 2
    assert not was_called(server)


def test_command_that_needs_no_server_calls_none(project: Path, server: socket.socket) -> None:
    assert fab(project, "production", "settings").returncode == 0
    assert not was_called(server)


def test_server_that_is_down_has_its_sentence_and_its_document(project: Path, server: socket.socket) -> None:
    port = server.getsockname()[1]
    refuse_connections(server)
    result = fab(project, "production", "status", "--json")
    assert (result.returncode, error_of(result)["kind"]) == (5, "connection")
    assert result.stderr.startswith(f"me@127.0.0.1:{port} can't be reached: ")
    assert "Traceback" not in result.stderr
