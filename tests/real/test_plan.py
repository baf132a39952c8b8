"""`fab ENV plan` on real parts: it tells what a deploy would do, and writes nothing anywhere.

That it writes nothing is shown three times over: its credentials for S3 can only read; the method of every request to
S3 and Consul is noted on the way; store, keys, the build server's files and its TMPDIR are the same afterwards.
"""

import contextlib
import hashlib
import json
import signal
import socket
import socketserver
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.local import Local
from tests.support.project import Project
from tests.support.waiting import until


@pytest.fixture
def project(playground: Playground, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    """A project of an application that nobody has deployed yet, on a build server where nothing is yet."""
    number = hashlib.sha256(request.node.name.encode()).hexdigest()[:6]
    application = Application(
        f"plan{number}", (PlaygroundRole("web", ("app1", "app2", "app3")), PlaygroundRole("batch", ("app3",)))
    )
    playground.add_application(application)
    made = Project(playground, tmp_path, application)
    (tmp_path / "temporary").mkdir()
    made.settings["build"] |= {"root": str(tmp_path / "root"), "env": {"TMPDIR": str(tmp_path / "temporary")}}
    made.write()
    if "untouched" not in request.node.name and not build_server_has_boto3():
        # As a new user is told to: a plan installs nothing.
        assert made.fab("playground", "check").code == 0
    yield made
    made.retire()


def build_server_has_boto3() -> bool:
    """Whether the Python that the worker runs with has it for itself."""
    return subprocess.run(["python3", "-c", "import boto3"], capture_output=True).returncode == 0


def plan(project: Project, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = project.fab("playground", "plan", "--json", *arguments)
    assert result.code == code, f"{result.out}\n{result.err}"
    return result.json


# What it tells


def test_plan_tells_of_a_first_deploy_then_of_reuse_then_of_new_commits(project: Project) -> None:
    first = plan(project)
    assert first["revision"] == project.revision
    assert first["live"] == {"release": None, "revision": None, "deployment": None}
    assert (first["build"], first["release"], first["commits"]) == (True, None, None)
    assert first["roles"]["web"] == {"up": ["app1", "app2", "app3"], "down": []}
    assert (first["lock"], first["frozen"], first["under_way"], first["problems"]) == (None, None, [], [])
    assert all(change["deployment"] is None and change["diff"] for change in first["manifests"])

    deployed = project.deploy().json
    again = plan(project)
    assert again["live"]["release"] == deployed["release"]
    assert again["live"]["deployment"] == deployed["deployment"]
    assert (again["build"], again["release"]) == (False, deployed["release"])
    assert again["commits"] == {"count": 0, "newest": []}

    new = project.repository.commit({"VERSION": "2"}, "Sell more")
    then = plan(project)
    assert (then["build"], then["release"], then["revision"]) == (True, None, new)
    assert then["commits"] == {"count": 1, "newest": [{"revision": new, "subject": "Sell more"}]}
    # The deployment's id is the live one's, so what differs is the release.
    for change in then["manifests"]:
        changed = [line for line in change["diff"] if line[0] in "+-"]
        assert changed
        assert not [line for line in changed if deployed["deployment"] in line]
        assert any("(known when it is built)" in line for line in changed)

    back = plan(project, "--branch", project.revision[:10])
    assert (back["build"], back["release"]) == (False, deployed["release"])
    assert plan(project, "--branch", new)["commits"]["count"] == 1


def test_what_plan_announces_is_what_deploy_does(project: Project) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "2"})
    foretold = plan(project)
    done = project.deploy().json
    assert (done["revision"], done["reused"]) == (foretold["revision"], not foretold["build"])
    assert plan(project)["release"] == done["release"]


def test_plan_for_people_is_readable(project: Project) -> None:
    live = project.deploy().json["release"]
    project.repository.commit({"VERSION": "2"}, "Sell more")
    project.role("web")["restart"] = ["echo restarted anew"]
    project.write()
    result = project.fab("playground", "plan")
    assert result.code == 0, result.err
    assert "Sell more" in result.out
    assert f"brings 1 commit since {live}:" in result.out
    assert "build: no release in the store matches these inputs" in result.out
    assert "restarted anew" in result.out
    assert "hosts of web: app1, app2, app3" in result.out
    assert "next: fab playground deploy --branch main" in result.out


def test_plan_of_the_live_release_shows_only_changed_settings(project: Project) -> None:
    project.deploy()
    project.deploy()
    assert [change["diff"] for change in plan(project)["manifests"]] == [[], []]
    project.role("web")["hooks"] = {"success": ["echo a new hook"]}
    project.write()
    by_role = {change["role"]: "\n".join(change["diff"]) for change in plan(project)["manifests"]}
    assert "a new hook" in by_role["web"]
    assert by_role["batch"] == ""


def test_plan_names_pending_migrations(project: Project) -> None:
    project.settings["build"] |= {"recipe": "django", "dependencies": [], "assets": [], "migrate": ["true"]}
    project.write()
    project.deploy()
    assert plan(project)["migrations"] == []
    project.repository.commit({"shop/migrations/__init__.py": "", "shop/migrations/0001_initial.py": ""})
    told = plan(project)
    assert (told["migrations"], told["migrate"]) == (["shop/migrations/0001_initial.py"], ["true"])
    assert "1 since the current release: shop/migrations/0001_initial.py" in project.fab("playground", "plan").out


def test_plan_names_the_lock_and_the_deployment_under_way(project: Project, tmp_path: Path) -> None:
    project.settings["build"]["migrate"] = [
        f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/end ]; do sleep 0.1; done"
    ]
    project.write()
    deploying = project.start("playground", "deploy", "--json")
    try:
        until((tmp_path / "begun").exists, seconds=120)
        told = plan(project)
        assert "deploy main to playground" in told["lock"]
        assert len(told["under_way"]) == 1
    finally:
        (tmp_path / "end").touch()
        out, err = deploying.communicate(timeout=120)
    assert deploying.returncode == 0, err
    assert told["under_way"] == [json.loads(out)["deployment"]]
    assert plan(project)["lock"] is None


def test_plan_of_a_frozen_environment_ends_as_a_deploy_would(project: Project) -> None:
    project.deploy()
    assert project.fab("playground", "freeze", "--why", "year's end").code == 0
    told = plan(project, code=3)
    assert told["frozen"]["why"] == "year's end"
    assert "year's end" in told["error"]["message"]
    assert told["revision"] == project.revision
    assert project.fab("playground", "thaw").code == 0
    assert plan(project)["frozen"] is None


def test_plan_names_a_host_that_is_down(project: Project) -> None:
    project.playground.stop_agent("app2")
    try:
        until(lambda: plan(project)["roles"]["web"] == {"up": ["app1", "app3"], "down": ["app2"]}, seconds=60)
    finally:
        project.playground.start_agent("app2")


def lose_all_hosts(project: Project) -> None:
    project.role("web")["hosts"] = {"nodes": ["nobody"]}


def make_the_event_too_long(project: Project) -> None:
    project.settings["store"]["url"] += "/" + "long" * 70


def ask_for_a_file(project: Project) -> None:
    project.settings["build"]["linked_files"] = ["secrets.json"]


def break_a_hook(project: Project) -> None:
    project.role("web")["hooks"] = {"post": ["{{ nonsense }}"]}


@pytest.mark.parametrize("spoil", [lose_all_hosts, make_the_event_too_long, ask_for_a_file, break_a_hook])
def test_plan_ends_with_the_exit_code_and_the_words_of_a_deploy(
    project: Project, spoil: Callable[[Project], None]
) -> None:
    spoil(project)
    project.write()
    foretold = project.fab("playground", "plan", "--json")
    done = project.fab("playground", "deploy", "--json")
    assert (foretold.code, foretold.json["error"]) == (done.code, done.json["error"])
    assert done.code in (2, 4, 7)


def test_plan_of_an_unknown_branch_tells_the_rest(project: Project) -> None:
    project.deploy()
    told = plan(project, "--branch", "nowhere", code=4)
    assert "nowhere is not a branch, tag or commit of the repository" in told["error"]["message"]
    assert told["live"]["release"] is not None
    assert told["roles"]["web"]["up"] == ["app1", "app2", "app3"]


# It writes nothing


def pass_on(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    """Everything until the source has said all. It is kept before it is passed on: what was answered is noted."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            kept += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Recorder:
    """Passes bytes on to an address and back, unchanged, and keeps what the client sent."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        target = (parts.hostname, parts.port)
        sent = self._sent = list[bytearray]()

        class Passage(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                kept = bytearray()
                sent.append(kept)
                with socket.create_connection(target) as server:
                    back = threading.Thread(target=pass_on, args=(server, self.request, bytearray()))
                    back.start()
                    pass_on(self.request, server, kept)
                    back.join()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Passage)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def requests(self) -> list[str]:
        """Method and path of every request. What is no request of a known length fails."""
        found = []
        for sent in self._sent:
            rest = bytes(sent)
            while rest:
                head, separator, rest = rest.partition(b"\r\n\r\n")
                assert separator, head
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                assert "transfer-encoding" not in headers, first
                found.append(" ".join(first.split(" ")[:2]))
                rest = rest[int(headers.get("content-length", 0)) :]
        return found


def test_recorder_passes_on_what_it_notes(playground: Playground) -> None:
    recorder = Recorder(playground.consul_address())
    for method, body in (("PUT", b"a value"), ("GET", None), ("DELETE", None)):
        request = urllib.request.Request(f"{recorder.url}/v1/kv/recorded", data=body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
    recorder.close()
    assert recorder.requests() == ["PUT /v1/kv/recorded", "GET /v1/kv/recorded", "DELETE /v1/kv/recorded"]


@pytest.fixture
def recorders(playground: Playground) -> Iterator[tuple[Recorder, Recorder]]:
    """On the way to S3 and to Consul."""
    made = (Recorder(playground.endpoint_url), Recorder(playground.consul_address()))
    yield made
    for recorder in made:
        recorder.close()


def files_below(directory: Path) -> dict[str, object]:
    """Every path with its size, mode, time of change and what it holds."""
    if not directory.exists():
        return {"": "it is not there"}

    def described(path: Path) -> tuple[object, ...]:
        found = path.lstat()
        held = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        return (found.st_size, oct(found.st_mode), found.st_mtime_ns, held)

    return {str(path.relative_to(directory)): described(path) for path in sorted(directory.rglob("*"))}


def everything(project: Project, tmp_path: Path) -> dict[str, dict[str, object]]:
    """All that a command could have written to."""
    playground = project.playground
    client = playground.s3_client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=playground.bucket)
    objects: dict[str, object] = {
        entry["Key"]: (entry["ETag"], entry["Size"], entry["LastModified"])
        for page in pages
        for entry in page.get("Contents", [])
    }
    client.close()
    keys: dict[str, object] = {}
    try:
        with urllib.request.urlopen(f"{playground.consul_address()}/v1/kv/?recurse", timeout=10) as answer:
            keys = {entry["Key"]: (entry["ModifyIndex"], entry["Flags"]) for entry in json.load(answer)}
    except urllib.error.HTTPError as error:
        # Where there is none yet.
        if error.code != 404:
            raise
    return {
        "store": objects,
        "keys": keys,
        "root": files_below(tmp_path / "root"),
        "temporary": files_below(tmp_path / "temporary"),
        "home": files_below(playground.directory / "build-server-home"),
        "repository": files_below(project.repository.directory),
        "project": files_below(project.directory / "config"),
    }


def at_rest(project: Project, tmp_path: Path) -> dict[str, dict[str, object]]:
    """The same, once the hosts have written their last words."""
    last = everything(project, tmp_path)
    deadline = time.monotonic() + 30
    while True:
        time.sleep(1)
        now = everything(project, tmp_path)
        if now == last:
            return now
        assert time.monotonic() < deadline
        last = now


def plan_that_is_watched(
    project: Project, tmp_path: Path, recorders: tuple[Recorder, Recorder], *arguments: str, code: int = 0
) -> dict[str, Any]:
    """A plan with credentials that only read; whatever it would write is a failure."""
    s3, consul = recorders
    kept = (project.settings["store"], project.settings["consul"])
    project.settings["store"] = {**kept[0], "credentials": "operator", "endpoint_url": s3.url}
    project.settings["consul"] = {**kept[1], "address": consul.url}
    project.write()
    keys = project.playground.reader_keys
    before = at_rest(project, tmp_path)
    result = project.fab(
        "playground",
        "plan",
        "--json",
        *arguments,
        env={"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key},
    )
    after = everything(project, tmp_path)
    for name, found in before.items():
        assert after[name] == found, name
    assert result.code == code, result.out + result.err
    for recorder in recorders:
        asked = recorder.requests()
        # One that can't speak to the store has not asked it.
        assert asked or code != 0
        assert [request for request in asked if request.split(" ")[0] not in ("GET", "HEAD")] == []
    project.settings["store"], project.settings["consul"] = kept
    project.write()
    return result.json


def test_first_plan_on_an_untouched_build_server_writes_nothing(
    project: Project, tmp_path: Path, recorders: tuple[Recorder, Recorder]
) -> None:
    has_boto3 = build_server_has_boto3()
    told = plan_that_is_watched(project, tmp_path, recorders, code=0 if has_boto3 else 4)
    assert told["build"] is True if has_boto3 else "has no boto3" in told["error"]["message"]
    assert not (tmp_path / "root").exists()


def test_plan_after_deploys_writes_nothing(
    project: Project, tmp_path: Path, recorders: tuple[Recorder, Recorder]
) -> None:
    project.deploy()
    project.repository.commit({"VERSION": "2"})
    project.deploy()
    assert plan_that_is_watched(project, tmp_path, recorders)["build"] is False
    # Content that the mirror has from before comes again, on a branch that it does not know.
    project.repository.git("checkout", "--quiet", "-b", "feature/x")
    project.repository.commit({"VERSION": "1", "README": "hello\n"}, "on a branch")
    told = plan_that_is_watched(project, tmp_path, recorders, "--branch", "feature/x")
    assert (told["build"], told["commits"]["count"]) == (True, 1)


def test_plan_on_the_embedded_default_writes_nothing(tmp_path: Path) -> None:
    local = Local(tmp_path)
    (tmp_path / "temporary").mkdir()

    def planned() -> dict[str, Any]:
        before = files_below(local.directory / "var"), files_below(tmp_path / "temporary")
        result = local.fab("local", "plan", "--json", env={"TMPDIR": str(tmp_path / "temporary")})
        assert result.code == 0, result.err
        assert (files_below(local.directory / "var"), files_below(tmp_path / "temporary")) == before
        return result.json

    assert planned()["build"] is True
    assert not (local.directory / "var/build").exists()
    assert local.fab("local", "deploy").code == 0
    assert planned()["build"] is False
    local.repository.commit({"VERSION": "2"})
    assert planned()["commits"]["count"] == 1


def test_plan_that_is_interrupted_leaves_nothing_behind(project: Project, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    hang = f'case " $* " in *" fetch "*) touch "{tmp_path}/begun"; sleep 60 ;; esac'
    (programs / "git").write_text(f'#!/bin/sh\n{hang}\nPATH=${{PATH#*:}} exec git "$@"\n')
    (programs / "git").chmod(0o755)
    project.settings["build"]["path"] = [str(programs)]
    project.write()
    before = files_below(tmp_path / "root")
    for number in (signal.SIGINT, signal.SIGKILL):
        (tmp_path / "begun").unlink(missing_ok=True)
        planning = project.start("playground", "plan")
        try:
            until((tmp_path / "begun").exists)
            assert list((tmp_path / "temporary").iterdir()) != []
            planning.send_signal(number)
            planning.communicate(timeout=60)
        finally:
            planning.kill()
        assert planning.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
        until(lambda: not list((tmp_path / "temporary").iterdir()))
    assert files_below(tmp_path / "root") == before


def test_the_watch_sees_a_deploy(project: Project, tmp_path: Path, recorders: tuple[Recorder, Recorder]) -> None:
    """What shows that a plan writes nothing must be able to show that a deploy writes."""
    s3, consul = recorders
    before = at_rest(project, tmp_path)
    project.settings["store"]["endpoint_url"], project.settings["consul"]["address"] = s3.url, consul.url
    project.write()
    project.deploy()
    after = everything(project, tmp_path)
    assert all(after[name] != before[name] for name in ("store", "keys", "root"))
    for recorder in recorders:
        assert any(request.startswith("PUT ") for request in recorder.requests())
