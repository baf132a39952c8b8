"""An archive on its way: packed, hashed and uploaded in one pass, whatever happens to parts, line or worker."""

import hashlib
import http.client
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from deploytool.connection.boot import start_worker
from deploytool.errors import StepError, StoreError
from deploytool.playground.parts import PROGRAMS, find_or_install_program
from deploytool.playground.playground import Playground
from deploytool.worker import compressors, multipart
from deploytool.worker.directory_store import DirectoryStore
from deploytool.worker.own_isal import OwnIsal
from deploytool.worker.processes import Groups
from deploytool.worker.s3_store import S3Store
from deploytool.worker.wire import Credentials, StoreSettings
from tests.support.http import serving, url_of
from tests.support.waiting import until
from tests.support.worker import Place, RawClient, hello, s3, unfinished

Start = Callable[..., RawClient]
PARTS = 5


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"upload-{tmp_path.name}"


@pytest.fixture
def start(playground: Playground, tmp_path: Path, prefix: str) -> Iterator[Start]:
    """Starts workers on this machine whose store is the playground's S3 server, or one that is named."""
    clients: list[RawClient] = []

    def begin(**store: Any) -> RawClient:
        root = str(tmp_path / "root")
        channel, read = start_worker(SimpleNamespace(is_local=True, root=root, server="local"))  # type: ignore[arg-type]
        client = RawClient(channel, read, "local")
        clients.append(client)
        client.greet(
            root=root,
            application="shop",
            environment="test",
            store={**s3(playground, prefix), **store},
            consul={},
            secrets=[],
            operator="me@laptop",
            purpose="testing",
            compression="none",
        )
        return client

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(os.urandom(PARTS * multipart.PART_BYTES - (1 << 20)))
    return tmp_path / "tree"


def publish(worker: RawClient, directory: Path, key: str = "releases/r/a.tar") -> dict[str, Any]:
    return worker.ask("publish_archive", directory=str(directory), exclude=[], epoch=0, key=key)


def stored(playground: Playground, prefix: str, key: str = "releases/r/a.tar") -> tuple[str, int]:
    """sha256 and size of what is in the store."""
    client = playground.s3_client()
    body = client.get_object(Bucket=playground.bucket, Key=f"{prefix}/{key}")["Body"]
    digest, size = hashlib.sha256(), 0
    while data := body.read(1 << 20):
        digest.update(data)
        size += len(data)
    client.close()
    return digest.hexdigest(), size


def tar_that_stops(directory: Path, monkeypatch: pytest.MonkeyPatch, bytes_first: int) -> Path:
    """The real tar, but it stops after so many bytes until the file that is returned appears."""
    go_on, real = directory / "go_on", shutil.which("tar")
    (directory / "bin").mkdir()
    script = directory / "bin/tar"
    wait = f'while [ ! -e "{go_on}" ]; do sleep 0.05; done'
    script.write_text(f'#!/bin/bash\n"{real}" "$@" | {{ head -c {bytes_first}; {wait}; cat; }}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}/bin:{os.environ['PATH']}")
    return go_on


# --- a line that is not what it should be


class Proxy:
    """Stands before the real S3 server. `spoil(request line)` says what becomes of a request."""

    def __init__(self, endpoint_url: str, spoil: Callable[[str], str]) -> None:
        self.seen: list[str] = []
        proxy, target = self, urlsplit(endpoint_url)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                line = f"{self.command} {self.path}"
                proxy.seen.append(line)
                what = spoil(line)
                if what == "cut":
                    self.close_connection = True
                    return
                if what.isdigit():
                    self.send_response(int(what))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(str(target.hostname), target.port)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() != "expect":
                        connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if what == "lose the answer":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        self.handler = Handler
        self.url = ""


@contextmanager
def proxy_before(endpoint_url: str, spoil: Callable[[str], str]) -> Iterator[Proxy]:
    proxy = Proxy(endpoint_url, spoil)
    with serving(proxy.handler) as server:
        proxy.url = url_of(server)
        yield proxy


def once(part: str, what: str) -> Callable[[str], str]:
    """Spoils the first request whose line holds `part`."""
    guard, left = threading.Lock(), [what]

    def spoil(line: str) -> str:
        with guard:
            return left.pop() if part in line and left else "pass"

    return spoil


@pytest.mark.parametrize("what", ["503", "500", "cut", "lose the answer"])
def test_part_that_fails_once_is_sent_again(
    start: Start, playground: Playground, prefix: str, tree: Path, what: str
) -> None:
    with proxy_before(playground.endpoint_url, once("partNumber=2&", what)) as proxy:
        packed = publish(start(endpoint_url=proxy.url), tree)
        assert sum("partNumber=2&" in line for line in proxy.seen) == 2
    assert stored(playground, prefix) == (packed["checksum"], packed["size_bytes"])
    assert unfinished(playground, prefix) == []


@pytest.mark.parametrize("size_bytes", [1000, 2 * multipart.PART_BYTES])
def test_last_answer_that_gets_lost_is_no_failure(
    start: Start, playground: Playground, prefix: str, tmp_path: Path, size_bytes: int
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(size_bytes))
    last = "PUT /" if size_bytes == 1000 else "POST /"
    method = once(last, "lose the answer") if size_bytes == 1000 else once("?uploadId=", "lose the answer")
    with proxy_before(playground.endpoint_url, method) as proxy:
        packed = publish(start(endpoint_url=proxy.url), tmp_path / "tree")
        assert sum(line.startswith(last) for line in proxy.seen) >= 2
    assert stored(playground, prefix) == (packed["checksum"], packed["size_bytes"])


def test_part_that_never_gets_through_leaves_neither_an_object_nor_an_upload(
    start: Start, playground: Playground, prefix: str, tree: Path
) -> None:
    def spoil(line: str) -> str:
        return "503" if "partNumber=3&" in line else "pass"

    with proxy_before(playground.endpoint_url, spoil) as proxy:
        worker = start(endpoint_url=proxy.url)
        with pytest.raises(StoreError, match=r"uploading releases/r/a\.tar in .* failed"):
            publish(worker, tree)
    assert start().ask("store_list", prefix="")["keys"] == ["application.json"]
    assert unfinished(playground, prefix) == []


def test_small_archive_is_one_request(start: Start, playground: Playground, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("small")
    with proxy_before(playground.endpoint_url, lambda line: "pass") as proxy:
        worker = start(endpoint_url=proxy.url)
        # Whose the store is has been seen to by then.
        worker.ask("store_put", entries=[["any", "thing"]])
        proxy.seen.clear()
        publish(worker, tmp_path / "tree")
        assert [line.split(" ")[0] for line in proxy.seen] == ["HEAD", "PUT"]


def test_parts_go_up_while_later_ones_are_still_being_packed(
    start: Start, playground: Playground, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = tar_that_stops(tmp_path, monkeypatch, 3 * multipart.PART_BYTES)
    with proxy_before(playground.endpoint_url, lambda line: "pass") as proxy:
        worker = start(endpoint_url=proxy.url)
        with ThreadPoolExecutor(1) as pool:
            packed = pool.submit(publish, worker, tree)
            try:
                until(lambda: sum("partNumber=" in line for line in proxy.seen) >= 2)
                assert not packed.done()
            finally:
                go_on.touch()
            assert packed.result()["size_bytes"] > (PARTS - 1) * multipart.PART_BYTES


# --- nothing is overwritten, nothing is left


def test_object_that_appears_meanwhile_is_not_overwritten(
    start: Start,
    playground: Playground,
    prefix: str,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = tar_that_stops(tmp_path, monkeypatch, 2 * multipart.PART_BYTES)
    worker = start()
    with ThreadPoolExecutor(1) as pool:
        packed = pool.submit(publish, worker, tree)
        until(lambda: unfinished(playground, prefix))
        assert start().ask("store_put", entries=[["releases/r/a.tar", "another's"]])["existed"] == []
        go_on.touch()
        with pytest.raises(StoreError, match="nothing in it is ever overwritten"):
            packed.result()
    assert worker.ask("store_get", key="releases/r/a.tar")["content"] == "another's"
    assert unfinished(playground, prefix) == []


@pytest.mark.parametrize("kind", ["S3", "directory"])
def test_next_publish_removes_what_a_killed_worker_left(
    kind: str,
    start: Start,
    playground: Playground,
    prefix: str,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def left() -> list[str]:
        if kind == "S3":
            return unfinished(playground, prefix)
        return [str(path) for path in (tmp_path / "store").rglob(".part-*") if path.stat().st_size > 0]

    store = {"url": f"file://{tmp_path}/store"} if kind == "directory" else {}
    tar_that_stops(tmp_path, monkeypatch, 2 * multipart.PART_BYTES)
    worker = start(**store)
    worker.ask("lock", name="workspace", wait=False)
    pid = worker.ask("lock_holder", name="workspace")["holder"]["pid"]
    worker.begin("publish_archive", directory=str(tree), exclude=[], epoch=0, key="releases/r/a.tar")
    until(lambda: left() and list((tmp_path / "root/shop/uploads").glob("*.json")))
    # Somebody else's, who is at it, stays.
    other = start(**store)
    (tmp_path / "small").mkdir()
    monkeypatch.undo()
    publish(start(**store), tmp_path / "small", "releases/s/a.tar")
    assert left() != []
    psutil.Process(pid).kill()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert left() != []
    other.ask("lock", name="workspace", wait=False)
    publish(start(**store), tmp_path / "small", "releases/t/a.tar")
    assert left() == []
    assert list((tmp_path / "root/shop/uploads").iterdir()) == []


def test_old_unfinished_uploads_are_removed_and_young_ones_stay(
    start: Start, playground: Playground, prefix: str, tmp_path: Path
) -> None:
    client = playground.s3_client()
    for name in ("releases/r/a.tar", "elsewhere/a"):
        client.create_multipart_upload(Bucket=playground.bucket, Key=f"{prefix}/{name}")
    client.close()
    assert start().ask("prune_uploads") == {"removed": [], "trouble": None}
    assert len(unfinished(playground, prefix)) == 2
    keys = playground.deploy_keys
    own = {**s3(playground, prefix), "credentials": Credentials(keys.access_key, keys.secret_key, None)}
    store = S3Store(StoreSettings(**own), str(tmp_path), Groups(lambda groups: None), read_only=True)
    assert store.remove_unfinished("releases/", time.time() + 60) == ["releases/r/a.tar"]
    assert unfinished(playground, prefix) == [f"{prefix}/elsewhere/a"]


def test_old_leftovers_of_a_directory_are_removed_and_young_ones_stay(tmp_path: Path) -> None:
    for name in ("releases/r/.part-old", "releases/s/.part-young", "releases/s/a.tar", "elsewhere/.part-old"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1000, 1000) if name.endswith("old") else None)
    removed = DirectoryStore(f"file://{tmp_path}").remove_unfinished("releases/", time.time() - 3600)
    assert removed == ["releases/r/.part-old"]
    assert sorted(path.name for path in (tmp_path / "releases").rglob("*")) == [".part-young", "a.tar", "s"]
    assert (tmp_path / "elsewhere/.part-old").exists()


def test_missing_right_to_remove_unfinished_uploads_is_told_and_no_failure(
    start: Start, playground: Playground
) -> None:
    keys = SimpleNamespace(access_key=playground.deploy_keys.access_key, secret_key="wrong-secret-canary")
    credentials = {"access_key": keys.access_key, "secret_key": keys.secret_key}
    answer = start(credentials=credentials).ask("prune_uploads")
    assert answer["removed"] == []
    assert "was refused" in answer["trouble"]


# --- how much it takes


def test_worker_stays_small_with_a_large_tree_of_many_files(
    start: Start, playground: Playground, prefix: str, tmp_path: Path
) -> None:
    for number in range(20_000):
        if number % 500 == 0:
            (tmp_path / f"tree/{number // 500}").mkdir(parents=True)
        (tmp_path / f"tree/{number // 500}/{number}").touch()
    with (tmp_path / "tree/large").open("wb") as file:
        file.truncate(500_000_000)
    worker = start()
    worker.ask("lock", name="test", wait=False)
    pid = worker.ask("lock_holder", name="test")["holder"]["pid"]
    packed = publish(worker, tmp_path / "tree")
    assert packed["unpacked_bytes"] == packed["size_bytes"] > 510_000_000
    status = Path(f"/proc/{pid}/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    assert peak_kib < 150 * 1024
    assert stored(playground, prefix) == (packed["checksum"], packed["size_bytes"])
    worker.ask("store_delete", keys=["releases/r/a.tar"])


# --- equal bytes

COMPRESSION = {"igzip": "gzip", "python-isal": "gzip", "pigz": "gzip", "gzip": "gzip", "zstd": "zstd"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> OwnIsal:
    """The worker's own compressor, installed."""
    own = OwnIsal(str(tmp_path_factory.mktemp("home")))
    assert own.install(Groups(lambda running: None), again=True, mask=str) is None
    return own


def chosen(name: str, own: OwnIsal, directory: Path, monkeypatch: pytest.MonkeyPatch) -> compressors.Compressor:
    """The compressor of that name, as it is chosen on a machine that has no other one."""
    (directory / "bin").mkdir()
    if name != "python-isal":
        program = find_or_install_program(name, print) if name in PROGRAMS else shutil.which(name)
        (directory / "bin" / name).symlink_to(str(program))
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(directory / "bin"))
        if name in ("python-isal", "zstd"):
            found = compressors.choose(COMPRESSION[name], own)
        else:
            found = compressors.after_installing(own, "no index can be reached")
    assert found.name.startswith(name + " ")
    assert any(character.isdigit() for character in found.name)
    return found


@pytest.mark.parametrize("name", COMPRESSION)
def test_number_of_cores_and_cut_of_the_input_do_not_change_the_bytes(
    name: str, own: OwnIsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = chosen(name, own, tmp_path, monkeypatch).argv
    assert argv is not None
    words = b"".join(b"%d is %x;" % (number, number * number) for number in range(300_000))
    content = words + os.urandom(3_000_000) + words

    def compress(cut_bytes: int, cores: set[int], threads: int) -> bytes:
        assert argv is not None
        command = (*argv[:-1], str(threads)) if name == "python-isal" else argv
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, cores)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with ThreadPoolExecutor(1) as pool, process.stdout:
            output = pool.submit(process.stdout.read)
            with process.stdin:
                for begin in range(0, len(content), cut_bytes):
                    process.stdin.write(content[begin : begin + cut_bytes])
                    process.stdin.flush()
            assert process.wait() == 0
            return output.result()

    every = os.sched_getaffinity(0)
    made = {
        compress(1 << 22, every, 2),
        compress(1 << 22, {min(every)}, 1),
        compress(7_777, every, 3),
        compress(100_003, {min(every)}, 4),
    }
    assert len(made) == 1
    unpack = ["zstd", "-dc"] if name == "zstd" else ["gzip", "-dc"]
    assert subprocess.run(unpack, input=made.pop(), capture_output=True, check=True).stdout == content


def test_machine_without_any_compressor_says_which_one_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    own = OwnIsal(str(tmp_path))
    assert compressors.after_installing(own, "no index can be reached").name == "gzip"
    assert [compressors.choose(each, own).name for each in ("zstd", "none")] == ["zstd", "none"]


@pytest.mark.parametrize("name", ["igzip", "pigz", "gzip"])
def test_compressor_that_stands_in_says_what_follows(
    name: str, own: OwnIsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = chosen(name, own, tmp_path, monkeypatch).warning
    assert warning is not None
    assert warning.startswith(name + " ")
    assert "(no index can be reached)" in warning
    assert "other build servers make other bytes of the same tree" in warning
    # igzip is as quick.
    assert ("packing takes several times as long" in warning) == (name != "igzip")


def test_refused_archive_of_many_parts_leaves_nothing_in_s3(playground: Playground, tmp_path: Path) -> None:
    prefix = f"standalone-{tmp_path.name}"
    root = tmp_path / "root"
    channel, read = start_worker(SimpleNamespace(is_local=True, root=str(root), server="local"))  # type: ignore[arg-type]
    worker = RawClient(channel, read, "local")
    try:
        worker.greet(**hello(root, s3(playground, prefix)))
        place = Place(worker, root, tmp_path / "none")
        place.commit()
        place.put("a/large", os.urandom(2 * multipart.PART_BYTES))
        place.put("bin/serve", f"#!{place.workspace}/python\n")
        with pytest.raises(StepError, match="bin/serve"):
            place.publish()
    finally:
        worker.close()
    client = playground.s3_client()
    assert client.list_objects_v2(Bucket=playground.bucket, Prefix=prefix + "/a.tar").get("Contents", []) == []
    client.close()
    assert unfinished(playground, prefix) == []
