"""A build server whose Python has no boto3: the worker gets it once, or says why it can't."""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.connection.boot import boot, boot_command, worker_archive
from deploytool.connection.channel import LocalChannel
from deploytool.errors import StepError
from deploytool.playground.playground import Application, Playground
from deploytool.worker import pinned
from tests.support.worker import NO_INDEX, RawClient

ENVIRONMENT = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a `python3` that has nothing but the standard library."""
    directory = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    assert subprocess.run([directory / "bin/python3", "-c", "import boto3"], capture_output=True).returncode == 1
    return directory / "bin"


class Greeted(RawClient):
    """A worker, and what it answered when it was greeted."""

    hello: dict[str, Any]


@contextmanager
def worker(playground: Playground, bare: Path, root: Path, variables: dict[str, str]) -> Iterator["Greeted"]:
    archive = worker_archive()
    # The first Python of PATH is the one that is taken on a server.
    words = {**variables, "PATH": f"{bare}:{variables.get('PATH', os.environ['PATH'])}"}
    command = boot_command(str(root), hashlib.sha256(archive).hexdigest(), len(archive))
    channel = LocalChannel(("env", *(f"{name}={value}" for name, value in words.items()), *command))
    build: Any = SimpleNamespace(server="local", root=str(root))
    client = Greeted(channel, boot(channel, build, archive), "local")
    keys = playground.deploy_keys
    store: Any = playground.settings_for(Application("bare", ()), root)["store"]
    try:
        client.hello = client.greet(
            root=str(root),
            application="bare",
            environment="test",
            store={
                **store,
                "credentials": {"access_key": keys.access_key, "secret_key": keys.secret_key, "token": None},
            },
            consul={},
            secrets=[],
            operator="me@laptop",
            purpose="testing",
            compression="gzip",
        )
        yield client
    finally:
        client.close()


def left_in(root: Path) -> set[str]:
    """What lies beside the worker itself."""
    return {path.name for path in (root / ".worker").iterdir() if path.suffix not in (".pyz", ".lock")}


def test_boto3_that_cannot_be_had_has_a_sentence_and_leaves_nothing_half_made(
    playground: Playground, bare: Path, tmp_path: Path
) -> None:
    with (
        worker(playground, bare, tmp_path, NO_INDEX) as client,
        pytest.raises(StepError, match=r"has no boto3, and it can't be installed there: `-m pip install` ended"),
    ):
        client.ask("store_exists", key="releases/x")
    assert left_in(tmp_path) == set()


def test_a_package_index_that_gives_another_file_installs_nothing(
    playground: Playground, bare: Path, tmp_path: Path
) -> None:
    for text, ran in ((pinned.BOTO3, "boto3"), (pinned.ISAL, "isal")):
        for name, version in re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", text):
            ours = name.replace("-", "_")
            info = f"{ours}-{version}.dist-info"
            with zipfile.ZipFile(tmp_path / f"{ours}-{version}-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"{ran}/__init__.py", "raise SystemExit('forged')")
                wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
                wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
                wheel.writestr(f"{info}/RECORD", "")
    root = tmp_path / "root"
    with worker(playground, bare, root, {**NO_INDEX, "PIP_FIND_LINKS": str(tmp_path)}) as client:
        with pytest.raises(StepError, match="it can't be installed there") as refused:
            client.ask("store_exists", key="releases/x")
        assert "HASHES" in "\n".join(refused.value.tail)
        warning = client.ask("install_compressor", again=True)["warning"]
    assert "can't be installed" in warning
    assert not any("isal" in name and "failed" not in name for name in left_in(root))


def test_boto3_is_installed_once_and_a_damaged_installation_is_no_bug(
    playground: Playground, bare: Path, tmp_path: Path
) -> None:
    environment = tmp_path / ".worker" / ENVIRONMENT
    # As cleaners of old files leave it.
    (environment / "lib" / ENVIRONMENT / "site-packages/boto3").mkdir(parents=True)
    with worker(playground, bare, tmp_path, {}) as client:
        assert client.ask("store_exists", key="releases/x") == {"exists": False}
    made = environment.stat().st_ino
    assert left_in(tmp_path) == {ENVIRONMENT}
    # No index is needed any more.
    with worker(playground, bare, tmp_path, NO_INDEX) as client:
        assert client.ask("store_exists", key="releases/x") == {"exists": False}
    assert environment.stat().st_ino == made
    (environment / "lib" / ENVIRONMENT / "site-packages/botocore/session.py").unlink()
    with worker(playground, bare, tmp_path, NO_INDEX) as client, pytest.raises(StepError, match="has no boto3"):
        client.ask("store_exists", key="releases/x")
    assert left_in(tmp_path) == {ENVIRONMENT}


def test_only_the_compressor_is_installed_where_python_has_boto3(playground: Playground, tmp_path: Path) -> None:
    # This one has it.
    with worker(playground, Path(sys.executable).parent, tmp_path, {}) as client:
        client.ask("install_compressor", again=False)
        assert client.ask("store_exists", key="releases/x") == {"exists": False}
    assert [name.partition("-")[0] for name in left_in(tmp_path)] == ["isal"]
