"""What a worker is given, and what it makes."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploytool.connection.client import Asked, WorkerClient
from deploytool.errors import StepError
from deploytool.playground.playground import Playground
from deploytool.session import RECEIVER
from deploytool.worker.wire import ConsulSettings, StoreSettings
from tests.support.stage_server import GIT


class RawClient(WorkerClient):
    """A worker that is asked in plain JSON, and answers so."""

    def begin(self, do: str, **parameters: Any) -> Asked:
        return self.start(do, dict, **parameters)

    def ask(self, do: str, *, limit_seconds: float | None = None, **parameters: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.begin(do, **parameters).answer(limit_seconds=limit_seconds)
        return answer

    def greet(self, *, store: Mapping[str, Any], consul: Mapping[str, Any], **known: Any) -> dict[str, Any]:
        """Say `hello`; what is not given is as nobody has set it."""
        store = {**dict.fromkeys(StoreSettings._fields), **StoreSettings._field_defaults, **store}
        if store["credentials"] is not None:
            store = {**store, "credentials": {"token": None, **store["credentials"]}}
        consul = {**dict.fromkeys(ConsulSettings._fields), "receiver": list(RECEIVER), **consul}
        greeting = {"read_only": False, "compression": "none", **known, "store": store, "consul": consul}
        return self.ask("hello", greeting=greeting)


def hello(root: Path, store: dict[str, Any]) -> dict[str, Any]:
    return {
        "root": str(root),
        "application": "shop",
        "environment": "production",
        "store": store,
        "consul": {},
        "secrets": [],
        "operator": "me@laptop",
        "purpose": "testing",
        "compression": "none",
    }


def known(packed: Mapping[str, Any]) -> dict[str, Any]:
    """What a record keeps of an archive: `unpack_release` asks for it."""
    return {name: packed[name] for name in ("checksum", "size_bytes", "unpacked_bytes")}


def s3(playground: Playground, prefix: str) -> dict[str, Any]:
    keys = playground.deploy_keys
    return {
        "url": f"s3://{playground.bucket}/{prefix}",
        "endpoint_url": playground.endpoint_url,
        "region": playground.region,
        "credentials": {"access_key": keys.access_key, "secret_key": keys.secret_key},
    }


def unfinished(playground: Playground, prefix: str) -> list[str]:
    client = playground.s3_client()
    found = client.list_multipart_uploads(Bucket=playground.bucket, Prefix=prefix).get("Uploads", [])
    client.close()
    return [upload["Key"] for upload in found]


NO_INDEX = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": os.devnull,
}


def tree(directory: Path) -> Path:
    for name, content in {
        "app/tmp/kept": "deep",
        "app/spec/kept": "deep",
        "tmp/cache": "top",
        "spec/a": "top",
        "log/x.log": "top",
        ".git/config": "git",
        "vendor/lib/.git": "git",
        "a b/$(id)'\"": "strange",
        "README": "hello",
    }.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (directory / "link").symlink_to("README")
    (directory / "run").write_text("#!/bin/sh\n")
    (directory / "run").chmod(0o755)
    return directory


#: What makes a compressor count as installed.
TELLS_VERSION = '[ "$1" != --version ] || { echo 9.9; exit; }\n'


def fake_program(directory: Path, name: str, text: str) -> str:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n" + text)
    (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def run(worker: RawClient, script: str, timeout_seconds: float = 30) -> dict[str, Any]:
    return worker.ask("run", step="try", script=script, timeout_seconds=timeout_seconds)


class Place:
    """A build server's work area: a workspace with a revision in it, and a worker that packs it."""

    def __init__(self, worker: RawClient, root: Path, store: Path) -> None:
        self.worker = worker
        self.workspace = root / "shop/workspace"
        self.workspace.mkdir(parents=True)
        self.store = store
        self.git("init", "--quiet", ".")

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.workspace, env={**os.environ, **GIT}, check=True)

    def put(self, name: str, content: str | bytes = "x\n") -> Path:
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def commit(self) -> None:
        """All that is there so far is the revision; what comes later was made by steps."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", "all")
        (self.workspace / ".git/deploytool-index").write_bytes((self.workspace / ".git/index").read_bytes())

    def publish(self, subdirectory: str = ".", **inspected: Any) -> dict[str, Any]:
        return self.worker.ask(
            "publish_archive",
            directory=os.path.normpath(self.workspace / subdirectory),
            epoch=0,
            key="a.tar",
            **{"exclude": [], "workspace": str(self.workspace), **inspected},
        )

    def refused(self, match: str, subdirectory: str = ".", **inspected: Any) -> StepError:
        with pytest.raises(StepError, match=match) as caught:
            self.publish(subdirectory, **inspected)
        assert caught.value.exit_code == 4
        assert list(self.store.rglob("*.tar")) == []
        return caught.value
