"""The worker for real: as a process of its own, with bash, tar, gzip and a directory as the store."""

import fcntl
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from deploytool.connection import client as worker_client
from deploytool.connection.boot import start_worker
from deploytool.connection.client import Asked
from deploytool.errors import ConnectionFailed, DeployError, Interrupted, LockedError, StepError, StoreError
from deploytool.worker import locks
from deploytool.worker.line import READ_ONLY
from deploytool.worker.line import Worker as RealWorker
from deploytool.worker.wire import Line, Selector, Waiting
from tests.support.waiting import until
from tests.support.worker import TELLS_VERSION, RawClient, fake_program, known, run, tree

Start = Callable[..., RawClient]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers on this machine, and ends them."""
    clients: list[RawClient] = []

    def begin(**changes: Any) -> RawClient:
        root = str(changes.pop("root", tmp_path / "root"))
        started_read_only = changes.pop("started_read_only", changes.get("read_only", False))
        build = SimpleNamespace(is_local=True, root=root, server="local", gateway=None, ssh_config=None)
        channel, read = start_worker(build, read_only=started_read_only)  # type: ignore[arg-type]
        client = RawClient(channel, read, "local")
        clients.append(client)
        hello = {
            "root": root,
            "application": "shop",
            "environment": "test",
            "store": {"url": f"file://{tmp_path}/store"},
            "consul": {},
            "secrets": [],
            "operator": "me@laptop",
            "purpose": "testing",
            "compression": "gzip",
            **changes,
        }
        client.greet(**hello)
        return client

    yield begin
    for client in clients:
        client.close()


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def is_compiled(worker: RawClient) -> bool:
    """Whether the worker runs from the file with its modules compiled."""
    words = run(worker, "tr '\\0' '\\n' < /proc/$PPID/cmdline >&3")["results"]
    return any(f".{sys.implementation.cache_tag}.pyz" in word for word in words)


# --- steps


def test_failure_inside_a_pipe_is_a_failure(start: Start) -> None:
    assert run(start(), "false | cat\necho unreached")["exit_code"] == 1


def test_script_reads_nothing_from_the_operators_line(start: Start) -> None:
    assert run(start(), "cat; echo end")["tail"] == ["end"]


def test_results_come_back_apart_from_the_output(start: Start) -> None:
    answer = run(start(), "echo shown; echo result >&3; echo shown too >&2")
    assert (answer["results"], answer["tail"]) == (["result"], ["shown", "shown too"])


def test_step_that_takes_too_long_is_ended_with_all_its_children(start: Start, tmp_path: Path) -> None:
    answer = run(start(), f"sleep 300 & echo $! > {tmp_path}/pid; wait", timeout_seconds=1)
    assert answer["timed_out"]
    until(lambda: not is_running(int((tmp_path / "pid").read_text())))


def test_daemon_that_keeps_the_output_open_does_not_keep_the_step(start: Start, tmp_path: Path) -> None:
    begin = time.monotonic()
    answer = run(start(), f"sleep 60 & echo $! > {tmp_path}/pid; echo done")
    assert (answer["exit_code"], answer["tail"]) == (0, ["done"])
    assert time.monotonic() - begin < 30
    psutil.Process(int((tmp_path / "pid").read_text())).kill()


def test_fifty_megabytes_of_output_stay_in_the_log(start: Start) -> None:
    worker = start()
    received = 0

    def told(event: Line) -> None:
        nonlocal received
        received += len(event.line)

    answer = worker.ask(
        "run",
        step="try",
        script="seq -f %049.0f 1 1000000",
        timeout_seconds=120,
        told=told,
    )
    assert answer["exit_code"] == 0
    assert os.path.getsize(answer["log"]) > 50_000_000
    assert received < 100_000
    assert len(answer["tail"]) == 20


def test_one_line_of_fifty_megabytes_does_not_fill_the_memory(start: Start) -> None:
    answer = run(start(), "head -c 50000000 /dev/zero | tr '\\0' x")
    assert answer["exit_code"] == 0
    assert "x" * 50_000_000 in Path(answer["log"]).read_text().replace("\n", "")


def test_long_lines_are_shown_short_and_stand_whole_in_the_log(start: Start) -> None:
    told: list[str] = []
    script = "for letter in a b c d e f g h i j; do head -c 60000 /dev/zero | tr '\\0' $letter; echo; sleep 0.05; done"
    answer = start().ask(
        "run", step="try", script=script, timeout_seconds=30, told=lambda event: told.append(event.line)
    )
    shown = [f"{letter * 500} … (60000 characters)" for letter in "abcdefghij"]
    assert answer["tail"] == shown
    assert set(told) <= set(shown)
    assert told
    assert "\n" + "j" * 60_000 + "\n" in Path(answer["log"]).read_text()


def test_secrets_are_masked_in_log_output_and_answers(start: Start) -> None:
    worker = start(secrets=["hunter2"])
    answer = run(worker, "echo the password is hunter2")
    assert "hunter2" not in json.dumps(answer)
    assert "hunter2" not in Path(answer["log"]).read_text()
    assert answer["tail"] == ["the password is ***"]


def test_secret_with_several_lines_is_masked_line_by_line(start: Start) -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----"
    answer = run(start(secrets=[key]), f"printf '%s\n' '{key}'")
    for line in key.splitlines():
        assert line not in Path(answer["log"]).read_text()
        assert line not in json.dumps(answer)


def test_secret_at_the_cut_of_a_long_line_is_masked_whole(start: Start) -> None:
    secret = "correct-horse-battery-staple"
    for before in range(65530, 65570, 5):
        answer = run(
            start(secrets=[secret]), f"head -c {before} /dev/zero | tr '\\0' x; printf %s {secret}; sleep 0.2; echo"
        )
        text = Path(answer["log"]).read_text()
        assert "correct" not in text
        assert "staple" not in text


def test_secret_that_is_an_ordinary_word_garbles_no_answer(start: Start) -> None:
    answer = run(start(secrets=["revision"]), "printf 'revision\\t%040d\\n' 7 >&3")
    assert answer["results"] == ["revision\t" + "7".zfill(40)]


def test_script_stands_on_no_command_line(start: Start, tmp_path: Path) -> None:
    worker = start()
    asked = worker.begin(
        "run", step="try", script=f": canary-7731\necho $$ > {tmp_path}/pid\nsleep 5", timeout_seconds=30
    )
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not any("canary-7731" in line for line in lines if "pytest" not in line)
    worker.ask("cancel")
    with pytest.raises(Interrupted):
        asked.answer()


def test_log_belongs_to_its_user_alone(start: Start) -> None:
    answer = run(start(), "true")
    assert os.stat(answer["log"]).st_mode & 0o077 == 0


# --- in line


def in_line(worker: RawClient, *scripts: str, after: Asked | None = None) -> list[Asked]:
    """Steps that are asked for at once, each behind the one before."""
    asked: list[Asked] = []
    for script in scripts:
        before = asked[-1] if asked else after
        condition = {"exit_code": 0}
        asked.append(
            worker.begin("run", after=before, expect=condition, step="try", script=script, timeout_seconds=600)
        )
    return asked


def put(worker: RawClient, key: str, after: Asked) -> Asked:
    return worker.begin("store_put", entries=[(key, "text")], after=after)


def test_what_is_in_line_is_done_in_its_order(start: Start, tmp_path: Path) -> None:
    worker = start()
    last = in_line(worker, *(f"sleep 0.{9 - number}; echo {number} >> '{tmp_path}/order'" for number in (1, 5, 9)))[-1]
    assert last.answer()["exit_code"] == 0
    assert (tmp_path / "order").read_text().split() == ["1", "5", "9"]


def test_what_is_not_in_line_does_not_wait(start: Start, tmp_path: Path) -> None:
    worker = start()
    waiting = in_line(worker, f"while [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done")[0]
    assert run(worker, f"touch '{tmp_path}/go'")["exit_code"] == 0
    assert waiting.answer()["exit_code"] == 0


def test_what_comes_after_a_failure_is_not_begun_and_the_failure_tells_why(start: Start) -> None:
    worker = start()
    held = worker.begin("lock", name="test", wait=False)
    refused = worker.begin("lock", name="test", wait=False, after=held)
    first = put(worker, "first", refused)
    second = put(worker, "second", first)
    for asked in (second, first, refused, refused):
        with pytest.raises(LockedError, match="me@laptop"):
            asked.answer()
    assert worker.ask("store_list", prefix="")["keys"] == []


def test_what_comes_after_an_unexpected_answer_is_not_begun(start: Start) -> None:
    worker = start()
    asked = worker.begin("store_exists", key="a", expect={"exists": True})
    after = put(worker, "b", asked)
    assert asked.answer() == {"exists": False}
    with pytest.raises(StepError, match="`store_put` was not begun"):
        after.answer()
    assert worker.ask("store_exists", key="b") == {"exists": False}


def test_step_that_fails_is_answered_and_ends_its_line(start: Start) -> None:
    worker = start()
    failing, next_one = in_line(worker, "exit 7", "true")
    assert failing.answer()["exit_code"] == 7
    with pytest.raises(StepError, match="not begun"):
        next_one.answer()


def test_what_is_asked_after_something_that_has_long_gone_well_is_done(start: Start) -> None:
    worker = start()
    (done,) = in_line(worker, "true")
    assert done.answer()["exit_code"] == 0
    assert put(worker, "a", done).answer() == {"existed": []}


def test_whoever_waits_for_the_last_hears_what_those_before_tell(start: Start) -> None:
    holder, worker = start(), start()
    holder.ask("lock", name="test", wait=False)
    said: list[str] = []

    def told(event: Waiting) -> None:
        said.append(event.waiting)
        if len(said) == 1:
            holder.ask("release_lock", name="test")

    held = worker.begin("lock", name="test", wait=True, told=told)
    put(worker, "a", held).answer()
    assert "me@laptop" in said[0]


def test_cancelling_ends_what_is_in_line_as_well(start: Start, tmp_path: Path) -> None:
    worker = start()
    running, waiting = in_line(worker, f"touch '{tmp_path}/began'; sleep 300", f"touch '{tmp_path}/never'")
    written = put(worker, "a", waiting)
    until((tmp_path / "began").exists)
    worker.ask("cancel")
    with pytest.raises(Interrupted):
        running.answer()
    with pytest.raises(Interrupted):
        written.answer()
    assert not (tmp_path / "never").exists()
    # What is asked from then on by itself is done: the record of how it ended, say.
    assert worker.ask("store_put", entries=[("b", "text")]) == {"existed": []}
    assert worker.ask("store_list", prefix="")["keys"] == ["application.json", "b"]


def test_nothing_in_line_goes_on_once_the_operators_line_is_cut(start: Start, tmp_path: Path) -> None:
    worker = start()
    # It ends well although it is told to end: that must not let the next one begin.
    stubborn = f"trap 'exit 0' TERM; touch '{tmp_path}/began'; sleep 300 & wait"
    put(worker, "a", in_line(worker, stubborn, f"touch '{tmp_path}/never'")[-1])
    until((tmp_path / "began").exists)
    worker.close()
    assert not (tmp_path / "never").exists()
    assert start().ask("store_list", prefix="")["keys"] == []


def test_answer_that_comes_in_many_pieces_is_put_together(start: Start) -> None:
    worker = start()
    text = "ä" * 3_000_000
    worker.ask("store_put", entries=[("long", text)])
    assert worker.ask("store_get", key="long")["content"] == text


# --- the operator goes away


def test_cancelling_ends_the_steps_process_group(start: Start, tmp_path: Path) -> None:
    worker = start()
    asked = worker.begin("run", step="try", script=f"sleep 300 & echo $! > {tmp_path}/pid; wait", timeout_seconds=600)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    worker.ask("cancel")
    with pytest.raises(Interrupted):
        asked.answer()
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_cut_line_ends_the_step_and_frees_the_lock(start: Start, tmp_path: Path) -> None:
    worker = start()
    worker.ask("lock", name="test", wait=False)
    worker.begin("run", step="try", script=f"sleep 300 & echo $! > {tmp_path}/pid; wait", timeout_seconds=600)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    worker.close()
    assert not is_running(int((tmp_path / "pid").read_text()))
    start().ask("lock", name="test", wait=False)


def test_line_that_is_cut_in_the_middle_ends_the_step_as_well(start: Start, tmp_path: Path) -> None:
    worker = start()
    worker.ask("lock", name="test", wait=False)
    worker.begin("run", step="try", script=f"sleep 300 & echo $! > {tmp_path}/pid; wait", timeout_seconds=600)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    worker._channel.write(b'{"id": 99, "do": "hal')
    worker.close()
    assert not is_running(int((tmp_path / "pid").read_text()))
    start().ask("lock", name="test", wait=False)


def test_full_disk_ends_the_step_as_well_and_has_a_sentence(start: Start, tmp_path: Path) -> None:
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("small disks need root")
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)], check=True)
    try:
        worker = start(root=root)
        worker.ask("lock", name="test", wait=False)
        worker.begin("run", step="try", script=f"sleep 300 & echo $! > {tmp_path}/pid; wait", timeout_seconds=600)
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
        subprocess.run(["sh", "-c", f"cat /dev/zero > '{root}/filler'"], capture_output=True)
        with pytest.raises(StepError, match="is its disk full"):
            worker.ask("lock", name="other", wait=False)
        worker.close()
        assert not is_running(int((tmp_path / "pid").read_text()))
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def test_worker_that_hangs_is_noticed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_client, "BEAT_SECONDS", 0.2)
    worker = start()
    worker.ask("lock", name="test", wait=False)
    pid = worker.ask("lock_holder", name="test")["holder"]["pid"]
    # Not before: on a busy machine it may be silent for so long while it starts.
    monkeypatch.setattr(worker_client, "SILENT_SECONDS", 1.0)
    asked = worker.begin("run", step="try", script="sleep 60", timeout_seconds=600)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ConnectionFailed, match="it sent nothing for"):
            asked.answer()
    finally:
        os.kill(pid, signal.SIGCONT)


def test_step_that_ignores_sigterm_is_killed(start: Start, tmp_path: Path) -> None:
    worker = start()
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while true; do sleep 1; done"
    worker.begin("run", step="try", script=script, timeout_seconds=600)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    worker.close()
    assert not is_running(int((tmp_path / "pid").read_text()))


# --- locks


def test_second_taker_of_a_lock_learns_who_holds_it(start: Start) -> None:
    start(purpose="deploy main to test").ask("lock", name="test", wait=False)
    with pytest.raises(LockedError, match=r"test is locked by me@laptop since .* for: deploy main to test"):
        start().ask("lock", name="test", wait=False)


def test_waiting_for_a_lock_names_the_holder_and_ends_when_it_is_free(start: Start) -> None:
    holder, waiter = start(), start()
    holder.ask("lock", name="workspace", wait=False)
    told: list[Waiting] = []
    taken = threading.Thread(target=lambda: waiter.ask("lock", name="workspace", wait=True, told=told.append))
    taken.start()
    until(lambda: len(told) > 0)
    holder.ask("release_lock", name="workspace")
    taken.join(10)
    assert not taken.is_alive()
    assert "me@laptop" in told[0].waiting


def test_killed_worker_leaves_no_lock_and_the_next_holder_ends_its_steps(start: Start, tmp_path: Path) -> None:
    worker = start()
    worker.ask("lock", name="test", wait=False)
    worker.begin("run", step="try", script=f"echo $$ > {tmp_path}/pid; sleep 300", timeout_seconds=600)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    step = int((tmp_path / "pid").read_text())
    holder = json.loads((tmp_path / "root/shop/locks/test").read_text())
    psutil.Process(holder["pid"]).kill()
    until(lambda: not is_running(holder["pid"]))
    assert is_running(step)
    start().ask("lock", name="test", wait=False)
    assert not is_running(step)


def test_unlock_ends_the_holder_and_what_it_runs(start: Start, tmp_path: Path) -> None:
    worker = start(purpose="a build that hangs")
    worker.ask("lock", name="test", wait=False)
    worker.begin("run", step="try", script=f"echo $$ > {tmp_path}/pid; sleep 300", timeout_seconds=600)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    other = start()
    assert "a build that hangs" in other.ask("lock_holder", name="test")["sentence"]
    assert "a build that hangs" in other.ask("break_lock", name="test")["ended"]
    assert not is_running(int((tmp_path / "pid").read_text()))
    other.ask("lock", name="test", wait=False)


def test_asking_who_holds_a_lock_keeps_nobody_from_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "test"
    with path.open("w") as glance:
        fcntl.flock(glance, fcntl.LOCK_EX)
        over = threading.Timer(0.05, lambda: fcntl.flock(glance, fcntl.LOCK_UN))
        over.start()
        locks.acquire(str(path), {}).release()
        over.join()


def test_lock_that_nobody_holds_has_no_holder(start: Start) -> None:
    worker = start()
    worker.ask("lock", name="test", wait=False)
    worker.ask("release_lock", name="test")
    assert worker.ask("lock_holder", name="test")["holder"] is None


# --- packing


def publish(worker: RawClient, directory: Path, key: str, **changes: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {"exclude": ["tmp", "spec", "log"], "epoch": 1_700_000_000}
    return worker.ask("publish_archive", directory=str(directory), key=key, **{**parameters, **changes})


def names(archive: Path) -> set[str]:
    with tarfile.open(archive) as opened:
        return {member.name.removeprefix("./") for member in opened if not member.isdir()}


def test_excludes_are_anchored_at_the_root_and_git_is_never_packed(start: Start, tmp_path: Path) -> None:
    publish(start(), tree(tmp_path / "tree"), "a.tar.gz")
    assert names(tmp_path / "store/a.tar.gz") == {
        "app/tmp/kept", "app/spec/kept", "a b/$(id)'\"", "README", "link", "run",
    }  # fmt: skip


def test_equal_trees_give_equal_bytes_whenever_and_wherever_they_were_made(start: Start, tmp_path: Path) -> None:
    worker = start()
    one = tree(tmp_path / "one")
    time.sleep(1.1)
    two = tree(tmp_path / "elsewhere" / "two")
    for path in (two / "README", two / "run"):
        os.utime(path, (0, 0))
    first, second = publish(worker, one, "1.tar.gz"), publish(worker, two, "2.tar.gz")
    assert first["checksum"] == second["checksum"]
    assert (tmp_path / "store/1.tar.gz").read_bytes() == (tmp_path / "store/2.tar.gz").read_bytes()


def test_checksum_and_sizes_are_those_of_what_is_in_the_store(start: Start, tmp_path: Path) -> None:
    import hashlib

    answer = publish(start(), tree(tmp_path / "tree"), "a.tar.gz")
    content = (tmp_path / "store/a.tar.gz").read_bytes()
    assert answer["checksum"] == hashlib.sha256(content).hexdigest()
    assert answer["size_bytes"] == len(content)
    assert answer["unpacked_bytes"] == len(gzip.decompress(content))


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_every_compression_unpacks_to_the_same_tree(start: Start, tmp_path: Path, compression: str) -> None:
    worker = start(compression=compression)
    answer = publish(worker, tree(tmp_path / "tree"), "a")
    found = worker.ask("unpack_release", key="a", compression=compression, name="r", **known(answer))
    unpacked = Path(found["directory"])
    assert (unpacked / "app/tmp/kept").read_text() == "deep"
    assert os.readlink(unpacked / "link") == "README"
    assert (unpacked / "run").stat().st_mode & 0o777 == 0o755


def left_unpacked(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "root/shop/unpacked/test")


@pytest.mark.parametrize("change", [lambda it: it + b"x", lambda it: it[:-1], lambda it: it[:-1] + b"x"])
def test_changed_archive_is_not_used(start: Start, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    worker = start()
    answer = publish(worker, tree(tmp_path / "tree"), "a.tar.gz")
    path = tmp_path / "store/a.tar.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StepError, match="is not the one that was built"):
        worker.ask("unpack_release", key="a.tar.gz", compression="gzip", name="r", **known(answer))
    assert left_unpacked(tmp_path) == []


def test_nothing_is_unpacked_before_the_whole_archive_is_known(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start()
    answer = publish(worker, tree(tmp_path / "tree"), "a.tar")
    monkeypatch.setenv("PATH", fake_program(tmp_path / "bin", "tar", f"touch '{tmp_path}/begun'\n"))
    watched = start()
    path = tmp_path / "store/a.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StepError, match="is not the one that was built"):
        watched.ask("unpack_release", key="a.tar", compression="none", name="r", **known(answer))
    assert not (tmp_path / "begun").exists()


def forged(path: Path, *members: tarfile.TarInfo, compressed: bool = False) -> dict[str, Any]:
    """An archive of somebody who can also write its record, and what that record says."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size) if member.isreg() else None)
    unpacked = path.read_bytes()
    path.write_bytes(gzip.compress(unpacked) if compressed else unpacked)
    content = path.read_bytes()
    return {
        "checksum": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "unpacked_bytes": len(unpacked),
    }


def member(name: str, kind: bytes = tarfile.REGTYPE, **changes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in changes.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        (member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), "null in it is a device"),
        (member("disk", tarfile.BLKTYPE, devmajor=8), "disk in it is a device"),
        (member("pipe", tarfile.FIFOTYPE), "pipe in it is a named pipe"),
        (member("twice", tarfile.LNKTYPE, linkname="/etc/passwd"), "twice in it is a hard link"),
        (member("odd", b"S"), "odd in it is a file of an unknown kind"),
        (member("../outside", size=1), "tar ended with exit status 2"),
    ],
)
def test_archive_with_more_than_files_directories_and_links_is_refused_and_removed(
    start: Start, tmp_path: Path, odd: tarfile.TarInfo, what: str
) -> None:
    (tmp_path / "store").mkdir()
    found = forged(tmp_path / "store/a.tar", member("first", size=3), odd)
    with pytest.raises(StepError, match=what):
        start().ask("unpack_release", key="a.tar", compression="none", name="r", **found)
    assert left_unpacked(tmp_path) == []


@pytest.mark.parametrize("kind", [b"0", b"\0"])
@pytest.mark.parametrize("name", ["x/", "x" * 120 + "/"])
def test_what_tar_would_take_for_a_directory_hides_no_device_in_its_content(
    start: Start, tmp_path: Path, name: str, kind: bytes
) -> None:
    (tmp_path / "store").mkdir()
    hidden = member("null", tarfile.CHRTYPE, devmajor=1, devminor=3).tobuf(tarfile.GNU_FORMAT)
    header = member(name, kind, size=len(hidden)).tobuf(tarfile.GNU_FORMAT)
    unpacked = header + hidden + b"\0" * 10240
    assert b"/" in header[-512:-412] or len(name) > 100
    (tmp_path / "store/a.tar").write_bytes(unpacked)
    found: dict[str, Any] = {
        "checksum": hashlib.sha256(unpacked).hexdigest(),
        "size_bytes": len(unpacked),
        "unpacked_bytes": len(unpacked),
    }
    with pytest.raises(StepError, match="in it is a file and a directory"):
        start().ask("unpack_release", key="a.tar", compression="none", name="r", **found)
    assert left_unpacked(tmp_path) == []


def test_no_file_gets_behind_a_link_that_leads_out(start: Start, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "outside").mkdir()
    way = member("way", tarfile.SYMTYPE, linkname=str(tmp_path / "outside"))
    found = forged(tmp_path / "store/a.tar", way, member("way/planted", size=1))
    with pytest.raises(StepError, match="tar ended with exit status 2"):
        start().ask("unpack_release", key="a.tar", compression="none", name="r", **found)
    assert os.listdir(tmp_path / "outside") == left_unpacked(tmp_path) == []


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_tar_that_dies_while_it_unpacks_has_a_sentence(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(os.urandom(3 << 20))
    answer = publish(start(compression=compression), tmp_path / "tree", "a")
    monkeypatch.setenv("PATH", fake_program(tmp_path / "bin", "tar", "echo full >&2; kill -9 $$\n"))
    worker = start()
    with pytest.raises(StepError, match="tar ended with exit status -9") as failed:
        worker.ask("unpack_release", key="a", compression=compression, name="r", limit_seconds=60, **known(answer))
    assert failed.value.tail == ("full",)
    assert left_unpacked(tmp_path) == []


def test_what_is_unpacked_is_ours_without_setuid(start: Start, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    others: dict[str, Any] = {"uid": 42424, "gid": 42424, "mode": 0o6755}
    found = forged(tmp_path / "store/a.tar", member("d", tarfile.DIRTYPE, **others), member("d/run", size=9, **others))
    answer = start().ask("unpack_release", key="a.tar", compression="none", name="r", **found)
    for name in ("d", "d/run"):
        state = (Path(answer["directory"]) / name).stat()
        assert (state.st_uid, oct(state.st_mode & 0o7777)) == (os.geteuid(), "0o755")


def test_archive_that_is_larger_than_its_record_says_fills_no_disk(start: Start, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    found = forged(tmp_path / "store/a.tar.gz", member("large", size=300 << 20), compressed=True)
    assert found["size_bytes"] < 400_000
    worker = start()
    with pytest.raises(StepError, match="it unpacks to more than the 20480 bytes of its record"):
        worker.ask("unpack_release", key="a.tar.gz", compression="gzip", name="r", **{**found, "unpacked_bytes": 20480})
    assert left_unpacked(tmp_path) == []
    with pytest.raises(StepError, match="is not the one that was built: it has more bytes"):
        worker.ask("unpack_release", key="a.tar.gz", compression="gzip", name="r", **{**found, "size_bytes": 1000})
    assert left_unpacked(tmp_path) == []


def test_setuid_and_setgid_are_never_packed(start: Start, tmp_path: Path) -> None:
    worker = start()
    plain = publish(worker, tree(tmp_path / "tree"), "a.tar.gz")
    (tmp_path / "tree/run").chmod(0o6755)
    (tmp_path / "tree/app").chmod(0o2755)
    assert publish(worker, tmp_path / "tree", "b.tar.gz")["checksum"] == plain["checksum"]


def test_named_pipe_in_a_release_is_refused_with_its_name(start: Start, tmp_path: Path) -> None:
    os.mkfifo(tree(tmp_path / "tree") / "app/control")
    with pytest.raises(StepError, match="left a named pipe or a device in the release: app/control"):
        publish(start(), tmp_path / "tree", "a.tar.gz")
    assert os.listdir(tmp_path / "store") == ["application.json"]


def test_tar_that_dies_half_way_publishes_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run(["which", "tar"], capture_output=True, text=True, check=True).stdout.strip()
    path = fake_program(tmp_path / "bin", "tar", f'"{real}" "$@" | head -c 5000\nkill -9 $$\n')
    monkeypatch.setenv("PATH", path)
    with pytest.raises(StepError, match="packing failed: tar was ended by signal 9"):
        publish(start(), tree(tmp_path / "tree"), "a.tar.gz")
    assert os.listdir(tmp_path / "store") == ["application.json"]


def test_tar_that_reports_trouble_publishes_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run(["which", "tar"], capture_output=True, text=True, check=True).stdout.strip()
    text = f'"{real}" "$@"\necho "README: file changed as we read it" >&2\nexit 1\n'
    monkeypatch.setenv("PATH", fake_program(tmp_path / "bin", "tar", text))
    with pytest.raises(StepError, match="tar ended with exit status 1") as raised:
        publish(start(), tree(tmp_path / "tree"), "a.tar.gz")
    assert "README: file changed as we read it" in raised.value.tail
    assert os.listdir(tmp_path / "store") == ["application.json"]


def test_compressor_that_dies_publishes_nothing(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_program(tmp_path / "bin", "zstd", f"{TELLS_VERSION}head -c 10\nexit 3\n"))
    with pytest.raises(StepError, match="packing failed: zstd ended with exit status 3"):
        publish(start(compression="zstd"), tree(tmp_path / "tree"), "a.tar.gz")
    assert os.listdir(tmp_path / "store") == ["application.json"]


def test_cancelling_a_pack_publishes_nothing(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PATH", fake_program(tmp_path / "bin", "zstd", f"{TELLS_VERSION}touch {tmp_path}/begun\nsleep 60\n")
    )
    worker = start(compression="zstd")
    asked = worker.begin("publish_archive", directory=str(tree(tmp_path / "tree")), exclude=[], epoch=0, key="a")
    until(lambda: (tmp_path / "begun").exists())
    worker.ask("cancel")
    with pytest.raises(Interrupted):
        asked.answer()
    assert os.listdir(tmp_path / "store") == ["application.json"]


# --- the store


def test_nothing_in_the_store_is_ever_overwritten(start: Start, tmp_path: Path) -> None:
    worker = start()
    assert worker.ask("store_put", entries=[["a/b", "one"]])["existed"] == []
    assert worker.ask("store_put", entries=[["a/b", "two"]])["existed"] == ["a/b"]
    assert worker.ask("store_get", key="a/b")["content"] == "one"
    with pytest.raises(StoreError, match="nothing in it is ever overwritten"):
        publish(worker, tree(tmp_path / "tree"), "a/b")


def test_missing_object_is_none(start: Start) -> None:
    assert start().ask("store_get", key="not/there")["content"] is None


def test_store_that_can_not_be_written_has_a_sentence(start: Start, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the directory should be")
    with pytest.raises(StoreError, match=r"reading application.json in the store .* failed: "):
        start().ask("store_put", entries=[["a", "x"]])


def test_many_objects_are_read_at_once_and_missing_ones_are_none(start: Start) -> None:
    worker = start()
    entries = [[f"many/{number}", f"content {number}"] for number in range(50)]
    worker.ask("store_put", entries=entries)
    contents = worker.ask("store_read", keys=[*(key for key, _ in entries), "many/none", "many/none"])["contents"]
    assert contents == {**dict(entries), "many/none": None}
    assert worker.ask("store_read", keys=[])["contents"] == {}


def test_what_a_deployment_has_written_is_read_once(start: Start, tmp_path: Path) -> None:
    worker = start()
    record, begun = (f"environments/production/deployments/{name}.json" for name in ("20260301T120000Zabcd", "x/begun"))
    mark = "environments/production/marks/release/moment.json"
    assert worker.ask("store_read", keys=[record, begun])["contents"] == {record: None, begun: None}
    worker.ask("store_put", entries=[[record, "1"], [begun, "1"], [mark, "1"]])
    assert worker.ask("store_read", keys=[record, begun, mark])["contents"] == {record: "1", begun: "1", mark: "1"}
    for key in (record, begun, mark):
        # Nobody ever does that.
        (file,) = tmp_path.glob(f"store/**/{key}")
        file.write_text("2")
    assert worker.ask("store_read", keys=[record, begun, mark])["contents"] == {record: "1", begun: "1", mark: "2"}
    assert start().ask("store_read", keys=[record])["contents"] == {record: "2"}


def test_object_that_can_not_be_read_has_a_sentence_among_many(start: Start, tmp_path: Path) -> None:
    worker = start()
    worker.ask("store_put", entries=[["many/1", "x"], ["many/2/below", "x"]])
    with pytest.raises(StoreError, match="reading many/2 in the store"):
        worker.ask("store_read", keys=["many/1", "many/2"])


def test_deleting_goes_in_order_and_stops_at_what_fails(start: Start, tmp_path: Path) -> None:
    worker = start()
    worker.ask("store_put", entries=[["a/1", "x"], ["b/2/below", "x"], ["c/3", "x"]])
    with pytest.raises(StoreError, match=r"deleting b/2 in the store .* failed"):
        worker.ask("store_delete", keys=["a/1", "b/2", "c/3"])
    assert worker.ask("store_list", prefix="")["keys"] == ["application.json", "b/2/below", "c/3"]
    assert worker.ask("store_list", prefix="", beyond="b")["keys"] == ["b/2/below", "c/3"]
    assert worker.ask("store_directories", prefix="")["names"] == ["b", "c"]
    assert worker.ask("store_directories", prefix="d/")["names"] == []


def test_deleting_what_is_gone_is_no_error_and_empty_directories_go_as_well(start: Start, tmp_path: Path) -> None:
    worker = start()
    worker.ask("store_put", entries=[["a/b/c/1", "x"], ["a/b/2", "x"], ["d/3", "x"]])
    keys = ["a/b/c/1", "a/b/c/1", "never/was/there"]
    assert worker.ask("store_delete", keys=keys) == {"deleted": 3}
    assert [path.name for path in sorted((tmp_path / "store/a/b").iterdir())] == ["2"]
    worker.ask("store_delete", keys=["a/b/2", "d/3"])
    assert os.listdir(tmp_path / "store") == ["application.json"]


@pytest.mark.parametrize("key", ["", "a/", "/a", "a//b", "../store-of-others/a", "a/../../b", "."])
def test_key_that_is_none_deletes_nothing(start: Start, key: str) -> None:
    worker = start()
    worker.ask("store_put", entries=[["a", "x"]])
    with pytest.raises(DeployError, match="is no key of the store that could be deleted"):
        worker.ask("store_delete", keys=["a", key])
    assert worker.ask("store_list", prefix="")["keys"] == ["a", "application.json"]


# --- a worker that writes nothing


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("planted", [".", "locks", "workspace", "shared", "repository.git", "../.worker"])
@pytest.mark.parametrize("read_only", [False, True])
def test_nothing_is_done_in_a_work_area_that_another_user_has_a_part_of(
    start: Start, tmp_path: Path, planted: str, read_only: bool
) -> None:
    area = tmp_path / "root/shop"
    (tmp_path / "root/.worker").mkdir(parents=True)
    (area / planted).mkdir(parents=True, exist_ok=True)
    os.chown(area / planted, 42424, 42424)
    before = snapshot(area)
    with pytest.raises(ConnectionFailed, match=r"can't be used safely: .* belongs to 42424, not to root") as refused:
        start(read_only=read_only)
    assert "type `chown -h" in str(refused.value.hint)
    assert snapshot(area) == before


WRITING = (
    "lock", "release_lock", "break_lock", "name_log", "publish_archive", "unpack_release", "remove_unpacked",
    "store_put", "store_delete", "prune_uploads", "check_store", "check_consul", "probe_hosts", "freeze", "thaw",
    "prune_keys", "prune_build_server", "publish", "announce", "watch", "end_watch", "go", "halt", "settle", "abort",
    "install_compressor",
)  # fmt: skip


def snapshot(directory: Path) -> dict[str, object]:
    """Everything below, with its content and when it was last changed."""
    found: dict[str, object] = {}
    for path in [directory, *directory.rglob("*")]:
        state = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (state.st_mtime_ns, state.st_ctime_ns, state.st_mode, content)
    return found


def bus(tmp_path: Path) -> dict[str, Any]:
    return {"address": f"file://{tmp_path}/bus", "receiver": ["true"]}


@pytest.mark.parametrize("is_known_there", [False, True])
def test_read_only_worker_leaves_the_file_system_as_it_was(start: Start, tmp_path: Path, is_known_there: bool) -> None:
    start(root=tmp_path / "other").ask("store_put", entries=[["a/1", "x"]])
    if is_known_there:
        start().close()
    before = snapshot(tmp_path)
    worker = start(read_only=True, consul=bus(tmp_path))
    selectors = {"web": Selector(nodes=["app1"])}
    answer = run(worker, "cd / && git --version >&3; echo said; d=$(mktemp -d); rm -r $d")
    assert answer["tail"] == ["said"]
    assert answer["log"] is None
    assert worker.ask("store_read", keys=["a/1", "b"])["contents"] == {"a/1": "x", "b": None}
    assert worker.ask("store_get", key="a/1")["content"] == "x"
    assert worker.ask("store_exists", key="a/1")["exists"]
    assert worker.ask("store_list", prefix="a/")["keys"] == ["a/1"]
    found = worker.ask("status", roles=selectors)["roles"]["web"]
    assert (found["up"], found["serving"]) == (["app1"], {})
    assert worker.ask("frozen")["frozen"] is None
    assert worker.ask("lock_holder", name="test")["holder"] is None
    worker.ask("cancel")
    worker.close()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("operation", WRITING)
def test_read_only_worker_refuses_to_write(start: Start, tmp_path: Path, operation: str) -> None:
    worker = start(read_only=True, consul=bus(tmp_path))
    with pytest.raises(DeployError, match=f"that writes nothing was asked for `{operation}`") as raised:
        worker.ask(operation)
    assert type(raised.value) is DeployError
    assert list(tmp_path.iterdir()) == []


def test_every_operation_is_known_to_write_or_not() -> None:
    assert set(RealWorker(None, None)._actions()) == {*WRITING, *READ_ONLY}


def test_worker_that_was_started_read_only_stays_so_whatever_it_is_told(start: Start, tmp_path: Path) -> None:
    worker = start(started_read_only=True, read_only=False)
    with pytest.raises(DeployError, match="that writes nothing was asked for `lock`"):
        worker.ask("lock", name="test", wait=False)
    assert list(tmp_path.iterdir()) == []


def test_worker_that_was_greeted_read_only_makes_no_work_area(start: Start, tmp_path: Path) -> None:
    worker = start(started_read_only=False, read_only=True)
    assert run(worker, "echo fine")["tail"] == ["fine"]
    with pytest.raises(DeployError, match="that writes nothing was asked for `store_put`"):
        worker.ask("store_put", entries=[["a", "x"]])
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".worker"]


def test_read_only_worker_masks_secrets_and_ends_its_steps(start: Start, tmp_path: Path) -> None:
    worker = start(read_only=True, secrets=["hunter2"])
    assert run(worker, "echo the password is hunter2")["tail"] == ["the password is ***"]
    worker.begin("run", step="try", script=f"sleep 300 & echo $! > {tmp_path}/pid; wait", timeout_seconds=600)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    worker.close()
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_read_only_worker_runs_from_memory_only_if_it_is_not_there(start: Start) -> None:
    def file_of(worker: RawClient) -> str:
        return str(run(worker, "tr '\\0' '\\n' < /proc/$PPID/cmdline | grep -e pyz -e /dev/fd >&3")["results"][0])

    assert file_of(start(read_only=True)).startswith("/dev/fd/")
    assert file_of(start()).endswith(".pyz")
    assert file_of(start(read_only=True)).endswith(".pyz")


def test_read_only_worker_starts_where_python_has_no_files_in_memory(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "words = sys.argv[1:]\n"
        "words[words.index('-c') + 1] = f'import os; del os.memfd_create; {words[words.index(\"-c\") + 1]}'\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, *words])\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    worker = start(read_only=True)
    (file,) = run(worker, "readlink /proc/$PPID/fd/$(tr '\\0' '\\n' </proc/$PPID/cmdline | sed -n s,/dev/fd/,,p) >&3")[
        "results"
    ]
    assert file.startswith(str(tmp_path / "tmp")), "not in memory"
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (tmp_path / "root").exists()


def test_read_only_worker_does_not_install_boto3(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/boto3.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    before = snapshot(tmp_path)
    worker = start(read_only=True, store={"url": "s3://bucket/x"})
    with pytest.raises(StepError, match="has no boto3, and a command that writes nothing can't install it") as raised:
        worker.ask("store_get", key="a")
    assert "fab ENV check" in str(raised.value)
    assert snapshot(tmp_path) == before


# --- starting


@pytest.mark.parametrize(("url", "prepared"), [("s3://bucket/x", True), ("file:///nowhere", False)])
def test_client_of_an_s3_store_is_prepared_before_it_is_asked_for(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, prepared: bool
) -> None:
    imported = tmp_path / "imported"
    (tmp_path / "site").mkdir()
    (tmp_path / "site/boto3.py").write_text(f"open({str(imported)!r}, 'w')\nraise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    worker = start(store={"url": url})
    if prepared:
        until(imported.exists)
    # A boto3 that is not there is no concern of a command that does not speak to the store: nothing is installed.
    assert run(worker, "echo fine")["tail"] == ["fine"]
    assert not list((tmp_path / "root/.worker").glob("python*"))
    assert imported.exists() is prepared


def test_strange_characters_in_the_root_are_only_characters(start: Start, tmp_path: Path) -> None:
    root = tmp_path / "a b'\"$(touch pwned)"
    assert run(start(root=root), "echo fine")["tail"] == ["fine"]
    assert (root / "shop/logs").is_dir()
    assert not Path("pwned").exists()


def test_root_that_can_not_be_made_has_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    build = SimpleNamespace(is_local=True, root=str(tmp_path / "file/root"), server="local")
    with pytest.raises(StepError, match=r"work area .* can.t be (made|created)"):
        start_worker(build)  # type: ignore[arg-type]


def test_server_without_a_fitting_python_has_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(bare))
    monkeypatch.setattr(sys, "executable", "")
    build = SimpleNamespace(is_local=True, root=str(tmp_path / "root"), server="local")
    with pytest.raises(StepError, match=r"has no Python 3\.8 or newer"):
        start_worker(build)  # type: ignore[arg-type]


def test_damaged_worker_on_the_server_is_replaced(start: Start, tmp_path: Path) -> None:
    start().close()
    for shipped in (tmp_path / "root/.worker").glob("*.pyz"):
        shipped.write_bytes(b"damaged")
    again = start()
    assert not is_compiled(again)
    again.close()
    assert is_compiled(start())


def test_worker_is_compiled_once_and_started_so_from_then_on(start: Start) -> None:
    first = start()
    assert not is_compiled(first)
    first.close()
    assert is_compiled(start())
    assert is_compiled(start(read_only=True))


@pytest.mark.parametrize("damage", [b"", b"damaged", b"0" * 64 + b"\nPK"])
def test_compiled_worker_that_is_damaged_is_made_anew(start: Start, tmp_path: Path, damage: bytes) -> None:
    start().close()
    (compiled,) = (tmp_path / "root/.worker").glob(f"*.{sys.implementation.cache_tag}.pyz")
    compiled.write_bytes(damage)
    again = start()
    assert not is_compiled(again)
    again.close()
    assert is_compiled(start())


def test_worker_that_can_not_be_kept_compiled_runs_all_the_same(start: Start, tmp_path: Path) -> None:
    start().close()
    (compiled,) = (tmp_path / "root/.worker").glob(f"*.{sys.implementation.cache_tag}.pyz")
    compiled.unlink()
    compiled.mkdir()
    again = start()
    assert run(again, "echo fine")["tail"] == ["fine"]
    again.close()
    assert len(list((tmp_path / "root/.worker").iterdir())) == 2, "nothing is left of the attempt"


def test_report_of_a_bug_holds_no_secret(start: Start) -> None:
    """It quotes whatever could not be borne."""
    worker = start(secrets=["correct-horse"])
    wrong: dict[str, Any] = {"correct-horse": 1}
    with pytest.raises(DeployError, match="TypeError: ") as raised:
        worker.ask("store_exists", **wrong)
    told = json.dumps(raised.value.as_dict())
    assert "report it" in told
    assert "correct-horse" not in told


def test_bug_in_a_compiled_worker_shows_its_lines(start: Start) -> None:
    start().close()
    with pytest.raises(DeployError, match="the worker failed in `run`") as caught:
        start().ask("run", step="try", script=None, timeout_seconds=1)
    assert any("asked = shapes.read_parameters(" in line for line in caught.value.tail)


def test_worker_archive_is_the_same_every_time() -> None:
    from deploytool.connection.boot import worker_archive

    assert worker_archive() == worker_archive()
    assert io.BytesIO(worker_archive()).read(2) == b"PK"


def test_what_fails_at_the_end_is_said_without_the_secrets() -> None:
    script = """
from types import SimpleNamespace
from deploytool.worker.line import Worker

def release():
    raise ValueError("refused: token-1234")

worker = Worker(None, None)
worker._here.masking.learn(["token-1234"])
worker._here.locks["test"] = SimpleNamespace(release=release)
worker.end("the test is over")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stderr.splitlines()[-1] == "ValueError: refused: ***"
    assert "token-1234" not in done.stderr
