"""No path leaves its tree on the build server: places × kinds of links, and random trees; snapshots of all else."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deploytool.build.stages import checked_out, checkout, dependencies, migrate
from deploytool.build.stages.inside import INSIDE
from deploytool.connection.boot import start_worker
from deploytool.errors import StepError
from deploytool.worker.inside import leads_out
from tests.support.stage_server import Outcome, Repository, Server, run
from tests.support.worker import RawClient, hello, known

LEADS_OUT = 77


def snapshot(*places: Path) -> dict[str, tuple[Any, ...]]:
    """All that is in these places, without following a link."""
    found: dict[str, tuple[Any, ...]] = {}
    for top in places:
        for directory, directories, files in os.walk(top):
            for name in (*directories, *files):
                path = Path(directory, name)
                state = path.lstat()
                content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
                found[str(path)] = (state.st_mode, state.st_ino, content)
    return found


#: How a link called `name` in the tree leads out, to the directory `outside`, or nowhere.
Links = Callable[[Path, str, Path], None]


def _relative(tree: Path, name: str, outside: Path) -> None:
    (tree / name).symlink_to(os.path.relpath(outside, (tree / name).parent))


def _absolute(tree: Path, name: str, outside: Path) -> None:
    (tree / name).symlink_to(outside)


def _chain(tree: Path, name: str, outside: Path) -> None:
    (tree / name).symlink_to("one")
    (tree / "one").symlink_to("two")
    (tree / "two").symlink_to(outside)


def _loop(tree: Path, name: str, outside: Path) -> None:
    (tree / name).symlink_to("one")
    (tree / "one").symlink_to(name)


def _dangling_outside(tree: Path, name: str, outside: Path) -> None:
    (tree / name).symlink_to(outside / "nothing")


def _to_git(tree: Path, name: str, outside: Path) -> None:
    (tree / name).symlink_to(".git")


KINDS: dict[str, Links] = {
    "relative": _relative,
    "absolute": _absolute,
    "chain": _chain,
    "loop": _loop,
    "dangling": _dangling_outside,
    "git's own directory": _to_git,
}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    made.commit({"README": "hello"})
    return made


def commit_links(repository: Repository, make: Links, name: str, outside: Path, tree: Path) -> None:
    """The revision gets links that lead from where its work tree will be."""
    tree.mkdir(parents=True, exist_ok=True)
    beside = tree.parent / "drawn"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    make(beside, name, outside)
    for link in beside.iterdir():
        (repository.path / link.name).unlink(missing_ok=True)
        (repository.path / link.name).symlink_to(os.readlink(link))
    shutil.rmtree(beside)
    repository.commit({})


def server_with(repository: Repository, tmp_path: Path, **build: Any) -> Server:
    server = Server(tmp_path / "root", str(repository.path), **build)
    for environment in ("production", "local"):
        key = Path(server.root, "shop/shared", environment, "config/master.key")
        key.parent.mkdir(parents=True)
        key.write_text(environment)
    return server


def problem(outcome: Outcome, link: str) -> None:
    assert outcome.exit_code == LEADS_OUT, outcome.output
    assert f"{link} is a symlink to " in outcome.message
    assert "outside the application's tree" in outcome.message


@pytest.mark.parametrize("kind", KINDS)
def test_linked_file_of_a_build_is_never_written_through_a_link(
    repository: Repository, tmp_path: Path, kind: str
) -> None:
    server = server_with(repository, tmp_path, linked_files=("config/master.key",))
    outside = Path(server.root, "shop/shared/local/config")
    commit_links(repository, KINDS[kind], "config", outside, Path(server.place.workspace))
    before = snapshot(server.root / "shop/shared")
    problem(server.checkout(), "config")
    assert snapshot(server.root / "shop/shared") == before


def test_build_of_one_environment_never_replaces_the_key_of_another(repository: Repository, tmp_path: Path) -> None:
    server = server_with(repository, tmp_path, linked_files=("config/master.key",))
    (repository.path / "config").symlink_to("../shared/local/config")
    repository.commit({})
    outcome = server.checkout()
    problem(outcome, "config")
    assert "../shared/local/config" in outcome.message
    key = Path(server.root, "shop/shared/local/config/master.key")
    assert key.read_text() == "local"
    assert not key.is_symlink()


def test_linked_file_takes_the_place_of_a_link_and_not_of_what_it_leads_to(
    repository: Repository, tmp_path: Path
) -> None:
    server = server_with(repository, tmp_path, linked_files=("config/master.key",))
    target = Path(server.root, "shop/shared/local/config/master.key")
    (repository.path / "config").mkdir()
    (repository.path / "config/master.key").symlink_to(target)
    repository.commit({})
    before = snapshot(server.root / "shop/shared")
    assert server.checkout().exit_code == 0
    assert snapshot(server.root / "shop/shared") == before
    assert (server.tree / "config/master.key").read_text() == "production"


def test_links_that_stay_inside_go_on_working(repository: Repository, tmp_path: Path) -> None:
    server = server_with(repository, tmp_path, linked_files=("config/master.key",))
    repository.commit({"settings/real/a": "1"})
    (repository.path / "config").symlink_to("one")
    (repository.path / "one").symlink_to("settings/real")
    repository.commit({})
    assert server.checkout().exit_code == 0
    assert (server.tree / "settings/real/master.key").read_text() == "production"


@pytest.mark.parametrize("what", ["link", "dangling link", "directory"])
def test_revision_that_has_something_called_revision_harms_nothing(
    repository: Repository, tmp_path: Path, what: str
) -> None:
    server = server_with(repository, tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    if what == "directory":
        repository.commit({"REVISION/a": "1"})
    else:
        (repository.path / "REVISION").symlink_to(outside / ("file" if what == "link" else "none"))
        repository.commit({})
    before = snapshot(outside)
    assert server.checkout().exit_code == 0
    assert snapshot(outside) == before
    assert not (server.tree / "REVISION").is_symlink()
    assert len((server.tree / "REVISION").read_text().strip()) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_subdirectory_that_is_a_link_leading_out_is_never_entered(
    repository: Repository, tmp_path: Path, kind: str
) -> None:
    server = Server(tmp_path / "root", str(repository.path), subdirectory="app", linked_files=())
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "README").write_text("precious")
    commit_links(repository, KINDS[kind], "app", outside, Path(server.place.workspace))
    before = snapshot(outside)
    problem(server.checkout(), "app")
    assert snapshot(outside) == before


def test_subdirectory_that_is_a_link_inside_goes_on_working(repository: Repository, tmp_path: Path) -> None:
    repository.commit({"apps/web/a": "1"})
    (repository.path / "app").symlink_to("apps/web")
    repository.commit({})
    server = Server(tmp_path / "root", str(repository.path), subdirectory="app")
    assert server.checkout().exit_code == 0
    assert (server.tree / "a").read_text() == "1"


@pytest.mark.parametrize("linked", ["linked_dirs", "linked_files", "build.linked_files"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "git's own directory"])
def test_links_for_migrations_never_leave_the_unpacked_release(
    repository: Repository, tmp_path: Path, kind: str, linked: str
) -> None:
    server = server_with(repository, tmp_path, migrate=("touch ran",))
    if linked == "build.linked_files":
        server.build["linked_files"] = ("public/uploads",)
    else:
        server.values[linked] = ("public/uploads",)
    if linked != "linked_dirs":
        shared = Path(server.place.shared, "public/uploads")
        shared.parent.mkdir(parents=True)
        shared.write_text("ours")
    outside = tmp_path / "outside"
    (outside / "uploads").mkdir(parents=True)
    (outside / "uploads/picture").write_text("the customers'")
    release = tmp_path / "root/shop/unpacked/production/r"
    release.mkdir(parents=True)
    KINDS[kind](release, "public", outside)
    before = snapshot(outside)
    problem(run(migrate(server.settings, server.place, str(release))), "public")
    assert snapshot(outside) == before
    assert not (release / "ran").exists()


def test_migrations_link_below_links_that_stay_inside(repository: Repository, tmp_path: Path) -> None:
    server = server_with(repository, tmp_path, migrate=("cat public/uploads/x",))
    server.values["linked_dirs"] = ("public/uploads",)
    (Path(server.place.shared) / "public/uploads").mkdir(parents=True)
    (Path(server.place.shared) / "public/uploads/x").write_text("found")
    release = tmp_path / "root/shop/unpacked/production/r"
    (release / "web").mkdir(parents=True)
    (release / "public").symlink_to("web")
    outcome = run(migrate(server.settings, server.place, str(release)))
    assert outcome.exit_code == 0, outcome.output
    assert "found" in outcome.output


def test_linked_file_below_a_linked_directory_goes_on_working(repository: Repository, tmp_path: Path) -> None:
    server = server_with(repository, tmp_path, migrate=("cat config/master.key",), linked_files=("config/master.key",))
    server.values["linked_dirs"] = ("config",)
    release = tmp_path / "root/shop/unpacked/production/r"
    release.mkdir(parents=True)
    outcome = run(migrate(server.settings, server.place, str(release)))
    assert outcome.exit_code == 0, outcome.output
    assert "production" in outcome.output


def test_kept_results_are_never_put_back_or_set_aside_through_a_link(repository: Repository, tmp_path: Path) -> None:
    server = Server(
        tmp_path / "root",
        str(repository.path),
        dependencies=("mkdir -p web/node_modules && echo made >web/node_modules/a",),
        dependencies_inputs=("lock",),
    )
    repository.commit({"lock": "1", "web/package.json": "{}"})

    def build() -> None:
        found = server.found()
        outcome = run(checkout(server.settings, server.place, found))
        assert outcome.exit_code == 0, outcome.output
        known = checked_out(outcome.results)
        if "dependencies" not in known.kept and (server.tree / "web").is_dir():
            step = dependencies(server.settings, server.place, known.keys["dependencies"], found.revision)
            outcome = run(step)
            assert outcome.exit_code == 0, outcome.output

    build()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    # The next revision has a link where the results lay; so what was left there, and what is kept, must not follow it.
    shutil.rmtree(repository.path / "web")
    (repository.path / "web").symlink_to(outside)
    repository.commit({})
    before = snapshot(outside)
    found = server.found()
    outcome = run(checkout(server.settings, server.place, found))
    assert outcome.exit_code == 0, outcome.output
    assert "dependencies" not in checked_out(outcome.results).kept
    assert snapshot(outside) == before
    # And a step that puts a link where results of the last build lay.
    (repository.path / "web").unlink()
    repository.commit({"web/package.json": "{}"})
    build()
    (outside / "node_modules").mkdir()
    (outside / "node_modules/theirs").write_text("x")
    before = snapshot(outside)
    shutil.rmtree(server.tree / "web")
    (server.tree / "web").symlink_to(outside)
    assert server.checkout().exit_code == 0
    assert snapshot(outside) == before


# --- the worker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[RawClient]:
    root = tmp_path / "root"
    channel, read = start_worker(SimpleNamespace(is_local=True, root=str(root), server="local"))  # type: ignore[arg-type]
    client = RawClient(channel, read, "local")
    client.greet(**hello(root, {"url": f"file://{tmp_path}/store"}))
    yield client
    client.close()


@pytest.mark.parametrize("linked", ["unpacked", "unpacked/production"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "git's own directory"])
def test_worker_neither_unpacks_nor_removes_through_a_link(
    worker: RawClient, tmp_path: Path, kind: str, linked: str
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_text("1")
    packed = worker.ask("publish_archive", directory=str(tmp_path / "tree"), exclude=[], epoch=0, key="a.tar")
    outside = tmp_path / "outside"
    (outside / "production/r").mkdir(parents=True)
    (outside / "r").mkdir()
    (outside / "production/r/precious").write_text("x")
    link = tmp_path / "root/shop" / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](link.parent, link.name, outside)
    before = snapshot(outside)
    with pytest.raises(StepError, match=f"{link.name} on the build server is a link that leads to "):
        worker.ask("unpack_release", key="a.tar", compression="none", name="r", **known(packed))
    if linked == "unpacked":
        with pytest.raises(StepError, match="is a link that leads to "):
            worker.ask("remove_unpacked")
        with pytest.raises(StepError, match="unpacked can't be removed on the build server: a link leads to "):
            worker.ask("prune_build_server", keep=[], logs=1)
    else:
        worker.ask("remove_unpacked")
        worker.ask("prune_build_server", keep=[], logs=1)
    assert snapshot(outside) == before


def test_logs_that_lie_elsewhere_are_not_swept(worker: RawClient, tmp_path: Path) -> None:
    outside = tmp_path / "var-log"
    outside.mkdir()
    for number in range(5):
        (outside / f"{number}.log").write_text("another's")
        os.utime(outside / f"{number}.log", (0, 0))
    (tmp_path / "root/shop/logs").parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(tmp_path / "root/shop/logs", ignore_errors=True)
    (tmp_path / "root/shop/logs").symlink_to(outside)
    before = snapshot(outside)
    with pytest.raises(StepError, match="logs can't be removed on the build server: a link leads to "):
        worker.ask("prune_build_server", keep=[], logs=1)
    assert snapshot(outside) == before


def test_tree_that_a_step_replaced_by_a_link_is_not_packed(worker: RawClient, tmp_path: Path) -> None:
    workspace = tmp_path / "root/shop/workspace"
    workspace.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("x")
    (workspace / "app").symlink_to(tmp_path / "outside")
    with pytest.raises(StepError, match="app on the build server is a link that leads to "):
        worker.ask(
            "publish_archive", directory=f"{workspace}/app", exclude=[], epoch=0, key="a", workspace=str(workspace)
        )


# --- both functions, on trees that nobody has thought of

NAMES = ("a", "b", "c")
STEPS = (*NAMES, "..", ".")
TARGETS = (*NAMES, ".", "..", "../..", "../outside", "a/b", "b/../c", "/outside", "nothing")
ENTRIES = st.dictionaries(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join),
    st.one_of(st.none(), st.sampled_from(TARGETS)),
    max_size=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, path=st.lists(st.sampled_from(STEPS), min_size=1, max_size=4).map("/".join))
@example(entries={"a": "a/b"}, path="a/b")
def test_what_the_guard_lets_through_stays_inside_of_random_trees(
    tmp_path: Path, entries: dict[str, str | None], path: str
) -> None:
    top = tmp_path / "case"
    shutil.rmtree(top, ignore_errors=True)
    tree, outside = top / "above/tree", top / "outside"
    tree.mkdir(parents=True)
    for directory in (outside, top / "above/outside"):
        directory.mkdir()
        for name in NAMES:
            (directory / name).mkdir()
            (directory / name / "precious").write_text("x")
    for name, target in sorted(entries.items()):
        entry = tree / name
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            if target is None:
                entry.mkdir(exist_ok=True)
            else:
                entry.symlink_to(f"{outside}" if target == "/outside" else target)
        except (FileExistsError, NotADirectoryError, OSError):
            # Of two entries for one name the first counts; one below a link would be made outside.
            continue
    # Entries that were made through links lie outside as well: what counts is what the guard's caller does.
    before = {name: state for name, state in snapshot(top).items() if not name.startswith(f"{tree}/")}
    body = 'if ! d_leads_out "$1" "$2"; then mkdir -p "$(dirname "$1/$2")" && rm -rf "$1/$2" && ln -s x "$1/$2"; fi'
    script = f"d_path_leads_out=77\n{INSIDE}\n{body} || true"
    # As text: a Path would drop its dots.
    found = leads_out(str(tree), f"{tree}/{path}")
    asked = f'd_path_leads_out=77\n{INSIDE}\nd_leads_out "$1" "$2"'
    answer = subprocess.run(["bash", "-uo", "pipefail", "-c", asked, "bash", str(tree), path], check=False).returncode
    assert (answer == 0) == (found is not None)
    subprocess.run(
        ["bash", "-uo", "pipefail", "-c", script, "bash", str(tree), path], check=True, stderr=subprocess.DEVNULL
    )
    after = {name: state for name, state in snapshot(top).items() if not name.startswith(f"{tree}/")}
    assert after == before
