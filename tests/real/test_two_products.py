"""Two products, another application and another repository each, with one bucket, one Consul cluster, one build server,
roles of the same names and a host that both of them have: neither may change what is the other's."""

import json
import os
import re
import shutil
import stat
import time
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.fab import Result
from tests.support.local import Local
from tests.support.project import Project
from tests.support.releases import antedated, stored

#: The shared host has both roles of both.
SHARED = "app2"
BLOG = Application("blog", (PlaygroundRole("web", ("app1", SHARED)), PlaygroundRole("batch", (SHARED,))))
WIKI = Application("wiki", (PlaygroundRole("web", (SHARED, "app3")), PlaygroundRole("batch", (SHARED,))))


@pytest.fixture(scope="module")
def products(playground: Playground, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """Both, each deployed once; at the same time, on a build server that may know neither."""
    made = []
    for application in (BLOG, WIKI):
        playground.add_application(application)
        project = Project(playground, tmp_path_factory.mktemp(application.name), application)
        project.settings["keep_releases"] = 2
        project.settings["store"]["keep_releases"] = 2
        for name in ("web", "batch"):
            project.role(name)["hooks"] = {"post": ["cat VERSION >> {{ shared_path }}/switched"]}
        project.write()
        made.append(project)
    blog, wiki = made
    deploy_both(blog, wiki, "0")
    return blog, wiki


def at_the_same_time(*commands: tuple[Project, tuple[str, ...]]) -> list[Result]:
    """Run a command of each product, side by side; all must go well."""
    with ThreadPoolExecutor(len(commands)) as side_by_side:
        running = [side_by_side.submit(project.fab, *arguments) for project, arguments in commands]
        results = [each.result() for each in running]
    for result in results:
        assert result.code == 0, f"{result.out}\n{result.err}"
    return results


def deploy_both(blog: Project, wiki: Project, version: str) -> dict[str, str]:
    """Commit and deploy in both, side by side; application → release."""
    for project in (blog, wiki):
        project.repository.commit({"VERSION": f"{project.application.name} {version}\n"})
    results = at_the_same_time(*((project, ("playground", "deploy", "--json")) for project in (blog, wiki)))
    for project, result in zip((blog, wiki), results, strict=True):
        release = result.json["release"]
        assert project.served() == dict.fromkeys(project.served(), release)
        assert versions(project) == {f"{project.application.name} {version}\n"}
    return {p.application.name: r.json["release"] for p, r in zip((blog, wiki), results, strict=True)}


def versions(project: Project) -> set[str]:
    """What is served, on all hosts and in all roles."""
    return {
        project.file(host, "current/VERSION", role.name).read_text()
        for role in project.application.roles
        for host in role.hosts
    }


@dataclass(frozen=True, slots=True)
class World:
    """All that there is but for one application's own; whatever was touched is another."""

    #: key → its tag, and when it was written
    objects: Mapping[str, tuple[str, str]]
    #: key → its ModifyIndex
    keys: Mapping[str, int]
    #: path → what is there, and when it was last changed
    files: Mapping[str, tuple[object, ...]]

    @classmethod
    def without(cls, project: Project) -> "World":
        playground, name = project.playground, project.application.name
        wait_for_the_last_words(playground)
        client = playground.s3_client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=playground.bucket)
        objects = {
            entry["Key"]: (entry["ETag"], entry["LastModified"].isoformat())
            for page in pages
            for entry in page.get("Contents", [])
            if not entry["Key"].startswith(f"{name}/")
        }
        client.close()
        with urllib.request.urlopen(f"{playground.consul_address()}/v1/kv/?recurse", timeout=10) as answer:
            keys = {
                entry["Key"]: entry["ModifyIndex"]
                for entry in json.load(answer)
                if not entry["Key"].startswith(f"deploytool/{name}/")
            }
        files: dict[str, Any] = {}
        # What belongs to applications, by hosts and on the build server; not logs and the like of the playground's own.
        places = [*(playground.host_directory(host) for host in playground.hosts), playground.build_root]
        for application in {each.name for each in playground.applications} - {name}:
            for place in places:
                files.update(tree(place / application))
        return cls(objects, keys, files)


def wait_for_the_last_words(playground: Playground) -> None:
    """A host tidies up after it has reported, under its lock: until no host does."""
    deadline = time.monotonic() + 60
    hosts = [playground.host_directory(host) for host in playground.hosts]
    while locks := [path for host in hosts for path in host.glob("*/*/.deploytool/lock") if path.is_symlink()]:
        assert time.monotonic() < deadline, locks
        time.sleep(0.1)


def changes(before: World, after: World) -> list[str]:
    """What is not as it was, by name."""
    pairs: list[tuple[Mapping[str, object], Mapping[str, object]]] = [
        (before.objects, after.objects),
        (before.keys, after.keys),
        (before.files, after.files),
    ]
    return [name for old, new in pairs for name in {*old, *new} if old.get(name) != new.get(name)]


def tree(top: Path) -> Mapping[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            state = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(state.st_mode) else None
            found[path] = (state.st_ino, state.st_mode, state.st_uid, state.st_size, state.st_ctime_ns, target)
    return found


def test_both_deploy_at_the_same_time_and_each_host_serves_its_own(products: tuple[Project, Project]) -> None:
    for number in (1, 2, 3):
        deploy_both(*products, str(number))
    for project in products:
        name = project.application.name
        # Every switch on every host was to a version of its own, each once.
        for role in project.application.roles:
            for host in role.hosts:
                switched = project.file(host, "shared/switched", role.name).read_text().splitlines()
                assert switched[:4] == [f"{name} {number}" for number in range(4)]
                assert len(list(project.file(host, "releases", role.name).iterdir())) == 2
        # And where it has no role, nothing of it is there.
        for host in set(project.playground.hosts) - set(project.application.roles[0].hosts):
            assert not (project.playground.host_directory(host) / name).exists()


@pytest.mark.parametrize("turn", [0, 1])
def test_what_one_does_changes_nothing_of_the_other(products: tuple[Project, Project], turn: int) -> None:
    project, name = products[turn], products[turn].application.name
    project.repository.commit({"VERSION": f"{name} alone\n"})
    world = World.without(project)
    other = products[1 - turn].application.name
    assert any(key.startswith(f"{other}/releases/") for key in world.objects)
    assert any(key.startswith(f"deploytool/{other}/playground/serving/") for key in world.keys)
    assert any(path.endswith(f"{SHARED}/{other}/web/current") for path in world.files)
    release = project.deploy().json["release"]
    project.deploy("--nodes", SHARED)
    assert project.fab("playground", "build", "--rebuild").code == 0
    assert project.fab("playground", "status").code == 0
    assert project.fab("playground", "mark", "--release", release, "--bad", "--why", "it is alone").code == 0
    back = project.fab("playground", "rollback", "--json")
    assert back.code == 0, back.err
    assert back.json["release"] != release
    assert project.fab("playground", "freeze", "--why", "stocktaking").code == 0
    assert project.fab("playground", "thaw").code == 0
    assert changes(world, World.without(project)) == []


def test_both_go_back_at_the_same_time_each_to_its_own(products: tuple[Project, Project]) -> None:
    before = deploy_both(*products, "good")
    deploy_both(*products, "to be taken back")
    results = at_the_same_time(*((project, ("playground", "rollback", "--json")) for project in products))
    for project, result in zip(products, results, strict=True):
        assert result.json["release"] == before[project.application.name]
        assert versions(project) == {f"{project.application.name} good\n"}


@pytest.mark.parametrize("turn", [0, 1])
def test_retention_of_one_leaves_all_of_the_other(products: tuple[Project, Project], turn: int) -> None:
    old = {}
    for project in products:
        live = project.deploy().json["release"]
        old[project.application.name] = [antedated(project, live, number) for number in range(5 * turn, 5 * turn + 5)]
        logs = project.playground.build_root / project.application.name / "logs"
        for number in range(60):
            path = logs / f"20250101T0000{number:02}Z-0000000.log"
            path.write_text("an old one\n")
            os.utime(path, (1.7e9 + number, 1.7e9 + number))
    project, world = products[turn], World.without(products[turn])
    result = project.fab("playground", "cleanup", "--json")
    assert result.code == 0, result.err
    assert [each["release"] for each in result.json["releases"]] == old[project.application.name]
    assert result.json["deployments"]
    assert all(f"/{project.application.name}/logs/" in path for path in result.json["files"])
    assert len(result.json["files"]) >= 10
    assert changes(world, World.without(project)) == []
    other = products[1 - turn]
    assert set(old[other.application.name]) <= stored(other)


def test_both_clean_up_at_the_same_time(products: tuple[Project, Project]) -> None:
    live = [project.deploy().json["release"] for project in products]
    for project, release in zip(products, live, strict=True):
        for number in range(20, 25):
            antedated(project, release, number)
    at_the_same_time(*((project, ("playground", "cleanup", "--json")) for project in products))
    for project, release in zip(products, live, strict=True):
        assert release in stored(project)
        assert project.deploy().json["release"] == release


def test_directory_on_a_shared_host_that_is_the_others_is_refused(products: tuple[Project, Project]) -> None:
    blog, wiki = products
    wiki.repository.commit({"VERSION": "an intruder\n"})
    theirs = blog.playground.deploy_to("batch", "blog")
    own = wiki.role("batch")["deploy_to"]
    world = World.without(wiki)
    try:
        wiki.change(lambda settings: settings["roles"]["batch"].update(deploy_to=str(theirs)))
        result = wiki.fab("playground", "deploy", "--json")
    finally:
        wiki.change(lambda settings: settings["roles"]["batch"].update(deploy_to=own))
    assert result.code == 8, result.err
    assert result.verdicts()[f"{SHARED}/batch"] == "failed"
    assert "belongs to" in " ".join(host["reason"] for host in result.json["hosts"]), result.out
    assert changes(world, World.without(wiki)) == []


# --- one URL for both


def test_store_of_another_application_is_refused_and_left_alone(products: tuple[Project, Project]) -> None:
    blog, wiki = products
    wiki.repository.commit({"VERSION": "at the wrong place\n"})
    url = f"s3://{blog.playground.bucket}/wiki"
    world, served = World.without(wiki), wiki.served()
    objects, keys = wiki.objects(), wiki.consul_keys()
    release = served[f"{SHARED}/web"]
    try:
        wiki.change(lambda settings: settings["store"].update(url=f"s3://{blog.playground.bucket}/blog"))
        for arguments in (
            ("deploy",),
            ("deploy", "--release", str(release)),
            ("build",),
            ("rollback",),
            ("promote",),
            ("releases",),
            ("plan",),
            ("cleanup",),
            ("mark", "--release", str(release), "--bad", "--why", "no reason"),
            ("check",),
        ):
            result = wiki.fab("playground", *arguments)
            assert result.code == 2, (arguments, result.out, result.err)
            assert "belongs to the application blog, and this is wiki" in result.out + result.err
            assert "give each its own `store.url`" in result.out + result.err
    finally:
        wiki.change(lambda settings: settings["store"].update(url=url))
    assert changes(world, World.without(wiki)) == []
    assert (wiki.served(), wiki.objects(), wiki.consul_keys()) == (served, objects, keys)


def test_of_two_that_begin_at_one_url_at_the_same_time_one_gets_it(playground: Playground, tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        application = Application(name, (PlaygroundRole("web", (SHARED,)),))
        playground.add_application(application)
        project = Project(playground, tmp_path / name, application)
        project.change(lambda settings: settings["store"].update(url=f"s3://{playground.bucket}/one-for-both"))
        made.append(project)
    with ThreadPoolExecutor(2) as side_by_side:
        results = list(side_by_side.map(lambda project: project.fab("playground", "deploy", "--json"), made))
    assert sorted(result.code for result in results) == [0, 2], [result.err for result in results]
    winner, loser = sorted(zip(results, made, strict=True), key=lambda pair: pair[0].code)
    assert loser[1].served() == {f"{SHARED}/web": None}
    assert winner[1].served() == {f"{SHARED}/web": winner[0].json["release"]}
    client = playground.s3_client()
    answer = client.get_object(Bucket=playground.bucket, Key="one-for-both/application.json")
    assert json.load(answer["Body"]) == {"application": winner[1].application.name}
    client.close()


def test_directory_store_belongs_to_one_application_too(tmp_path: Path) -> None:
    local = Local(tmp_path)
    assert local.fab("local", "releases").code == 0
    owner = local.directory / "var/store/application.json"
    assert not owner.exists(), "whoever only reads leaves nothing"
    assert local.fab("local", "deploy").code == 0
    assert json.loads(owner.read_text()) == {"application": "tiny"}
    store = sorted(tree(local.directory / "var/store").items())
    local.settings["application"] = "other"
    local.write()
    result = local.fab("local", "cleanup")
    assert (result.code, "belongs to the application tiny, and this is other" in result.err) == (2, True)
    assert sorted(tree(local.directory / "var/store").items()) == store
    owner.write_text("{}")
    result = local.fab("local", "deploy")
    assert (result.code, "does not say which application" in result.err) == (6, True)
    # As the hint says.
    owner.unlink()
    shutil.rmtree(local.directory / "var/hosts")
    assert local.fab("local", "deploy").code == 0
    assert re.search('"other"', owner.read_text())
