"""The pure parts of the soak: what counts as growth, and what is told in the end."""

import random
from pathlib import Path

import pytest

from benchmarks.measurements import Measurements
from benchmarks.soak import census, deploys, logs, make_files, print_much
from benchmarks.soak.findings import Findings, Windows
from benchmarks.watching import CommandFailed

WINDOWS = Windows(warm_up=4, length=3)
COUNT = 20


def series(name: str, values: list[float], unit: str = "s") -> Measurements:
    measured = Measurements()
    for number, value in enumerate(values):
        measured.add("time/wall clock", 1.0)
        measured.add(name, value, unit)
        if WINDOWS.have(number, COUNT):
            measured.add("yardstick/wall clock", 1.0)
            measured.add("yardstick/processor", 1.0)
    return measured


def verdict(measured: Measurements) -> str:
    return {row.verdict for row in deploys.judged(measured, WINDOWS).rows if "wall clock" not in row.case}.pop()


def test_what_grows_before_the_steady_state_does_not_count() -> None:
    assert verdict(series("files/logs", [*range(4), *[4.0] * 16], "")) == "met"


def test_what_goes_up_and_down_alike_is_no_growth() -> None:
    chance = random.Random(1)
    assert verdict(series("disk/hosts", [100.0 + chance.random() for _ in range(COUNT)], "kB")) == "met"


def test_one_more_file_for_every_few_deploys_is_growth() -> None:
    assert verdict(series("files/TMPDIR", [number // 4 for number in range(COUNT)], "")) == "NOT MET"


def test_room_that_grows_from_nothing_is_growth() -> None:
    assert verdict(series("disk/TMPDIR", [*[0.0] * 10, *[4.0] * 10], "kB")) == "NOT MET"


def test_one_process_left_behind_once_is_too_many() -> None:
    assert verdict(series("left/stretcher", [*[0.0] * 10, 1.0, *[0.0] * 9], "")) == "NOT MET"


def test_what_is_to_grow_has_a_limit_for_each_deploy() -> None:
    assert verdict(series("records/objects", [2.0 * number for number in range(COUNT)], "")) == "met"
    assert verdict(series("records/objects", [3.0 * number for number in range(COUNT)], "")) == "NOT MET"


def test_the_last_deploys_may_take_a_fifth_longer() -> None:
    assert verdict(series("time/processor", [*[1.0] * 17, *[1.19] * 3])) == "met"
    assert verdict(series("time/processor", [*[1.0] * 17, *[1.21] * 3])) == "NOT MET"


def test_what_takes_longer_with_everything_else_is_told_apart() -> None:
    measured = series("time/processor", [*[1.0] * 17, *[3.0] * 3])
    measured.figures["yardstick/processor"] = [*[0.5] * 3, *[1.5] * 3]
    rows = [row for row in deploys.judged(measured, WINDOWS).rows if "time, processor" in row.case]
    assert {row.case.endswith("in yardsticks"): row.verdict for row in rows if row.verdict} == {
        True: "met",
        # What a user sees is told, too.
        False: "NOT MET",
    }


def test_findings_survive_being_written_and_name_what_is_broken() -> None:
    found = Findings()
    found.within("few", 1, 2)
    found.within("never measured", None, 2)
    found.ratio("slow", 3.0, 1.2, 1.0, "before")
    found.show("archive", 2_000.0, "MB")
    again = Findings.from_json(found.as_json())
    assert again == found
    assert [row.case for row in again.broken] == ["never measured", "slow"]
    assert "2000 MB" in again.text()


def test_a_file_of_two_names_takes_its_room_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(100_000))
    alone = census.room(tmp_path)
    (tmp_path / "other").hardlink_to(tmp_path / "one")
    assert census.room(tmp_path) == alone
    assert alone.files == 1
    assert census.room(tmp_path / "missing") == census.Room(0, 0)


def test_the_ages_of_retention_are_found_in_the_copy(tmp_path: Path) -> None:
    package = deploys.hasty_copy(tmp_path) / "deploytool"
    assert f"UNTOUCHED = timedelta(seconds={deploys.AGE_SECONDS})" in (package / "model/retention.py").read_text()
    assert f"YOUNG_SECONDS = {deploys.AGE_SECONDS}.0" in (package / "worker/retention.py").read_text()


def test_equal_numbers_give_equal_files() -> None:
    assert list(make_files.contents(3, 10)) == list(make_files.contents(3, 10))
    assert len({content for _, content in make_files.contents(3, 10)}) == 3


@pytest.mark.parametrize("kind", print_much.KINDS)
def test_a_block_of_each_kind_is_about_a_megabyte(kind: str) -> None:
    assert abs(len(print_much.block(kind, 0)) - print_much.BLOCK_BYTES) < 100


def test_a_log_is_whole_only_with_its_beginning_and_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"==> x\n$ python3 print_much.py lines 1\none\ntwo\xff\n<== assets ended with exit status 0\n")
    assert b"".join(logs._logged(log)) == b"\none\ntwo\xff"
    assert b"".join(logs._decoded([b"two\xe2\x80", b"\xa6\xff"])) == "two…\ufffd".encode()
    log.write_bytes(b"==> x\n$ python3 print_much.py lines 1\none\n")
    with pytest.raises(CommandFailed):
        list(logs._logged(log))
