"""`export-ignore` and `export-subst`: a build has what `git archive` would give it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploytool.build.build import build_inputs
from deploytool.build.stages import assets, checkout, dependencies, fetch, fetched, remarks
from deploytool.build.stages.cache import checked_out
from deploytool.build.stages.preview import preview
from deploytool.model.release import build_key
from tests.support.stage_server import Repository, Server, run

ATTRIBUTES = """\
.gitattributes export-ignore
/spec/ export-ignore
docs export-ignore
*.md export-ignore
keep.md -export-ignore
only/** export-ignore
odd* export-ignore
vendor/left export-ignore
version.txt export-subst
sub/*.rb export-subst eol=crlf
crlf.txt eol=crlf
*.psd filter=nobody export-ignore
"""
ODD = 'odd\n"x" é*'


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    lib = Repository(tmp_path / "lib")
    lib.commit({"lib.txt": "1\n", "spec/lib.rb": "1\n", ".gitattributes": "spec export-ignore\n"})
    made = Repository(tmp_path / "repository")
    for name in ("left", "taken"):
        made.git("submodule", "--quiet", "add", "../lib", f"vendor/{name}")
    made.commit(
        {
            ".gitattributes": ATTRIBUTES,
            **dict.fromkeys(
                ("spec/a_spec.rb", "app/spec/b.rb", "docs/x/y.txt", "a/docs/z", "README.md", "keep.md"), "1\n"
            ),
            **dict.fromkeys(("only/this/a", ODD, "logo.psd", "crlf.txt", "app.txt"), "1\n"),
            "version.txt": "$Format:%H %s$\n",
            "sub/refs.rb": "$Format:%D$\n",
            "sub/version.rb": "V = '$Format:%h$'\n",
        },
        "the first",
    )
    made.git("tag", "v1")
    return made


def archived(repository: Repository, tmp_path: Path) -> dict[str, bytes]:
    """What `git archive` gives, and tar unpacks, in Capistrano's way: from a mirror."""
    mirror, out = tmp_path / "archived.git", tmp_path / "archived"
    out.mkdir()
    subprocess.run(["git", "clone", "--quiet", "--mirror", str(repository.path), str(mirror)], check=True)
    command = f"git --git-dir='{mirror}' archive {repository.git('rev-parse', 'HEAD')} | tar -x -C '{out}'"
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True)
    return tree(out)


def tree(top: Path) -> dict[str, bytes]:
    files = (path for path in top.rglob("*") if path.is_file() and ".git" not in path.relative_to(top).parts)
    return {str(path.relative_to(top)): path.read_bytes() for path in files}


def built(server: Server) -> dict[str, bytes]:
    outcome = server.checkout()
    assert outcome.exit_code == 0, (outcome.message, outcome.output)
    return tree(server.tree)


def test_build_has_what_git_archive_gives(tmp_path: Path, repository: Repository, server: Server) -> None:
    expected = archived(repository, tmp_path)
    assert sorted(expected) == [
        ".gitmodules",
        "app.txt",
        "app/spec/b.rb",
        "crlf.txt",
        "keep.md",
        "sub/refs.rb",
        "sub/version.rb",
        "version.txt",
    ]
    assert b"the first" in expected["version.txt"]
    assert b"tag: v1" in expected.pop("sub/refs.rb")
    # Submodules are not in such an archive; a build has them, whole, but for those that are left out.
    lib = {f"vendor/taken/{name}" for name in ("lib.txt", "spec/lib.rb", ".gitattributes")}
    for _ in range(2):
        found = built(server)
        assert b"tag: v1" in found.pop("sub/refs.rb")
        assert {name: found[name] for name in expected} == expected
        assert set(found) - set(expected) == lib | {"REVISION"}
        assert sorted(path.name for path in server.tree.iterdir()) == sorted(
            [".git", ".gitmodules", "REVISION", "app", "app.txt", "crlf.txt", "keep.md", "sub", "vendor", "version.txt"]
        )
    # Next revision: one that was left out is not any more, and the version is another one.
    repository.commit({".gitattributes": ATTRIBUTES.replace("docs export-ignore\n", ".gitmodules export-ignore\n")})
    (tmp_path / "archived.git").rename(tmp_path / "first.git")
    (tmp_path / "archived").rename(tmp_path / "first")
    expected = archived(repository, tmp_path)
    assert "docs/x/y.txt" in expected
    del expected["sub/refs.rb"]
    found = built(server)
    assert {name: found[name] for name in expected} == expected


def test_whoever_does_without_has_all_files_as_they_are(tmp_path: Path, repository: Repository, server: Server) -> None:
    repository.git("rm", "-rfq", "vendor")
    repository.commit({".gitattributes": ATTRIBUTES.replace("filter=nobody ", "")})
    built(server)
    server.build["export_attributes"] = False
    found = built(server)
    assert found["version.txt"] == b"$Format:%H %s$\n"
    assert found[ODD] == found["spec/a_spec.rb"] == found["docs/x/y.txt"] == b"1\n"
    server.build["export_attributes"] = True
    assert "README.md" not in built(server)


def key(server: Server) -> str:
    settings = server.settings
    settings.application = "shop"
    settings.build.exclude = ()
    settings.build.compression = "gzip"
    return build_key(build_inputs(settings, server.found(), "igzip 1"))


def test_attributes_decide_the_release_and_where_there_are_none_releases_of_before_are_found(
    tmp_path: Path, repository: Repository, server: Server
) -> None:
    with_attributes = key(server)
    server.build["export_attributes"] = False
    # The files for the filter are not left out any more, and nobody has set it up.
    assert server.fetch().exit_code == 78
    repository.commit({".gitattributes": ATTRIBUTES.replace("filter=nobody ", "")})
    without = key(server)
    server.build["export_attributes"] = True
    assert key(server) != without
    assert key(server) != with_attributes
    plain = Repository(tmp_path / "plain")
    plain.commit({"a": "1", ".gitattributes": "*.bin binary\n*.none export-ignore\n"})
    other = Server(tmp_path / "other", str(plain.path))
    before = key(other)
    other.build["export_attributes"] = False
    assert key(other) == before


@pytest.mark.parametrize("look", [fetch, preview])
def test_what_is_left_out_is_said(server: Server, look: Any) -> None:
    found = fetched(run(look(server.settings, server.place, "main")).results)
    assert list(remarks("main", found)) == [
        "as for `git archive`, files left out (export-ignore): 9, filled in (export-subst): 3; "
        "`build.export_attributes: false` takes all as they are"
    ]


def test_git_commands_of_a_build_see_no_change(repository: Repository, server: Server) -> None:
    server.build["dependencies"] = ("git describe --tags --dirty >version", "git status --porcelain >status")
    built(server)
    outcome = run(dependencies(server.settings, server.place))
    assert outcome.exit_code == 0, outcome.output
    assert (server.tree / "version").read_text() == "v1\n"
    assert (server.tree / "status").read_text() == "?? REVISION\n?? status\n?? version\n"


def test_stages_are_kept_although_files_are_left_out(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "plain")
    attributes = (
        "/spec export-ignore\nout/.keep export-ignore\nversion.txt export-subst\n.gitattributes export-ignore\n"
    )
    files = {"lock": "1", "spec/a": "1", "out/.keep": "", "version.txt": "$Format:%H$\n", "crlf.txt": "1\n"}
    repository.commit({**files, ".gitattributes": attributes + "crlf.txt eol=crlf\n"})
    server = Server(tmp_path / "build", str(repository.path))
    server.build |= {"dependencies": ("mkdir -p out; echo made >out/lib",), "dependencies_inputs": ("lock",)}

    def kept() -> bool:
        found = server.found()
        outcome = run(checkout(server.settings, server.place, found))
        assert outcome.exit_code == 0, outcome.output
        said = checked_out(outcome.results)
        if "dependencies" not in said.kept:
            outcome = run(dependencies(server.settings, server.place, said.keys["dependencies"], found.revision))
            assert outcome.exit_code == 0, outcome.output
            assert "not kept" not in outcome.output
        assert assets(server.settings, server.place) is None
        assert (server.tree / "out" / "lib").read_text() == "made\n"
        assert not (server.tree / "out" / ".keep").exists()
        return "dependencies" in said.kept

    assert not kept()
    repository.commit({"version.txt": "$Format:%H$ again\n"})
    assert kept()
    assert (server.tree / "version.txt").read_text() == f"{repository.git('rev-parse', 'HEAD')} again\n"
    repository.commit({"lock": "2"})
    assert not kept()


def test_files_can_be_left_out_where_none_is_filled_in(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "plain")
    repository.commit({".gitattributes": "/spec export-ignore\n", "spec/a.rb": "1\n", "app.txt": "1\n"})
    server = Server(tmp_path / "build", str(repository.path))
    assert set(built(server)) == {".gitattributes", "app.txt", "REVISION"}
    repository.commit({".gitattributes": "/spec -export-ignore\n"})
    assert "spec/a.rb" in built(server)


def test_subdirectory_that_is_left_out_is_said_to_be(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "plain")
    repository.commit({".gitattributes": "/web export-ignore\n", "web/a.rb": "1\n", "app.txt": "1\n"})
    outcome = Server(tmp_path / "build", str(repository.path), subdirectory="web").checkout()
    assert outcome.exit_code != 0
    assert "export-ignore leaves out files of the revision" in outcome.output
