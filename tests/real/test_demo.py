"""`make demo` as a newcomer runs it: in a fresh clone whose path has a space, as an ordinary user."""

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import copy_checkout
from tests.support.schemas import checked_provenance, checked_sbom

pytestmark = pytest.mark.timeout(600)

#: Debian's nobody and nogroup
NOBODY = 65534


class Clone:
    """The files that git would give, in a folder of its own that belongs to an ordinary user."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "deploy tool"
        self.home = directory / "home"
        self.home.mkdir(parents=True)
        copy_checkout(self.directory)
        self.command: list[str] = []
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(directory)], check=True)
            self.command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    def start(self, target: str) -> "subprocess.Popen[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CONSUL_", "MAKE"))}
        python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"
        return subprocess.Popen(
            [*self.command, "make", f"PYTHON={python}", target],
            cwd=self.directory,
            env={**kept, "HOME": str(self.home), "PIP_CACHE_DIR": str(self.home / "cache")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def make(self, target: str) -> str:
        process = self.start(target)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output

    def servers(self) -> list[int]:
        """Processes that run out of this clone's pretend hosts."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if str(self.directory / "var/hosts") in words:
                    found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def copy() -> Iterator[Clone]:
    """The files, and what the first `make` installs beside them."""
    # An ordinary user may not enter pytest's own directories.
    base = Path(subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    base.chmod(0o755)
    yield Clone(base)
    shutil.rmtree(base)


@pytest.fixture
def clone(copy: Clone) -> Iterator[Clone]:
    """No demo has run there yet."""
    yield copy
    for pid in copy.servers():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(copy.directory / "var", ignore_errors=True)


def answers(output: str) -> dict[str, str]:
    """host → the revision that it serves now, asked at the addresses that the demo printed"""
    found = {}
    for host, url in re.findall(r"^  (app\d)  (http://\S+)  serves", output, re.MULTILINE):
        with urllib.request.urlopen(url + "healthz", timeout=10) as response:
            found[host] = response.read().decode().strip()
    return found


def test_demo_deploys_then_shows_a_failure_and_puts_it_right_and_stops(clone: Clone) -> None:
    served = answers(clone.make("demo"))
    assert set(served) == {"app1", "app2", "app3"}
    assert len(set(served.values())) == 1
    shop = (clone.directory / "examples/shop/requirements.txt").read_text().lower().replace("==", "@").split()
    (release,) = (clone.directory / "var/store/releases").iterdir()
    bill = checked_sbom((release / "sbom.cdx.json").read_text())
    assert [each["purl"] for each in bill["components"]] == [f"pkg:pypi/{each}" for each in shop]
    assert checked_provenance((release / "provenance.json").read_text())["subject"][0]["name"].startswith("releases/")
    second = clone.make("demo")
    assert "(exit code 8)" in second
    assert "NOT verified on 1 of 3 hosts" in second
    served_next = answers(second[second.rindex("=== Every host") :])
    assert len(set(served_next.values())) == 1
    assert set(served_next.values()) != set(served.values())
    clone.make("demo-down")
    assert clone.servers() == []


@pytest.mark.parametrize("moment", ["fetched after", "migrate: done"])
def test_ctrl_c_during_the_demo_leaves_nothing_running(clone: Clone, moment: str) -> None:
    process = clone.start("demo")
    assert process.stdout is not None
    for line in process.stdout:
        if moment in line:
            break
    # After the migrations the hosts are let go: nothing can call them back, they have to be waited for.
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=180)
    assert process.returncode != 0
    time.sleep(10)
    assert clone.servers() == []
