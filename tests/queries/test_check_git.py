"""`check` and `deploy` where git itself says no: its whole sentence, and what to do about it."""

from pathlib import Path

import pytest

from tests.support.local import Local
from tests.support.project import Repository


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def line(output: str, name: str) -> str:
    return next(line for line in output.splitlines() if f" {name}: " in line)


def test_repository_of_another_owner_is_told_in_gits_whole_sentence_with_the_way_out(local: Local) -> None:
    other = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    path = local.directory / "var/repository"
    checked = local.fab("local", "check", env=other)
    assert checked.code == 4
    said = line(checked.out, "repository")
    assert "fatal: detected dubious ownership in repository at" in said
    assert "git config --global --add safe.directory" in said.split("; hint: ")[0]
    assert f"`git config --global --add safe.directory '{path}/.git'`" in said.split("; hint: ")[1]
    built = local.fab("local", "build", env=other)
    assert built.code == 4
    assert "another user owns the repository" in built.err
    assert "check free disk space" not in built.err


def test_git_that_is_too_old_fails_check_and_build_alike(local: Local, tmp_path: Path) -> None:
    """A stand-in that says what Debian 9's git says."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "git").write_text("#!/bin/sh\necho git version 2.11.0\n")
    (tmp_path / "old" / "git").chmod(0o755)
    local.settings["build"]["path"] = [str(tmp_path / "old")]
    local.write()
    sentence = "git on the build server is 2.11.0, and a build needs 2.20 or newer"
    checked = local.fab("local", "check")
    assert checked.code == 4
    assert sentence in line(checked.out, "programs")
    built = local.fab("local", "build")
    assert (built.code, sentence in built.err) == (4, True)
    assert not (local.directory / "var/store/releases").exists()


def test_release_of_a_pull_request_is_built_by_the_name_that_ci_gives(local: Local) -> None:
    local.repository.commit({"VERSION": "pulled"})
    local.repository.git("update-ref", "refs/pull/12/merge", "HEAD")
    local.repository.git("reset", "--quiet", "--hard", "HEAD~1")
    deployed = local.fab("local", "deploy", "--branch", "refs/pull/12/merge")
    assert deployed.code == 0, deployed.err
    assert set(local.served().values()) == {"pulled"}


def test_repository_that_names_objects_by_sha256_is_deployed(tmp_path: Path) -> None:
    local = Local(tmp_path)
    repository = Repository(local.directory / "var/sha256", names="sha256")
    revision = repository.commit({"VERSION": "1"})
    local.settings["repository"] = "${DEPLOYTOOL_PROJECT}/var/sha256"
    local.write()
    assert len(revision) == 64
    deployed = local.fab("local", "deploy", "--json")
    assert deployed.code == 0, deployed.err
    assert set(local.served().values()) == {"1"}
    repository.commit({"VERSION": "2"})
    planned = local.fab("local", "plan", "--json")
    assert planned.code == 0, planned.err
    assert local.fab("local", "deploy", "--branch", "HEAD").code == 0
    assert local.fab("local", "rollback").code == 0
    assert set(local.served().values()) == {"1"}
    assert local.fab("local", "releases", "--verify").code == 0
    assert local.fab("local", "status").code == 0


def test_release_has_no_files_that_export_ignore_names(local: Local) -> None:
    files = {".gitattributes": "/spec export-ignore\nVERSION export-subst\n", "spec/a": "1", "VERSION": "$Format:%s$"}
    local.repository.commit(files, "the second")
    said = "files left out (export-ignore): 1, filled in (export-subst): 1"
    planned = local.fab("local", "plan")
    assert said in planned.out
    deployed = local.fab("local", "deploy")
    assert deployed.code == 0, deployed.err
    assert said in deployed.out + deployed.err
    assert set(local.served().values()) == {"the second"}
    assert not (local.host("app1") / "current" / "spec").exists()
    assert "reusing release" in (again := local.fab("local", "deploy")).out + again.err
    assert local.fab("local", "releases", "--verify").code == 0
    local.settings["build"]["export_attributes"] = False
    local.write()
    deployed = local.fab("local", "deploy")
    assert deployed.code == 0, deployed.err
    assert (local.host("app1") / "current" / "spec" / "a").read_text() == "1"
