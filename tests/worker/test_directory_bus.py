"""A directory as the bus: names below a place, and deleting a place while pretend hosts write there."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from deploytool.worker.bus import Value
from deploytool.worker.directory_bus import DirectoryBus

HOST = Path(__file__).parents[2] / "templates/host/directory.sh"


@pytest.fixture
def bus(tmp_path: Path) -> DirectoryBus:
    return DirectoryBus(f"file://{tmp_path}/bus", [])


def test_deleting_a_place_removes_its_keys_and_directories_and_nothing_beside(
    bus: DirectoryBus, tmp_path: Path
) -> None:
    for key in ("a/b/c/d", "a/b/e", "a/b", "a/bc/d", "a/x"):
        bus.put(key, "value")
    bus.delete_all("a/b/")
    assert [entry.key for entry in bus.list("a/")] == ["a/b", "a/bc/d", "a/x"]
    assert not (tmp_path / "bus/a/b").exists()


def test_file_that_a_host_is_writing_stays_and_one_that_it_left_long_ago_goes(
    bus: DirectoryBus, tmp_path: Path
) -> None:
    bus.put("a/b/c", "value")
    young, old = tmp_path / "bus/a/b/c.value.123", tmp_path / "bus/a/b/c.value.456"
    young.write_text("half")
    old.write_text("half")
    os.utime(old, (0, 0))
    bus.delete_all("a/b/")
    assert list((tmp_path / "bus/a/b").iterdir()) == [young]
    assert bus.list("a/b/") == []


def test_host_that_writes_while_its_place_is_deleted_again_and_again_gets_through(
    bus: DirectoryBus, tmp_path: Path
) -> None:
    script = f"""
      bus_directory='{tmp_path}/bus'
      . '{HOST}'
      tries=0
      for number in $(seq 1 300); do
        until kv_put a/b/hosts/app1/$number x; do tries=$((tries + 1)); [ $tries -lt 1000 ] || exit 9; done
      done
      kv_put a/done x
    """
    (tmp_path / "bus").mkdir()
    host = subprocess.Popen(["sh", "-c", script])
    while host.poll() is None:
        bus.delete_all("a/b/")
        # Retention deletes once. Without a rest, a busy machine never lets the host in between.
        time.sleep(0.002)
    assert host.returncode == 0
    assert bus.get("a/done") is not None
    bus.delete_all("a/b/")
    assert not (tmp_path / "bus/a/b").exists()


def test_keys_are_told_without_values_and_waiting_ends_with_a_write(bus: DirectoryBus) -> None:
    bus.put("a/b/c", "value")
    first = bus.wait("a/", index=0, wait_seconds=0)
    assert bus.wait("a/", index=first, wait_seconds=0.1) == first
    assert bus.keys("a/") == (["a/b/c"], first)
    bus.put("a/b/d", "value")
    assert bus.wait("a/", index=first, wait_seconds=10) > first
    assert bus.keys("x/") == ([], 1)
    bus.delete_keys(["a/b/c", "a/none"])
    listed = bus.keys("a/")
    assert listed is not None
    assert listed[0] == ["a/b/d"]


def test_what_was_written_later_has_a_greater_number_and_long_values_are_left_out(bus: DirectoryBus) -> None:
    bus.put("a/one", "x")
    [one] = bus.read(["a/one", "a/two"], most_bytes=5)
    bus.put("a/two", "y" * 9)
    again, two = bus.read(["a/one", "a/two"], most_bytes=5)
    assert (one, again) == (Value("a/one", "x", one.written), one)
    assert (two.value, two.written > one.written) == (None, True)
    bus.put("a/one", "z")
    [later] = bus.read(["a/one"], most_bytes=5)
    assert (later.value, later.written > two.written) == ("z", True)
