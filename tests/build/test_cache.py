"""What dependencies and assets made is kept, and gives the bytes that a clean build gives. Real git, bash and tar."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploytool.build.stages import CheckedOut, assets, checked_out, checkout, dependencies
from deploytool.build.stages.cache import MOST_ROOTS, SLOTS
from deploytool.settings.recipes import RECIPES
from deploytool.worker.archive import tar_command
from tests.support.stage_server import Repository, Server, run

#: stands for an installer: what it makes is decided by lock.txt alone, and it counts how often it ran
INSTALL = """
echo ran >>"$COUNT"
mkdir -p deps/bin deps/empty vendor/own
while read -r name; do printf 'code of %s\\n' "$name" >"deps/$name"; done <lock.txt
ln -s "$(head -n 1 lock.txt)" deps/first
printf '#!/bin/sh\\n' >deps/bin/tool; chmod 750 deps/bin/tool; chmod 700 deps/empty; cp lock.txt vendor/own/lock
"""
#: stands for a bundler: it reads what the installer made, and drops a part of it
BUNDLE = """
echo built >>"$COUNT"
mkdir -p public/assets
cat app/*.js deps/first >public/assets/all.js
rm -f deps/bin/tool
printf 'in place' >>deps/$(tail -n 1 lock.txt)
"""


class Builds:
    """Builds in one work area, one after the other, and the same ones from nothing."""

    def __init__(self, tmp_path: Path, repository: Repository, **build: Any) -> None:
        self.tmp_path, self.repository = tmp_path, repository
        self.count = tmp_path / "count"
        self.build = {
            "dependencies": (INSTALL,),
            "assets": (BUNDLE,),
            "dependencies_inputs": ("lock.txt",),
            "assets_inputs": ("app", "lock.txt"),
            **build,
            "env": {"GIT_ALLOW_PROTOCOL": "file", "COUNT": str(self.count), **build.get("env", {})},
        }
        self.values: dict[str, Any] = {}
        self.server = self.area("build")

    def area(self, name: str) -> Server:
        return Server(self.tmp_path / name, str(self.repository.path), **{**self.values, **self.build})

    def ran(self) -> list[str]:
        """What ran since the last look."""
        lines = self.count.read_text().split() if self.count.exists() else []
        self.count.unlink(missing_ok=True)
        return lines

    def make(self, server: Server, *, reuse: bool = True) -> CheckedOut:
        fetched = server.found()
        outcome = run(checkout(server.settings, server.place, fetched, reuse=reuse))
        assert outcome.exit_code == 0, outcome.output
        found = checked_out(outcome.results)
        for name, stage in (("dependencies", dependencies), ("assets", assets)):
            step = stage(server.settings, server.place, found.keys.get(name), fetched.revision)
            if step is not None and name not in found.kept:
                outcome = run(step)
                assert outcome.exit_code == 0, outcome.output
        return found

    def digest(self, server: Server) -> str:
        packed = subprocess.run(tar_command(server.place.work_tree, [], 0), stdout=subprocess.PIPE, check=True)
        return hashlib.sha256(packed.stdout).hexdigest()

    def again(self) -> CheckedOut:
        """One more build in the work area; its bytes are those of a clean build."""
        self.server.build = self.area("build").build
        found = self.make(self.server)
        kept_digest, ran = self.digest(self.server), self.ran()
        shutil.rmtree(self.tmp_path / "clean", ignore_errors=True)
        clean = self.area("clean")
        self.make(clean)
        assert kept_digest == self.digest(clean)
        self.ran()
        self.last_ran = ran
        return found


@pytest.fixture
def given(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "git" / "shop")
    repository.commit(
        {"lock.txt": "alpha\nbeta\n", "app/one.js": "one\n", "app.py": "print()\n", ".gitignore": "deps\n"}
    )
    return repository


@pytest.fixture
def builds(tmp_path: Path, given: Repository) -> Builds:
    return Builds(tmp_path, given)


BOTH = frozenset({"dependencies", "assets"})
RAN_BOTH = ["ran", "built"]


def test_commit_that_changes_no_input_runs_nothing_again(builds: Builds) -> None:
    assert builds.again().kept == frozenset()
    assert builds.last_ran == RAN_BOTH
    builds.repository.commit({"app.py": "print(1)\n"})
    assert builds.again().kept == BOTH
    assert builds.last_ran == []


def test_changed_asset_input_runs_the_assets_on_untouched_dependencies(builds: Builds) -> None:
    builds.again()
    builds.repository.commit({"app/one.js": "two\n"})
    # The bundler had dropped and edited some of what the installer made: what it edited in place can't be used again.
    assert builds.again().kept == frozenset()
    builds.build["assets"] = (BUNDLE.replace("printf 'in place'", "true"),)
    builds.again()
    builds.repository.commit({"app/one.js": "three\n"})
    assert builds.again().kept == {"dependencies"}
    assert builds.last_ran == ["built"]


def test_lock_file_that_goes_back_and_forth_is_installed_once_each(builds: Builds) -> None:
    builds.build["assets"] = ()
    first = builds.again().keys["dependencies"]
    builds.repository.commit({"lock.txt": "gamma\n"})
    assert builds.again().kept == frozenset()
    builds.repository.commit({"lock.txt": "alpha\nbeta\n"})
    found = builds.again()
    assert (set(found.kept), found.keys["dependencies"]) == ({"dependencies"}, first)
    builds.repository.commit({"lock.txt": "gamma\n"})
    assert builds.again().kept == {"dependencies"}
    assert builds.last_ran == []


def _rename(repository: Repository) -> None:
    repository.git("mv", "app.py", "main.py")


def _delete_directory(repository: Repository) -> None:
    repository.git("rm", "-r", "--quiet", "more")


def _mode(repository: Repository) -> None:
    (repository.path / "app.py").chmod(0o755)


def _ignore(repository: Repository) -> None:
    (repository.path / ".gitignore").write_text("deps\npublic\n*.log\n")


def _link(repository: Repository) -> None:
    (repository.path / "app.py").unlink()
    (repository.path / "app.py").symlink_to("lock.txt")


def _file_becomes_directory(repository: Repository) -> None:
    (repository.path / "app.py").unlink()
    (repository.path / "app.py").mkdir()
    (repository.path / "app.py" / "x").write_text("x")


@pytest.mark.parametrize(
    "change",
    [_rename, _delete_directory, _mode, _ignore, _link, _file_becomes_directory],
    ids=lambda each: each.__name__,
)
def test_whatever_a_commit_does_the_bytes_are_those_of_a_clean_build(
    builds: Builds, change: Callable[[Repository], None]
) -> None:
    builds.repository.commit({"more/a/b.txt": "b", "more/c.txt": "c"})
    builds.again()
    change(builds.repository)
    builds.repository.commit({})
    assert builds.again().kept == BOTH
    builds.repository.git("revert", "--no-edit", "HEAD")
    assert builds.again().kept == BOTH


def test_file_of_the_revision_where_results_lay_runs_all_again(builds: Builds) -> None:
    builds.again()
    builds.repository.git("add", "--force", "--all")
    (builds.repository.path / "deps").mkdir()
    (builds.repository.path / "deps" / "README").write_text("by hand\n")
    builds.repository.git("add", "--force", "deps/README")
    builds.repository.git("commit", "--quiet", "-m", "a file among the dependencies")
    assert builds.again().kept == frozenset()
    builds.repository.git("rm", "--quiet", "deps/README")
    builds.repository.commit({})
    assert builds.again().kept == BOTH


def test_file_of_the_revision_where_a_directory_of_results_began_runs_all_again(builds: Builds) -> None:
    builds.again()
    builds.repository.commit({"public": "a file\n"})
    builds.build["assets"] = (BUNDLE.replace("mkdir", "rm -f public; mkdir"),)
    assert "assets" not in builds.again().kept
    # The assets replaced a file of the revision: that is not kept.
    assert "assets" not in builds.again().kept


@pytest.mark.parametrize(
    "damage",
    [
        "printf x >>tree/deps/alpha",
        "rm tree/deps/alpha",
        "printf x >tree/deps/new",
        "chmod 600 tree/deps/alpha",
        "rm fingerprint",
    ],
)
def test_kept_results_that_were_changed_are_not_used(builds: Builds, damage: str) -> None:
    found = builds.again()
    shutil.rmtree(builds.server.tree / "deps")
    for stage, key in found.keys.items():
        subprocess.run(["bash", "-c", damage], cwd=Path(builds.server.place.kept, stage, key), check=True)
    assert builds.again().kept == frozenset()
    assert builds.again().kept == BOTH


@pytest.mark.parametrize("damage", ["rm deps/beta", "echo x >deps/new", "rm -r public deps", "mv deps/beta deps/gamma"])
def test_what_the_last_build_left_and_somebody_changed_is_made_again_of_what_is_kept(
    builds: Builds, damage: str
) -> None:
    builds.again()
    subprocess.run(["bash", "-c", damage], cwd=builds.server.tree, check=True)
    assert builds.again().kept == BOTH


def test_many_results_among_files_of_the_revision_are_kept(builds: Builds) -> None:
    builds.build["assets"] = (f"for n in $(seq {2 * MOST_ROOTS}); do echo x >app/one-$n.css; done", BUNDLE)
    builds.again()
    assert builds.again().kept == BOTH


@pytest.mark.parametrize(
    "change",
    [
        {"dependencies": (INSTALL, "true")},
        {"env": {"MODE": "other"}},
        {"path": ("/opt/bin",)},
        {"linked_files": ("secret.key",)},
    ],
    ids=str,
)
def test_whatever_else_decides_the_results_runs_them_again(builds: Builds, change: dict[str, Any]) -> None:
    builds.again()
    for area in ("build", "clean"):
        shared = builds.tmp_path / area / "shop/shared/production"
        shared.mkdir(parents=True, exist_ok=True)
        (shared / "secret.key").write_text("sesame")
    builds.build |= {**change, "env": {**builds.build["env"], **change.get("env", {})}}
    server = builds.area("build")
    assert builds.make(server).kept == frozenset()
    assert builds.make(server).kept == BOTH
    if "linked_files" in change:
        assert os.readlink(server.tree / "secret.key") == str(Path(server.place.shared, "secret.key"))
        Path(server.place.shared, "secret.key").write_text("other")
        assert builds.make(server).kept == frozenset()


def test_stage_that_changes_files_of_the_revision_always_runs(builds: Builds) -> None:
    for spoil in ("echo x >>app.py", "rm app.py", "chmod 600 app.py", "chmod 700 app", "echo x >>REVISION"):
        builds.build["dependencies"] = (f"{INSTALL}\n{spoil}",)
        builds.build["assets"] = ()
        builds.again()
        assert builds.again().kept == frozenset(), spoil
        assert builds.last_ran == ["ran"]


def test_command_that_stages_its_results_in_git_deceives_nobody(builds: Builds) -> None:
    builds.build["dependencies"] = (f"{INSTALL}\ngit add --force deps; git update-index --assume-unchanged app.py",)
    builds.again()
    (builds.server.tree / "app.py").write_text("left behind\n")
    builds.repository.commit({"more.txt": "more\n"})
    assert builds.again().kept == BOTH


def test_stage_without_inputs_always_runs_and_so_do_the_assets_after_it(builds: Builds) -> None:
    builds.build["dependencies_inputs"] = ()
    builds.again()
    assert builds.again().kept == frozenset()
    assert builds.last_ran == RAN_BOTH
    builds.build |= {"dependencies": (), "assets": ('echo built >>"$COUNT"; cat app/*.js >all.js',)}
    builds.again()
    assert builds.again().kept >= {"assets"}
    assert builds.last_ran == []


def test_rebuild_runs_all_and_what_it_makes_is_kept(builds: Builds) -> None:
    builds.again()
    builds.make(builds.server, reuse=False)
    assert builds.ran() == RAN_BOTH
    assert builds.again().kept == BOTH


def test_only_the_last_results_are_kept(builds: Builds) -> None:
    for number in range(SLOTS + 2):
        builds.repository.commit({"lock.txt": f"{number}\n"})
        builds.make(builds.server)
    for stage in BOTH:
        assert len(list(Path(builds.server.place.kept, stage).iterdir())) == SLOTS


def test_results_outside_the_applications_directory_are_kept_as_well(tmp_path: Path, given: Repository) -> None:
    given.commit({"web/lock.txt": "alpha\n", "web/app/one.js": "one\n", "other/x": "x"})
    builds = Builds(
        tmp_path, given, dependencies=(INSTALL + "mkdir -p ../node_modules; cp lock.txt ../node_modules/x",)
    )
    builds.values["subdirectory"] = "web"
    builds.server = builds.area("build")
    builds.again()
    given.commit({"other/x": "y", "lock.txt": "not the application's\n"})
    assert builds.again().kept == BOTH
    assert (builds.server.tree.parent / "node_modules/x").read_text() == "alpha\n"


@pytest.mark.parametrize(
    ("recipe", "inputs", "kept"),
    [
        ("django", {"requirements.txt": "Django==5.2\n-r deps/base.txt\n", "deps/base.txt": "x==1\n"}, True),
        ("django", {"requirements.txt": "Django==5.2  # ./not\nfoo-e==1\n"}, True),
        ("django", {"requirements.txt": "-e .\n"}, False),
        ("django", {"requirements.txt": "./own\n"}, False),
        ("django", {"requirements.txt": "own @ file:./own\n"}, False),
        ("django", {"requirements.txt": "-r base.in\n", "base.in": "x\n"}, False),
        ("node", {"package.json": '{"scripts": {"build": "vite"}}'}, True),
        ("node", {"package.json": '{"scripts": {"prepare": "husky"}}'}, False),
        ("node", {"package.json": '{"dependencies": {"own": "file:./own"}}'}, False),
        ("rails", {"Gemfile": "gem 'rails'\n"}, True),
    ],
)
def test_recipe_knows_what_is_installed_from_the_tree_itself(
    tmp_path: Path, given: Repository, recipe: str, inputs: dict[str, str], kept: bool
) -> None:
    given.commit(inputs)
    server = Server(
        tmp_path / "build",
        str(given.path),
        recipe=recipe,
        dependencies=("true",),
        dependencies_inputs=RECIPES[recipe].dependencies_inputs,
    )
    server.build["env"] |= {"PYTHON": "python3"}
    # Without the recipe's programs, which need not be here.
    plain = Server(tmp_path / "build", str(given.path))
    outcome = run(checkout(server.settings, server.place, plain.found()))
    assert outcome.exit_code == 0, outcome.output
    assert ("dependencies" in checked_out(outcome.results).keys) is kept


def test_killed_while_keeping_leaves_nothing_that_is_used(builds: Builds) -> None:
    found = builds.again()
    half = Path(builds.server.place.kept, "dependencies", "new.abcdef")
    half.mkdir()
    builds.repository.commit({"lock.txt": "other\n"})
    assert builds.again().keys != found.keys
    assert not half.exists()


def test_submodules_are_not_looked_through(tmp_path: Path, builds: Builds) -> None:
    part = Repository(tmp_path / "git" / "part")
    part.commit({"part.txt": "part\n"})
    builds.repository.git("submodule", "--quiet", "add", str(part.path), "part")
    builds.repository.commit({})
    assert builds.again().keys == {}
    assert builds.again().kept == frozenset()
