"""The host scripts, run for real: by the real stretcher, with the real tar and rsync, on manifests rendered by us.

Most tests speak to a stand-in for the `consul` command (`tests/fixtures/consul`), which can be made to fail at will;
the last ones to a real agent.
"""

import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploytool.hosts.manifest import manifest_url
from deploytool.hosts.role_manifest import HostCommand
from deploytool.model.release import Release, ReleaseId
from deploytool.playground import processes
from deploytool.playground.parts import Parts, find_or_install
from tests.support.host import (
    FIRST,
    NEW,
    OLD,
    PREFIX,
    RESTART,
    SECOND,
    THIRD,
    Host,
    Run,
    command,
    consul,
    end_app,
    hooks,
    make_host,
)
from tests.support.waiting import until


@pytest.fixture(scope="session")
def parts() -> Parts:
    return find_or_install(print)


@pytest.fixture(params=["plain", 'it\'s $(id) "a b"'], ids=["plain", "nasty path"])
def odd(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(tmp_path: Path, parts: Parts) -> Iterator[Host]:
    made = make_host(tmp_path, parts, "www")
    yield made
    end_app(made)


# good runs


def test_host_switches_and_reports_each_state(tmp_path: Path, parts: Parts, odd: str) -> None:
    host = make_host(tmp_path, parts, odd)
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    try:
        run = host.deploy(FIRST, OLD)
        assert set(run.reports) == {"fetched", "activated", "verified"}, run.log
        assert host.current == f"releases/{OLD}"
        assert (host.deploy_to / "current/REVISION").read_text() == OLD[-7:]
        assert os.readlink(f"/proc/{host.app}/cwd") == str(host.deploy_to / "releases" / OLD)
        assert host.last == f"{FIRST} verified {OLD}"
        serving = json.loads(host.key("serving/web/app1").read_text())
        assert serving["release"] == OLD
        assert serving["deployment"] == FIRST
        assert serving["releases"] == [OLD]
        assert serving["verified"] is True
        assert (host.deploy_to / ".deploytool/owner").read_text() == "shop production web\n"
        assert list((host.deploy_to / "incoming").iterdir()) == []
        assert not (host.deploy_to / ".deploytool/lock").is_symlink()
        assert not host.has_switch_record()
    finally:
        end_app(host)


def test_second_release_replaces_the_processes_of_the_first(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    before = host.app
    run = host.deploy(SECOND, NEW)
    assert "verified" in run.reports
    assert host.app != before
    assert os.readlink(f"/proc/{host.app}/cwd") == str(host.deploy_to / "releases" / NEW)


def test_release_that_is_there_already_is_used_again(host: Host) -> None:
    host.deploy(FIRST, OLD)
    host.deploy(SECOND, NEW)
    inode = (host.deploy_to / "releases" / OLD).stat().st_ino
    assert "verified" in host.deploy(THIRD, OLD).reports
    assert (host.deploy_to / "releases" / OLD).stat().st_ino == inode
    assert host.current == f"releases/{OLD}"


def test_foreign_directories_in_releases_stay(host: Host) -> None:
    (host.deploy_to / "releases/20200101000000").mkdir(parents=True)
    for deployment, release in ((FIRST, OLD), (SECOND, NEW)):
        host.deploy(deployment, release)
    assert (host.deploy_to / "releases/20200101000000").is_dir()


def test_shared_files_and_directories_take_the_place_of_tracked_ones(host: Host) -> None:
    host.tree |= {"log/old.log": "x", "config/database.yml": "tracked"}
    host.changes = {"linked_dirs": ("log", "tmp/it's pids"), "linked_files": ("config/database.yml",)}
    (host.deploy_to / "shared/config").mkdir(parents=True)
    (host.deploy_to / "shared/config/database.yml").write_text("shared")
    assert "verified" in host.deploy(FIRST, OLD).reports
    current = host.deploy_to / "current"
    assert (current / "config/database.yml").read_text() == "shared"
    assert (current / "config/app.yml").exists()
    assert os.readlink(current / "log") == str(host.deploy_to / "shared/log")
    assert list((current / "log").iterdir()) == []
    assert (current / "tmp/it's pids").is_dir()
    # Once more, with the copy that is there: the links stay.
    assert "verified" in host.deploy(SECOND, OLD).reports
    assert (current / "config/database.yml").read_text() == "shared"


def test_hooks_of_all_phases_run_with_the_right_directory_and_no_input(host: Host) -> None:
    hook = 'printf "%s %s\\n" "$(pwd -P)" "$(cat | wc -c)" >>../places || echo "$PWD" >>/dev/null'
    host.changes = {"hooks": hooks(pre=hook, post=f"cd ../..; {hook}", success=f"cd ../..; {hook}")}
    host.deploy(FIRST, OLD)
    assert (host.home / "places").read_text().splitlines() == [f"{host.deploy_to} 0"] * 3


def test_hooks_inherit_no_open_files_but_the_three(host: Host) -> None:
    host.changes = {"hooks": hooks(pre=f"ls -l /proc/self/fd >{host.home}/fds")}
    host.deploy(FIRST, OLD)
    lines = (host.home / "fds").read_text().splitlines()[1:]
    # 3 is the directory that ls itself reads.
    assert [line.split()[8] for line in lines] == ["0", "1", "2", "3"]
    assert "/dev/null" in lines[0]


def test_daemon_left_behind_by_a_restart_does_not_block_stretcher(host: Host) -> None:
    host.changes = {"restart": command("echo started; sleep 60 & echo $! >../../shared/app.pid")}
    began = time.monotonic()
    run = host.deploy(FIRST, OLD)
    assert "verified" in run.reports
    assert time.monotonic() - began < 20
    os.kill(host.app, 0)


NASTY_HOOKS = [
    'echo "status: ok"',
    'printf "%s\\n" -H "X-A: 1" http://127.0.0.1/ # notify',
    "[ -f /etc/hosts ] && echo yes",
    "{ echo a; echo b; }",
    "echo */5 is not an alias",
    '"printf" first',
    "echo `date +%Y | sed s/.*/x/`",
    "if true; then\n  echo three\nfi",
    'echo "a\tb"',
    "echo yes",
    "echo docker ps --format '{{.Names}}' '{{{' }}",
    "echo 'ends with spaces'  \n\n",
    "\n  echo begins with a line break",
    "echo é 漢字 😀 \u2028 \x85 \ufeff | od -An -tx1",
    "echo '\\' \"\\\\\" $(echo sub) ${HOME:+set}",
    "echo '%s %d' '# deploytool x pre begin'",
    "printf 'a\\n\\n# not a comment\\n'\n\t\n# a comment",
    "yes | head -n 2",
]


def test_hooks_arrive_at_the_shell_exactly(host: Host) -> None:
    wrapper = host.home / "bin/sh"
    # The shell that stretcher and `timeout` find notes each text it is given.
    wrapper.write_text(
        '#!/bin/sh\nif [ "$1" = -c ]; then printf "%s\\0" "$2" >>"$FAKE_CONSUL/../texts"; fi\nexec /bin/sh "$@"\n'
    )
    wrapper.chmod(0o755)
    labelled = tuple(HostCommand(f"roles.web.hooks.post[{n}]", text) for n, text in enumerate(NASTY_HOOKS))
    host.changes = {"hooks": hooks() | {"post": labelled}}
    run = host.deploy(FIRST, OLD)
    assert "verified" in run.reports, run.log
    texts = (host.home / "texts").read_bytes().decode().split("\0")
    assert [text for text in texts if text in NASTY_HOOKS] == NASTY_HOOKS


# a release that was kept


def kept_host(host: Host) -> Host:
    """It serves NEW, has OLD from before, and could download nothing."""
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid", "stable_seconds": 0}
    host.deploy(FIRST, OLD)
    host.deploy(SECOND, NEW)
    host.changes |= {"src": "", "stable_seconds": 1}
    return host


def test_kept_release_is_switched_to_without_its_archive(host: Host) -> None:
    kept_host(host)
    shutil.rmtree(host.home / "store")
    host.manifest(THIRD, OLD)
    shutil.rmtree(host.home / "store")
    release = replace(host.manifest(THIRD, OLD).release, unpacked_bytes=1 << 50)
    run = finish_kept(host, release)
    assert set(run.reports) == {"fetched", "activated", "verified"}, run.log
    assert host.current == f"releases/{OLD}"
    assert os.readlink(f"/proc/{host.app}/cwd") == str(host.deploy_to / "releases" / OLD)
    assert host.told == [OLD, NEW]
    assert "replay" in host.run(THIRD, OLD).log


def finish_kept(host: Host, release: Release) -> Run:
    """A kept deployment, held at the barrier until `go`."""
    host.changes["release"] = release
    host.want(THIRD)
    host.go(THIRD, "wait 0")
    process = host.start(THIRD, OLD)
    until(lambda: "fetched" in host.reports(THIRD))
    assert host.current == f"releases/{NEW}"
    host.go(THIRD, "go all")
    return host.finish(process, THIRD)


def test_own_template_with_an_empty_src_does_for_a_kept_release(host: Host) -> None:
    kept_host(host)
    host.templates = host.home / "templates"
    host.templates.mkdir()
    phases = "".join(f"  {name}:\n    - {{{{ host_script('{name}') | yaml(6) }}}}\n" for name in hooks())
    (host.templates / "manifest.yml.j2").write_text(
        "src: {{ src | yaml(2) }}\nchecksum: {{ checksum | yaml(2) }}\ndest: {{ dest | yaml(2) }}\n"
        f"sync_strategy: rsync\nexcludes: ['*.log']\ncommands:\n{phases}"
    )
    assert "verified" in host.deploy(THIRD, OLD).reports
    assert host.current == f"releases/{OLD}"


def test_host_that_lost_the_release_says_so_and_takes_the_download_of_the_same_deployment(host: Host) -> None:
    app = kept_host(host).app
    shutil.rmtree(host.deploy_to / "releases" / OLD)
    run = host.deploy(THIRD, OLD)
    assert set(run.reports) == {"failed"}
    assert run.reports["failed"]["incomplete"] is True
    assert "has kept no" in run.reports["failed"]["reason"]
    assert (host.current, host.app) == (f"releases/{NEW}", app)
    del host.changes["src"]
    assert "verified" in host.run(THIRD, OLD).reports
    assert host.current == f"releases/{OLD}"


def test_kept_release_that_vanishes_at_the_barrier_changes_nothing(host: Host) -> None:
    app = kept_host(host).app
    host.want(THIRD)
    host.go(THIRD, "wait 0")
    process = host.start(THIRD, OLD)
    until(lambda: "fetched" in host.reports(THIRD))
    shutil.rmtree(host.deploy_to / "releases" / OLD)
    host.go(THIRD, "go all")
    run = host.finish(process, THIRD)
    assert run.reports["failed"]["incomplete"] is True
    assert (host.current, host.app) == (f"releases/{NEW}", app)
    assert not host.has_switch_record()


def test_kept_release_that_fails_now_is_undone_and_stays(host: Host) -> None:
    kept_host(host)
    host.changes["hooks"] = hooks(post="exit 3")
    run = host.deploy(THIRD, OLD)
    assert f"put back to {NEW}, which is proven to serve again" in run.reports["failed"]["reason"]
    assert "incomplete" not in run.reports["failed"]
    assert host.releases == host.told == [OLD, NEW]


def test_other_failures_are_not_called_incomplete(host: Host) -> None:
    host.changes = {"linked_files": (".env",)}
    assert "incomplete" not in host.deploy(FIRST, OLD).reports["failed"]


# what stays


RELEASES = [f"2026112{n}T000000Z-{n}000000" for n in range(7)]
IDS = [f"2026112{n}T000100Zaaaa" for n in range(7)]


def test_failed_releases_go_at_once_and_push_out_no_good_one(host: Host) -> None:
    host.changes = {"stable_seconds": 0}
    for n in range(3):
        host.deploy(IDS[n], RELEASES[n])
    host.changes |= {"hooks": hooks(post="false")}
    for n in range(3, 6):
        host.deploy(IDS[n], RELEASES[n])
        assert host.releases == host.told == [RELEASES[1], RELEASES[2]]
    host.changes["hooks"] = hooks()
    host.deploy(IDS[6], RELEASES[6])
    assert host.releases == host.told == [RELEASES[2], RELEASES[6]]


def test_release_that_a_rollback_would_go_to_stays_whatever_its_age(host: Host) -> None:
    host.changes = {"stable_seconds": 0, "rollback_release": ReleaseId(RELEASES[0])}
    for n in range(4):
        host.deploy(IDS[n], RELEASES[n])
    assert host.releases == host.told == [RELEASES[0], RELEASES[3]]


def test_keep_releases_of_one_still_leaves_something_to_go_back_to(host: Host) -> None:
    host.changes = {"stable_seconds": 0, "keep_releases": 1}
    for n in range(3):
        host.deploy(IDS[n], RELEASES[n])
    assert host.releases == host.told == [RELEASES[1], RELEASES[2]]
    # Back and forth, without a word of the operator's: the one before is the newer one.
    host.deploy(IDS[3], RELEASES[1])
    assert host.releases == host.told == [RELEASES[1], RELEASES[2]]


def test_failed_first_deployment_leaves_no_release(host: Host) -> None:
    host.changes = {"hooks": hooks(post="false")}
    host.deploy(FIRST, OLD)
    assert host.current is None
    assert host.releases == host.told == []


def test_failed_deployment_of_the_serving_release_leaves_it_there(host: Host) -> None:
    host.changes = {"stable_seconds": 0}
    host.deploy(FIRST, OLD)
    (host.deploy_to / ".deploytool/verified").unlink()
    host.changes |= {"hooks": hooks(post="false")}
    host.deploy(SECOND, OLD)
    assert host.current == f"releases/{OLD}"
    assert host.releases == [OLD]


def test_release_that_comes_back_has_to_prove_itself_again(host: Host) -> None:
    host.changes = {"stable_seconds": 0}
    for n in range(3):
        host.deploy(IDS[n], RELEASES[n])
    assert RELEASES[0] not in (host.deploy_to / ".deploytool/verified").read_text().splitlines()
    host.changes |= {"hooks": hooks(post="false")}
    host.deploy(IDS[3], RELEASES[0])
    assert host.releases == host.told == [RELEASES[1], RELEASES[2]]


def test_failure_sweeps_what_others_left_and_corrects_the_hosts_word(host: Host) -> None:
    host.changes = {"stable_seconds": 0}
    host.deploy(FIRST, OLD)
    for name in (NEW, f".discarded-{NEW}", f".incoming-{RELEASES[0]}", "20200101000000", ".incoming-mine"):
        (host.deploy_to / "releases" / name).mkdir()
        (host.deploy_to / "releases" / name / "file").touch()
    (host.deploy_to / "incoming/20261123T000000Zcut0").mkdir()
    for name in (f"web.{IDS[0]}", f"web.{IDS[0]}.probe", f"web-eu.{IDS[0]}"):
        (host.home / "tmp" / f".deploytool.shop.production.{name}").mkdir()
    word = host.key("serving/web/app1")
    before = word.read_text()
    word.write_text(before.replace(f'["{OLD}"]', f'["{NEW}", "{OLD}"]'))
    host.changes |= {"hooks": hooks(pre="false")}
    assert "failed" in host.deploy(SECOND, RELEASES[1]).reports
    assert host.releases == [".incoming-mine", "20200101000000", OLD]
    assert list((host.deploy_to / "incoming").iterdir()) == []
    assert [left.name for left in (host.home / "tmp").iterdir()] == [f".deploytool.shop.production.web-eu.{IDS[0]}"]
    assert word.read_text().strip() == before.strip()


def test_unfinished_switch_keeps_both_its_ends(tmp_path: Path) -> None:
    retention = Retention(tmp_path)
    retention.step(
        *("mkdir $releases/A $releases/B $releases/C", "ln -s releases/C $deploy_to/current"),
        f"echo '{FIRST} B A' >$room/switch",
    )
    assert retention.left("remove_unproven") == {"A", "B", "C"}
    retention.step("rm $room/switch")
    assert retention.left("remove_unproven") == {"C"}


@pytest.mark.parametrize(
    "trouble",
    [
        "rm -f $room/lock; ln -s $$:another $room/lock",
        "rm -f $room/lock",
        "rm $deploy_to/current; mkdir $deploy_to/current",
        "rm $room/verified; mkdir $room/verified",
    ],
    ids=["another's lock", "no lock", "current is no link", "verified can't be read"],
)
def test_nothing_goes_where_it_is_not_known_what_is_needed(tmp_path: Path, trouble: str) -> None:
    retention = Retention(tmp_path)
    retention.step(
        *("mkdir $releases/A $releases/B $releases/C $releases/.discarded-D", "ln -s releases/C $deploy_to/current"),
        *("echo C >$room/verified", trouble),
    )
    assert {"A", "B", "C"} <= retention.left("remove_unproven")
    assert {"A", "B", "C"} <= retention.left("retain_verified -")


def test_release_with_directories_that_nobody_may_write_to_goes(tmp_path: Path) -> None:
    retention = Retention(tmp_path)
    # Root may write everywhere.
    nobody = 65534 if os.geteuid() == 0 else None
    retention.step(
        *("mkdir -p $releases/A/sub $releases/B", "ln -s releases/B $deploy_to/current", "touch $releases/A/sub/x"),
        *("chmod 500 $releases/A/sub", *(["chown -R 65534 $deploy_to"] if nobody else [])),
    )
    assert retention.left("remove_unproven; sweep", user=nobody) == {"B"}


class Retention:
    """The retention scripts on a directory of their own; releases are named by one letter here."""

    PARTS = ("limits", "log", "process", "keys", "directory", "room", "report", "lock", "word", "switch", "retention")

    def __init__(self, home: Path) -> None:
        self.home = home / "www"
        for name in ("releases", "incoming", ".deploytool/log"):
            (self.home / name).mkdir(parents=True)
        (self.home / "releases/20200101000000").mkdir()
        for directory in (home, *home.parents):
            if directory.stat().st_mode & 0o5 != 0o5 and directory != Path("/"):
                directory.chmod(0o755)
        values = {
            "deploy_to": self.home,
            "current_path": self.home / "current",
            "bus_directory": home / "kv",
            "releases": self.home / "releases",
            "deployment": THIRD,
            "rollback_release": "",
            "release": "",
            "unpacked_prefix": ".deploytool.shop.production.web.",
        }
        scripts = Path(__file__).parents[2] / "templates/host"
        self.script = "".join(
            [
                *(f"{name}={shlex.quote(str(value))}\n" for name, value in values.items()),
                "keep_releases=2\n",
                # Not by their names: an ordinary user may not be let into the checkout.
                *((scripts / f"{part}.sh").read_text() for part in self.PARTS),
            ]
        )
        self.step("take_lock 0")

    @staticmethod
    def id_of(letter: str) -> str:
        return f"202611{ord(letter) - 55:02}T000000Z-000000{letter.lower() if letter in 'ABCDEF' else 0}"

    def run(self, text: str, user: int | None = None) -> str:
        text = re.sub(r"\b[A-N]\b", lambda found: self.id_of(found[0]), text)
        done = subprocess.run(["sh", "-c", self.script + text], capture_output=True, text=True, timeout=60, user=user)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    def step(self, *lines: str) -> None:
        self.run("\n".join(lines))

    def left(self, call: str, *, user: int | None = None) -> set[str]:
        """Which releases are there after `call`; fails if another's directory has gone."""
        out = self.run(f"{call}\nls --almost-all $releases", user)
        return self.letters(out.splitlines())

    def letters(self, names: list[str]) -> set[str]:
        assert "20200101000000" in names
        letters = {self.id_of(letter): letter for letter in "ABCDEFGHIJKLMN"}
        return {letters[name] for name in names if name in letters}


@dataclass(frozen=True)
class Step:
    """One deployment of a history."""

    release: str
    #: verified, failed and undone, or cut off after the switch
    outcome: str
    #: whether the operator names the release that a rollback would go to, and which: any that ever was verified
    target: int | None
    keep: int


STEPS = st.lists(
    st.builds(
        Step,
        release=st.sampled_from("ABCDEFGH"),
        outcome=st.sampled_from(["verified", "verified", "failed", "cut off"]),
        target=st.none() | st.integers(0, 7),
        keep=st.integers(1, 4),
    ),
    min_size=1,
    max_size=8,
)


@given(steps=STEPS)
@example(steps=[Step("A", "failed", None, 1)])
@example(steps=[Step(letter, "verified", 0, 1) for letter in "ABCAB"])
@example(steps=[*(Step(letter, "verified", None, 2) for letter in "ABC"), *(Step(x, "failed", 0, 2) for x in "DEFA")])
@settings(max_examples=50, deadline=None)
def test_retention_after_any_history(steps: list[Step]) -> None:
    """Never `current` or the rollback's target goes; what else stays has proven itself, and is not too much."""
    with tempfile.TemporaryDirectory() as home:
        retention = Retention(Path(home))
        plan: list[tuple[Step, str, str | None, str, bool]] = []
        lines: list[str] = []
        ever: list[str] = []
        current, before_cut, cut = "-", "", ""
        for step in steps:
            target = ever[step.target % len(ever)] if step.target is not None and ever else None
            # As post.sh does: after a cut-off switch the release before it is the one to go back to.
            previous = before_cut if cut else current
            lines += [
                f"keep_releases={step.keep} release={step.release} rollback_release={target or ''}",
                f"mkdir -p $releases/{step.release}; echo before; ls --almost-all $releases",
                f"echo '{THIRD} {step.release} {previous_of(previous)}' >$room/switch",
                f"point_current releases/{step.release}",
            ]
            if step.outcome == "verified":
                lines += [
                    f"grep -qxF {step.release} $room/verified 2>/dev/null || echo {step.release} >>$room/verified",
                    f"rm $room/switch; retain_verified {previous_of(previous)}",
                ]
                if step.release not in ever:
                    ever.append(step.release)
                current, cut = step.release, ""
            elif step.outcome == "failed":
                undo = "rm -f $current_path" if previous == "-" else f"point_current releases/{previous}"
                lines += [undo, "rm $room/switch", "remove_unproven"]
                current, cut = previous, ""
            else:
                before_cut, cut = previous, step.release
                lines += ["remove_unproven"]
                current = step.release
            lines += [
                "echo after; ls --almost-all $releases; echo proven; cat $room/verified 2>/dev/null; sweep; echo swept"
            ]
            lines += ["ls --almost-all $releases; echo end"]
            plan.append((step, current, target, previous, bool(cut)))
        told = retention.run("\n".join(lines)).split("end\n")
        for (step, current, target, previous, is_cut), text in zip(plan, told, strict=False):
            before_text, _, rest = text.removeprefix("before\n").partition("after\n")
            after_text, _, rest = rest.partition("proven\n")
            proven_text, _, swept_text = rest.partition("swept\n")
            before, after = retention.letters(before_text.split()), retention.letters(after_text.split())
            proven = {letter for letter in "ABCDEFGH" if retention.id_of(letter) in proven_text.split()}
            needed = {current, target} | ({previous} if is_cut else set())
            if step.outcome == "verified" and target is None:
                needed |= {previous}
            needed &= before
            assert needed <= after
            assert after <= proven | needed
            assert not [name for name in swept_text.split() if name.startswith(".")]
            if step.outcome == "verified":
                assert len(after) == max(len(needed), min(step.keep, len((proven | needed) & before)))
                gone = (proven & before) - after
                assert not gone or min(after - needed, default="Z") > max(gone)
            else:
                assert after == before & (proven | needed)


def previous_of(letter: str) -> str:
    return "-" if letter == "-" else f"releases/{letter}"


# the guard


def test_replayed_event_changes_nothing(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    app, kv = host.app, sorted(path.name for path in host.mark(".").iterdir())
    times = {path.name: path.stat().st_mtime_ns for path in host.mark(".").iterdir() if path.name[0] != "."}
    run = host.run(FIRST, OLD)
    assert host.app == app
    assert "replay" in run.log
    assert sorted(path.name for path in host.mark(".").iterdir()) == kv
    assert {p.name: p.stat().st_mtime_ns for p in host.mark(".").iterdir() if p.name[0] != "."} == times


def test_replay_with_the_archive_gone_neither_undoes_nor_reports(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    app = host.app
    process_manifest = host.home / f"{FIRST}.yml"
    shutil.move(host.home / "store", host.home / "gone")
    url = manifest_url(f"file://{host.home}", process_manifest.name)
    done = subprocess.run(
        [host.parts.stretcher], input=url, env=host.environment, capture_output=True, text=True, timeout=60
    )
    assert "replay" in done.stdout
    assert host.app == app
    assert host.current == f"releases/{OLD}"
    assert set(host.reports(FIRST)) == {"fetched", "activated", "verified"}


def test_old_event_after_a_newer_deployment_changes_nothing(host: Host) -> None:
    host.deploy(SECOND, NEW)
    host.go(FIRST, "go all")
    run = host.run(FIRST, OLD)
    assert host.current == f"releases/{NEW}"
    assert run.reports == {}


def test_deployment_that_is_no_longer_wanted_is_superseded(host: Host) -> None:
    host.go(FIRST, "go all")
    host.want(SECOND)
    run = host.run(FIRST, OLD)
    assert set(run.reports) == {"superseded"}
    assert SECOND in run.reports["superseded"]["reason"]
    assert host.current is None


def test_host_that_is_not_meant_says_nothing(host: Host) -> None:
    host.want(FIRST)
    host.go(SECOND, "go all")
    run = host.run(SECOND, NEW)
    assert run.reports == {}
    assert "not meant" in run.log
    assert host.current is None


def test_host_that_is_wanted_by_name_takes_part(host: Host) -> None:
    host.want(FIRST)
    host.put("wanted/web/app1", f"{SECOND} file:///x")
    host.put("wanted/web/app10", f"{THIRD} file:///x")
    host.go(SECOND, "go app1 app2")
    assert "verified" in host.run(SECOND, NEW).reports


def test_aborted_deployment_is_not_begun(host: Host) -> None:
    host.want(FIRST)
    host.go(FIRST, "abort")
    assert set(host.run(FIRST, OLD).reports) == {"aborted"}
    assert host.current is None


def test_silently_denied_read_names_the_missing_right(host: Host) -> None:
    host.go(FIRST, "go all")
    run = host.run(FIRST, OLD)
    assert "key_prefix read" in run.reports["failed"]["reason"]


def test_denied_report_names_the_missing_right(host: Host) -> None:
    host.want(FIRST)
    host.mark(".deny").touch()
    run = host.run(FIRST, OLD)
    assert "key_prefix write" in run.log
    assert host.current is None


def test_unreachable_consul_is_told_from_an_absent_key(host: Host) -> None:
    host.mark(".down").touch()
    run = host.run(FIRST, OLD)
    assert "connection refused" in run.log
    assert "key_prefix read" not in run.log
    assert host.current is None


def test_directory_of_another_role_is_refused(host: Host) -> None:
    host.deploy(FIRST, OLD)
    host.changes = {"application": "blog"}
    host.put("../../blog/production/wanted/web", "x")
    host.go(SECOND, "go all")
    run = host.run(SECOND, NEW)
    assert "belongs to 'shop production web'" in run.log
    assert host.current == f"releases/{OLD}"


def test_directory_of_another_application_is_left_as_it_is_even_where_it_wants_cleaning(host: Host) -> None:
    host.deploy(FIRST, OLD)
    # As a power cut leaves it: an unproven release, a tree half-way in, and a switch that nobody has finished.
    for directory in (f"releases/{NEW}", f"releases/.discarded-{NEW}", f"incoming/{SECOND}"):
        (host.deploy_to / directory).mkdir(parents=True)
    (host.deploy_to / ".deploytool/switch").write_text(f"{SECOND} {NEW} releases/{OLD}\n")

    def everything() -> dict[str, tuple[int, int]]:
        return {str(path): (path.lstat().st_ino, path.lstat().st_ctime_ns) for path in host.deploy_to.rglob("*")}

    before = everything()
    host.changes = {"application": "blog", "hooks": hooks(failure=f"pwd >{host.home}/told")}
    host.mark("deploytool%blog%production%wanted%web").write_text(f"{THIRD} file:///somewhere")
    host.mark(f"deploytool%blog%production%deployments%{THIRD}%web%go").write_text("go all")
    run = host.run(THIRD, NEW)
    assert "belongs to 'shop production web'" in run.log
    assert everything() == before
    assert (host.home / "told").read_text() == "/\n"


def test_directory_in_the_place_of_current_is_refused_before_anything_changes(host: Host) -> None:
    (host.deploy_to / "current").mkdir(parents=True)
    run = host.deploy(FIRST, OLD)
    assert "not a link" in run.reports["failed"]["reason"]
    assert "fetched" not in run.reports
    assert list((host.deploy_to / "releases").iterdir()) == []


def test_disk_too_small_is_said_before_unpacking(host: Host) -> None:
    release = host.manifest(FIRST, OLD).release
    host.changes = {"release": replace(release, unpacked_bytes=1 << 50)}
    run = host.deploy(FIRST, OLD)
    assert "too small" in run.reports["failed"]["reason"]
    assert list((host.deploy_to / "incoming").iterdir()) == []


# from where stretcher unpacks, into deploy_to


def copies_are_told(host: Host) -> Callable[[], bool]:
    """Let the host's rsync tell that it was called; returns whether it was."""
    trace = host.home / "rsync-was-called"
    (host.home / "bin/rsync").unlink()
    (host.home / "bin/rsync").write_text(f'#!/bin/sh\n: >"{trace}"\nexec {host.parts.rsync} "$@"\n')
    (host.home / "bin/rsync").chmod(0o755)
    return trace.exists


def on_another_file_system(host: Host) -> Path:
    """A temporary directory of the host's that is not on deploy_to's file system."""
    temporary = Path(tempfile.mkdtemp(dir="/dev/shm"))
    assert temporary.stat().st_dev != host.home.stat().st_dev
    host.environment["TMPDIR"] = str(temporary)
    return temporary


def test_tree_is_renamed_into_its_place(host: Host) -> None:
    copied = copies_are_told(host)
    assert "verified" in host.deploy(FIRST, OLD).reports
    assert not copied()
    assert (host.deploy_to / "current/").stat().st_mode & 0o777 == 0o755
    assert list((host.home / "tmp").iterdir()) == []


@pytest.mark.parametrize("has_rsync", [True, False], ids=["rsync", "no rsync"])
def test_tree_is_copied_from_another_file_system(host: Host, has_rsync: bool) -> None:
    temporary = on_another_file_system(host)
    copied = copies_are_told(host)
    if not has_rsync:
        (host.home / "bin/rsync").unlink()
        only_programs(host)
    try:
        run = host.deploy(FIRST, OLD)
        assert "verified" in run.reports, run.log
        assert copied() is has_rsync
        assert (host.deploy_to / "current/app.py").read_text() == host.tree["app.py"]
        assert list(temporary.iterdir()) == []
    finally:
        shutil.rmtree(temporary)


def test_tree_is_copied_where_files_get_access_lists_from_their_directory(host: Host) -> None:
    copied = copies_are_told(host)
    (host.deploy_to / "incoming").mkdir(parents=True)
    # user::rwx user:65534:r-x group::r-x mask::rwx other::r-x, for what is made below
    entries = ((0x01, 7, -1), (0x02, 5, 65534), (0x04, 5, -1), (0x10, 7, -1), (0x20, 5, -1))
    acl = b"\2\0\0\0" + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    for kind in ("access", "default"):
        os.setxattr(host.deploy_to / "incoming", f"system.posix_acl_{kind}", acl)
    assert "verified" in host.deploy(FIRST, OLD).reports
    assert copied()
    assert "system.posix_acl_access" in os.listxattr(host.deploy_to / "current/app.py")
    assert list((host.home / "tmp").iterdir()) == []


def test_copy_that_fails_changes_nothing_and_leaves_nothing(host: Host) -> None:
    host.deploy(FIRST, OLD)
    temporary = on_another_file_system(host)
    (host.home / "bin/rsync").unlink()
    (host.home / "bin/rsync").write_text('#!/bin/sh\nfor last do :; done\nmkdir "$last"\nexit 23\n')
    (host.home / "bin/rsync").chmod(0o755)
    try:
        run = host.deploy(SECOND, NEW)
        assert "can't be brought to" in run.reports["failed"]["reason"]
        assert host.current == f"releases/{OLD}"
        assert host.releases == [OLD]
        assert [*temporary.iterdir(), *(host.deploy_to / "incoming").iterdir()] == []
    finally:
        shutil.rmtree(temporary)


def test_tree_of_a_run_that_was_killed_is_in_nobodys_way(host: Host) -> None:
    """Killed after stretcher has put its tree beside, and before the host has taken it in."""
    host.deploy(FIRST, OLD)
    manifest = host.manifest(SECOND, NEW)
    for name in (manifest.unpacked_name, f"{manifest.unpacked_prefix}{THIRD}"):
        left = host.home / "tmp" / name / "app.py"
        left.parent.mkdir()
        left.write_text("of the killed run")
    assert "verified" in host.deploy(SECOND, NEW).reports
    assert (host.deploy_to / "current/app.py").read_text() == host.tree["app.py"]
    assert list((host.home / "tmp").iterdir()) == []


def test_missing_linked_file_is_said_before_anything_changes(host: Host) -> None:
    host.changes = {"linked_files": (".env",)}
    run = host.deploy(FIRST, OLD)
    assert f"there is no {host.deploy_to}/shared/.env" in run.reports["failed"]["reason"]
    assert set(run.reports) == {"failed"}


def virtualenv_made_elsewhere(version: str) -> dict[str, str]:
    """The files of a virtual environment whose interpreter this host has not at that place."""
    config = f"home = /opt/gone/bin\ninclude-system-site-packages = false\nversion = {version}.1\n"
    installed = {f"venv/lib/python{version}/site-packages/installed.py": "where = __file__\n"}
    return {"venv/pyvenv.cfg": config, "venv/bin/activate": "", **installed}


def test_virtual_environment_is_led_to_the_hosts_own_python(host: Host) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    host.tree |= virtualenv_made_elsewhere(version)
    host.environment["PATH"] = f"{host.environment['PATH']}:{sys.base_prefix}/bin"
    host.deploy(FIRST, OLD)
    assert host.current == f"releases/{OLD}"
    python = host.deploy_to / "current/venv/bin/python"
    said = subprocess.run(
        [str(python), "-c", "import installed, sys; print(installed.where, sys.base_prefix)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"/current/venv/lib/python{version}/site-packages/installed.py" in said
    assert "/opt/gone" not in said
    assert os.readlink(python) == os.path.realpath(f"{sys.base_prefix}/bin/python{version}")


def test_virtual_environment_without_its_python_is_told_before_the_switch(host: Host) -> None:
    host.deploy(FIRST, OLD)
    host.tree |= virtualenv_made_elsewhere("3.99")
    run = host.deploy(SECOND, NEW)
    reason = "the release's venv needs Python 3.99, and this host has no python3.99 in PATH: install it"
    assert reason in run.reports["failed"]["reason"]
    assert "activated" not in run.reports
    assert host.current == f"releases/{OLD}"
    assert host.releases == [OLD]


def test_corrupted_archive_is_reported_by_a_host_whose_pre_never_ran(host: Host) -> None:
    host.go(FIRST, "go all")
    host.want(FIRST)
    release = host.manifest(FIRST, OLD).release
    host.changes = {"release": replace(release, checksum="0" * 64)}
    run = host.run(FIRST, OLD)
    assert set(run.reports) == {"failed"}
    assert "checksum mismatch" in run.reports["failed"]["reason"].lower()


# the barrier


def test_nothing_is_unpacked_before_go(host: Host) -> None:
    host.want(FIRST)
    host.go(FIRST, "wait 0")
    process = host.start(FIRST, OLD)
    until(lambda: "fetched" in host.reports(FIRST))
    for beat in range(1, 5):
        time.sleep(1)
        host.go(FIRST, f"wait {beat}")
    assert process.poll() is None
    assert not (host.deploy_to / "incoming" / FIRST).exists()
    host.go(FIRST, "go app2")
    time.sleep(1)
    assert process.poll() is None
    host.go(FIRST, "go app2 app1")
    assert "verified" in host.finish(process, FIRST).reports


@pytest.mark.parametrize(
    ("word", "state", "sentence"),
    [("abort", "aborted", "the operator has aborted"), ("", "aborted", "nothing was heard from the operator for 3 s")],
    ids=["abort", "vanished operator"],
)
def test_host_leaves_the_barrier_without_a_change(host: Host, word: str, state: str, sentence: str) -> None:
    host.want(FIRST)
    host.go(FIRST, "wait 7")
    process = host.start(FIRST, OLD)
    until(lambda: "fetched" in host.reports(FIRST))
    if word:
        host.go(FIRST, word)
    run = host.finish(process, FIRST)
    assert set(run.reports) == {"fetched", state}
    assert sentence in run.reports[state]["reason"]
    assert host.current is None


def test_newer_deployment_frees_the_host_at_the_barrier(host: Host) -> None:
    host.environment["DEPLOYTOOL_SILENCE_SECONDS"] = "30"
    host.want(FIRST)
    host.go(FIRST, "wait 0")
    process = host.start(FIRST, OLD)
    until(lambda: "fetched" in host.reports(FIRST))
    host.want(SECOND)
    assert set(host.finish(process, FIRST).reports) == {"fetched", "superseded"}


def test_server_that_shows_the_past_while_it_starts_takes_no_host_from_the_barrier(host: Host) -> None:
    host.environment["DEPLOYTOOL_SILENCE_SECONDS"] = "60"
    host.want(SECOND)
    host.go(SECOND, "wait 0")
    process = host.start(SECOND, OLD)
    until(lambda: "fetched" in host.reports(SECOND))
    host.want(FIRST)
    # Longer than from one look at `wanted` to the next.
    time.sleep(4)
    host.want(SECOND)
    host.go(SECOND, "go all")
    assert "verified" in host.finish(process, SECOND).reports


def test_host_leaves_when_the_deployment_before_is_wanted_again_for_good(host: Host) -> None:
    host.environment["DEPLOYTOOL_SILENCE_SECONDS"] = "30"
    host.want(SECOND)
    host.go(SECOND, "wait 0")
    process = host.start(SECOND, OLD)
    until(lambda: "fetched" in host.reports(SECOND))
    host.want(FIRST)
    began = time.monotonic()
    run = host.finish(process, SECOND)
    assert time.monotonic() - began < 25
    assert f"taken this deployment back; {FIRST} is wanted" in run.reports["aborted"]["reason"]
    assert host.current is None


def test_consul_restarting_at_the_barrier_is_borne(host: Host) -> None:
    host.want(FIRST)
    host.go(FIRST, "wait 0")
    process = host.start(FIRST, OLD)
    until(lambda: "fetched" in host.reports(FIRST))
    host.mark(".down").touch()
    time.sleep(1.5)
    host.go(FIRST, "go all")
    host.mark(".down").unlink()
    assert "verified" in host.finish(process, FIRST).reports


def test_beats_that_a_stale_server_repeats_keep_no_host_waiting(host: Host) -> None:
    host.want(FIRST)
    host.go(FIRST, "wait 5")
    process = host.start(FIRST, OLD)
    until(lambda: "fetched" in host.reports(FIRST))
    deadline = time.monotonic() + 15
    beat = 4
    while process.poll() is None and time.monotonic() < deadline:
        host.go(FIRST, f"wait {beat}")
        beat = 9 - beat
        time.sleep(0.3)
    assert "aborted" in host.finish(process, FIRST).reports


def waiting_for_its_turn(host: Host) -> "subprocess.Popen[bytes]":
    """A run that holds the archive while only app2 has gone."""
    host.want(FIRST)
    host.go(FIRST, "wait 0")
    process = host.start(FIRST, OLD)
    until(lambda: "fetched" in host.reports(FIRST))
    host.go(FIRST, "go app2 +1")
    return process


def test_host_waits_for_its_turn_as_long_as_the_operator_counts(host: Host) -> None:
    process = waiting_for_its_turn(host)
    for beat in range(2, 6):
        time.sleep(1)
        host.go(FIRST, f"go app2 +{beat}")
    assert process.poll() is None
    assert host.current is None
    host.go(FIRST, "go app1 app2 +6")
    assert "verified" in host.finish(process, FIRST).reports


def test_host_leaves_at_once_when_the_rollout_is_stopped_before_its_turn(host: Host) -> None:
    host.environment["DEPLOYTOOL_SILENCE_SECONDS"] = "60"
    process = waiting_for_its_turn(host)
    host.go(FIRST, "only app2")
    run = host.finish(process, FIRST)
    assert set(run.reports) == {"fetched", "aborted"}
    assert "stopped before it was this host's turn" in run.reports["aborted"]["reason"]
    assert host.current is None
    # Ready for the next one.
    assert "verified" in host.deploy(SECOND, NEW).reports


def test_host_leaves_when_nobody_counts_any_more_between_two_waves(host: Host) -> None:
    process = waiting_for_its_turn(host)
    deadline = time.monotonic() + 15
    beat = 1
    while process.poll() is None and time.monotonic() < deadline:
        # A stale server repeats what was said.
        host.go(FIRST, f"go app2 +{beat}")
        beat = 1 - beat
        time.sleep(0.3)
    run = host.finish(process, FIRST)
    assert "nothing was heard from the operator" in run.reports["aborted"]["reason"]


@pytest.mark.parametrize(("word", "state"), [("only app2 app1", "verified"), ("only app2 app11", "aborted")])
def test_host_that_comes_late_to_a_rollout_that_was_stopped(host: Host, word: str, state: str) -> None:
    host.want(FIRST)
    host.go(FIRST, word)
    run = host.run(FIRST, OLD)
    assert state in run.reports
    assert ("fetched" in run.reports) is (state == "verified")
    assert (host.current is None) is (state == "aborted")


def test_second_stretcher_waits_for_the_first_and_finds_nothing_to_do(host: Host) -> None:
    host.environment["DEPLOYTOOL_LOCK_SECONDS"] = "30"
    host.want(FIRST)
    host.go(FIRST, "wait 0")
    first = host.start(FIRST, OLD)
    until(lambda: "fetched" in host.reports(FIRST))
    second = host.start(FIRST, OLD)
    time.sleep(0.5)
    host.go(FIRST, "go all")
    assert "verified" in host.finish(first, FIRST).reports
    run = host.finish(second, FIRST)
    assert "replay" in run.log
    assert set(run.reports) == {"fetched", "activated", "verified"}


def test_failed_download_of_a_second_stretcher_does_not_undo_the_first_ones_switch(host: Host) -> None:
    host.changes = {"hooks": hooks(post=f"while [ ! -e {host.home}/on ]; do sleep 0.1; done")}
    host.go(FIRST, "go all")
    host.want(FIRST)
    first = host.start(FIRST, OLD)
    until(host.has_switch_record)
    shutil.move(host.home / "store", host.home / "gone")
    second = subprocess.run(
        [host.parts.stretcher],
        input=manifest_url(f"file://{host.home}", f"{FIRST}.yml"),
        env=host.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "another stretcher is at this deployment" in second.stdout
    (host.home / "on").touch()
    run = host.finish(first, FIRST)
    assert set(run.reports) == {"fetched", "activated", "verified"}
    assert host.current == f"releases/{OLD}"


def test_lock_of_a_killed_stretcher_is_taken_over(host: Host) -> None:
    host.want(FIRST)
    host.go(FIRST, "wait 0")
    process = host.start(FIRST, OLD)
    until(lambda: "fetched" in host.reports(FIRST))
    process.kill()
    process.wait()
    assert (host.deploy_to / ".deploytool/lock").is_symlink()
    assert "verified" in host.deploy(SECOND, NEW).reports


# failure and undo


def test_failed_post_hook_on_the_first_deployment_removes_current(host: Host) -> None:
    host.changes = {"hooks": hooks(post="echo 'tail \"of\" \\ log' >&2; exit 7")}
    run = host.deploy(FIRST, OLD)
    assert host.current is None
    report = run.reports["failed"]
    assert "hook roles.web.hooks.post[0] failed with exit status 7" in report["reason"]
    assert "first deployment" in report["reason"]
    assert 'tail "of" \\ log' in report["log"]
    assert "verified" not in run.reports


def test_failed_post_hook_puts_the_old_release_back_and_proves_it(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    host.changes |= {"hooks": hooks(post="exit 3", failure=f"touch {host.home}/failure-hook")}
    run = host.deploy(SECOND, NEW)
    assert host.current == f"releases/{OLD}"
    assert f"put back to {OLD}, which is proven to serve again" in run.reports["failed"]["reason"]
    assert os.readlink(f"/proc/{host.app}/cwd") == str(host.deploy_to / "releases" / OLD)
    assert host.last == f"{SECOND} failed {NEW}"
    assert (host.home / "failure-hook").exists()
    serving = json.loads(host.key("serving/web/app1").read_text())
    assert (serving["release"], serving["verified"]) == (OLD, True)
    # And its replay does nothing.
    assert "replay" in host.run(SECOND, NEW).log


def test_undo_restarts_and_proves_the_old_release_by_its_own_words(host: Host) -> None:
    restart = 'echo "$(pwd) OLD" >>../../shared/said; ' + RESTART
    host.changes = {"restart": command(restart), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    host.changes = {
        "restart": command('echo "$(pwd) NEW" >>../../shared/said'),
        "verify_command": "false",
        "hook_seconds": 1,
    }
    run = host.deploy(SECOND, NEW)
    said = (host.deploy_to / "shared/said").read_text().splitlines()
    releases = host.deploy_to / "releases"
    assert said == [f"{releases / OLD} OLD", f"{releases / NEW} NEW", f"{releases / OLD} OLD"]
    assert "proven to serve again" in run.reports["failed"]["reason"]


def test_restart_that_leaves_the_old_process_is_found_out(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    host.changes["restart"] = command("echo reloaded")
    run = host.deploy(SECOND, NEW)
    reason = run.reports["failed"]["reason"]
    assert "still runs in" in reason
    assert OLD in reason
    assert host.current == f"releases/{OLD}"


def test_process_that_starts_and_dies_is_no_proof(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    host.changes |= {"restart": command(RESTART.replace("sleep 300", "sleep 1")), "stable_seconds": 2}
    run = host.deploy(SECOND, NEW)
    assert "does not run" in run.reports["failed"]["reason"]
    assert host.current == f"releases/{OLD}"
    assert "proven to serve again" in run.reports["failed"]["reason"]


def test_same_release_again_needs_new_processes(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    host.changes["restart"] = command("true")
    run = host.deploy(SECOND, OLD)
    assert "runs since before the switch" in run.reports["failed"]["reason"]


MASTER = """kill "$(cat ../../shared/app.pid 2>/dev/null)" 2>/dev/null
cat >../../shared/master <<'END'
cd "$1"
(cd "$2" && exec sleep 300) &
trap 'kill $!' TERM
wait
END
sh ../../shared/master {master} "$PWD" >/dev/null 2>&1 &
echo $! >../../shared/app.pid
"""


def test_master_may_stay_outside_if_its_workers_are_new(host: Host) -> None:
    host.changes = {"restart": command(MASTER.replace("{master}", "/")), "verify_pid_file": "../../shared/app.pid"}
    assert "verified" in host.deploy(FIRST, OLD).reports


def test_name_of_a_process_with_parentheses_and_spaces_is_read_right(host: Host) -> None:
    program = host.home / "a) S (b c"
    shutil.copy("/bin/sleep", program)
    restart = RESTART.replace("sleep 300", f"'{program}' 300")
    host.changes = {"restart": command(restart), "verify_pid_file": "../../shared/app.pid"}
    assert "verified" in host.deploy(FIRST, OLD).reports


def test_missing_pid_file_is_no_proof(host: Host) -> None:
    host.changes = {"verify_pid_file": "tmp/app.pid", "hook_seconds": 1}
    run = host.deploy(FIRST, OLD)
    assert "there is no pid in" in run.reports["failed"]["reason"]
    assert "cannot open" not in run.log


def test_hook_that_hangs_is_ended_and_named(host: Host) -> None:
    host.changes = {"hooks": hooks(pre="sleep 50"), "hook_seconds": 1}
    run = host.deploy(FIRST, OLD)
    assert "hook roles.web.hooks.pre[0] was ended after 1 s" in run.reports["failed"]["reason"]


def test_reports_are_json_whatever_a_hook_prints(host: Host) -> None:
    printed = r"printf '\033[31mred\033[0m \001\377\376 tab\there caf\303\251 \"q\" \\ %s\r\n' "
    host.changes = {"hooks": hooks(pre=printed + '"$(head -c 100000 /dev/zero | tr \\\\0 x)"; exit 1')}
    run = host.deploy(FIRST, OLD)
    log = run.reports["failed"]["log"]
    assert r"red  tab here café \"q\" \ xxx" in log
    assert len(log) < 16_000
    assert "begin" not in log


def test_log_tail_holds_no_script(host: Host) -> None:
    host.changes = {"hooks": hooks(post="echo said; exit 1")}
    run = host.deploy(FIRST, OLD)
    log = run.reports["failed"]["log"]
    assert "| said" in log
    for script_word in ("kv_list", "point_current", "printf", "Executing manifest"):
        assert script_word not in log


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("sudo: a password is required", "who needs a line in /etc/sudoers.d: `fab production app-server --role web`"),
        ("sudo: interactive authentication is required", "who needs a line in /etc/sudoers.d"),
        (
            'sudo: The "no new privileges" flag is set, which prevents sudo from running as root.',
            "sudo does not work in units that were printed with `app-server --sandbox`",
        ),
    ],
)
def test_restart_whose_sudo_asks_for_a_password_says_what_is_missing(host: Host, said: str, words: str) -> None:
    host.changes = {"restart": command(f"echo '{said}' >&2; exit 1")}
    assert words in host.deploy(FIRST, OLD).reports["failed"]["reason"]


def test_restart_that_fails_for_another_reason_says_nothing_of_sudo(host: Host) -> None:
    host.changes = {"restart": command("echo 'the password is required'; exit 1")}
    assert "sudo" not in host.deploy(FIRST, OLD).reports["failed"]["reason"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what root can't remove")
def test_release_that_cannot_be_removed_is_named_in_the_last_word_until_it_is_gone(host: Host) -> None:
    """Not even root removes what is mounted; elsewhere it is another user's directory."""
    host.deploy(FIRST, OLD)
    left = host.deploy_to / f"releases/.discarded-{RELEASES[0]}"
    left.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "left", str(left)], check=True)
    try:
        run = host.deploy(SECOND, NEW)
        assert "verified" in run.reports
        assert f"{left} could not be removed" in run.log
        word = host.last_word
        assert (word["unremoved"], word["verified"]) == (f"releases/{left.name}", True)
        assert set(word["releases"]) == {OLD, NEW}
    finally:
        subprocess.run(["umount", str(left)], check=True)
    host.deploy(THIRD, OLD)
    assert not left.exists()
    assert "unremoved" not in host.last_word


def test_switch_cut_off_by_a_reboot_is_finished_by_the_same_deployment(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    cut_off(host)
    host.changes["hooks"] = hooks()
    assert "verified" in host.run(SECOND, NEW).reports
    assert host.current == f"releases/{NEW}"
    assert not host.has_switch_record()


def test_switch_cut_off_by_a_reboot_is_undone_if_the_archive_is_gone(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    cut_off(host)
    release = host.manifest(SECOND, NEW).release
    host.changes |= {"hooks": hooks(), "release": replace(release, checksum="0" * 64)}
    run = host.run(SECOND, NEW)
    assert f"put back to {OLD}, which is proven to serve again" in run.reports["failed"]["reason"]
    assert host.current == f"releases/{OLD}"


def test_deployment_after_a_cut_off_switch_goes_back_to_what_was_proven(host: Host) -> None:
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    cut_off(host)
    third = "20261123T080000Z-ccccccc"
    host.changes["hooks"] = hooks(post="exit 1")
    run = host.deploy(THIRD, third)
    assert host.current == f"releases/{OLD}"
    assert f"put back to {OLD}" in run.reports["failed"]["reason"]


def cut_off(host: Host) -> None:
    """The host is rebooted between the switch and its proof: everything that runs is killed."""
    host.changes["hooks"] = hooks(post=f"echo $$ >{host.home}/hook.pid; exec sleep 100")
    host.changes["hook_seconds"] = 60
    host.go(SECOND, "go all")
    host.want(SECOND)
    process = host.start(SECOND, NEW)
    until((host.home / "hook.pid").exists)
    until(lambda: (host.home / "hook.pid").read_text().strip())
    process.kill()
    hook = int((host.home / "hook.pid").read_text())
    script = parent_of(parent_of(hook))
    for pid in (script, hook):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(20)
    os.kill(host.app, signal.SIGKILL)
    host.changes["hook_seconds"] = 4
    assert host.current == f"releases/{NEW}"
    assert host.has_switch_record()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# drain and undrain

TOLD = "echo {word} $(readlink {host.deploy_to}/current) >>{host.home}/told"


def drained_host(host: Host, **changes: Any) -> Host:
    """A host with a proven release, which from now on is drained for a switch; what it does is told in a file."""
    restart = f"{TOLD.format(word='restart', host=host)}; {RESTART}"
    host.changes = {"restart": command(restart), "verify_pid_file": "../../shared/app.pid"}
    host.deploy(FIRST, OLD)
    (host.home / "told").unlink()
    host.changes |= {
        "drain": command(TOLD.format(word="drain", host=host), "roles.web.hooks.drain[0]"),
        "undrain": command(TOLD.format(word="undrain", host=host), "roles.web.hooks.undrain[0]"),
    }
    host.changes |= changes
    return host


def told(host: Host) -> list[str]:
    """What has happened, each with the release that `current` pointed to."""
    lines = (host.home / "told").read_text().split()
    words = [line.removeprefix("releases/") for line in lines]
    return [f"{what} {'OLD' if where == OLD else 'NEW'}" for what, where in zip(words[::2], words[1::2], strict=True)]


def is_drained(host: Host) -> bool:
    return (host.deploy_to / ".deploytool/drained").exists()


def word_of(host: Host) -> tuple[str, bool]:
    serving = json.loads(host.key("serving/web/app1").read_text())
    return serving["release"], serving["verified"]


def test_host_is_drained_for_the_switch_and_back_before_it_says_so(host: Host) -> None:
    drained_host(host, hooks=hooks(success=f"echo success x >>{host.home}/told"))
    run = host.deploy(SECOND, NEW)
    assert "verified" in run.reports, run.log
    assert told(host) == ["drain OLD", "restart NEW", "undrain NEW", "success NEW"]
    assert not is_drained(host)


def test_host_that_kept_the_release_is_drained_as_well(host: Host) -> None:
    drained_host(host)
    host.deploy(SECOND, NEW)
    (host.home / "told").unlink()
    host.changes["src"] = ""
    assert "verified" in host.deploy(THIRD, OLD).reports
    assert told(host) == ["drain NEW", "restart OLD", "undrain OLD"]


def test_hook_that_fails_after_the_drain_is_undone_before_the_host_is_back(host: Host) -> None:
    drained_host(host, hooks=hooks(post="exit 3"))
    run = host.deploy(SECOND, NEW)
    assert told(host) == ["drain OLD", "restart OLD", "undrain OLD"]
    assert run.reports["failed"]["reason"].endswith(f"put back to {OLD}, which is proven to serve again; undrained")
    assert word_of(host) == (OLD, True)
    assert not is_drained(host)


def test_failed_proof_is_undone_before_the_host_is_back(host: Host) -> None:
    drained_host(host, verify_command="false", hook_seconds=1)
    run = host.deploy(SECOND, NEW)
    assert told(host) == ["drain OLD", "restart NEW", "restart OLD", "undrain OLD"]
    assert run.reports["failed"]["reason"].endswith("; undrained")


def test_drain_that_fails_half_way_is_undone_and_nothing_was_switched(host: Host) -> None:
    drained_host(host)
    app = host.app
    host.changes["drain"] += command("exit 9", "roles.web.hooks.drain[1]")
    run = host.deploy(SECOND, NEW)
    assert told(host) == ["drain OLD", "undrain OLD"]
    reason = run.reports["failed"]["reason"]
    assert reason == "hook roles.web.hooks.drain[1] failed with exit status 9; undrained"
    assert host.current == f"releases/{OLD}"
    assert host.app == app
    assert not is_drained(host)


def test_drain_that_hangs_is_ended_and_undone(host: Host) -> None:
    drained_host(host, drain=command("sleep 50", "roles.web.hooks.drain[0]"), hook_seconds=1)
    run = host.deploy(SECOND, NEW)
    assert "hook roles.web.hooks.drain[0] was ended after 1 s" in run.reports["failed"]["reason"]
    assert told(host) == ["undrain OLD"]


def test_first_deployment_that_fails_is_undrained(host: Host) -> None:
    mark = host.home / "undrained"
    host.changes = {"drain": command("true"), "undrain": command(f"touch {mark}"), "hooks": hooks(post="exit 1")}
    run = host.deploy(FIRST, OLD)
    assert host.current is None
    assert run.reports["failed"]["reason"].endswith("; undrained")
    assert mark.exists()


def test_undrain_that_fails_is_tried_again_after_the_undo(host: Host) -> None:
    drained_host(host)
    undrain = f"[ -e {host.home}/second ] || {{ touch {host.home}/second; exit 5; }}; {host.changes['undrain'][0].text}"
    host.changes["undrain"] = command(undrain, "roles.web.hooks.undrain[0]")
    run = host.deploy(SECOND, NEW)
    assert told(host) == ["drain OLD", "restart NEW", "restart OLD", "undrain OLD"]
    reason = run.reports["failed"]["reason"]
    assert "the host could not be brought back: hook roles.web.hooks.undrain[0] failed with exit status 5" in reason
    assert reason.endswith("; undrained")
    assert word_of(host) == (OLD, True)


def test_host_that_stays_drained_is_not_called_proven_until_it_is_back(host: Host) -> None:
    drained_host(host, undrain=command(f"test -e {host.home}/mended", "roles.web.hooks.undrain[0]"))
    run = host.deploy(SECOND, NEW)
    reason = run.reports["failed"]["reason"]
    assert (
        "NOT undrained, so it may get no traffic: hook roles.web.hooks.undrain[0] failed with exit status 1" in reason
    )
    assert "verified" not in run.reports
    assert word_of(host) == (OLD, False)
    assert is_drained(host)
    # Whoever comes next tries again, be it a replay.
    again = host.run(SECOND, NEW)
    assert "NOT undrained" in again.log
    assert (word_of(host), is_drained(host)) == ((OLD, False), True)
    (host.home / "mended").touch()
    app = host.app
    healed = host.run(SECOND, NEW)
    assert "replay: this host has already switched" in healed.log
    assert "; undrained" in healed.log
    assert (word_of(host), is_drained(host)) == ((OLD, True), False)
    assert host.app == app


def test_drained_host_that_was_never_switched_is_not_called_proven(host: Host) -> None:
    drained_host(host, drain=command("exit 1"), undrain=command(f"test -e {host.home}/mended"))
    run = host.deploy(SECOND, NEW)
    assert "NOT undrained" in run.reports["failed"]["reason"]
    assert word_of(host) == (OLD, False)
    (host.home / "mended").touch()
    # A replay of the one before.
    assert "undrained" in host.run(FIRST, OLD).log
    assert (word_of(host), is_drained(host)) == ((OLD, True), False)


def cut_off_drained(host: Host, where: str) -> None:
    """The host is rebooted while it is drained: in the drain itself, or after the switch."""
    hang = f"echo $$ >{host.home}/hook.pid; exec sleep 100"
    before = dict(host.changes)
    if where == "drain":
        host.changes["drain"] += command(hang)
    else:
        host.changes["hooks"] = hooks(post=hang)
    host.changes["hook_seconds"] = 60
    host.go(SECOND, "go all")
    host.want(SECOND)
    process = host.start(SECOND, NEW)
    until(lambda: (host.home / "hook.pid").exists() and (host.home / "hook.pid").read_text().strip())
    process.kill()
    hook = int((host.home / "hook.pid").read_text())
    for pid in (parent_of(parent_of(hook)), hook, host.app):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(20)
    assert is_drained(host)
    assert "undrain OLD" not in told(host)
    host.changes = before


@pytest.mark.parametrize("where", ["drain", "switch"])
def test_host_cut_off_while_drained_is_brought_back_by_the_same_deployment(host: Host, where: str) -> None:
    cut_off_drained(drained_host(host), where)
    assert "verified" in host.run(SECOND, NEW).reports
    assert told(host)[-2:] == ["restart NEW", "undrain NEW"]
    assert not is_drained(host)


@pytest.mark.parametrize("where", ["drain", "switch"])
def test_host_cut_off_while_drained_is_brought_back_by_the_next_one_in_its_own_words(host: Host, where: str) -> None:
    cut_off_drained(drained_host(host), where)
    # Other hooks by now: what was done is undone by what belongs to it.
    host.changes |= {"drain": (), "undrain": command(f"echo other x >>{host.home}/told")}
    third = "20261123T080000Z-ccccccc"
    assert "verified" in host.deploy(THIRD, third).reports
    lines = (host.home / "told").read_text().split("\n")[:-1]
    assert lines[-3:] == [f"restart releases/{third}", f"undrain releases/{third}", "other x"]
    assert not is_drained(host)


def test_host_cut_off_in_its_drain_is_brought_back_by_a_deployment_that_changes_nothing(host: Host) -> None:
    cut_off_drained(drained_host(host), "drain")
    host.go(THIRD, "abort")
    host.want(THIRD)
    run = host.run(THIRD, NEW)
    assert run.reports["aborted"]["reason"].endswith("; undrained")
    assert told(host)[-1] == "undrain OLD"
    assert not is_drained(host)


def test_host_cut_off_in_its_switch_stays_drained_until_that_is_over(host: Host) -> None:
    cut_off_drained(drained_host(host), "switch")
    host.go(THIRD, "abort")
    host.want(THIRD)
    assert "still drained" in host.run(THIRD, NEW).reports["aborted"]["reason"]
    assert is_drained(host)
    # And a deployment that has been let go, and can't be had, ends both.
    host.go(THIRD, "go all")
    release = host.manifest(THIRD, NEW).release
    host.changes["release"] = replace(release, checksum="0" * 64)
    host.run(THIRD, NEW)
    assert told(host)[-2:] == ["restart OLD", "undrain OLD"]
    assert not is_drained(host)


def test_drain_works_where_paths_are_odd(tmp_path: Path, parts: Parts, odd: str) -> None:
    host = make_host(tmp_path, parts, odd)
    mark = tmp_path / "back"
    host.changes = {"drain": command("true"), "undrain": command(f"echo 'it''s back'\ntouch {mark}\n")}
    try:
        assert "verified" in host.deploy(FIRST, OLD).reports
        assert mark.exists()
        assert not is_drained(host)
    finally:
        end_app(host)


def test_full_disk_is_reported(tmp_path: Path, parts: Parts) -> None:
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("small disks need root")
    host = make_host(tmp_path, parts, "www")
    host.deploy_to.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs", str(host.deploy_to)], check=True)
    try:
        host.deploy(FIRST, OLD)
        host.tree = {"big": "x" * 400_000}
        run = host.deploy(SECOND, NEW)
        assert set(run.reports) == {"fetched", "failed"}, run.log
        assert "No space left" in run.reports["failed"]["log"]
        assert host.current == f"releases/{OLD}"
        assert not (host.deploy_to / "incoming" / SECOND).exists()
    finally:
        subprocess.run(["umount", str(host.deploy_to)], check=True)


# url and command


@pytest.fixture
def site() -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
    """A web server that answers what it is told to."""
    answers: dict[str, tuple[int, str]] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, "none"))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/login")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["curl", "wget", "bash"])
def client(request: pytest.FixtureRequest, host: Host) -> str:
    """Leaves the host only one program that can fetch a URL."""
    name = str(request.param)
    only_programs(host, *{"curl": ["curl"], "wget": ["wget"], "bash": ["bash"]}[name])
    return name


#: Besides sh: coreutils, tar, sed and grep.
PLAIN_PROGRAMS = (
    *("sh", "cat", "tr", "cut", "date", "tail", "head", "timeout", "mkdir", "rm", "mv", "ln", "readlink", "sleep"),
    *("sync", "expr", "df", "stat", "id", "sort", "ls", "base64", "dirname", "basename", "wc", "touch", "od", "uname"),
    *("printf", "mktemp", "chmod", "cp", "sed", "grep", "tar", "gzip"),
)


def only_programs(host: Host, *more: str) -> None:
    """The host has nothing in PATH but what the tool may count on, and `more`."""
    for name in (*PLAIN_PROGRAMS, *more):
        program = shutil.which(name)
        assert program, f"{name} is missing on this machine"
        link = host.home / "bin" / name
        if not link.exists():
            link.symlink_to(program)
    host.environment["PATH"] = str(host.home / "bin")


def test_host_needs_only_sh_tar_coreutils_sed_and_grep(host: Host) -> None:
    (host.home / "bin/rsync").unlink()
    only_programs(host)
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    run = host.deploy(FIRST, OLD)
    assert "verified" in run.reports, run.log
    assert "not found" not in run.log
    host.changes |= {"hooks": hooks(post="printf 'caf\\303\\251\\n'; exit 1")}
    run = host.deploy(SECOND, NEW)
    assert "proven to serve again" in run.reports["failed"]["reason"], run.log
    assert "not found" not in run.log


@pytest.mark.usefixtures("client")
def test_url_must_answer_with_the_expected_text(host: Host, site: tuple[str, dict[str, tuple[int, str]]]) -> None:
    url, answers = site
    answers["/health?a=[1]"] = (200, "all is well at bbbbbbb\n")
    host.changes = {"verify_url": f"{url}/health?a=[1]", "verify_expect": "bbbbbbb"}
    run = host.deploy(FIRST, NEW)
    assert "verified" in run.reports, run.reports


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(
    ("answer", "doubt"),
    [((500, "bbbbbbb"), "not 2xx"), ((302, "bbbbbbb"), "not 2xx"), ((200, "aaaaaaa"), "answers without 'bbbbbbb'")],
    ids=["500", "302", "old revision"],
)
def test_url_that_answers_otherwise_is_no_proof(
    host: Host, site: tuple[str, dict[str, tuple[int, str]]], answer: tuple[int, str], doubt: str
) -> None:
    url, answers = site
    answers["/"] = answer
    answers["/login"] = (200, "bbbbbbb")
    host.changes = {"verify_url": f"{url}/", "verify_expect": "bbbbbbb", "hook_seconds": 1}
    run = host.deploy(FIRST, NEW)
    assert doubt in run.reports["failed"]["reason"]


def test_command_that_fails_is_no_proof_and_says_why(host: Host) -> None:
    host.changes = {"verify_command": "echo no luck; exit 4", "hook_seconds": 1}
    run = host.deploy(FIRST, NEW)
    assert "verify.command ends with exit status 4: no luck" in run.reports["failed"]["reason"]


# other shells


def test_everything_works_with_bash_as_sh(host: Host) -> None:
    bash = shutil.which("bash")
    assert bash
    (host.home / "bin/sh").symlink_to(bash)
    host.changes = {"restart": command(RESTART), "verify_pid_file": "../../shared/app.pid"}
    assert "verified" in host.deploy(FIRST, OLD).reports
    host.changes["hooks"] = hooks(post="exit 1")
    assert "proven to serve again" in host.deploy(SECOND, NEW).reports["failed"]["reason"]


# the real Consul


@pytest.fixture(scope="module")
def agent(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real agent whose node name differs from the machine's; its address."""
    http, lan, wan, server = processes.free_ports(["http", "lan", "wan", "server"]).values()
    log = (tmp_path_factory.mktemp("consul") / "log").open("w")
    arguments = ["agent", "-dev", "-node", "real-node", "-bind", "127.0.0.1", "-dns-port", "-1", "-grpc-port", "-1"]
    ports = ["-http-port", http, "-serf-lan-port", lan, "-serf-wan-port", wan, "-server-port", server]
    process = subprocess.Popen([parts.consul, *arguments, *map(str, ports)], stdout=log, stderr=log)
    address = f"127.0.0.1:{http}"
    try:

        def leads() -> bool:
            with suppress(OSError), urllib.request.urlopen(f"http://{address}/v1/status/leader") as answer:
                return len(answer.read()) > 2
            return False

        until(leads, seconds=30)
        yield address
    finally:
        process.terminate()
        process.wait()
        log.close()


@pytest.fixture
def real_host(host: Host, parts: Parts, agent: str) -> Host:
    (host.home / "bin/consul").unlink()
    (host.home / "bin/consul").symlink_to(parts.consul)
    del host.environment["DEPLOYTOOL_NODE"]
    host.environment["CONSUL_HTTP_ADDR"] = agent
    return host


@pytest.mark.parametrize("program", ["bash", "curl", "wget"])
def test_host_finds_its_name_and_its_go_in_a_real_consul(real_host: Host, program: str) -> None:
    host = real_host
    only_programs(host, program)
    calls = calls_are_written_down(host)
    consul(host, "delete", "-recurse", PREFIX)
    consul(host, "put", f"{PREFIX}/wanted/web", f"{FIRST} file:///x")
    consul(host, "put", f"{PREFIX}/deployments/{FIRST}/web/go", "wait 0")
    process = host.start(FIRST, OLD)
    hosts = f"{PREFIX}/reports/web/real-node/{FIRST}"
    until(lambda: "fetched" in consul(host, "get", "-keys", f"{hosts}/"))
    consul(host, "put", f"{PREFIX}/deployments/{FIRST}/web/go", "go real-node")
    run = host.finish(process, FIRST)
    assert json.loads(consul(host, "get", f"{hosts}/verified"))["reason"] == f"{OLD} serves", run.log
    assert json.loads(consul(host, "get", f"{PREFIX}/serving/web/real-node"))["release"] == OLD
    # Only a host that hears no bell looks again and again, and therefore at any server.
    assert f"-stale {PREFIX}/deployments" not in calls.read_text()


def calls_are_written_down(host: Host) -> Path:
    """Let the host's consul write down what it is called with; returns where."""
    calls = host.home / "calls"
    (host.home / "bin/consul").unlink()
    (host.home / "bin/consul").write_text(f'#!/bin/sh\necho "$*" >>"{calls}"\nexec "{host.parts.consul}" "$@"\n')
    (host.home / "bin/consul").chmod(0o755)
    return calls


def test_absent_wanted_and_unreachable_consul_differ_with_the_real_one(real_host: Host) -> None:
    host = real_host
    consul(host, "delete", "-recurse", PREFIX)
    host.run(FIRST, OLD)
    failed = f"{PREFIX}/reports/web/real-node/{FIRST}/failed"
    assert "key_prefix read" in json.loads(consul(host, "get", failed))["reason"]
    host.environment["CONSUL_HTTP_ADDR"] = "127.0.0.1:1"
    run = host.run(FIRST, OLD)
    assert "DEPLOYTOOL_NODE" in run.log
    host.environment["DEPLOYTOOL_NODE"] = "real-node"
    assert "connection refused" in host.run(FIRST, OLD).log
