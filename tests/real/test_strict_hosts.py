"""Another user of a host who can change what stretcher runs: nothing of his is run, and the host says why.

By the real stretcher, which runs as root here. The other user is a number that nobody has.
"""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
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


def test_more_names_than_a_command_takes_hide_nothing(host: Host, tmp_path: Path) -> None:
    host.deploy(FIRST, OLD)
    kit = host.deploy_to / ".deploytool/kit"
    for number in range(9000):
        (kit / f"{number:0245}").touch()
    (kit / "look").write_text(f"touch '{tmp_path}/sprung'\n")
    given_away(kit)
    catch_up = ["sh", "-c", receive_script(), "receive", "catch-up", "shop", "production", "web", str(host.deploy_to)]
    done = subprocess.run(catch_up, env=host.environment, check=True, capture_output=True, text=True)
    assert f"{kit} belongs to UNKNOWN ({OTHER})" in done.stdout
    assert not (tmp_path / "sprung").exists()
    # Whoever gave back the directory alone is told the next one.
    os.chown(kit, 0, 0)
    assert set(host.deploy(SECOND, NEW).reports) == {"failed"}


@pytest.fixture(params=["dash", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("stat", "stat can't tell whose {} and the directories on the way"),
        ("find", "find can't look through {}/.deploytool"),
    ],
)
def test_program_that_does_not_answer_is_a_problem(tmp_path: Path, shell: str, program: str, says: str) -> None:
    (tmp_path / "www/.deploytool/kit").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    asked = partial(call, "is_strict", shell=shell, directory=tmp_path / "www", shows=("strict_problem",), PATH=path)
    assert asked() == (0, "\n")
    (tmp_path / "bin" / program).write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / program).chmod(0o755)
    status, problem = asked()
    assert (status, says.format(tmp_path / "www") in problem) == (1, True), problem


#: what lies in the room → what is refused of it, if anything is
ROOMS: dict[str, tuple[str, str]] = {
    "a lock, which leads nowhere": ("ln -s 12:34:boot:deployment lock", ""),
    "a link to a place that is ours": ("mkdir ../log; ln -s ../log log", ""),
    "a group that is ours alone": ("chmod -R g+w .", ""),
    "a link to another's": (
        f"mkdir ../theirs; chown {OTHER} ../theirs; ln -s ../../theirs kit/more",
        "kit/more, or what it",
    ),
    "another's below a link": (
        f"mkdir ../o; touch ../o/a; chown {OTHER} ../o/a; ln -s ../../o kit/o",
        "kit/o/a belongs to",
    ),
    "another's among ours of a group": (f"touch kit/x; chmod -R g+w .; chown {OTHER} kit/x", "kit/x belongs to"),
    "another group's": (f"chmod -R g+w .; chgrp {OTHER} kit", "kit can be written by others"),
    "a hidden one": (f"touch kit/.hidden; chown {OTHER} kit/.hidden", "kit/.hidden belongs to"),
    "a name of two lines": (f"touch \"$(printf 'kit/a\\nb')\"; chown {OTHER} kit/a*", "kit/a, or what it leads to"),
}


@pytest.mark.parametrize("room", ROOMS)
def test_all_in_the_room_is_asked_for(tmp_path: Path, shell: str, room: str) -> None:
    script, refused = ROOMS[room]
    ours = tmp_path / "www/.deploytool"
    (ours / "kit").mkdir(parents=True)
    subprocess.run(["sh", "-ec", script], cwd=ours, check=True)
    status, problem = call("is_strict", shell=shell, directory=tmp_path / "www", shows=("strict_problem",))
    assert (status, problem.partition(f"{ours}/")[2][: len(refused)]) == (1 if refused else 0, refused), problem


def test_release_trees_and_shared_may_be_the_applications(host: Host) -> None:
    host.deploy(FIRST, OLD)
    given_away(host.deploy_to / "shared", host.deploy_to / "releases" / OLD)
    assert "verified" in host.deploy(SECOND, NEW).reports


def with_python(tree: Path, python: str) -> Path:
    """A release whose virtual environment has that for its Python."""
    (tree / "venv/bin").mkdir(parents=True, exist_ok=True)
    (tree / "venv/pyvenv.cfg").write_text("home = /opt/gone/bin\nversion = 3.99.1\n")
    (tree / "venv/bin/python").unlink(missing_ok=True)
    (tree / "venv/bin/python").write_text(f"#!/bin/sh\n{python}\n")
    (tree / "venv/bin/python").chmod(0o755)
    return tree


def test_python_of_a_release_that_is_the_applications_is_not_run_by_root(host: Host, tmp_path: Path) -> None:
    host.deploy(FIRST, OLD)
    given_away(with_python(host.deploy_to / "releases" / OLD, f"touch '{tmp_path}/sprung'; echo 3.99 /x"))
    run = host.deploy(SECOND, OLD)
    assert "verified" in run.reports, run.log
    assert not (tmp_path / "sprung").exists()


#: who the path belongs to that is given away, below the release → what becomes of the deployment
PYTHONS: dict[str, str] = {
    "": "not run",
    "venv": "not run",
    "venv/bin": "not run",
    "venv/bin/python": "not run",
    "venv/pyvenv.cfg": "not run",
    "venv/lib": "run",
}


@pytest.mark.parametrize("whose", PYTHONS)
def test_python_that_others_could_have_put_there_is_not_run(tmp_path: Path, shell: str, whose: str) -> None:
    tree = with_python(tmp_path / "www/releases" / OLD, f"touch '{tmp_path}/run'; echo 3.99 /x")
    (tree / "venv/lib").mkdir()
    os.chown(tree / whose, OTHER, OTHER)
    assert call("virtualenv_runs", str(tree), shell=shell, directory=tmp_path / "www", strict_uid="0")[0] == 0
    assert (tmp_path / "run").exists() is (PYTHONS[whose] == "run")


def test_python_of_the_build_server_that_is_another_users_here_is_not_run(tmp_path: Path, shell: str) -> None:
    theirs = with_python(tmp_path / "home", f"touch '{tmp_path}/run'; echo 3.99 /x")
    given_away(theirs)
    tree = with_python(tmp_path / "www/releases" / OLD, "")
    (tree / "venv/bin/python").unlink()
    (tree / "venv/bin/python").symlink_to(theirs / "venv/bin/python")
    assert call("virtualenv_runs", str(tree), shell=shell, directory=tmp_path / "www", strict_uid="0")[0] == 0
    assert not (tmp_path / "run").exists()


def test_venv_that_others_can_change_is_not_led_to_another_python_and_the_host_says_what_to_type(
    tmp_path: Path, shell: str
) -> None:
    tree = with_python(tmp_path / "www/releases" / OLD, "")
    (tree / "venv/bin/python").unlink()
    (tree / "venv/bin/python").symlink_to("/opt/gone/bin/python3")
    given_away(tree)
    before = state(tree)
    asked = partial(call, "virtualenv_runs", str(tree), shell=shell, directory=tmp_path / "www", strict_uid="0")
    status, problem = asked(shows=("virtualenv_problem",))
    assert (status, state(tree)) == (1, before)
    assert problem.startswith(f"the release's venv has no Python here, and {tree} belongs to UNKNOWN ({OTHER})")
    assert f"type 'chown -hR root {tree}'" in problem


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


#: what `getent passwd` does → whether the group of our own name is ours alone
LISTS = {
    "nobody else has it": (f"echo deploy:x:{OTHER}:777::/:/bin/sh; echo root:x:0:0::/:/bin/sh", True),
    "root has it, too": ("echo root:x:0:777::/:/bin/sh", True),
    "another user has it as the primary group": (
        f"echo deploy:x:{OTHER}:777::/:/bin/sh; echo app2:x:5:777::/:/x",
        False,
    ),
    "a directory service that never stops": ("exec sleep 30", False),
    "a directory service that is down": ("exit 2", False),
    "an empty answer": ("true", False),
}


@pytest.mark.parametrize("how", LISTS)
def test_user_whose_primary_group_is_ours_is_somebody_else(tmp_path: Path, shell: str, how: str) -> None:
    script, fine = LISTS[how]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/getent").write_text(
        f'#!/bin/sh\nif [ "$1" = group ]; then echo deploy:x:777:; exit; fi\n{script}\n'
    )
    # A directory service of its own time.
    (tmp_path / "bin/timeout").write_text('#!/bin/sh\nshift; exec /usr/bin/timeout 1 "$@"\n')
    for program in (tmp_path / "bin").iterdir():
        program.chmod(0o755)
    room = tmp_path / "srv/www/.deploytool"
    (room / "kit").mkdir(parents=True)
    given_away(tmp_path / "srv")
    for path in (tmp_path / "srv", *(tmp_path / "srv").rglob("*")):
        os.chown(path, OTHER, 777)
        path.chmod(0o775)
    programs = f"{tmp_path}/bin:/usr/bin:/bin"
    asked = partial(call, "strict_for", str(OTHER), "deploy", shell=shell, directory=room.parent, PATH=programs)
    status, problem = asked(shows=("strict_problem",))
    assert (status == 0) is fine, problem
    assert fine or f"{tmp_path}/srv can be written by others (mode 775, group UNKNOWN)" in problem
    # The same in the room, which is asked for otherwise.
    for path in (tmp_path / "srv", tmp_path / "srv/www"):
        path.chmod(0o755)
    assert (asked()[0] == 0) is fine


def test_hint_can_be_pasted_whatever_the_path_is_called(tmp_path: Path, shell: str) -> None:
    ours = tmp_path / "my app's/100% $HOME `id` [a] {b} ~;&|<>*?!#\"\\é"
    ours.mkdir(parents=True)

    def cured() -> None:
        status, problem = call("is_strict", shell=shell, directory=ours, shows=("strict_problem",))
        assert status == 1
        typed = problem.partition("type '")[2].partition("; the application")[0].partition(" if you trust")[0]
        for interpreter in ("dash", "bash"):
            subprocess.run([interpreter, "-c", typed.rstrip().removesuffix("'")], check=True, cwd="/")
        assert call("is_strict", shell=shell, directory=ours)[0] == 0

    os.chown(ours, OTHER, OTHER)
    cured()
    ours.chmod(0o777)
    cured()


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
