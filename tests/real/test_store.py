"""The store for real: SeaweedFS as S3, spoken to by the worker; nothing half-published, nothing overwritten."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.connection.boot import start_worker
from deploytool.errors import Interrupted, StepError, StoreError
from deploytool.playground.playground import Playground
from deploytool.worker.directory_store import DirectoryStore
from tests.support.worker import RawClient, known

Start = Callable[..., RawClient]
PART_BYTES = 16 << 20


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"store-{tmp_path.name}"


@pytest.fixture
def start(playground: Playground, tmp_path: Path, prefix: str) -> Iterator[Start]:
    """Starts workers on this machine whose store is the playground's S3 server."""
    clients: list[RawClient] = []

    def begin(keys: Any = None, compression: str = "none", **changes: Any) -> RawClient:
        root = str(tmp_path / "root")
        build = SimpleNamespace(is_local=True, root=root, server="local")
        channel, read = start_worker(build)  # type: ignore[arg-type]
        client = RawClient(channel, read, "local")
        clients.append(client)
        keys = keys or playground.deploy_keys
        store = {
            "url": f"s3://{playground.bucket}/{prefix}",
            "endpoint_url": playground.endpoint_url,
            "region": playground.region,
            "credentials": {"access_key": keys.access_key, "secret_key": keys.secret_key},
            **changes,
        }
        client.greet(
            root=root,
            application="shop",
            environment="test",
            store=store,
            consul={},
            secrets=[],
            operator="me@laptop",
            purpose="testing",
            compression=compression,
        )
        return client

    yield begin
    for client in clients:
        client.close()


def uploads(playground: Playground, prefix: str) -> list[str]:
    client = playground.s3_client()
    found = client.list_multipart_uploads(Bucket=playground.bucket, Prefix=prefix).get("Uploads", [])
    client.close()
    return [upload["Key"] for upload in found]


def publish(worker: RawClient, directory: Path, key: str) -> dict[str, Any]:
    return worker.ask("publish_archive", directory=str(directory), exclude=[], epoch=0, key=key)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(os.urandom(3 * PART_BYTES))
    return tmp_path / "tree"


def fake(directory: Path, name: str, text: str) -> str:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n" + text)
    (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_large_archive_comes_back_as_it_was(start: Start, tree: Path) -> None:
    worker = start()
    packed = publish(worker, tree, "a.tar")
    assert packed["size_bytes"] > 3 * PART_BYTES
    found = worker.ask("unpack_release", key="a.tar", compression="none", name="r", **known(packed))
    assert (Path(found["directory"]) / "large").read_bytes() == (tree / "large").read_bytes()


def test_nothing_is_overwritten(start: Start, tree: Path) -> None:
    worker = start()
    assert worker.ask("store_put", entries=[["x/y", "one"], ["x/z", "two"]])["existed"] == []
    assert worker.ask("store_put", entries=[["x/y", "other"]])["existed"] == ["x/y"]
    assert worker.ask("store_get", key="x/y")["content"] == "one"
    assert worker.ask("store_list", prefix="x/")["keys"] == ["x/y", "x/z"]
    assert worker.ask("store_get", key="x/none")["content"] is None
    with pytest.raises(StoreError, match="nothing in it is ever overwritten"):
        publish(worker, tree, "x/y")


def test_tar_that_dies_after_some_parts_leaves_neither_an_object_nor_an_upload(
    start: Start, playground: Playground, prefix: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("tar")
    monkeypatch.setenv("PATH", fake(tmp_path / "bin", "tar", f'"{real}" "$@" | head -c {2 * PART_BYTES}\nexit 2\n'))
    worker = start()
    with pytest.raises(StepError, match="tar ended with exit status 2"):
        publish(worker, tree, "a.tar")
    assert worker.ask("store_list", prefix="")["keys"] == ["application.json"]
    assert uploads(playground, prefix) == []


@pytest.mark.parametrize("how", ["cancelled", "cut off"])
def test_interrupted_upload_leaves_neither_an_object_nor_an_upload(
    how: str,
    start: Start,
    playground: Playground,
    prefix: str,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = shutil.which("tar")
    text = f'"{real}" "$@" | head -c {2 * PART_BYTES}\ntouch "{tmp_path}/begun"\nsleep 60\n'
    monkeypatch.setenv("PATH", fake(tmp_path / "bin", "tar", text))
    worker = start()
    asked = worker.begin("publish_archive", directory=str(tree), exclude=[], epoch=0, key="a.tar")
    deadline = time.monotonic() + 30
    while not ((tmp_path / "begun").exists() and uploads(playground, prefix)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if how == "cancelled":
        worker.ask("cancel")
        with pytest.raises(Interrupted):
            asked.answer()
    else:
        worker.close()
    deadline = time.monotonic() + 15
    while uploads(playground, prefix):
        assert time.monotonic() < deadline, "the upload is still there"
        time.sleep(0.2)
    monkeypatch.undo()
    assert start().ask("store_list", prefix="")["keys"] == ["application.json"]


def test_reader_may_read_and_not_write(start: Start, playground: Playground) -> None:
    start().ask("store_put", entries=[["x", "one"]])
    reader = start(playground.reader_keys)
    assert reader.ask("store_get", key="x")["content"] == "one"
    with pytest.raises(StoreError, match="was refused"):
        reader.ask("store_put", entries=[["y", "two"]])


def test_many_objects_are_read_at_once(start: Start) -> None:
    worker = start()
    entries = [[f"many/{number}", f"content {number}"] for number in range(30)]
    worker.ask("store_put", entries=entries)
    contents = worker.ask("store_read", keys=[*(key for key, _ in entries), "many/none"])["contents"]
    assert contents == {**dict(entries), "many/none": None}


def test_deleting_goes_in_order_and_what_is_gone_is_no_error(start: Start) -> None:
    worker = start()
    worker.ask("store_put", entries=[["x/1", "a"], ["x/2", "b"], ["x/3", "c"]])
    assert worker.ask("store_delete", keys=["x/2", "x/none", "x/2", "x/1"]) == {"deleted": 4}
    assert worker.ask("store_list", prefix="x/")["keys"] == ["x/3"]
    # A name is free again once it is deleted.
    assert worker.ask("store_put", entries=[["x/1", "new"]])["existed"] == []


def test_reader_may_not_delete_and_learns_which_right_is_missing(start: Start, playground: Playground) -> None:
    start().ask("store_put", entries=[["x/1", "a"], ["x/2", "b"]])
    reader = start(playground.reader_keys)
    with pytest.raises(StoreError, match=r"deleting x/1 in .* was refused") as raised:
        reader.ask("store_delete", keys=["x/1", "x/2"])
    assert "s3:DeleteObject" in str(raised.value)
    assert reader.ask("store_list", prefix="x/")["keys"] == ["x/1", "x/2"]


def test_of_very_many_keys_only_the_newest_are_listed(start: Start, playground: Playground, prefix: str) -> None:
    worker = start()
    worker.ask("store_put", entries=[["x/m/1", "marked"], ["x/d/1005.json", "newest"]])
    client = playground.s3_client()
    with ThreadPoolExecutor(8) as writers:
        keys = [f"{prefix}/x/d/{number:04}.json" for number in range(1, 1005)]
        list(writers.map(lambda key: client.put_object(Bucket=playground.bucket, Key=key, Body=b"old"), keys))
    client.close()
    asked: dict[str, Any] = {"prefix": "x/", "patterns": [[r"x/d/(\d+)\.json", 3], [r"x/m/(.+)", None]]}

    answer = worker.ask("store_newest", since=["x/d/1004", "x/d/1000", "x/d/0500"], **asked)
    assert answer["keys"] == [*(f"x/d/{number}.json" for number in range(1000, 1006)), "x/m/1"]
    assert not answer["whole"]
    assert answer["contents"]["x/d/1005.json"] == "newest"
    assert answer["contents"].keys() == {"x/d/1003.json", "x/d/1004.json", "x/d/1005.json", "x/m/1"}

    worker.ask("store_put", entries=[["x/d/1006.json", "newer"], ["x/d/1007.json", "newest"]])
    again = worker.ask("store_newest", since=["x/d/1004"], **asked)
    assert again["keys"] == [*(f"x/d/{number}.json" for number in range(1003, 1008)), "x/m/1"]
    assert again["contents"].keys() == {"x/d/1005.json", "x/d/1006.json", "x/d/1007.json", "x/m/1"}
    assert not again["whole"]
    more = worker.ask("store_newest", since=["x/d/0500"], **{**asked, "patterns": [[r"x/d/(\d+)\.json", 6]]})
    assert more["contents"].keys() == {f"x/d/{number}.json" for number in range(1002, 1008)}
    worker.ask("store_delete", keys=["x/d/1006.json", "x/d/1007.json"])

    worker = start()
    whole = worker.ask("store_newest", since=["x/d/1004"], read=False, **asked)
    assert (len(whole["keys"]), whole["whole"], whole["contents"]) == (1006, True, {})
    assert worker.ask("store_list", prefix="x/", beyond="x/d/1005") == {"keys": ["x/d/1005.json", "x/m/1"]}
    assert worker.ask("store_directories", prefix="x/") == {"names": ["d", "m"]}
    assert worker.ask("store_directories", prefix="y/") == {"names": []}


def test_unreachable_store_is_not_asked_for_every_key(start: Start) -> None:
    begin = time.monotonic()
    with pytest.raises(StoreError, match="can't be reached from the build server"):
        start(endpoint_url="http://127.0.0.1:9").ask("store_read", keys=[f"x/{number}" for number in range(200)])
    assert time.monotonic() - begin < 20


def test_writing_into_a_directory_that_retention_empties_loses_nothing(tmp_path: Path) -> None:
    store = DirectoryStore(f"file://{tmp_path}/store")
    troubles: list[Exception] = []
    ended = threading.Event()

    def sweep() -> None:
        while not ended.is_set():
            try:
                store.delete("a/b/old")
            except Exception as error:
                troubles.append(error)

    sweeping = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in sweeping:
        thread.start()
    try:
        for number in range(200):
            assert store.put_new(f"a/b/{number}", b"x")
            assert store.get(f"a/b/{number}") == b"x"
            store.delete(f"a/b/{number}")
    finally:
        ended.set()
        for thread in sweeping:
            thread.join()
    assert troubles == []


def test_wrong_secret_key_is_refused_without_being_shown(start: Start, playground: Playground) -> None:
    keys = SimpleNamespace(access_key=playground.deploy_keys.access_key, secret_key="wrong-secret-canary")
    with pytest.raises(StoreError, match="was refused") as raised:
        start(keys).ask("store_get", key="x")
    assert "wrong-secret-canary" not in str(raised.value)


def test_unreachable_store_names_it(start: Start) -> None:
    with pytest.raises(StoreError, match=r"http://127\.0\.0\.1:9 can't be reached from the build server"):
        start(endpoint_url="http://127.0.0.1:9").ask("store_get", key="x")


def test_missing_bucket_is_named_once(start: Start) -> None:
    (finding,) = start(url="s3://no-such-bucket/x").ask("check_store")["findings"]
    assert "the bucket no-such-bucket does not exist" in finding["failure"]["message"]


def test_check_tries_every_right_and_leaves_nothing(start: Start) -> None:
    worker = start()
    findings = worker.ask("check_store")["findings"]
    assert [each["name"].rpartition(": ")[2] for each in findings if "found" in each] == [
        *("list", "put", "get", "delete", "uploads in parts", "unfinished uploads")
    ]
    assert worker.ask("store_list", prefix="")["keys"] == []
