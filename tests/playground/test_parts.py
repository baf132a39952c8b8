"""What is said where a program of the playground can't be fetched: what failed, its last lines, what to do."""

import sys
import time
from pathlib import Path

import pytest

from deploytool.playground import commands, parts
from deploytool.playground.commands import run_to_end
from deploytool.playground.parts import PartMissing, find_or_install, installing, run
from tests.support.waiting import until

SLOW = [sys.executable, "-uc", "import time; print('go: downloading aws-sdk'); time.sleep(60)"]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is installed yet, and PATH has nothing."""
    monkeypatch.setattr(parts, "TOOLS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    (tmp_path / "path").mkdir()
    return tmp_path


def program(place: Path, text: str) -> None:
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)


def test_command_that_takes_too_long_is_stopped_and_reported_by_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "BEAT_SECONDS", 0.2)
    said: list[str] = []
    with pytest.raises(PartMissing) as error, installing(said.append):
        run(SLOW, "stretcher", "building it", seconds=3, shown="go build stretcher", hint="check the network")
    assert str(error.value) == (
        "stretcher: building it took longer than 3 s and was stopped: `go build stretcher`\n"
        "  | go: downloading aws-sdk\n"
        "hint: check the network"
    )
    assert "stretcher: still building it" in said[-1]
    assert said[-1].endswith(": go: downloading aws-sdk")


def test_stopped_command_takes_along_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    ended = run_to_end(["sh", "-c", f"sleep 60 & echo $! >{mark}; wait"], seconds=1)
    assert ended.exit_code is None
    until(lambda: not is_running(int(mark.read_text())), "the sleeping process ends")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_process_that_keeps_the_output_open_does_not_hold_up_the_end() -> None:
    begin = time.monotonic()
    ended = run_to_end(["sh", "-c", "echo done; sleep 20 &"], seconds=30)
    assert (ended.exit_code, ended.output) == (0, "done\n")
    assert time.monotonic() - begin < 15


def test_refused_download_is_reported_with_what_to_do(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sshd", "rsync", "weed", "consul"):
        program(tools / name, "echo version 1.0")
        monkeypatch.setenv(name.upper(), str(tools / name))
    program(tools / "path/go", 'echo "go: github.com/x/y@v1: dial tcp: connection refused"; exit 1')
    said: list[str] = []
    with pytest.raises(PartMissing) as error:
        find_or_install(said.append)
    lines = str(error.value).splitlines()
    assert lines[0] == "The playground could not install all its programs:"
    assert lines[1].startswith("  | stretcher: building it failed with exit code 1: `go build ")
    assert lines[2] == "  |   go: github.com/x/y@v1: dial tcp: connection refused"
    assert "go env GOPROXY" in lines[3]
    assert lines[4].endswith("environment variable says: STRETCHER")
    assert said == [f"installing stretcher into {tools} …"]
    assert "Command '" not in str(error.value)


def test_index_that_apt_could_not_read_is_named(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = "for each; do case $each in update) echo Err:1 main; exit 0;; download) echo E: Unable; exit 100; esac; done"
    program(tools / "path/apt-get", apt)
    program(tools / "path/dpkg-deb", "exit 0")
    monkeypatch.setattr(parts, "_apt_options", lambda *_: ["-o", "Dir::State=/somewhere"])
    with pytest.raises(PartMissing) as error, installing(print):
        parts.unpack_debian("zsh", ["zsh"], alone=True)
    assert error.value.message == "zsh: downloading it failed with exit code 100: `apt-get download zsh`"
    assert error.value.tail == ("Err:1 main", "E: Unable")
    assert "apt sources" in str(error.value.hint)


def test_missing_program_of_an_installation_is_named(tools: Path) -> None:
    with pytest.raises(PartMissing) as error:
        run([str(tools / "absent"), "x"], "stretcher", "building it")
    assert error.value.message.endswith("absent`, which is not installed")
