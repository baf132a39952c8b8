"""Start-up: until `fab` says what it can do, and until it says its first byte to the build server; and SSH's floors."""

import contextlib
import socket
import subprocess
import time
from pathlib import Path

from benchmarks import floors
from benchmarks.measurements import Measurements
from benchmarks.sides import Say
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

LIST, FIRST_BYTE, EMPTY_LIST = "fab --list", "fab ENV status until its first byte", "fab --list, empty fabfile"


def measure(playground: Playground, directory: Path, found: Measurements, runs: int, say: Say) -> None:
    project = Project(playground, directory / "startup", Application("startup", (PlaygroundRole("web", ("app1",)),)))
    nothing = directory / "nothing"
    nothing.mkdir()
    (nothing / "fabfile.py").write_text("")
    # These are quick: some more tries cost little.
    for _ in range(3 * runs):
        found.add("start-up/floor/python -c pass", floors.python_pass())
        found.add(f"start-up/floor/{EMPTY_LIST}", floors.fab_list(nothing))
        found.add(f"start-up/{LIST}", floors.fab_list(project.directory))
        found.add(f"start-up/{FIRST_BYTE}", first_byte(project))
        found.add("start-up/floor/ssh true", floors.ssh_true(playground))
        for no_delay, words in ((False, "without TCP_NODELAY"), (True, "with TCP_NODELAY")):
            connecting, one = floors.paramiko_true(playground, no_delay=no_delay)
            found.add("start-up/floor/paramiko, connect", connecting)
            found.add(f"start-up/floor/paramiko, true, {words}", one)
    for name, seconds in found.below("start-up/").items():
        say(f"{name}: {seconds:.4f} s")


def first_byte(project: Project) -> float:
    """Seconds from the start of `fab playground status` to its first byte at a build server that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        project.settings["build"]["server"] = f"nobody@127.0.0.1:{server.getsockname()[1]}"
        project.write()
        begin = time.monotonic()
        process = project.start("playground", "status", "--json")
        try:
            line, _ = server.accept()
            with line:
                line.settimeout(60)
                if not line.recv(1):
                    raise OSError("fab has left without a word")
                return time.monotonic() - begin
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
