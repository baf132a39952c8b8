"""Another user of a host who can change what stretcher runs: nothing of his is run, and the host says why.

By the real stretcher, which runs as root here. The other user is a number that nobody has.
"""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploytool.hosts.scripts import receive_script
from deploytool.playground.parts import Parts, find_or_install
from tests.support.host import FIRST, NEW, OLD, SECOND, Host, command, end_app, hooks, make_host
from tests.support.shell import call

OTHER = 42424

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture(scope="session")
def parts() -> Parts:
    return find_or_install(print)


@pytest.fixture
def host(tmp_path: Path, parts: Parts) -> Iterator[Host]:
    made = make_host(tmp_path, parts, "www")
    yield made
    end_app(made)


def given_away(*paths: Path) -> None:
    for path in paths:
        for each in (path, *path.rglob("*")):
            os.lchown(each, OTHER, OTHER)


def state(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """All below that is a directory, a file or a link, with when it was changed."""
    found = {}
    for path in sorted(directory.rglob("*")):
        here = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (here.st_mode, here.st_mtime_ns, content)
    return found


def swapped(host: Host, trap: str) -> None:
    """The application's user owns deploy_to, and has put a directory of his own in place of the host's."""
    room = host.deploy_to / ".deploytool"
    room.rename(host.deploy_to / "stolen")
    (room / "kit").mkdir(parents=True)
    (room / "kit/target").write_text(f"releases/{OLD}")
    (room / "kit/restart.1001").write_text(trap)
    (room / "kit/look").write_text(trap)
    (room / "drained/any").mkdir(parents=True)
    (room / "drained/any/1001.undrain").write_text(trap)
    (room / "switch").write_text(f"{SECOND} {NEW} releases/{OLD}\n")
    (room / "owner").write_text("shop production web\n")
    given_away(room)
    os.chown(host.deploy_to, OTHER, OTHER)


def test_application_user_who_swaps_the_hosts_directory_runs_nothing_as_root(host: Host, tmp_path: Path) -> None:
    host.deploy(FIRST, OLD)
    swapped(host, f"touch '{tmp_path}/sprung'")
    before = state(host.deploy_to)
    host.changes = {"hooks": hooks(post="false")}
    run = host.deploy(SECOND, NEW)
    assert not (tmp_path / "sprung").exists(), run.log
    assert set(run.reports) == {"failed"}
    reason = run.reports["failed"]["reason"]
    assert f"{host.deploy_to} belongs to UNKNOWN ({OTHER}), who could have commands run as root" in reason
    assert f"type 'chown -h root {host.deploy_to}'" in reason
    assert state(host.deploy_to) == before


PLACES: dict[str, Callable[[Host], Path]] = {
    "a parent": lambda host: host.home,
    "deploy_to": lambda host: host.deploy_to,
    "its own directory": lambda host: host.deploy_to / ".deploytool",
    "a kit": lambda host: host.deploy_to / ".deploytool/kit/target",
    "releases": lambda host: host.deploy_to / "releases",
    "incoming": lambda host: host.deploy_to / "incoming",
    "where stretcher unpacks": lambda host: Path(host.environment["TMPDIR"]),
}


@pytest.mark.parametrize("how", ["is another user's", "can be written by everybody"])
@pytest.mark.parametrize("place", PLACES)
def test_place_that_others_can_change_is_named_and_nothing_is_changed(host: Host, place: str, how: str) -> None:
    host.deploy(FIRST, OLD)
    path = PLACES[place](host)
    if how == "is another user's":
        os.chown(path, OTHER, OTHER)
    else:
        path.chmod(0o777)
    before = state(host.deploy_to)
    run = host.deploy(SECOND, NEW)
    assert set(run.reports) == {"failed"}, run.log
    assert run.reports["failed"]["reason"].startswith(f"{path} ")
    # A report has room for 300 characters of it.
    wanted = "'chown -h" if how == "is another user's" else f"commands run as root: type 'chmod go-w {path}"[:100]
    assert wanted in run.reports["failed"]["reason"]
    assert state(host.deploy_to) == before


def test_release_trees_and_shared_may_be_the_applications(host: Host) -> None:
    host.deploy(FIRST, OLD)
    given_away(host.deploy_to / "shared", host.deploy_to / "releases" / OLD)
    assert "verified" in host.deploy(SECOND, NEW).reports


def test_look_of_another_user_is_not_gone_on_with(host: Host) -> None:
    host.deploy(FIRST, OLD)
    os.chown(host.deploy_to, OTHER, OTHER)
    looked = subprocess.run(
        ["sh", host.deploy_to / ".deploytool/kit/look", ""], env=host.environment, capture_output=True, text=True
    )
    assert f"{host.deploy_to} belongs to" in looked.stdout


def test_catch_up_runs_no_look_that_others_could_put_there(host: Host, tmp_path: Path) -> None:
    host.deploy(FIRST, OLD)
    catch_up = ["sh", "-c", receive_script(), "receive", "catch-up", "shop", "production", "web", str(host.deploy_to)]
    look = host.deploy_to / ".deploytool/kit/look"
    look.write_text(f"touch '{tmp_path}/looked'\n")
    subprocess.run(catch_up, env=host.environment, check=True)
    assert (tmp_path / "looked").exists()
    swapped(host, f"touch '{tmp_path}/sprung'\n")
    (host.deploy_to / ".deploytool/switch").unlink()
    shutil.rmtree(host.deploy_to / ".deploytool/drained")
    shutil.copy(host.deploy_to / "stolen/last", host.deploy_to / ".deploytool/last")
    done = subprocess.run(catch_up, env=host.environment, check=True, capture_output=True, text=True)
    assert f"{host.deploy_to} belongs to UNKNOWN ({OTHER})" in done.stdout
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_ordinary_user_has_a_deploy_to_of_his_own(tmp_path: Path, shell: str) -> None:
    base = tmp_path / "srv"
    (base / "www/.deploytool/kit").mkdir(parents=True)
    given_away(base)

    def asked(user: int) -> tuple[int, str]:
        return call("strict_for", str(user), "deploy", shell=shell, directory=base / "www", shows=("strict_problem",))

    assert asked(OTHER) == (0, "\n")
    status, problem = asked(OTHER + 1)
    assert (status, problem.startswith(f"{base} belongs to UNKNOWN ({OTHER})")) == (1, True)
    os.chown(base, 0, 0)
    assert asked(OTHER) == (0, "\n")
    base.chmod(0o775)
    assert asked(OTHER) == (0, "\n"), "nobody but root is in root's group"
    os.chown(base, 0, OTHER)
    status, problem = asked(OTHER)
    assert (status, f"{base} can be written by others (mode 775, group UNKNOWN)" in problem) == (1, True)


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_links_on_the_way_are_followed(tmp_path: Path, shell: str) -> None:
    (tmp_path / "real/www").mkdir(parents=True)
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to(f"../{tmp_path.name}/one/www")

    def asked() -> tuple[int, str]:
        return call("is_strict", shell=shell, directory=tmp_path / "two", shows=("strict_problem",))

    assert asked() == (0, "\n")
    os.lchown(tmp_path / "one", OTHER, OTHER)
    assert asked()[1].startswith(f"{tmp_path}/one belongs to")
    assert asked()[1].endswith("; the application writes below shared/\n")
    os.lchown(tmp_path / "one", 0, 0)
    (tmp_path / "real").chmod(0o777)
    assert asked()[1].startswith(f"{tmp_path}/real can be written by others")
    (tmp_path / "real").chmod(0o1777)
    assert asked() == (0, "\n"), "what is ours in a sticky directory stays ours"
    (tmp_path / "one").unlink()
    (tmp_path / "one").symlink_to("one")
    assert asked()[1] == f"{tmp_path}/one is a link that leads to itself\n"


# What root would unpack


def packed(host: Host, *odd: tarfile.TarInfo) -> None:
    archive = host.home / "store" / NEW / "shop.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        revision = tarfile.TarInfo("./REVISION")
        revision.size = 7
        tar.addfile(revision, io.BytesIO(NEW[-7:].encode()))
        for each in odd:
            tar.addfile(each)


def test_setuid_is_taken_off_before_a_release_is_used(host: Host) -> None:
    program = tarfile.TarInfo("./bin/tool")
    program.mode = 0o6755
    packed(host, program)
    run = host.deploy(SECOND, NEW)
    assert "verified" in run.reports, run.log
    assert oct((host.deploy_to / "current/bin/tool").stat().st_mode & 0o7777) == "0o755"


def test_release_with_a_device_is_refused_and_removed(host: Host) -> None:
    host.deploy(FIRST, OLD)
    device = tarfile.TarInfo("./null")
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
    packed(host, device)
    host.changes = {"restart": command("true")}
    run = host.deploy(SECOND, NEW)
    assert "the archive holds a device" in run.reports["failed"]["reason"], run.log
    assert host.current == f"releases/{OLD}"
    assert host.releases == [OLD]
    assert list((host.deploy_to / "incoming").iterdir()) == []
