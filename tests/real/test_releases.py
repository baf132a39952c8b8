"""Build once, promote the same bytes, go back, keep what matters: whole `fab` commands on real parts."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from deploytool.worker.locks import acquire, read_holder
from deploytool.worker.own_isal import VERSION
from tests.support.fab import Result
from tests.support.local import Local
from tests.support.project import Project
from tests.support.releases import (
    HOSTS,
    STAGES,
    Stages,
    antedated,
    ended_long_ago,
    record_of,
    stored,
    text_of,
    texts_of,
)
from tests.support.waiting import until

RELEASES = Application("releases", (PlaygroundRole("web", HOSTS),))
#: More than a block of the compressor's.
LARGE = "".join(f"{number} is {number * number:x};" for number in range(100_000))
ALL = {f"{host}/web" for host in HOSTS}


@pytest.fixture
def project(playground: Playground, tmp_path: Path) -> Iterator[Project]:
    """A project whose store, Consul keys and hosts know nothing yet: its application's name is its own."""
    application = Application(f"r{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}", RELEASES.roles)
    playground.add_application(application)
    made = Project(playground, tmp_path, application)
    yield made
    made.retire()


def deployed(project: Project, version: str, *arguments: str) -> dict[str, Any]:
    """Commit, deploy well; the result's JSON."""
    project.repository.commit({"VERSION": version}, f"version {version}")
    return project.deploy(*arguments).json


def failed(project: Project, version: str, *, on: str = "app2") -> dict[str, Any]:
    """Commit and deploy a release that fails on one host after its switch; the result's JSON."""
    project.repository.commit({"VERSION": version}, f"version {version}")
    project.role("web")["hooks"] = {"post": ["test ! -e {{ shared_path }}/broken"]}
    project.write()
    project.file(on, "shared/broken").touch()
    result = project.fab("playground", "deploy", "--json")
    project.file(on, "shared/broken").unlink()
    assert result.code == 8, f"{result.out}\n{result.err}"
    return result.json


def rolled_back(project: Project, *arguments: str) -> Result:
    result = project.fab("playground", "rollback", "--json", *arguments)
    assert result.code == 0, f"{result.out}\n{result.err}"
    assert set(result.verdicts().values()) == {"verified"}
    return result


def kept(project: Project, host: str) -> set[str]:
    """The releases on a host's disk, once it has swept: it reports first."""
    deadline = time.monotonic() + 60
    while True:
        names = {path.name for path in project.file(host, "releases").iterdir()}
        if not any(name.startswith(".") for name in names):
            return names
        assert time.monotonic() < deadline, names
        time.sleep(0.1)


def announced(project: Project) -> list[str]:
    """The URLs of the manifests that are wanted."""
    return [value.partition("#")[0] for value in project.wanted().values()]


def assert_store_is_whole(project: Project) -> None:
    """No record points to something that is missing."""
    objects, name = project.objects(), project.application.name
    ended = {
        key.removesuffix(".json") for key in objects if re.fullmatch(r"environments/.*/deployments/[^/]+\.json", key)
    }
    wanted = {url.split(f"/{name}/", 1)[1] for url in announced(project)}
    assert wanted <= objects
    for key, text in texts_of(project, (key for key in objects if key.endswith((".json", ".yml")))).items():
        if key.startswith("builds/"):
            assert f"releases/{json.loads(text)['release']}/release.json" in objects, key
        elif key.endswith("/release.json"):
            record = json.loads(text)
            assert f"releases/{record['id']}/{name}.tar.gz" in objects, key
        elif key.endswith("/begun.json"):
            # What has ended, and is wanted no more, may be history only.
            deployment = key.removesuffix("/begun.json")
            if deployment not in ended or any(each.startswith(f"{deployment}/") for each in wanted):
                assert f"releases/{json.loads(text)['release']}/{name}.tar.gz" in objects, key
        elif "/kept/" in key:
            assert "src" not in yaml.safe_load(text), key
        elif key.startswith("environments/") and key.endswith(".yml"):
            archive = re.search(r"/(releases/[^/]+/[^/]+)$", yaml.safe_load(text)["src"])
            assert archive, key
            assert archive[1] in objects, key


# --- reuse


def test_rebuild_builds_what_is_there_already_and_is_reused_from_then_on(project: Project) -> None:
    first = project.fab("playground", "build", "--json").json
    time.sleep(1)
    second = project.fab("playground", "build", "--rebuild", "--json").json
    assert second["release"] != first["release"]
    assert second["reused"] is False
    # Recipe `none`: the same tree gives the same bytes.
    assert second["checksum"] == first["checksum"]
    third = project.fab("playground", "build", "--json").json
    assert (third["release"], third["reused"]) == (second["release"], True)
    assert_store_is_whole(project)


def furnished_build_server(project: Project, directory: Path) -> None:
    """Its user finds a Python with another isal, as with somebody's tools, and an igzip that would give other bytes."""
    subprocess.run([sys.executable, "-m", "venv", directory / "python"], check=True)
    pip = [str(directory / "python/bin/python"), "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    subprocess.run([*pip, "boto3", f"isal<{VERSION}"], check=True)
    programs = project.playground.directory / "bin"
    other = '#!/bin/sh\n[ "$1" = --version ] && { echo 9.9; exit; }\nexec gzip -1\n'
    # A link would not be of the virtual environment.
    python = f'#!/bin/sh\nexec "{directory}/python/bin/python3" "$@"\n'
    for name, text in {"igzip": other, "pigz": other, "python3": python}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)


def test_same_tree_on_another_machine_gives_the_same_archive(project: Project, tmp_path: Path) -> None:
    programs = project.playground.directory / "bin"
    before = set(programs.iterdir())
    project.settings["build"]["root"] = str(tmp_path / "a root")
    project.write()
    furnished_build_server(project, tmp_path)
    try:
        build_in_two_places(project, tmp_path)
    finally:
        for added in set(programs.iterdir()) - before:
            added.unlink()


def build_in_two_places(project: Project, tmp_path: Path) -> None:
    """Over SSH, where the build server has much that this machine has not; then here."""
    project.repository.commit({"b/éa": "x", "b/B": "y", "large": LARGE, "run.sh": "#!/bin/sh\n"})
    (project.repository.directory / "run.sh").chmod(0o755)
    project.repository.commit({}, "modes")
    first = project.fab("playground", "build", "--json").json
    python = next(line for line in project.fab("playground", "check").out.splitlines() if "build server:" in line)
    assert f"{tmp_path}/python/bin/python3" in python, "its own Python is what was tried"
    # Another Python, work area, store, umask, time zone and language; another clone of the repository.
    copied = tmp_path / "elsewhere"
    project.repository.git("clone", "--quiet", "--bare", str(project.repository.directory), str(copied))
    project.settings["repository"] = str(copied)
    project.settings["build"].update(server="local", root=str(tmp_path / "another root"), ssh_config=None)
    project.settings["store"] = {"url": f"file://{tmp_path}/store"}
    project.write()
    before = os.umask(0o077)
    try:
        second = project.fab("playground", "build", "--json", env={"TZ": "Asia/Tokyo", "LC_ALL": "C", "LANG": "C"})
    finally:
        os.umask(before)
    assert second.code == 0, second.err
    assert (second.json["checksum"], second.json["reused"]) == (first["checksum"], False)


# --- promotion


@pytest.fixture
def stages(playground: Playground, tmp_path: Path) -> Stages:
    playground.add_application(STAGES)
    return Stages(playground, tmp_path)


def test_production_gets_the_very_bytes_that_staging_verified(stages: Stages) -> None:
    stages.repository.commit({"VERSION": "one"}, "the first")
    first = stages.fab("staging", "deploy", "--json").json
    assert stages.fab("production", "deploy", "--from", "staging").code == 0
    stages.repository.commit({"VERSION": "two"}, "the second")
    stages.repository.commit({"VERSION": "three"}, "the third")
    second = stages.fab("staging", "deploy", "--json").json
    objects = stages.objects()
    result = stages.fab("production", "deploy", "--from", "staging", "--json")
    assert result.code == 0, result.err
    assert (result.json["release"], result.json["reused"]) == (second["release"], True)
    # Which commits that brings.
    assert f"brings 2 commits since {first['release']}:" in result.err
    assert "the third" in result.err
    # Nothing was built, packed or uploaded but this deployment's own texts.
    assert all(key.startswith("environments/production/") for key in stages.objects() - objects)
    record = record_of(stages, result.json["deployment"], "production")
    checksum = json.loads(text_of(stages, f"releases/{second['release']}/release.json"))["checksum"]
    assert record["checksum"] == checksum
    assert (record["promoted_from"], record["from"], record["kind"]) == ("staging", first["release"], "deploy")
    assert [commit["subject"] for commit in record["commits"]["newest"]] == ["the third", "the second"]
    # Every host has compared what it fetched with the checksum in its manifest: those are the same.
    both = (("production", result.json["deployment"]), ("staging", second["deployment"]))
    for environment, deployment in both:
        manifest = yaml.safe_load(text_of(stages, f"environments/{environment}/deployments/{deployment}/web.yml"))
        assert manifest["checksum"] == checksum
    proven = stages.archive_on("app1", "staging")
    assert proven["VERSION"] == "three"
    assert [stages.archive_on(host, "production") for host in ("app2", "app3")] == [proven, proven]


class LocalStages(Local):
    """Two environments of the embedded default: they share three pretend hosts, the store and the build server."""

    environments = ("staging", "production")

    def __init__(self, directory: Path) -> None:
        #: what an environment's settings say differently
        self.each: dict[str, dict[str, Any]] = {name: {} for name in self.environments}
        super().__init__(directory)
        self.store = self.directory / "var/store"
        self.settings["linked_files"] = []
        self.write()

    def write(self) -> None:
        super().write()
        (self.directory / "config/local.yml").unlink()
        for name in self.environments:
            own = {"deploy_to": f"/pretend/host/tiny-{name}", **self.each[name]}
            (self.directory / f"config/{name}.yml").write_text(yaml.safe_dump(own))

    def file(self, host: str, environment: str, path: str) -> Path:
        return self.directory / f"var/hosts/{host}/tiny-{environment}" / path

    def version(self, environment: str) -> set[str]:
        """What the hosts serve there."""
        return {self.file(host, environment, "current/VERSION").read_text() for host in HOSTS}


@pytest.fixture
def local(tmp_path: Path) -> LocalStages:
    return LocalStages(tmp_path)


def test_what_was_verified_nowhere_else_needs_a_reason_that_is_kept(local: LocalStages) -> None:
    built = local.fab("staging", "build", "--json").json["release"]
    refused = local.fab("production", "deploy", "--release", built)
    assert (refused.code, "was never verified anywhere" in refused.err) == (2, True), refused.err
    forced = local.fab("production", "deploy", "--release", built, "--force", "the site is down", "--json")
    assert forced.code == 0, forced.err
    record = local.store / f"environments/production/deployments/{forced.json['deployment']}.json"
    assert json.loads(record.read_text())["forced"] == "the site is down"
    # Now it is verified, so staging needs no reason.
    assert local.fab("staging", "deploy", "--release", built).code == 0

    # Two of three hosts prove the next one, which is not enough.
    local.each["staging"] = {"roles": {"web": {"hooks": {"post": ["test ! -e '{{ shared_path }}/broken'"]}}}}
    local.write()
    local.file("app2", "staging", "shared/broken").touch()
    local.repository.commit({"VERSION": "2"})
    failed = local.fab("staging", "deploy", "--json")
    assert (failed.code, sorted(failed.verdicts().values())) == (8, ["failed", "verified", "verified"])
    bad = failed.json["release"]
    refused = local.fab("production", "deploy", "--release", bad)
    assert (refused.code, "in staging it is bad: its deployment" in refused.err) == (2, True), refused.err
    refused = local.fab("production", "deploy", "--from", "staging")
    assert refused.code == 2
    assert f"was last brought to {bad}" in refused.err
    assert f"--release {built}" in refused.err

    # There it may be tried again, and that makes it good; but a person knows better.
    local.file("app2", "staging", "shared/broken").unlink()
    assert local.fab("staging", "deploy", "--release", bad).code == 0
    assert local.fab("staging", "mark", "--release", bad, "--bad", "--why", "it loses orders").code == 0
    for environment, arguments in (
        ("production", ("--release", bad)),
        ("production", ("--from", "staging")),
        ("staging", ()),
    ):
        refused = local.fab(environment, "deploy", *arguments)
        assert (refused.code, "it loses orders" in refused.err) == (2, True), refused.err
    assert local.version("production") == {"1"}
    assert local.fab("staging", "mark", "--release", bad, "--good", "--why", "it was the bank").code == 0
    assert local.fab("production", "deploy", "--from", "staging").code == 0
    assert local.version("production") == {"2"}


def test_migrations_of_a_promoted_release_run_from_its_own_code(local: LocalStages) -> None:
    local.repository.commit({"migrate.sh": "echo old >>$OUT\n"})
    assert local.fab("staging", "deploy").code == 0
    local.repository.commit({"migrate.sh": "echo new >>$OUT\n"})
    out = local.directory / "migrated"
    local.each["production"] = {"build": {"migrate": ["sh migrate.sh"], "env": {"OUT": str(out)}}}
    local.write()
    assert local.fab("production", "deploy", "--from", "staging").code == 0
    assert out.read_text() == "old\n"


def test_promotion_has_a_sentence_for_each_mistake(local: LocalStages, tmp_path: Path) -> None:
    for arguments, sentence in (
        (("--from", "stagging"), "there is no other environment of that name"),
        (("--from", "production"), "that is this environment"),
        (("--from", "staging"), "nothing was deployed to staging yet"),
        (("--from", "staging", "--branch", "main"), "--branch and --from can't be used together"),
        (("--from", "staging", "--rebuild"), "--rebuild and --from can't be used together"),
        (("--from", "staging", "--force", " "), "--force needs a reason"),
    ):
        result = local.fab("production", "deploy", *arguments)
        assert (result.code, sentence in result.err) == (2, True), result.err
    local.each["staging"] = {"store": {"url": f"file://{tmp_path}/other"}}
    local.write()
    result = local.fab("production", "deploy", "--from", "staging")
    assert (result.code, "a release can be promoted where both have the same `store`" in result.err) == (2, True)


def heard(process: "subprocess.Popen[str]", words: str) -> None:
    """Wait until a running command says so on its stderr."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        if words in line:
            return
        said += line
    raise AssertionError(f"it never said {words!r}:\n{said}")


def antedated_here(local: LocalStages, release: str, number: int) -> str:
    """As `antedated`: verified in staging long ago, and by now nobody's business."""
    old, store = f"20260101T0000{number:02}Z-{release[-7:]}", local.store
    shutil.copytree(store / "releases" / release, store / "releases" / old)
    record = json.loads((store / f"releases/{old}/release.json").read_text())
    record |= {"id": old, "build_key": f"{number:064d}"}
    (store / f"releases/{old}/release.json").write_text(json.dumps(record))
    ended = ended_long_ago(old, record["revision"], number)
    (store / f"environments/staging/deployments/20260101T0001{number:02}Zaaaa.json").write_text(json.dumps(ended))
    return old


@pytest.mark.parametrize("first", ["deploy", "cleanup", None])
def test_what_production_is_about_to_deploy_is_either_kept_or_refused(local: LocalStages, first: str | None) -> None:
    """Staging's cleanup wants to remove a release at the very moment at which production is promised it."""
    local.settings["store"]["keep_releases"] = 1
    local.write()
    live = local.fab("staging", "deploy", "--json").json["release"]
    # The last one is where staging's rollback would go, and stays.
    old, _, target = (antedated_here(local, live, number) for number in range(3))
    commands = {"deploy": ("production", "deploy", "--release", old, "--json"), "cleanup": ("staging", "cleanup")}
    if first is None:
        running = {name: local.start(*arguments) for name, arguments in commands.items()}
    else:
        lock = acquire(str(local.directory / "var/build/tiny/locks/.retention"), {"operator": "the test"})
        running = {}
        # Whoever waits first asks again first, once a second.
        for name in sorted(commands, key=lambda each: each != first):
            running[name] = local.start(*commands[name])
            heard(running[name], "waiting for the .retention lock")
        lock.release()
    said = {name: process.communicate(timeout=60) for name, process in running.items()}
    codes = {name: process.returncode for name, process in running.items()}
    assert codes["cleanup"] == 0, said
    there = (local.store / f"releases/{old}/tiny.tar.gz").exists()
    if first is not None:
        assert there == (first == "deploy")
    if there:
        assert codes["deploy"] == 0, said
        assert local.version("production") == {"1"}
    else:
        assert codes["deploy"] in (2, 6), said
        message = json.loads(said["deploy"][0])["error"]["message"]
        assert f"the release {old} has been removed" in message or f"has no release {old}" in message
    assert (local.store / f"releases/{target}/tiny.tar.gz").exists()
    for value in (local.directory / "var/consul/deploytool/tiny/production/wanted").glob("*.value"):
        manifest = unquote(value.read_text().split(" ")[1].partition("#")[0].removeprefix("file://"))
        assert Path(unquote(yaml.safe_load(Path(manifest).read_text())["src"].removeprefix("file://"))).exists()


# --- rollback


def test_rollback_passes_over_the_bad_one_and_downloads_nothing(project: Project) -> None:
    deployed(project, "1")
    second = deployed(project, "2")
    failed(project, "3")
    # What is not there can't be downloaded: the archive of the one to go back to is hidden.
    hidden = f"releases/{second['release']}/{project.application.name}.tar.gz"
    client = project.playground.s3_client()
    key = f"{project.application.name}/{hidden}"
    body = client.get_object(Bucket=project.playground.bucket, Key=key)["Body"].read()
    client.put_object(Bucket=project.playground.bucket, Key=key, Body=b"damaged: nobody may read this")
    result = rolled_back(project)
    assert result.json["release"] == second["release"]
    assert project.served() == dict.fromkeys(ALL, second["release"])
    assert "-> " + second["release"] in result.err
    assert "ended with exit code 8" in result.err
    record = record_of(project, result.json["deployment"])
    assert (record["kind"], record["downloaded"], record["verified"]) == ("rollback", [], True)
    # A host that is new, or comes back, can still get it: `wanted` names a manifest with an archive.
    wanted = project.wanted()["wanted/web"].partition("#")[0].split(f"/{project.application.name}/", 1)[1]
    assert yaml.safe_load(text_of(project, wanted))["src"].endswith(hidden)
    client.put_object(Bucket=project.playground.bucket, Key=key, Body=body)
    client.close()
    assert_store_is_whole(project)


def test_rollbacks_and_marks_tell_the_next_one_where_to_go(project: Project) -> None:
    first, second, third = (deployed(project, str(number))["release"] for number in (1, 2, 3))
    assert rolled_back(project).json["release"] == second
    fourth = deployed(project, "4")["release"]
    # The third was left for a reason: nobody goes there again by chance.
    back = rolled_back(project)
    assert back.json["release"] == second
    assert re.search(f"{third} .*abandoned by the rollback", back.err)
    # By name also forth again. That is no way back from the second; but a person's word is.
    assert rolled_back(project, "--release", fourth).json["release"] == fourth
    why = "loses orders on the second Tuesday"
    assert project.fab("playground", "mark", "--release", second, "--bad", "--why", why).code == 0
    listed = project.fab("playground", "releases")
    assert why in next(line for line in listed.out.splitlines() if line.startswith(second))
    further = rolled_back(project)
    assert further.json["release"] == first
    assert why in further.err
    nowhere = project.fab("playground", "rollback")
    assert (nowhere.code, "has no release to go back to" in nowhere.err) == (2, True)
    assert project.served() == dict.fromkeys(ALL, first)
    assert project.fab("playground", "mark", "--release", third, "--good", "--why", "it was the bank").code == 0
    rolled_back(project, "--release", fourth)
    assert rolled_back(project).json["release"] == third


def test_mark_has_a_sentence_for_each_mistake(local: LocalStages) -> None:
    for arguments, sentence in (
        (("--good", "--why", "x"), "--release is missing"),
        (("--release", "x", "--good", "--why", "x"), "'x' is not a release id"),
        (("--release", "20260101T000000Z-0000000", "--why", "x"), "--good or --bad is missing"),
        (("--release", "20260101T000000Z-0000000", "--good", "--bad", "--why", "x"), "can't be used together"),
        (("--release", "20260101T000000Z-0000000", "--good"), "--why needs a reason"),
        (("--release", "20260101T000000Z-0000000", "--good", "--why", "x"), "there is no release"),
    ):
        result = local.fab("staging", "mark", *arguments)
        assert (result.code, sentence in result.err) == (2, True), result.err


def test_rollback_ends_a_canary_and_a_silent_host_stops_one(project: Project) -> None:
    first, live = deployed(project, "1")["release"], deployed(project, "2")["release"]
    canary = deployed(project, "3", "--nodes", "app1")["release"]
    assert project.served() == {**dict.fromkeys(ALL, live), "app1/web": canary}
    assert "wanted/web/app1" in project.wanted()
    result = rolled_back(project)
    assert f"app1 (web) at {canary}: going back to the release expected on all hosts" in result.err
    assert project.served() == dict.fromkeys(ALL, live)
    # An exception that stayed would bring the canary back to app1.
    assert project.wanted().keys() == {"wanted/web"}

    wanted = project.wanted()
    project.settings["wait"]["fetch_seconds"] = 3
    project.write()
    with deaf(project, "app2"):
        silent = project.fab("playground", "rollback", "--json")
    assert silent.code == 8, silent.err
    assert silent.verdicts() == {"app1/web": "aborted", "app2/web": "silent", "app3/web": "aborted"}
    assert (project.served(), project.wanted()) == (dict.fromkeys(ALL, live), wanted)
    project.settings["wait"]["fetch_seconds"] = 30
    project.write()
    # That nobody was switched says nothing against where it would have gone, nor against what stayed.
    assert silent.json["release"] == first
    assert rolled_back(project).json["release"] == first


@contextlib.contextmanager
def deaf(project: Project, host: str) -> Iterator[None]:
    """The host does not listen to this application's events."""
    watch = project.playground.host_directory(host) / f"watches/{project.application.name}-web-playground"
    text = watch.read_text()
    watch.unlink()
    until(lambda: not watches(project, host), f"{host} hears no more")
    yield
    watch.write_text(text)
    until(lambda: watches(project, host), f"{host} hears again")


def watches(project: Project, host: str) -> bool:
    """Whether the host listens to this application's events."""
    running = project.playground.run_on_host(host, ["ps", "ax", "-o", "args"]).stdout
    return f"deploy_{project.application.name}_web" in running


def test_host_that_lost_the_release_gets_it_again_by_an_ordinary_deployment(project: Project) -> None:
    first = deployed(project, "1")
    second = deployed(project, "2")
    deployed(project, "3")
    shutil.rmtree(project.file("app2", "releases") / second["release"])
    result = rolled_back(project)
    assert result.json["release"] == second["release"]
    assert project.served() == dict.fromkeys(ALL, second["release"])
    assert (project.file("app2", "current") / "VERSION").read_text() == "2"
    assert "app2 (web) failed: this host has kept no" in result.err
    assert "all hosts of web download it now" in result.err
    latest, before = project.fab("playground", "releases", "--deployments", "--json").json["deployments"][:2]
    assert (latest["deployment"], latest["downloaded"]) == (result.json["deployment"], ["web"])
    assert (before["fell_back"], before["downloaded"], before["let_go"]) == (True, [], False)
    # The failed first try speaks against the host, not against the release.
    rows = project.fab("playground", "releases", "--json").json["releases"]
    assert next(row for row in rows if row["release"] == second["release"])["bad"] is None

    # A rollback that fails on a host undoes it there, and says so.
    project.role("web")["hooks"] = {"post": ["test ! -e {{ shared_path }}/broken"]}
    project.write()
    project.file("app3", "shared/broken").touch()
    failing = project.fab("playground", "rollback", "--json")
    assert failing.code == 8, failing.err
    assert failing.verdicts() == {"app1/web": "verified", "app2/web": "verified", "app3/web": "failed"}
    assert project.served() == {**dict.fromkeys(ALL, first["release"]), "app3/web": second["release"]}


def test_rollback_names_the_migrations_that_it_does_not_undo(local: LocalStages) -> None:
    local.settings["build"] |= {
        "recipe": "django",
        "dependencies": ["true"],
        "assets": ["true"],
        "migrate": ["true"],
        "linked_files": [],
    }
    local.write()
    assert local.fab("staging", "deploy").code == 0
    local.repository.commit({"shop/migrations/0002_price.py": "# adds a column\n"})
    assert local.fab("staging", "deploy").code == 0
    result = local.fab("staging", "rollback")
    assert result.code == 0, result.err
    warning = "WARNING: 1 migration between them, which a rollback does not undo: shop/migrations/0002_price.py"
    assert warning in result.err


# --- history


def test_record_tells_who_when_and_what_and_a_broken_one_stops_nothing(project: Project) -> None:
    first = deployed(project, "1")
    project.repository.commit({"VERSION": "2"}, "version 2")
    job = "https://ci.example.com/acme/shop/-/jobs/7"
    result = project.fab("playground", "deploy", "--json", env={"CI_JOB_URL": job})
    record = record_of(project, result.json["deployment"])
    assert "@" in record["operator"]
    assert record["ci_job"] == job
    assert record["began_at"] <= record["ended_at"]
    assert (record["from"], record["release"]) == (first["release"], result.json["release"])
    assert [commit["subject"] for commit in record["commits"]["newest"]] == ["version 2"]
    assert {f"{host['host']}/{host['role']}": host["verdict"] for host in record["hosts"]} == dict.fromkeys(
        ALL, "verified"
    )
    assert record["phases"]["activate"] > 0
    lines = project.fab("playground", "releases", "--deployments").out.splitlines()
    assert result.json["deployment"] in lines[1]
    assert "3 of 3" in lines[1]
    rows = project.fab("playground", "releases").out.splitlines()
    assert "playground" in next(row for row in rows if row.startswith(result.json["release"]))

    # A record that somebody has broken stops nothing.
    client = project.playground.s3_client()
    for name in (f"{first['deployment']}.json", f"{first['deployment']}/begun.json"):
        key = f"{project.application.name}/environments/playground/deployments/{name}"
        client.put_object(Bucket=project.playground.bucket, Key=key, Body=b"{ not json")
    client.close()
    listed = project.fab("playground", "releases", "--deployments")
    assert (listed.code, "the record is damaged" in listed.out) == (0, True)
    deployed(project, "3")
    assert project.fab("playground", "releases").code == 0


# --- retention


def test_failed_deployments_push_no_good_release_out(project: Project) -> None:
    project.settings["keep_releases"] = 2
    project.write()
    first = deployed(project, "1")["release"]
    bad = [failed(project, str(number)) for number in (2, 3)]
    second = deployed(project, "4")["release"]
    bad.append(failed(project, "5"))
    # app2, where they failed, and the others, where those three were verified.
    assert kept(project, "app2") == {first, second}
    for host in ("app1", "app3"):
        assert {second, bad[-1]["release"]} <= kept(project, host)
    result = rolled_back(project)
    assert result.json["release"] == second
    assert first in kept(project, "app2")
    assert len(kept(project, "app1")) <= 3


def test_store_and_consul_keep_what_is_needed_and_no_more(project: Project) -> None:
    project.settings["store"]["keep_releases"] = 3
    project.write()
    live = project.deploy().json["release"]
    old = [antedated(project, live, number) for number in range(8)]
    left = f"releases/{old[0][:-7]}1234567/half.tar.gz"
    client = project.playground.s3_client()
    client.put_object(
        Bucket=project.playground.bucket, Key=f"{project.application.name}/{left}", Body=b"a killed build"
    )
    client.close()
    result = project.fab("playground", "cleanup", "--json")
    assert result.code == 0, result.err
    assert_store_is_whole(project)
    # The live one, and of the old ones the two that were verified last: one of them is where a rollback goes.
    assert stored(project) == {live, *old[-2:]}
    # History is never removed.
    records = [key for key in project.objects() if key.startswith("environments/playground/deployments/2026")]
    assert len([key for key in records if key.endswith("Zaaaa.json")]) == 8
    assert len([key for key in records if key.endswith("web.yml")]) == 3
    keys = {key.split("/")[1] for key in project.consul_keys("deployments")}
    assert len(keys) == 9
    assert project.fab("playground", "cleanup").out == "nothing to remove\n"
    assert rolled_back(project).json["release"] == old[-1]


# --- freeze


def test_frozen_environment_takes_no_deployment_until_it_is_thawed(project: Project) -> None:
    first = deployed(project, "1")
    deployed(project, "2")
    assert project.fab("playground", "freeze", "--why", "the fair is on").code == 0
    before = (project.served(), project.wanted(), project.objects())
    old = ("deploy", "--release", first["release"])
    refused = (("deploy",), old, ("promote",), ("migrate",), ("deploy", "--no-wait"), ("freeze", "--why", "me too"))
    for arguments in refused:
        result = project.fab("playground", *arguments)
        assert result.code == 3, result.err
        assert "frozen by" in result.err
        assert "the fair is on" in result.err
    assert (project.served(), project.wanted(), project.objects()) == before
    # A build changes no environment.
    assert project.fab("playground", "build").code == 0
    thawed = project.fab("playground", "thaw")
    assert (thawed.code, "the fair is on" in thawed.out) == (0, True)
    again = project.fab("playground", "thaw")
    assert (again.code, again.out) == (0, "playground was not frozen\n")
    assert project.fab("playground", "freeze").code == 2


def test_rollback_under_a_freeze_goes_on_and_says_who_froze_it(project: Project) -> None:
    first = deployed(project, "1")
    deployed(project, "2")
    assert project.fab("playground", "freeze", "--why", "the fair is on").code == 0
    result = rolled_back(project)
    assert result.json["release"] == first["release"]
    assert set(project.served().values()) == {first["release"]}
    assert re.search(r"playground is frozen by \S+ since .*: the fair is on; a freeze does not stop a roll", result.err)
    # It is frozen still.
    assert project.fab("playground", "deploy").code == 3
    assert project.fab("playground", "thaw").code == 0


def test_freeze_during_a_build_stops_its_deployment(project: Project) -> None:
    deployed(project, "1")
    served = project.served()
    gate = project.directory / "gate"
    project.settings["build"]["assets"] = [f"touch {gate}.here; while [ ! -e {gate} ]; do sleep 0.1; done"]
    project.write()
    project.repository.commit({"VERSION": "2"})
    process = project.start("playground", "deploy", "--json")
    until(Path(f"{gate}.here").exists, "the build is under way")
    frozen = project.fab("playground", "freeze", "--why", "stop that")
    assert frozen.code == 0
    assert "that is already announced continues" in frozen.out
    gate.touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "stop that" in json.loads(out)["error"]["message"]
    assert project.served() == served
    assert project.fab("playground", "thaw").code == 0


# --- killed, and at the same time


class EndedByItself(Exception):
    """Whoever was to be killed was quicker."""


def lock_path(project: Project) -> str:
    """The environment's lock on the build server, which is this machine."""
    return str(project.playground.build_root / project.application.name / "locks/playground")


def kill_operator(project: Project, process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise EndedByItself


def kill_worker(project: Project, process: "subprocess.Popen[str]") -> None:
    # By the lock that it holds: the number in its file is that of the playground's own namespace.
    inode = Path(lock_path(project)).stat().st_ino
    holders = [
        int(fields[4])
        for line in Path("/proc/locks").read_text().splitlines()
        if (fields := line.split())[1] == "FLOCK" and fields[5].endswith(f":{inode}")
    ]
    if not holders:
        raise EndedByItself
    assert len(holders) == 1, holders
    os.kill(holders[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert "Traceback" not in err


def test_killed_at_any_point_and_run_again(project: Project) -> None:
    """kill -9 of `fab`, or of its worker; what comes next needs no unlock, and nothing points to what is missing."""
    project.settings["store"]["keep_releases"] = 3
    project.write()
    deployed(project, "1")
    good = deployed(project, "2")["release"]

    def killed(
        command: str,
        kill: Callable[[Project, "subprocess.Popen[str]"], None],
        moment: Callable[["subprocess.Popen[str]"], None],
    ) -> None:
        process = project.start("playground", command)
        try:
            moment(process)
            kill(project, process)
        finally:
            process.kill()
            process.communicate()
        until(lambda: read_holder(lock_path(project)) is None, "the lock is free by itself", seconds=30)
        assert_store_is_whole(project)

    def says(words: str) -> Callable[["subprocess.Popen[str]"], None]:
        return lambda process: heard(process, words)

    def comes(look: Callable[[], Iterable[str]], ending: str) -> Callable[["subprocess.Popen[str]"], None]:
        before = {name for name in look() if name.endswith(ending)}
        return lambda _: until(lambda: {name for name in look() if name.endswith(ending)} - before, f"{ending} comes")

    def goes(key: str) -> Callable[["subprocess.Popen[str]"], None]:
        assert key in project.objects()
        return lambda _: until(lambda: key not in project.objects(), f"{key} goes")

    project.repository.commit({"VERSION": "3"})
    killed("deploy", kill_operator, says("publish …"))
    # The hosts wait for a word that nobody will say, until the next deployment comes: one of them hears nothing, so
    # that the operator can't say it before the worker is killed.
    with deaf(project, "app2"):
        killed("deploy", kill_worker, comes(project.objects, "/release.json"))
        killed("deploy", kill_worker, comes(lambda: announced(project), "/web.yml"))
    assert project.served() == dict.fromkeys(ALL, good)
    # Not the word with which the one before it is taken back.
    let_go = "/go go all"
    killed("deploy", kill_operator, comes(lambda: (" ".join(each) for each in project.consul_keys().items()), let_go))
    until(lambda: good not in project.served().values(), "the hosts finish by themselves")
    third = project.current("app1")
    assert project.served() == dict.fromkeys(ALL, third)
    # One host that hears nothing keeps the others at the barrier, so that no rollback ends before it is killed.
    with deaf(project, "app2"):
        killed("rollback", kill_worker, comes(project.objects, "/begun.json"))
        killed("rollback", kill_operator, says("fetched after"))
    assert project.served() == dict.fromkeys(ALL, third)
    old = [antedated(project, good, number) for number in range(5)]
    with contextlib.suppress(EndedByItself):
        killed("cleanup", kill_operator, goes(f"builds/{0:064d}.json"))
    for attempt in range(6):
        old += [antedated(project, good, number) for number in range(5, 21)]
        oldest = min(key for key in project.objects() if re.fullmatch("releases/[^/]+/release.json", key))
        try:
            killed("cleanup", kill_worker, goes(oldest))
            break
        except EndedByItself:
            # What is left to remove is soon removed: it takes luck to be in between.
            assert attempt < 5
    assert {good, third} <= stored(project)

    assert deployed(project, "4")["release"] not in (good, third)
    assert len(set(project.served().values())) == 1
    assert not {*old} & stored(project)
    # Nobody listened when they proved the third one, but they say so still. They have both yet: nothing is downloaded.
    for release in (third, good):
        assert release in kept(project, "app2")
        result = rolled_back(project)
        assert result.json["release"] == release
        assert record_of(project, result.json["deployment"])["downloaded"] == []
    assert_store_is_whole(project)


def test_two_operators_at_once_end_with_one_winner(project: Project) -> None:
    deployed(project, "1")
    second = deployed(project, "2")
    project.repository.commit({"VERSION": "3"})
    processes = [project.start("playground", command, "--json") for command in ("deploy", "rollback", "deploy")]
    ended = [(process.communicate(timeout=120), process.returncode) for process in processes]
    codes = sorted(code for _, code in ended)
    assert codes == [0, 3, 3], [err for (_, err), _ in ended]
    for (out, _), code in ended:
        if code == 3:
            assert "is locked by" in json.loads(out)["error"]["message"]
    assert len(set(project.served().values())) == 1
    assert second["release"] in kept(project, "app1")
