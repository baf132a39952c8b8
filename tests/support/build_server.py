"""A worker on the playground's build server, and ssh_config files that lead there."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deploytool.connection.boot import start_worker
from deploytool.playground.playground import Playground
from tests.support.worker import RawClient


def build(playground: Playground, **changes: Any) -> Any:
    return SimpleNamespace(
        **{
            "is_local": False,
            "server": playground.build_server,
            "gateway": None,
            "forward_agent": False,
            "transport": "auto",
            "ssh_config": str(playground.ssh_config),
            "root": str(playground.build_root),
            **changes,
        }
    )


def greet(client: RawClient, root: str) -> None:
    """What every session begins with."""
    client.greet(
        root=root,
        application="ssh",
        environment="test",
        store={"url": "file:///nowhere"},
        consul={},
        secrets=[],
        operator="me@laptop",
        purpose="testing",
    )


@contextlib.contextmanager
def worker(settings: Any) -> Iterator[RawClient]:
    channel, read = start_worker(settings)
    client = RawClient(channel, read, settings.server)
    try:
        greet(client, settings.root)
        yield client
    finally:
        client.close()


def echo(client: RawClient, script: str = "echo hello") -> list[str]:
    tail = client.ask("run", step="try", script=script, timeout_seconds=60)["tail"]
    assert isinstance(tail, list)
    return tail


def ssh_config(playground: Playground, directory: Path, change: dict[str, str], more: str = "") -> str:
    """A copy of the playground's ssh_config with some texts replaced."""
    text = playground.ssh_config.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    path = directory / "ssh_config"
    path.write_text(more + text)
    return str(path)
