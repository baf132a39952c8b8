"""An archive stands alone, or is not published: what real tools leave in a tree, and what a release may not have."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.build.stages.commands import relocate_virtualenv
from deploytool.connection.boot import start_worker
from deploytool.settings.recipes import RECIPES
from tests.support.worker import Place, RawClient, hello


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "root"
    channel, read = start_worker(SimpleNamespace(is_local=True, root=str(root), server="local"))  # type: ignore[arg-type]
    worker = RawClient(channel, read, "local")
    worker.greet(**hello(root, {"url": f"file://{tmp_path}/store"}))
    yield Place(worker, root, tmp_path / "store")
    worker.close()


# --- the place where it was built


def library(path: str, *, wide: bool = True, little: bool = True, tag: int = 29) -> bytes:
    """A shared library that has nothing but an entry of its dynamic section that names a path."""
    order = "<" if little else ">"
    strings = b"\0" + path.encode() + b"\0"
    word = "Q" if wide else "I"
    dynamic = b"".join(struct.pack(order + 2 * word, *each) for each in ((5, 0x10000 + 1024), (tag, 1), (0, 0)))
    segments = [(1, 0, 0x10000, 4096), (2, 512, 0x10000 + 512, len(dynamic))]
    if wide:
        head = struct.pack(order + "16sHHIQQQIHHHHHH", b"\x7fELF\2" + (b"\1" if little else b"\2"), 3, 62, 1, 0, 64,
                           0, 0, 64, 56, 2, 0, 0, 0)  # fmt: skip
        table = b"".join(
            struct.pack(order + "IIQQQQQQ", kind, 4, offset, address, address, size, size, 8)
            for kind, offset, address, size in segments
        )
    else:
        head = struct.pack(order + "16sHHIIIIIHHHHHH", b"\x7fELF\1" + (b"\1" if little else b"\2"), 3, 3, 1, 0, 52,
                           0, 0, 52, 32, 2, 0, 0, 0)  # fmt: skip
        table = b"".join(
            struct.pack(order + "IIIIIIII", kind, offset, address, address, size, size, 4, 4)
            for kind, offset, address, size in segments
        )
    content = bytearray(4096)
    for at, part in ((0, head + table), (512, dynamic), (1024, strings)):
        content[at : at + len(part)] = part
    return bytes(content)


Makes = Callable[[Place], Any]
NAMING: dict[str, tuple[str, Makes, str]] = {
    "a script's first line": (
        "bin/serve", lambda at: at.put("bin/serve", f"#!{at.workspace}/venv/bin/python\n"), "first line",
    ),
    "pip's form of a long first line": (
        "bin/serve", lambda at: at.put("bin/serve", f"#!/bin/sh\n'''exec' {at.workspace}/venv/bin/python \"$0\"\n"),
        "first line",
    ),
    "the first line of a program with its code in a zip": (
        "app.pex", lambda at: at.put("app.pex", f"#!{at.workspace}/python\nPK\0\0".encode()), "first line",
    ),
    "a link": ("public/storage", lambda at: link(at, "public/storage", f"{at.workspace}/storage"), "link"),
    "a link to the tree itself": ("self", lambda at: link(at, "self", str(at.workspace)), "link"),
    "a link to another of the application's directories": (
        "key", lambda at: link(at, "key", f"{at.workspace.parent}/shared/production/key"), "link",
    ),
    "a path file": ("lib/a.pth", lambda at: at.put("lib/a.pth", f"{at.workspace}/src\n"), "path file"),
    "an egg link": ("lib/a.egg-link", lambda at: at.put("lib/a.egg-link", f"{at.workspace}/src\n."), "path file"),
    "an editable finder": (
        "lib/__editable___a_finder.py", lambda at: at.put("lib/__editable___a_finder.py", f"X = '{at.workspace}/src'"),
        "path file",
    ),
    "pyvenv.cfg": ("v/pyvenv.cfg", lambda at: at.put("v/pyvenv.cfg", f"home = {at.workspace}/py\n"), "pyvenv.cfg"),
    "a text": ("config.php", lambda at: at.put("config.php", f"<?php return ['{at.workspace}/storage'];"), "text"),
    "a text with slashes as JSON may write them": (
        "c.json", lambda at: at.put("c.json", '"' + f"{at.workspace}/x".replace("/", r"\/") + '"'), "text",
    ),
    "a RUNPATH": ("a.so", lambda at: at.put("a.so", library(f"{at.workspace}/lib")), "native"),
    "an RPATH among others": (
        "a.so", lambda at: at.put("a.so", library(f"$ORIGIN:{at.workspace}/lib", tag=15)), "native",
    ),
    "a library that is needed by its path": (
        "a.so", lambda at: at.put("a.so", library(f"{at.workspace}/lib/b.so", tag=1)), "native",
    ),
    "a native file of 32 bits and the other byte order": (
        "a.so", lambda at: at.put("a.so", library(f"{at.workspace}/lib", wide=False, little=False)), "native",
    ),
    "a name with a line break": ("a\nb", lambda at: at.put("a\nb", f"{at.workspace}/x"), "text"),
}  # fmt: skip


def link(place: Place, name: str, target: str) -> None:
    path = place.workspace / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("what", NAMING)
def test_file_that_names_the_work_tree_is_never_published(place: Place, what: str) -> None:
    name, make, kind = NAMING[what]
    place.commit()
    make(place)
    error = place.refused("1 file of the release names the place where it was built")
    assert name.replace("\n", "; ") in error.message
    assert error.tail[0].startswith(f"{name.replace(chr(10), '; ')} ({kind}): ")
    assert str(place.workspace.parent) in (error.hint or "")
    place.publish(allow=[name.replace("\n", "?")])


def test_both_names_of_the_work_area_are_known(place: Place, tmp_path: Path) -> None:
    (tmp_path / "also").symlink_to(tmp_path / "root")
    channel, read = start_worker(SimpleNamespace(is_local=True, root=f"{tmp_path}/also", server="local"))  # type: ignore[arg-type]
    place.worker, first = RawClient(channel, read, "local"), place.worker
    try:
        place.worker.greet(**hello(tmp_path / "also", {"url": f"file://{tmp_path}/store"}))
        place.put("a", f"{tmp_path}/also/shop/x")
        place.put("b", f"{tmp_path}/root/shop/x")
        place.refused("2 files of the release name")
    finally:
        place.worker.close()
        place.worker = first


def test_only_the_first_ten_of_many_are_named(place: Place) -> None:
    place.commit()
    for number in range(25):
        place.put(f"bin/{number:02}", f"#!{place.workspace}/python\n")
    error = place.refused("25 files of the release name")
    assert error.message.endswith("bin/09 and 15 more")
    assert len(error.tail) == 10


HARMLESS: dict[str, tuple[str, Callable[[Place], str | bytes]]] = {
    "what a binary notes for debuggers": ("a.so", lambda at: b"\x7fELF" + f"{at.workspace}/a.c\0".encode()),
    "byte code": ("__pycache__/a.pyc", lambda at: b"\0\0\0\0" + f"{at.workspace}/a.py".encode()),
    "data of more than a text's size": ("dump.sql", lambda at: f"{at.workspace}/x\n" * 40_000),
    "a note in pyvenv.cfg": (
        "venv/pyvenv.cfg", lambda at: f"home = /usr/bin\ncommand = /usr/bin/python3 -m venv {at.workspace}/venv\n",
    ),
    "another path that ends in the same way": ("a.txt", lambda at: f"/other{at.workspace}/x"),
    "a longer name": ("a.txt", lambda at: f"{at.workspace.parent}2/x"),
    "a native gem's log": ("vendor/bundle/ruby/3/extensions/x/gem_make.out", lambda at: f"cd {at.workspace}/x"),
    "an addon's makefile": ("node_modules/b/build/Makefile", lambda at: f"srcdir := {at.workspace}/x"),
    "a source map": ("dist/a.js.map", lambda at: f'"{at.workspace}/src/a.ts"'),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_harmless_mention_of_the_work_tree_is_published(place: Place, what: str) -> None:
    name, content = HARMLESS[what]
    place.commit()
    place.put(name, content(place))
    place.publish()


def test_text_of_the_revision_is_let_through_until_a_step_changes_it(place: Place) -> None:
    place.put("docs/run.md", f"logs are in {place.workspace.parent}/logs\n")
    place.commit()
    place.publish()
    (place.store / "a.tar").unlink()
    place.put("docs/run.md", f"logs are in {place.workspace.parent}/logs/now\n")
    place.refused("docs/run.md")


def test_what_is_excluded_does_not_count(place: Place) -> None:
    place.commit()
    place.put("bin/serve", f"#!{place.workspace}/python\n")
    place.publish(exclude=["bin"])


def test_link_of_a_step_that_leaves_the_applications_directory_is_refused(place: Place) -> None:
    place.put("app/package.json", "{}")
    link(place, "app/of-the-revision", "../lib")
    place.put("lib/index.js")
    place.commit()
    place.publish("app")
    (place.store / "a.tar").unlink()
    link(place, "app/node_modules/lib", "../../lib")
    assert "lib (link): ../../lib" in "\n".join(place.refused("app|node_modules/lib", "app").tail)


def test_link_of_a_step_to_what_only_hosts_have_is_published(place: Place) -> None:
    place.commit()
    link(place, "public/pictures", "../../../shared/pictures")
    place.publish()


def test_virtual_environment_of_the_recipe_django_stands_alone_and_a_plain_one_does_not(place: Place) -> None:
    place.put("requirements.txt", "")
    place.commit()
    environ = {**os.environ, "PYTHON": sys.executable, "PIP_NO_INDEX": "1"}
    for command in RECIPES["django"].dependencies:
        script = relocate_virtualenv() + command
        subprocess.run(["bash", "-euc", script], cwd=place.workspace, env=environ, check=True, capture_output=True)
    place.publish()
    (place.store / "a.tar").unlink()
    subprocess.run([sys.executable, "-m", "venv", "plain"], cwd=place.workspace, check=True)
    error = place.refused("plain/bin/pip")
    assert "uv venv --relocatable" in (error.hint or "")


# --- linked paths


def test_linked_directory_over_what_a_step_made_is_refused(place: Place) -> None:
    place.put("public/assets/.keep")
    place.commit()
    for number in range(5):
        place.put(f"public/assets/app-{number}.js")
    error = place.refused(
        "link a path of shared/ over what the build made: public/assets hides public/assets/app-0.js, .* and 2 more",
        links={"production": ["log", "public/assets"], "staging": []},
    )
    assert "take public/assets out of `linked_dirs`" in (error.hint or "")


def test_linked_file_over_what_a_step_made_is_refused(place: Place) -> None:
    place.commit()
    place.put("public/manifest.json")
    place.refused("public/manifest.json", links={"production": ["public/manifest.json"]})


def test_files_of_the_revision_below_a_link_are_told_and_placeholders_are_not(place: Place) -> None:
    for name in ("public/system/a", "public/system/deep/b", "log/.keep", "storage/.gitkeep", "tmp/.gitignore"):
        place.put(name)
    place.commit()
    place.put("log/production.log")
    place.put("tmp/cache/bootsnap/x")
    found = place.publish(links={"production": ["public/system", "log", "storage", "tmp", "public/uploads"]})
    assert found["links"] == {
        "public/system": {
            "made": 0, "made_names": [], "ours": 2, "ours_names": ["public/system/a", "public/system/deep/b"],
        }
    }  # fmt: skip


def test_what_another_environment_links_is_told_and_stops_nothing(place: Place) -> None:
    place.commit()
    place.put("public/assets/a.js")
    found = place.publish(links={"production": [], "staging": ["public/assets"]})
    assert found["links"]["public/assets"]["made"] == 1


def test_excluded_or_empty_directories_below_a_link_do_not_count(place: Place) -> None:
    place.commit()
    place.put("public/assets/a.js")
    (place.workspace / "vendor/bundle").mkdir(parents=True)
    found = place.publish(links={"production": ["public/assets", "vendor"]}, exclude=["public/assets"])
    assert found["links"] == {}


# --- nothing in it


def test_workspace_that_installs_at_its_top_is_not_an_empty_release(place: Place) -> None:
    place.put("package.json", '{"workspaces": ["web"]}')
    place.put("web/package.json", '{"dependencies": {"a": "1"}}')
    place.commit()
    place.put("node_modules/a/index.js")
    error = place.refused("put node_modules outside of the application's directory", "web")
    assert "name node_modules in `build.exclude`" in (error.hint or "")
    place.publish("web", exclude=["node_modules"])
    (place.store / "a.tar").unlink()
    place.publish("web", exclude=["node_modules/*"])


@pytest.mark.parametrize(
    ("made", "manifest"),
    [
        (".venv/bin/python", "pyproject.toml"),
        ("venv/bin/python", "requirements.txt"),
        ("vendor/bundle/ruby/x", "Gemfile"),
        ("vendor/autoload.php", "composer.json"),
        ("apps/node_modules/a/x", "package.json"),
    ],
)
def test_every_kind_of_dependencies_outside_is_seen(place: Place, made: str, manifest: str) -> None:
    place.put(f"apps/web/{manifest}")
    place.commit()
    place.put(made)
    place.refused("outside of the application's directory", "apps/web")


@pytest.mark.parametrize(
    ("revision", "made"),
    [
        ("web/main.go", "node_modules/a/x"),  # no package.json: tools of the repository's
        ("web/composer.json", "vendor/modules.txt"),  # `go mod vendor`
        ("web/package.json", "node_modules/.cache/x"),
        ("web/package.json", "other/node_modules/a/x"),
    ],
)
def test_what_the_application_does_not_ask_for_may_lie_outside(place: Place, revision: str, made: str) -> None:
    place.put(revision, "{}")
    place.commit()
    place.put(made)
    place.publish("web")


def test_dependencies_of_the_revision_may_lie_outside(place: Place) -> None:
    place.put("web/package.json", "{}")
    place.put("node_modules/a/x")
    place.commit()
    place.publish("web")


def test_lock_file_without_what_it_asks_for_is_refused(place: Place) -> None:
    place.put("package.json", '{"dependencies": {"a": "1"}}')
    place.put("package-lock.json", "{}")
    place.commit()
    demand = {"directory": "node_modules", "locks": ["yarn.lock", "package-lock.json"], "unless": [".pnp.cjs"]}
    place.refused("package-lock.json asks for packages, and the build left no node_modules", demands=[demand])
    place.publish(demands=[demand], exclude=["node_modules"])
    (place.store / "a.tar").unlink()
    place.put(".pnp.cjs")
    place.publish(demands=[demand])


@pytest.mark.parametrize(
    ("manifest", "lock"), [('{"devDependencies": {"a": "1"}}', "package-lock.json"), ("{}", "yarn.lock"), ("[]", "x")]
)
def test_lock_file_for_developers_asks_for_nothing(place: Place, manifest: str, lock: str) -> None:
    place.put("package.json", manifest)
    place.put(lock)
    place.commit()
    place.publish(demands=[{"directory": "node_modules", "locks": ["package-lock.json", "yarn.lock"], "unless": []}])


@pytest.mark.parametrize(("lock", "asks"), [("GEM\n  specs:\n    rack (2.2)\n", True), ("GEM\n  specs:\n", False)])
def test_lock_file_of_gems_asks_for_them(place: Place, lock: str, asks: bool) -> None:
    place.put("Gemfile.lock", lock)
    place.commit()
    demand = {"directory": "vendor/bundle", "locks": ["Gemfile.lock"], "unless": []}
    if asks:
        place.refused("Gemfile.lock asks for packages", demands=[demand])
        place.put("vendor/bundle/ruby/x")
    place.publish(demands=[demand])


@pytest.mark.parametrize("config", ['BUNDLE_PATH__SYSTEM: "true"', 'BUNDLE_PATH: "/opt/gems"'])
def test_gems_of_the_system_are_not_asked_for_in_the_release(place: Place, config: str) -> None:
    place.put("Gemfile.lock", "GEM\n  specs:\n    rack (2.2)\n")
    place.commit()
    place.put(".bundle/config", f"---\n{config}\n")
    place.publish(demands=[{"directory": "vendor/bundle", "locks": ["Gemfile.lock"], "unless": []}])
