"""No path of a release leads a host out of its tree: whatever links its commit holds, nothing elsewhere is touched."""

import ctypes
import os
import shlex
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploytool.hosts.scripts import each_item, own_templates
from deploytool.playground.parts import Parts, find_or_install
from tests.support.host import FIRST, NEW, OLD, SECOND, Host, make_host

SCRIPTS = own_templates() / "host"


@pytest.fixture(scope="session")
def parts() -> Parts:
    return find_or_install(print)


@pytest.fixture
def host(tmp_path: Path, parts: Parts) -> Host:
    return make_host(tmp_path, parts, "www")


def link_shared(
    tree: Path, shared: Path, shell: str = "sh", /, dirs: tuple[str, ...] = (), files: tuple[str, ...] = ()
) -> str | None:
    """Run the host's own function for it; None, or why it refused."""
    script = "\n".join(
        [
            f"shared_path={shlex.quote(str(shared))}",
            each_item("linked_dirs", ((path,) for path in dirs)),
            each_item("linked_files", ((path,) for path in files)),
            f". {SCRIPTS}/inside.sh",
            f". {SCRIPTS}/shared.sh",
            f'link_shared {shlex.quote(str(tree))} || {{ printf "%s" "$link_problem"; exit 3; }}',
        ]
    )
    done = subprocess.run([shell, "-uc", script], capture_output=True, text=True, timeout=20)
    assert done.returncode in (0, 3), done.stderr
    return done.stdout if done.returncode else None


def snapshot(root: Path, *, without: Path) -> dict[str, object]:
    """All below `root` but for one tree: what a name leads to, or holds."""
    found: dict[str, object] = {}
    for directory, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(directory, name) != without]
        for name in [*folders, *files]:
            path = Path(directory, name)
            found[str(path)] = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_text()
    return found


#: what the parent of a linked path is in the commit → whether it may be followed
PARENTS = {
    "a directory": ("mkdir public", True),
    "not there": ("true", True),
    "a link to a directory inside": ("mkdir assets; ln -s assets public", True),
    "a chain of links inside": ("mkdir assets; ln -s assets one; ln -s one public", True),
    "a link inside that begins outside": ("mkdir assets; ln -s ../tree/assets public", True),
    "a link out, as a relative path": ("ln -s ../shared/public public", False),
    "a link out, as an absolute path": ('ln -s "$OUT" public', False),
    "a chain of links that ends outside": ('ln -s "$OUT" one; ln -s one public', False),
    "a link to the directory above": ("ln -s .. public", False),
    "a link to nothing": ("ln -s nowhere public", False),
    "a link to nothing outside": ("ln -s ../../nowhere public", False),
    "a link to itself": ("ln -s public public", False),
    "a loop of two": ("ln -s other public; ln -s public other", False),
    "a file": ("echo x >public", False),
    "a link to a file": ("echo x >file; ln -s file public", False),
}
LEAVES = {
    "not there": "true",
    "a directory": "mkdir -p public/uploads; echo x >public/uploads/a",
    "a file": "mkdir public; echo x >public/uploads",
    "a link out": 'mkdir public; ln -s "$OUT" public/uploads',
    "a link to nothing": "mkdir public; ln -s nowhere public/uploads",
    "a link to itself": "mkdir public; ln -s uploads public/uploads",
    "the right link": 'mkdir public; ln -s "$SHARED/public/uploads" public/uploads',
}


def world(base: Path, script: str) -> tuple[Path, Path, Path]:
    tree, shared, out = base / "tree", base / "shared", base / "out"
    for directory in (tree, shared / "public/uploads", out / "uploads"):
        directory.mkdir(parents=True)
    (shared / "public/uploads/customer.jpg").write_text("theirs")
    (out / "uploads/else.txt").write_text("another's")
    subprocess.run(
        ["sh", "-ec", script], cwd=tree, check=True, env={**os.environ, "OUT": str(out), "SHARED": str(shared)}
    )
    return tree, shared, out


@pytest.mark.parametrize("kind", ["dirs", "files"])
@pytest.mark.parametrize("parent", PARENTS)
def test_linked_path_below_a_link_is_linked_inside_or_refused_by_name(tmp_path: Path, parent: str, kind: str) -> None:
    script, follows = PARENTS[parent]
    tree, shared, _ = world(tmp_path, script)
    before = snapshot(tmp_path, without=tree)
    inside = snapshot(tree, without=tmp_path / "none")
    problem = link_shared(tree, shared, **{kind: ("public/uploads",)})
    assert snapshot(tmp_path, without=tree) == before
    if follows:
        assert problem is None
        assert os.readlink(tree / "public/uploads") == str(shared / "public/uploads")
    else:
        assert problem is not None
        assert "in the release public is" in problem
        assert "nothing was removed" in problem
        assert snapshot(tree, without=tmp_path / "none") == inside


@pytest.mark.parametrize("leaf", LEAVES)
def test_whatever_the_commit_has_at_a_linked_path_is_replaced_and_not_followed(tmp_path: Path, leaf: str) -> None:
    tree, shared, _ = world(tmp_path, LEAVES[leaf])
    before = snapshot(tmp_path, without=tree)
    assert link_shared(tree, shared, dirs=("public/uploads",)) is None
    assert os.readlink(tree / "public/uploads") == str(shared / "public/uploads")
    assert snapshot(tmp_path, without=tree) == before


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_parent_that_is_swapped_for_a_link_meanwhile_takes_nothing_elsewhere(tmp_path: Path, shell: str) -> None:
    """Where the application owns its release, its processes may change it while root links there."""
    tree, shared, out = world(tmp_path, "mkdir -p a/b")
    (tree / "hidden").symlink_to(out)
    swap, stop = Swap(str(tree / "a"), str(tree / "hidden")), threading.Event()

    def attack() -> None:
        while not stop.is_set():
            swap()

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        for _ in range(60):
            link_shared(tree, shared, shell, dirs=("a/uploads", "a/c/uploads"))
            assert sorted(path.name for path in out.rglob("*")) == ["else.txt", "uploads"]
    finally:
        stop.set()
        attacker.join()


class Swap:
    """Two names change places at once."""

    def __init__(self, one: str, other: str) -> None:
        self.names, self.libc = (one.encode(), other.encode()), ctypes.CDLL(None, use_errno=True)

    def __call__(self) -> None:
        # AT_FDCWD, RENAME_EXCHANGE
        if self.libc.renameat2(-100, self.names[0], -100, self.names[1], 2):
            raise OSError(ctypes.get_errno(), "renameat2")


NAMES = st.sampled_from(["a", "b", "c"])
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.sampled_from(
    ["a", "b", "../a", "a/b", ".", "..", "../..", "../out", "../../out/uploads", "/", "{out}", "{shared}/a"]
)
ENTRIES = st.lists(st.tuples(PLACES, st.sampled_from(["dir", "file", "link"]), TARGETS), max_size=8)


@given(entries=ENTRIES, path=PLACES, kind=st.sampled_from(["dirs", "files"]))
@settings(max_examples=150, deadline=None)
def test_no_tree_of_links_leads_out(entries: list[tuple[str, str, str]], path: str, kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        tree, shared, out = world(base, "true")
        (shared / path).mkdir(parents=True, exist_ok=True)
        (shared / path / "kept").write_text("theirs")
        for place, what, target in entries:
            at = tree / place
            # As git would: nothing is put below a link.
            if any(above.is_symlink() or above.is_file() for above in at.parents) or os.path.lexists(at):
                continue
            at.parent.mkdir(parents=True, exist_ok=True)
            if what == "dir":
                at.mkdir()
            elif what == "file":
                at.write_text("x")
            else:
                at.symlink_to(target.format(out=out, shared=shared))
        before = snapshot(base, without=tree)
        problem = link_shared(tree, shared, **{kind: (path,)})
        assert snapshot(base, without=tree) == before
        if problem is None:
            assert os.path.realpath(tree / path) == str(shared / path)
            assert os.path.realpath((tree / path).parent).startswith(str(tree))


def test_commit_that_makes_public_a_link_to_shared_deletes_no_uploads(host: Host) -> None:
    host.changes = {"linked_dirs": ("public/uploads",), "stable_seconds": 0}
    assert "verified" in host.deploy(FIRST, OLD).reports
    upload = host.deploy_to / "shared/public/uploads/customer.jpg"
    upload.write_text("theirs")
    archive = host.home / "store" / NEW / "shop.tar.gz"
    tree = host.home / "made"
    tree.mkdir()
    (tree / "REVISION").write_text(NEW[-7:])
    (tree / "public").symlink_to("../../shared/public")
    archive.parent.mkdir(parents=True)
    subprocess.run(["tar", "-C", tree, "-czf", archive, "."], check=True)
    run = host.deploy(SECOND, NEW)
    assert "in the release public is a link that leads out of it" in run.reports["failed"]["reason"]
    assert upload.read_text() == "theirs"
    assert host.current == f"releases/{OLD}"


def test_release_directory_that_is_a_link_is_refused(host: Host) -> None:
    host.changes = {"linked_dirs": ("public",), "stable_seconds": 0}
    assert "verified" in host.deploy(FIRST, OLD).reports
    elsewhere = host.home / "elsewhere"
    (elsewhere / "public").mkdir(parents=True)
    (elsewhere / "public/mine").write_text("mine")
    (host.deploy_to / "releases" / NEW).symlink_to(elsewhere)
    run = host.deploy(SECOND, NEW)
    assert "is a link, and a release is a directory" in run.reports["failed"]["reason"]
    assert (elsewhere / "public/mine").read_text() == "mine"


def test_virtual_environment_behind_a_link_is_not_written_to(host: Host) -> None:
    outside = host.home / "outside"
    (outside / "bin").mkdir(parents=True)
    (outside / "pyvenv.cfg").write_text("home = /nowhere\nversion = 3.11.0\n")
    (outside / "bin/python").symlink_to("/nowhere/python")
    tree = host.home / "made"
    tree.mkdir()
    (tree / "venv").symlink_to(outside)
    archive = host.home / "store" / OLD / "shop.tar.gz"
    archive.parent.mkdir(parents=True)
    subprocess.run(["tar", "-C", tree, "-czf", archive, "."], check=True)
    (host.home / "bin/python3.11").write_text("#!/bin/sh\necho 3.11 /usr/bin/python3.11\n")
    (host.home / "bin/python3.11").chmod(0o755)
    run = host.deploy(FIRST, OLD)
    assert "in the release venv is a link that leads out of it" in run.reports["failed"]["reason"]
    assert os.readlink(outside / "bin/python") == "/nowhere/python"
    assert "/nowhere" in (outside / "pyvenv.cfg").read_text()
