"""The worker's own compressor: the same bytes on every build server, whatever its Python and its PATH have."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from deploytool.connection.boot import boot, boot_command, worker_archive
from deploytool.connection.channel import LocalChannel
from deploytool.errors import Interrupted
from deploytool.worker import own_isal
from deploytool.worker.own_isal import RETRY_SECONDS, OwnIsal
from deploytool.worker.processes import Groups
from tests.support.waiting import until
from tests.support.worker import NO_INDEX, TELLS_VERSION, RawClient, fake_program, tree

OWN = OwnIsal("/nowhere")
NAME = f"python-isal {OWN.version}"
DIRECTORY = os.path.basename(OWN.directory)
#: Nobody listens there.
NOWHERE = {**NO_INDEX, "PIP_NO_INDEX": "0"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a `python3` that has neither pip nor any package."""
    directory = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    return directory / "bin"


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a `python3` that has pip, boto3 and another isal."""
    directory = tmp_path_factory.mktemp("furnished")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [str(directory / "bin/python"), "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    subprocess.run([*pip, "isal<" + OWN.version, "boto3"], check=True)
    return directory / "bin"


class Greeted(RawClient):
    """A worker, and what it answered when it was greeted."""

    hello: dict[str, Any]

    @property
    def compressor(self) -> dict[str, Any]:
        found = self.hello["compressor"]
        assert isinstance(found, dict)
        return found

    def install(self, *, again: bool = False) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("install_compressor", again=again)
        return answer


@contextmanager
def worker(
    python: Path, root: Path, variables: dict[str, str] | None = None, *, read_only: bool = False
) -> Iterator["Greeted"]:
    """A worker that is run by the `python3` of that directory, with a store beside its root."""
    archive = worker_archive()
    words = {**(variables or {})}
    words["PATH"] = f"{python}:{words.get('PATH', os.environ['PATH'])}"
    command = boot_command(str(root), hashlib.sha256(archive).hexdigest(), len(archive), read_only=read_only)
    channel = LocalChannel(("env", *(f"{name}={value}" for name, value in words.items()), *command))
    build: Any = SimpleNamespace(server="local", root=str(root))
    client = Greeted(channel, boot(channel, build, archive), "local")
    try:
        client.hello = client.greet(
            root=str(root),
            application="shop",
            environment="test",
            store={"url": f"file://{root}-store"},
            consul={},
            secrets=["a-token-of-the-index"],
            operator="me@laptop",
            purpose="testing",
            compression="gzip",
            read_only=read_only,
        )
        yield client
    finally:
        client.close()


def packed(client: RawClient, directory: Path) -> str:
    answer = client.ask("publish_archive", directory=str(directory), exclude=[], epoch=0, key="a.tar.gz")
    checksum = answer["checksum"]
    assert isinstance(checksum, str)
    return checksum


def installed(root: Path) -> set[str]:
    """What lies beside the worker itself, and is neither a lock nor a record of a failure."""
    return {path.name for path in (root / ".worker").iterdir() if path.suffix not in (".pyz", ".lock", ".failed")}


def test_build_servers_with_other_programs_and_packages_give_the_same_bytes(
    bare: Path, furnished: Path, tmp_path: Path
) -> None:
    words = tree(tmp_path / "tree")
    (words / "large").write_text("".join(f"{number} is {number * number:x};" for number in range(200_000)))
    igzip = fake_program(tmp_path / "bin", "igzip", f"{TELLS_VERSION}echo quicker\n")
    others = {"PATH": f"{tmp_path / 'bin'}:{fake_program(tmp_path / 'bin', 'pigz', TELLS_VERSION)}"}
    assert igzip in others["PATH"]
    found = set()
    for name, python, variables in (("one", bare, {}), ("two", furnished, others), ("three", furnished, {})):
        with worker(python, tmp_path / name, variables) as client:
            assert client.compressor == {"name": NAME, "ready": False, "warning": None}
            assert client.install() == {"name": NAME, "ready": True, "warning": None}
            found.add(packed(client, words))
        # Nothing else was installed: a store in a directory needs no boto3.
        assert installed(tmp_path / name) == {DIRECTORY}
    assert len(found) == 1


def test_compressor_is_installed_once_and_then_needs_no_index(furnished: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with worker(furnished, root) as client:
        client.install()
    made = (root / ".worker" / DIRECTORY).stat().st_ino
    with worker(furnished, root, NO_INDEX) as client:
        assert client.compressor == {"name": NAME, "ready": True, "warning": None}
        packed(client, tree(tmp_path / "tree"))
    assert (root / ".worker" / DIRECTORY).stat().st_ino == made


def test_two_workers_at_once_install_it_once(furnished: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with worker(furnished, root) as one, worker(furnished, root) as two:
        asked = [each.begin("install_compressor", again=False) for each in (one, two)]
        assert [each.answer()["name"] for each in asked] == [NAME, NAME]
    assert installed(root) == {DIRECTORY}


@pytest.mark.parametrize("left", ["isal/igzip_threaded.py", "installed.json"])
def test_compressor_that_a_cleaner_of_old_files_took_is_installed_again(
    left: str, furnished: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    with worker(furnished, root) as client:
        client.install()
    (root / ".worker" / DIRECTORY / left).unlink()
    with worker(furnished, root) as client:
        assert not client.compressor["ready"]
        assert client.install()["ready"]
        packed(client, tree(tmp_path / "tree"))
    assert installed(root) == {DIRECTORY}


def test_environment_of_the_version_before_stays_and_its_isal_is_not_used(furnished: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    before = root / ".worker" / version / "lib" / version / "site-packages"
    for name in ("boto3", "isal"):
        (before / name).mkdir(parents=True)
        (before / name / "__init__.py").write_text("raise SystemExit('this one is used')\n")
    with worker(furnished, root) as client:
        assert client.install()["name"] == NAME
        packed(client, tree(tmp_path / "tree"))
    assert installed(root) == {DIRECTORY, version}
    assert (before / "boto3/__init__.py").exists()


@pytest.mark.parametrize("index", [NO_INDEX, NOWHERE], ids=["none", "unreachable"])
def test_index_that_cannot_be_reached_is_said_and_costs_no_second_deploy_its_time(
    index: dict[str, str], bare: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    with worker(bare, root, index) as client:
        first = client.install()
        packed(client, tree(tmp_path / "tree"))
    assert first["ready"]
    assert first["name"].partition(" ")[0] in ("igzip", "pigz", "gzip")
    for words in (
        f"because python-isal {OWN.version} can't be installed for {bare}/python3",
        "other bytes",
        "`fab ENV check`",
    ):
        assert words in first["warning"]
    assert installed(root) == set()
    # The index is there again, which nobody looks at for an hour,
    with worker(bare, root) as client:
        assert client.compressor == client.install() == first
        # but for `check`.
        assert client.install(again=True) == {"name": NAME, "ready": True, "warning": None}
    with worker(bare, root, index) as client:
        assert client.compressor["name"] == NAME


def test_failure_is_tried_again_after_an_hour(furnished: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with worker(furnished, root, NO_INDEX) as client:
        client.install()
    record = root / ".worker" / f"{DIRECTORY}.failed"
    said = json.loads(record.read_text())
    for moment in (time.time() - RETRY_SECONDS - 1, time.time() + 86400):
        record.write_text(json.dumps({**said, "at": moment}))
        with worker(furnished, root, NO_INDEX) as client:
            assert client.compressor == {"name": NAME, "ready": False, "warning": None}
    record.write_text("half a rec")
    with worker(furnished, root) as client:
        assert client.install()["name"] == NAME


def test_python_without_pip_and_ensurepip_falls_back_and_says_so_at_once(bare: Path, tmp_path: Path) -> None:
    # As Debian's without python3-venv: modules that can't be found.
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "real = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *more: None if name in ('pip', 'ensurepip') else real(name, *more)\n"
    )
    root = tmp_path / "root"
    without = {"PYTHONPATH": str(tmp_path / "modules")}
    with worker(bare, root, without) as client:
        assert client.compressor["ready"]
        assert "it has neither pip nor ensurepip" in client.compressor["warning"]
        assert client.install(again=True) == client.compressor
        packed(client, tree(tmp_path / "tree"))
    # It is nothing to remember: the next one sees what was installed meanwhile.
    assert list((root / ".worker").glob("*.failed")) == []


def test_environment_that_cannot_be_made_falls_back_and_says_so(furnished: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with worker(furnished, root) as client:
        (root / ".worker" / f"{DIRECTORY}.lock").mkdir()
        assert "Is a directory" in client.install()["warning"]
        packed(client, tree(tmp_path / "tree"))


def test_worker_that_writes_nothing_names_the_compressor_of_a_build(furnished: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with worker(furnished, root, read_only=True) as client:
        assert client.compressor == {"name": NAME, "ready": False, "warning": None}
    assert not root.exists()
    with worker(furnished, root, NO_INDEX) as client:
        warning = client.install()["warning"]
    before = {path.name: path.stat().st_mtime_ns for path in (root / ".worker").iterdir()}
    with worker(furnished, root, read_only=True) as client:
        assert client.compressor["warning"] == warning
    assert {path.name: path.stat().st_mtime_ns for path in (root / ".worker").iterdir()} == before


def test_greeting_starts_no_process_and_imports_nothing_of_it(furnished: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with worker(furnished, root) as client:
        client.install()
    # Whoever starts a program now leaves a trace.
    path = tmp_path / "bin"
    for name in ("igzip", "pigz", "gzip"):
        fake_program(path, name, f"touch {tmp_path}/started\n{TELLS_VERSION}")
    with worker(furnished, root, {"PATH": f"{path}:{os.environ['PATH']}"}) as client:
        assert client.compressor["ready"]
        maps = Path(f"/proc/{client.hello['pid']}/maps").read_text()
    assert not (tmp_path / "started").exists()
    assert "isal" not in maps


def test_installing_is_ended_by_ctrl_c_and_leaves_nothing_half_made(bare: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    # An index that takes every connection, and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = {**NO_INDEX, "PIP_NO_INDEX": "0", "PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/"}
        with worker(bare, root, index) as client:
            asked = client.begin("install_compressor", again=False)
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                pips = [each for each in psutil.Process(client.hello["pid"]).children() if "pip" in each.cmdline()]
                assert len(pips) == 1
                client.ask("cancel")
                with pytest.raises(Interrupted):
                    asked.answer()
                until(lambda: not pips[0].is_running() or pips[0].status() == psutil.STATUS_ZOMBIE)
    assert installed(root) == set()
    assert list((root / ".worker").glob("*.failed")) == []


def test_index_that_never_answers_is_given_up_within_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python3"
    program.write_text("#!/bin/sh\nsleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(own_isal, "LIMIT_SECONDS", 1.0)
    monkeypatch.setattr(sys, "executable", str(program))
    started: list[list[Any]] = []
    own = OwnIsal(str(tmp_path))
    why = own.install(Groups(started.append), again=False, mask=str)
    assert why is not None
    assert "did not end within 1 s" in why
    (group,) = {pid for pairs in started for pid, _ in pairs}
    assert not psutil.pid_exists(group)
    assert own.refusal() == why


def python_with_pip(python: Path, directory: Path, program: str) -> Path:
    """The directory of a `python3` whose pip is this program."""
    shutil.copytree(python.parent, directory / "python", symlinks=True)
    pip = next((directory / "python/lib").glob("python*/site-packages")) / "pip"
    pip.mkdir()
    (pip / "__init__.py").touch()
    (pip / "__main__.py").write_text(program)
    return directory / "python/bin"


def test_what_an_index_asks_for_is_masked_in_the_sentence(bare: Path, tmp_path: Path) -> None:
    fake = python_with_pip(bare, tmp_path, "import sys\nsys.exit('ERROR: no access with a-token-of-the-index')\n")
    root = tmp_path / "root"
    with worker(fake, root) as client:
        assert "ERROR: no access with ***)" in client.install()["warning"]
    assert "a-token-of-the-index" not in (root / ".worker" / f"{DIRECTORY}.failed").read_text()


def test_compressor_that_does_not_run_on_this_machine_is_not_used(bare: Path, tmp_path: Path) -> None:
    fake = python_with_pip(
        bare,
        tmp_path,
        "import os, sys\n"
        "module = os.path.join(sys.argv[sys.argv.index('--target') + 1], 'isal')\n"
        "os.makedirs(module)\n"
        "with open(os.path.join(module, '__init__.py'), 'w') as file:\n"
        "    file.write('raise OSError(\"built for another processor\")')\n",
    )
    root = tmp_path / "root"
    with worker(fake, root) as client:
        found = client.install()
        assert "exit status 1: OSError: built for another processor" in found["warning"]
        packed(client, tree(tmp_path / "tree"))
    assert installed(root) == set()
    with worker(fake, root) as client:
        assert client.compressor == found
