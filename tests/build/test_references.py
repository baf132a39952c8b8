"""What people and CI systems call a revision, and repositories of other kinds, on the real git."""

import os
import subprocess
from pathlib import Path

import pytest

from deploytool.build.stages import compare, compared, fetch, fetched, programs, remarks
from deploytool.build.stages.preview import preview
from deploytool.connection.step import Code, values
from tests.support.stage_server import GIT, Repository, Server, run


@pytest.mark.parametrize(
    ("reference", "is_in", "kind"),
    [
        ("refs/heads/main", "main", "heads"),
        ("heads/main", "main", "heads"),
        ("origin/main", "main", "heads"),
        ("refs/tags/v1", "v1", "tags"),
        ("tags/v1", "v1", "tags"),
        ("refs/pull/12/merge", "pull", "refs"),
        ("pull/12/merge", "pull", "refs"),
        ("refs/merge-requests/3/head", "pull", "refs"),
        ("HEAD", "main", "heads"),
    ],
)
@pytest.mark.parametrize("look", [fetch, preview])
def test_what_ci_systems_call_a_revision_is_understood(
    repository: Repository, server: Server, look: object, reference: str, is_in: str, kind: str
) -> None:
    repository.git("tag", "--annotate", "v1", "--message", "1")
    main = repository.commit({"app.txt": "two\n"})
    pull = repository.commit({"app.txt": "pulled\n"})
    for name in ("pull/12/merge", "merge-requests/3/head"):
        repository.git("update-ref", f"refs/{name}", pull)
    repository.git("reset", "--quiet", "--hard", main)
    known = {"main": main, "pull": pull, "v1": repository.git("rev-parse", "v1^{commit}")}
    step = fetch if look is fetch else preview
    outcome = run(step(server.settings, server.place, reference))
    assert outcome.exit_code == 0, outcome.output
    found = fetched(outcome.results)
    assert (found.revision, found.kind) == (known[is_in], kind)


def test_head_is_the_default_branch_whatever_that_is_called_now(repository: Repository, server: Server) -> None:
    server.found("main")
    repository.git("branch", "--move", "main", "trunk")
    newest = repository.commit({"app.txt": "two\n"})
    assert server.found("HEAD").revision == newest
    assert server.fetch("main").message == "main is not a branch, tag or commit of the repository"
    repository.git("checkout", "--quiet", "--detach", "HEAD~1")
    assert server.found("HEAD").kind == "sha"


def test_branch_that_is_called_like_a_full_name_takes_nobodys_place(repository: Repository, server: Server) -> None:
    """CI gives `refs/heads/main`; somebody pushes a branch of that very name."""
    main = repository.git("rev-parse", "main")
    other = repository.commit({"app.txt": "two\n"})
    for name in ("refs/heads/refs/heads/main", "refs/tags/refs/heads/main", "refs/heads/origin/main"):
        repository.git("update-ref", name, other)
    repository.git("update-ref", "refs/heads/main", main)
    assert server.found("refs/heads/main").revision == main
    # That one is a branch, by its plain name.
    assert server.found("origin/main").revision == other


def test_branch_and_tag_of_one_name_are_told_apart(repository: Repository, server: Server) -> None:
    repository.git("tag", "v1")
    tagged = repository.git("rev-parse", "v1")
    assert list(remarks("main", server.found("main"))) == []
    repository.commit({"app.txt": "two\n"})
    repository.git("branch", "v1")
    found = server.found("v1")
    assert found.revision == repository.git("rev-parse", "refs/heads/v1")
    assert list(remarks("v1", found)) == [
        f"v1 is a branch, and a tag at {tagged[:10]}, too: deploying the branch; use --branch refs/tags/v1 for the tag"
    ]
    assert server.found("refs/tags/v1").revision == tagged


def test_commit_that_was_force_pushed_away_is_found_by_its_full_name(repository: Repository, server: Server) -> None:
    """A CI job deploys the SHA that it was started for, and the branch has been rewritten since."""
    gone = repository.commit({"app.txt": "gone\n"})
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    assert server.found(gone).revision == gone
    assert server.files(gone)["app.txt"] == "gone\n"


def test_branch_whose_name_becomes_a_directory_is_fetched(repository: Repository, server: Server) -> None:
    repository.git("branch", "hotfix")
    server.found("hotfix")
    repository.git("branch", "--delete", "hotfix")
    repository.git("branch", "hotfix/one")
    assert server.found("hotfix/one").kind == "heads"
    repository.git("branch", "--delete", "hotfix/one")
    repository.git("branch", "hotfix")
    assert server.found("hotfix").kind == "heads"


@pytest.fixture
def sha256(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "git" / "sha256", names="sha256")
    made.commit({"app.txt": "one\n"})
    return made


def test_repository_that_names_objects_by_sha256_is_built_from(tmp_path: Path, sha256: Repository) -> None:
    server = Server(tmp_path / "build", str(sha256.path), recipe="rails", path=(str(tools(tmp_path)),))
    old = server.found()
    assert len(old.revision) == 64
    assert server.files()["REVISION"] == old.revision + "\n"
    new = sha256.commit({"app.txt": "two\n", "db/migrate/1.rb": "1"})
    assert fetched(run(preview(server.settings, server.place, new[:9], old.revision)).results).revision == new
    assert server.files(new[:9])["app.txt"] == "two\n"
    found = compared(run(compare(server.settings, server.place, old.revision, new)).results)
    assert ([commit.revision for commit in found.brings], found.migrations_added) == ([new], ("db/migrate/1.rb",))


def test_repository_that_turns_to_sha256_is_mirrored_again(
    tmp_path: Path, repository: Repository, sha256: Repository
) -> None:
    server = Server(tmp_path / "build", str(repository.path))
    server.files()
    repository.path.rename(tmp_path / "old")
    sha256.path.rename(repository.path)
    assert len(server.files()["REVISION"]) == 65


def test_environment_that_wants_sha256_changes_nothing(repository: Repository, server: Server) -> None:
    outcome = run(fetch(server.settings, server.place, "main"), GIT_DEFAULT_HASH="sha256")
    assert outcome.exit_code == 0, outcome.output


def tools(tmp_path: Path) -> Path:
    found = tmp_path / "bin"
    found.mkdir()
    for name in ("ruby", "bundle"):
        (found / name).write_text("#!/bin/sh\necho 3.3\n")
        (found / name).chmod(0o755)
    return found


def test_shallow_repository_is_built_from(tmp_path: Path, repository: Repository) -> None:
    """A CI system's own clone, say, or a mirror that somebody keeps small."""
    for number in range(5):
        repository.commit({"app.txt": f"{number}\n"})
    shallow = tmp_path / "git" / "shallow"
    source = repository.path.as_uri()
    subprocess.run(
        ["git", "clone", "--quiet", "--depth=1", source, str(shallow)], env={**os.environ, **GIT}, check=True
    )
    server = Server(tmp_path / "build", str(shallow))
    assert server.files()["app.txt"] == "4\n"
    repository.commit({"app.txt": "newer\n"})
    newest = repository.commit({"app.txt": "newest\n"})
    pull = ["git", "-C", str(shallow), "fetch", "--quiet", "--depth=1", "origin", "+main:refs/heads/other"]
    subprocess.run(pull, env={**os.environ, **GIT}, check=True)
    assert server.files("other") == {"app.txt": "newest\n", "REVISION": f"{newest}\n"}
    known = subprocess.run(
        ["git", "log", "--format=%H"], cwd=server.tree, capture_output=True, text=True, check=True
    ).stdout
    assert known.split() == [newest]


def test_branch_without_a_common_history_is_no_failure(repository: Repository, server: Server) -> None:
    server.files()
    repository.git("checkout", "--quiet", "--orphan", "pages")
    repository.git("rm", "-rfq", ".")
    repository.commit({"index.html": "hello"})
    assert sorted(server.files("pages")) == ["REVISION", "index.html"]


@pytest.mark.parametrize("old", ["git version 1.8.3.1", "git version 2.17.1 (Apple Git-1)"])
def test_git_that_is_too_old_is_said_with_both_versions(
    tmp_path: Path, repository: Repository, server: Server, old: str
) -> None:
    """A stand-in: it only says that it is old, as it never comes further."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "git").write_text(f"#!/bin/sh\necho '{old}'\n")
    (tmp_path / "old" / "git").chmod(0o755)
    server.build["path"] = (str(tmp_path / "old"),)
    server.root.mkdir()
    server.build["compression"] = "gzip"
    for step in (fetch(server.settings, server.place, "main"), programs(server.settings, server.place)):
        outcome = run(step)
        assert outcome.exit_code == Code.GIT_TOO_OLD
        number = old.split()[2]
        assert outcome.message == f"git on the build server is {number}, and a build needs 2.20 or newer"
    assert values(run(programs(Server(server.root, "x", compression="gzip").settings, server.place)).results, "found")
