"""Submodules as people have them, on the real git: by path, relative, private, nested; and the failing one's hint."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploytool.build.stages import checkout, dependencies, fetch, fetched
from deploytool.connection.step import Code, explain
from tests.support.git_site import LOGIN, git_site
from tests.support.stage_server import Outcome, Repository, Server, ended, run


def hint_of(outcome: Outcome) -> str:
    return explain(outcome.step, ended(outcome.exit_code, outcome.results, outcome.output.splitlines())).hint or ""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """`shop` has the submodule `lib`, which has `deep`."""
    deep = Repository(tmp_path / "git" / "deep")
    deep.commit({"deep.txt": "deep\n"})
    lib = Repository(tmp_path / "git" / "lib")
    lib.git("submodule", "--quiet", "add", "../deep", "deep")
    lib.commit({"lib.txt": "lib\n"})
    shop = Repository(tmp_path / "git" / "shop")
    shop.git("submodule", "--quiet", "add", "../lib", "lib")
    shop.commit({"app.txt": "app\n"})
    return shop


def with_absolute_paths(repository: Repository) -> None:
    """The URLs in .gitmodules are paths, not `../lib`."""
    repository.git("config", "--file", ".gitmodules", "submodule.lib.url", str(repository.path.parent / "lib"))
    repository.commit({})


@pytest.mark.parametrize("absolute", [False, True])
def test_submodules_of_a_repository_that_is_given_as_a_path_come_along(
    tmp_path: Path, repository: Repository, absolute: bool
) -> None:
    if absolute:
        with_absolute_paths(repository)
    files = Server(tmp_path / "build", str(repository.path), env={}).files()
    assert (files["lib/lib.txt"], files["lib/deep/deep.txt"]) == ("lib\n", "deep\n")
    assert Server(tmp_path / "again", repository.path.as_uri(), env={}).files() == files


@pytest.mark.parametrize("said", ["protocol.file.allow", "protocol.allow", "GIT_ALLOW_PROTOCOL"])
def test_user_who_forbids_submodules_by_path_has_the_last_word(
    tmp_path: Path, repository: Repository, said: str
) -> None:
    server = Server(tmp_path / "build", str(repository.path), env={})
    found = server.found()
    if said.endswith(".allow"):
        subprocess.run(["git", "config", "--file", str(tmp_path / "config"), said, "user"], check=True)
    environ = {"GIT_ALLOW_PROTOCOL": "https"} if said == "GIT_ALLOW_PROTOCOL" else {}
    outcome = run(checkout(server.settings, server.place, found), GIT_CONFIG_GLOBAL=str(tmp_path / "config"), **environ)
    assert outcome.exit_code == Code.SUBMODULE_FAILED
    assert outcome.message == "the submodule lib could not be checked out on the build server"
    assert "fatal: transport 'file' not allowed" in outcome.output
    assert "git config --global protocol.file.allow always" in hint_of(outcome)


@pytest.fixture
def site(repository: Repository) -> Iterator[str]:
    """host:port of a server that asks a password: `shop`, which wants `lib` by its path, `lib` and `deep`."""
    with_absolute_paths(repository)
    with git_site(*(repository.path.parent / name for name in ("shop", "lib", "deep"))) as address:
        yield address


def test_private_submodule_elsewhere_says_that_credentials_are_missing(
    tmp_path: Path, repository: Repository, site: str
) -> None:
    repository.git("config", "--file", ".gitmodules", "submodule.lib.url", f"http://{site}/lib")
    repository.commit({})
    server = Server(tmp_path / "build", str(repository.path), env={})
    outcome = server.checkout()
    assert outcome.exit_code == Code.SUBMODULE_FAILED
    assert "the server rejects the credentials" in hint_of(outcome)
    # A person's own `url.….insteadOf`, as GitLab and GitHub document it for CI.
    (tmp_path / "config").write_text(f'[url "{repository.path.parent.as_uri()}/"]\ninsteadOf = http://{site}/\n')
    outcome = run(checkout(server.settings, server.place, server.found()), GIT_CONFIG_GLOBAL=str(tmp_path / "config"))
    assert outcome.exit_code == 0, outcome.output
    assert (server.tree / "lib" / "deep" / "deep.txt").read_text() == "deep\n"


def test_submodule_by_path_of_a_repository_elsewhere_is_refused_with_the_way_out(tmp_path: Path, site: str) -> None:
    server = Server(tmp_path / "build", f"http://{LOGIN}@{site}/shop", env={})
    outcome = server.checkout()
    assert outcome.exit_code == Code.SUBMODULE_FAILED
    assert "set another URL in .gitmodules" in hint_of(outcome)


def test_person_is_never_asked_for_a_password(tmp_path: Path, site: str) -> None:
    """A desktop's SSH_ASKPASS, on a laptop that builds, would wait for somebody."""
    asked = tmp_path / "asked"
    (tmp_path / "ask").write_text(f"#!/bin/sh\ntouch '{asked}'\necho x\n")
    (tmp_path / "ask").chmod(0o755)
    server = Server(tmp_path / "build", f"http://{site}/shop", env={})
    outcome = run(fetch(server.settings, server.place, "main"), SSH_ASKPASS=str(tmp_path / "ask"), DISPLAY=":0")
    assert outcome.exit_code == Code.REPOSITORY_UNREACHABLE
    assert not asked.exists()
    assert "the server rejects the credentials" in hint_of(outcome)
    # A program that knows is another thing.
    server = Server(tmp_path / "build", f"http://{site}/shop", env={})
    (tmp_path / "knows").write_text("#!/bin/sh\ncase $1 in User*) echo 'us er' ;; *) echo \"p@ss'w\" ;; esac\n")
    (tmp_path / "knows").chmod(0o755)
    outcome = run(fetch(server.settings, server.place, "main"), GIT_ASKPASS=str(tmp_path / "knows"))
    assert outcome.exit_code == 0, outcome.output
    assert fetched(outcome.results).kind == "heads"


def test_version_that_a_build_asks_of_its_tags_is_told(tmp_path: Path, repository: Repository) -> None:
    repository.git("tag", "--annotate", "v1.2", "--message", "1.2")
    repository.git("tag", "light")
    revision = repository.commit({"app.txt": "newer\n"})
    server = Server(tmp_path / "build", str(repository.path), env={})
    server.build["dependencies"] = ("git describe --tags >version; git describe --dirty >>version; git tag >>version",)

    def said() -> list[str]:
        assert server.checkout().exit_code == 0
        outcome = run(dependencies(server.settings, server.place))
        assert outcome.exit_code == 0, outcome.output
        return (server.tree / "version").read_text().split()

    version = f"v1.2-1-g{revision[:7]}"
    assert said() == [version, version, "light", "v1.2"]
    # What a build tagged, and what was removed or moved, is gone.
    subprocess.run(["git", "tag", "of-a-build"], cwd=server.tree, check=True)
    repository.git("tag", "--delete", "light")
    repository.git("tag", "--force", "--annotate", "v1.2", "--message", "again")
    assert said() == ["v1.2", "v1.2", "v1.2"]
