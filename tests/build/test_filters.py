"""What git makes of files on the build server: a missing filter stops a build, one that changes is noticed."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploytool.build.build import build_inputs
from deploytool.build.stages import Fetched, checkout, fetch, fetched
from deploytool.build.stages.preview import preview
from deploytool.connection.step import explain
from deploytool.model.release import build_key
from deploytool.playground.parts import find_or_install_program
from tests.support.project import part
from tests.support.stage_server import Outcome, Repository, Server, ended, run

MISSING, FAILED = 78, 79
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n"


class Machine:
    """A build server with a git configuration of its own, which the tests write."""

    def __init__(self, tmp_path: Path, repository: Repository, **build: Any) -> None:
        self.config = tmp_path / "gitconfig"
        self.config.write_text("")
        self.server = Server(tmp_path / "root", str(repository.path), **build)
        self.programs = tmp_path / "bin"
        self.programs.mkdir(exist_ok=True)

    def set(self, name: str, value: str) -> None:
        subprocess.run(["git", "config", "--file", str(self.config), name, value], check=True)

    def run(self, step: Any) -> Outcome:
        return run(step, GIT_CONFIG_GLOBAL=str(self.config))

    def fetch(self) -> Outcome:
        return self.run(fetch(self.server.settings, self.server.place, "main"))

    def found(self) -> Fetched:
        outcome = self.fetch()
        assert outcome.exit_code == 0, outcome.output
        return fetched(outcome.results)

    def checkout(self) -> Outcome:
        return self.run(checkout(self.server.settings, self.server.place, self.found()))

    def read(self, name: str) -> bytes:
        outcome = self.checkout()
        assert outcome.exit_code == 0, (outcome.message, outcome.output)
        return (self.server.tree / name).read_bytes()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    made.commit({"README": "hello", ".gitattributes": "*.up filter=shout\n", "a.up": "quiet\n", "deep/b.up": "quiet\n"})
    return made


@pytest.fixture
def machine(tmp_path: Path, repository: Repository) -> Machine:
    return Machine(tmp_path, repository)


def test_filter_that_nobody_has_set_up_stops_the_build_by_name(machine: Machine) -> None:
    outcome = machine.fetch()
    assert outcome.exit_code == MISSING
    assert outcome.message == (
        "git's filter shout is not set up on the build server, and the revision has files for it: a.up, deep/b.up"
    )


def test_plan_tells_it_as_well(machine: Machine) -> None:
    outcome = machine.run(preview(machine.server.settings, machine.server.place, "main"))
    assert outcome.exit_code == MISSING
    assert "git's filter shout is not set up" in outcome.message


def test_pointers_of_git_lfs_are_never_published(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "lfs")
    repository.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a.bin": POINTER})
    machine = Machine(tmp_path, repository)
    outcome = machine.fetch()
    assert outcome.exit_code == MISSING
    hint = explain(outcome.step, ended(outcome.exit_code, outcome.results)).hint or ""
    assert "install git-lfs there and run `git lfs install`" in hint
    # `git lfs install` was run once, and git-lfs is gone.
    machine.set("filter.lfs.process", "git-lfs-of-nobody filter-process")
    machine.set("filter.lfs.smudge", "git-lfs-of-nobody smudge -- %f")
    outcome = machine.fetch()
    assert outcome.exit_code == MISSING
    assert "git's filter lfs needs git-lfs-of-nobody, which is not installed there" in outcome.message
    # `git lfs install --skip-smudge`
    machine.config.write_text('[filter "lfs"]\n\tsmudge = cat\n')
    outcome = machine.checkout()
    assert outcome.exit_code == FAILED
    assert "lfs: a.bin is still a pointer" in outcome.message
    machine.server.build["env"]["GIT_LFS_SKIP_SMUDGE"] = "1"
    assert machine.read("a.bin") == POINTER.encode()


def test_pointers_are_not_published_beside_a_submodule_that_has_none(tmp_path: Path) -> None:
    lib = Repository(tmp_path / "lib")
    lib.commit({"lib.txt": "1\n"})
    repository = Repository(tmp_path / "lfs")
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(lib.path), "lib")
    repository.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a.bin": POINTER})
    machine = Machine(tmp_path, repository)
    machine.config.write_text('[filter "lfs"]\n\tsmudge = cat\n')
    outcome = machine.checkout()
    assert outcome.exit_code == FAILED
    assert "lfs: a.bin is still a pointer" in outcome.message


@pytest.mark.parametrize("form", ["path", "file://"])
def test_files_of_git_lfs_are_those_of_the_revision(tmp_path: Path, form: str) -> None:
    """The real git-lfs, and no server: the repository has the files beside its objects."""
    program = part(lambda: find_or_install_program("git-lfs", print))
    repository = Repository(tmp_path / "lfs")
    machine = Machine(tmp_path, repository, env={})
    subprocess.run(
        [program, "install", "--skip-repo"], env={**os.environ, "GIT_CONFIG_GLOBAL": str(machine.config)}, check=True
    )
    for line in machine.config.read_text().splitlines():
        if " = " in line:
            repository.git("config", f"filter.lfs.{line.split(' = ')[0].strip()}", line.split(" = ", 1)[1])
    if form == "file://":
        machine.server.values["repository"] = repository.path.as_uri()
    for content in ("the first picture\n", "the second picture\n"):
        repository.commit({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a.bin": content})
        assert repository.git("cat-file", "-p", "HEAD:a.bin").startswith("version https://git-lfs.github.com/spec/v1")
        assert machine.read("a.bin") == content.encode()


def test_filter_that_is_set_up_makes_the_files(machine: Machine) -> None:
    machine.set("filter.shout.smudge", "tr a-z A-Z")
    machine.set("filter.shout.clean", "tr A-Z a-z")
    assert machine.read("a.up") == b"QUIET\n"
    assert machine.read("deep/b.up") == b"QUIET\n"
    assert machine.read("README") == b"hello"


def test_filter_that_fails_never_gives_the_file_as_it_is(machine: Machine) -> None:
    machine.set("filter.shout.smudge", "false")
    outcome = machine.checkout()
    assert outcome.exit_code == FAILED
    assert "git's filters (shout) failed on the build server for some files" in outcome.message


@pytest.mark.parametrize("name", ["clean", "smudge"])
def test_filter_that_changes_nothing_on_the_way_out_is_no_obstacle(machine: Machine, name: str) -> None:
    machine.set(f"filter.shout.{name}", "cat" if name == "smudge" else "tr A-Z a-z")
    assert machine.read("a.up") == b"quiet\n"


def test_filter_set_up_later_or_changed_writes_the_files_again(machine: Machine, repository: Repository) -> None:
    machine.set("filter.shout.smudge", "cat")
    machine.set("filter.shout.clean", "tr A-Z a-z")
    assert machine.read("a.up") == b"quiet\n"
    machine.set("filter.shout.smudge", "tr a-z A-Z")
    assert machine.read("a.up") == b"QUIET\n"
    machine.set("filter.shout.smudge", "tr q Q")
    assert machine.read("a.up") == b"Quiet\n"
    # As long as nothing changes, nothing is written.
    before = (machine.server.tree / "a.up").stat()
    repository.commit({"other": "1"})
    assert machine.read("a.up") == b"Quiet\n"
    assert (machine.server.tree / "a.up").stat().st_mtime_ns == before.st_mtime_ns


def test_changed_filter_is_another_release(machine: Machine) -> None:
    def key() -> str:
        found = machine.found()
        settings = machine.server.settings
        settings.application = "shop"
        settings.build.exclude = ()
        settings.build.compression = "gzip"
        return build_key(build_inputs(settings, found, "igzip 1"))

    machine.set("filter.shout.smudge", "cat")
    first = key()
    assert key() == first
    machine.set("filter.other.smudge", "false")
    assert key() == first
    machine.set("filter.shout.smudge", "tr a-z A-Z")
    assert key() != first


def test_revision_without_filters_has_the_releases_of_before(tmp_path: Path) -> None:
    plain = Repository(tmp_path / "plain")
    plain.commit({"a": "1", ".gitattributes": "*.bin binary\n"})
    machine = Machine(tmp_path, plain)
    machine.set("filter.lfs.smudge", "git-lfs smudge -- %f")
    assert machine.found().conversion == ""
    machine.set("core.eol", "crlf")
    assert machine.found().conversion != ""


@pytest.mark.parametrize("where", ["revision", "user", "core.eol"])
def test_changed_ends_of_lines_are_written_again(tmp_path: Path, where: str) -> None:
    repository = Repository(tmp_path / "text")
    repository.commit({"a.txt": "one\ntwo\n", ".gitattributes": "*.txt text\n" if where == "core.eol" else ""})
    machine = Machine(tmp_path, repository)
    assert machine.read("a.txt") == b"one\ntwo\n"
    if where == "revision":
        repository.commit({".gitattributes": "*.txt text eol=crlf\n"})
    elif where == "user":
        (tmp_path / "attributes").write_text("*.txt text eol=crlf\n")
        machine.set("core.attributesFile", str(tmp_path / "attributes"))
    else:
        machine.set("core.eol", "crlf")
    assert machine.read("a.txt") == b"one\r\ntwo\r\n"
    if where == "user":
        (tmp_path / "attributes").write_text("")
        assert machine.read("a.txt") == b"one\ntwo\n"


def test_filter_of_attributes_outside_of_the_revision_is_seen(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "plain")
    repository.commit({"a.up": "1"})
    machine = Machine(tmp_path, repository)
    (tmp_path / "attributes").write_text("*.up filter=shout\n")
    machine.set("core.attributesFile", str(tmp_path / "attributes"))
    assert machine.fetch().exit_code == MISSING


def test_filter_of_a_submodule_stops_the_build_as_well(tmp_path: Path, repository: Repository) -> None:
    outer = Repository(tmp_path / "outer")
    outer.git("submodule", "--quiet", "add", str(repository.path), "sub")
    outer.commit({"a": "1"})
    machine = Machine(tmp_path, outer)
    outcome = machine.checkout()
    assert outcome.exit_code == MISSING
    assert "filter shout" in outcome.message


def test_strange_names_of_filtered_files_are_told_in_one_line(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "strange")
    repository.commit({".gitattributes": "* filter=shout\n", "a\nb\tc": "1"})
    outcome = Machine(tmp_path, repository).fetch()
    assert outcome.exit_code == MISSING
    assert "a?b" in outcome.message
