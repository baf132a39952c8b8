"""What somebody else could change is refused before any of it is run. The other user is a number that nobody has."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploytool.worker import strict
from deploytool.worker.strict import Unsafe, refuse_unsafe_area, refuse_unsafe_way

OTHER = 42424


def as_root(test: object) -> object:
    return pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")(test)


def refusal(path: Path, *, area: bool = False, shared: bool = False) -> tuple[str, str]:
    with pytest.raises(Unsafe) as refused:
        refuse_unsafe_area(str(path)) if area else refuse_unsafe_way(str(path), shared=shared)
    return refused.value.args


def test_what_is_ours_alone_is_fine_and_what_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "area/repository.git").mkdir(parents=True)
    refuse_unsafe_way(str(tmp_path / "area/not/yet"))
    refuse_unsafe_area(str(tmp_path / "area"))
    refuse_unsafe_area(str(tmp_path / "nothing"))


@as_root
def test_parent_of_another_user_is_refused_with_the_chown(tmp_path: Path) -> None:
    (tmp_path / "its home/area").mkdir(parents=True)
    os.chown(tmp_path / "its home", OTHER, OTHER)
    sentence, hint = refusal(tmp_path / "its home/area")
    assert sentence == f"{tmp_path}/its home belongs to {OTHER}, not to root: its owner can have commands run as root"
    assert f"type `chown -h root '{tmp_path}/its home'` as root; else set `build.root` to another directory" in hint


@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody (mode 0777)"), (0o770, f"the group {OTHER} (mode 0770)")])
@as_root
def test_directory_that_others_can_write_to_is_refused_with_the_chmod(tmp_path: Path, mode: int, who: str) -> None:
    (tmp_path / "open").mkdir()
    os.chown(tmp_path / "open", 0, OTHER)
    (tmp_path / "open").chmod(mode)
    sentence, hint = refusal(tmp_path / "open/area")
    assert sentence == f"{tmp_path}/open can be written by {who}, who can have commands run as root"
    assert hint.startswith(f"type `chmod go-w {tmp_path}/open`, or set")


@as_root
def test_group_that_nobody_else_is_in_may_write(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private").chmod(0o775)
    refuse_unsafe_way(str(tmp_path / "private"))


@as_root
@pytest.mark.parametrize(("name", "members", "fine"), [("me", ["me"], True), ("me", ["eve"], False), ("us", [], False)])
def test_private_group_is_the_one_of_the_users_name_with_nobody_else_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, members: list[str], fine: bool
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="me", pw_gid=OTHER))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=name, gr_mem=members))
    os.chown(tmp_path, 0, OTHER)
    tmp_path.chmod(0o2775)
    if fine:
        refuse_unsafe_way(str(tmp_path))
    else:
        assert f"can be written by the group {name} (mode 2775)" in refusal(tmp_path)[0]


#: what getent does → whether a directory of the group of our own name may be written by that
LISTS = {
    "nobody else has it": ("echo me:x:0:42424::/:/bin/sh; echo eve:x:7:7::/:/bin/sh", True),
    "another user has it as the primary group": ("echo me:x:0:42424::/:/bin/sh; echo app2:x:7:42424::/:/bin/sh", False),
    "a directory service that never stops": ("exec sleep 30", False),
    "a directory service that is down": ("exit 2", False),
    "an empty answer": ("true", False),
}


@as_root
@pytest.mark.parametrize("how", LISTS)
def test_user_whose_primary_group_is_ours_is_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    script, fine = LISTS[how]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/getent").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/getent").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(strict, "LIST_SECONDS", 1)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="me", pw_gid=OTHER))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name="me", gr_mem=[]))
    (tmp_path / "area").mkdir()
    os.chown(tmp_path / "area", 0, OTHER)
    (tmp_path / "area").chmod(0o775)
    strict._users_of.cache_clear()
    try:
        if fine:
            refuse_unsafe_way(str(tmp_path / "area"))
        else:
            assert "can be written by the group me (mode 0775)" in refusal(tmp_path / "area")[0]
    finally:
        strict._users_of.cache_clear()


@as_root
def test_hints_are_quoted_for_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="CORP\\our user", pw_gid=0))
    area = tmp_path / "my app/100% $HOME"
    area.mkdir(parents=True)
    os.chown(area, OTHER, OTHER)
    assert f"type `chown -h 'CORP\\our user' '{area}'` as root" in refusal(area)[1]
    os.chown(area, 0, 0)
    area.chmod(0o777)
    assert f"type `chmod go-w '{area}'`" in refusal(area)[1]


@as_root
def test_sticky_directory_is_safe_as_long_as_what_is_in_it_is_ours(tmp_path: Path) -> None:
    everybodys = tmp_path / "tmp"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    (everybodys / "area").mkdir()
    refuse_unsafe_way(str(everybodys / "area"))
    refuse_unsafe_way(str(everybodys), shared=True)
    assert "can be written by everybody" in refusal(everybodys)[0]
    os.chown(everybodys / "area", OTHER, OTHER)
    assert "belongs to" in refusal(everybodys / "area")[0]


@as_root
def test_link_is_as_safe_as_the_place_where_it_lies_and_the_place_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real/area").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "again").symlink_to(f"../{tmp_path.name}/link/area")
    refuse_unsafe_way(str(tmp_path / "again"))
    os.lchown(tmp_path / "link", OTHER, OTHER)
    assert refusal(tmp_path / "again")[0].startswith(f"{tmp_path}/link belongs to {OTHER}")
    os.lchown(tmp_path / "link", 0, 0)
    os.chown(tmp_path / "real", OTHER, OTHER)
    assert refusal(tmp_path / "again")[0].startswith(f"{tmp_path}/real belongs to {OTHER}")


@as_root
def test_in_a_user_namespace_roots_directories_are_fine_whoever_they_seem_to_belong_to() -> None:
    # Not below pytest's own directory, which nobody else may enter.
    with tempfile.TemporaryDirectory() as directory:
        in_a_user_namespace(Path(directory))


def in_a_user_namespace(ours: Path) -> None:
    ours.chmod(0o755)
    script = f"{Path(strict.__file__).read_text()}\nrefuse_unsafe_way('/usr/lib'); refuse_unsafe_way('{ours}')"
    # One that everybody may run.
    python = [shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable, "-ISB", "-c", script]
    other = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups"]
    inside = subprocess.run([*other, "unshare", "--user", "--map-root-user", *python], capture_output=True, text=True)
    if "unshare: " in inside.stderr:
        pytest.skip(inside.stderr)
    assert (inside.returncode, inside.stderr) == (0, "")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "leads through more than 40 links" in refusal(tmp_path / "a/area")[0]


@pytest.mark.parametrize(
    "planted",
    ["repository.git", "repository.git/config", "locks", "locks/production", "shared", "shared/production", "kept",
     "workspace", "workspace/.git", "workspace/.git/config", "unpacked", "uploads", "logs"],
)  # fmt: skip
@as_root
def test_what_another_user_has_put_into_the_area_is_refused_by_its_name(tmp_path: Path, planted: str) -> None:
    (tmp_path / planted).mkdir(parents=True)
    os.chown(tmp_path / planted, OTHER, OTHER)
    sentence, hint = refusal(tmp_path, area=True)
    assert sentence.startswith(f"{tmp_path}/{planted} belongs to {OTHER}")
    assert hint.endswith(f"type `chown -hR root {tmp_path}/{planted}` as root; else remove it")


@as_root
def test_what_a_container_has_left_in_the_work_tree_is_nobodys_affair(tmp_path: Path) -> None:
    (tmp_path / "workspace/node_modules").mkdir(parents=True)
    os.chown(tmp_path / "workspace/node_modules", OTHER, OTHER)
    refuse_unsafe_area(str(tmp_path))


@as_root
def test_link_in_the_area_to_another_users_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    os.chown(tmp_path / "elsewhere", OTHER, OTHER)
    (tmp_path / "area").mkdir()
    (tmp_path / "area/shared").symlink_to(tmp_path / "elsewhere")
    assert refusal(tmp_path / "area", area=True)[0].startswith(f"{tmp_path}/elsewhere belongs to")
