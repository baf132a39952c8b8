"""A store in memory, behind a session."""

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from deploytool.errors import (
    HookError,
)
from deploytool.model.history import Deployment, History
from deploytool.model.operator import Operator
from deploytool.model.release import (
    DeploymentId,
    Release,
    ReleaseId,
    Revision,
    begun_key,
    build_record_key,
    built_manifest_key,
    deployment_record_key,
    is_release_id,
    kept_manifest_key,
    manifest_key,
    mark_key,
    record_key,
    release_record,
)
from deploytool.screen.console import Console
from deploytool.screen.summary import Outcome
from deploytool.session import Session as RealSession
from deploytool.state.history_store import RETENTION_LOCK
from deploytool.worker.requests_store import newest
from tests.support.answering import Answering
from tests.support.histories import NOW


class Dead(Exception):
    """The power went."""


class Store(Answering):
    """A worker with a store in memory. It dies at the operation of that number, before it does it."""

    def __init__(self, objects: Mapping[str, str], dies_at: int | None = None) -> None:
        self.objects = dict(objects)
        #: deployment → release, as Consul wants it of the only role, and as its hosts say they serve
        self.wanted: str | None = None
        self.serving: dict[str, str] = {}
        self.operations = 0
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.locked: set[str] = set()
        self.dies_at = dies_at
        self.refusals: dict[str, BaseException] = {}
        #: what is noted of hosts' reports
        self.note: str | None = None
        self.uploads: dict[str, object] = {"removed": [], "trouble": None}

    def _operation(self) -> None:
        if self.operations == self.dies_at:
            raise Dead
        self.operations += 1

    def _below(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def ask(self, do: str, *, told: Any = None, limit_seconds: float | None = None, **parameters: Any) -> Any:
        self._operation()
        self.asked.append((do, parameters))
        if do in self.refusals:
            raise self.refusals[do]
        match do:
            case "lock":
                assert parameters["name"] not in self.locked, "it waits for itself"
                self.locked.add(parameters["name"])
                return None
            case "release_lock":
                self.locked.discard(parameters["name"])
                return None
            case "store_list":
                beyond = parameters.get("beyond", "")
                return {"keys": [key for key in self._below(parameters["prefix"]) if key > beyond]}
            case "store_directories":
                below = (key.removeprefix(parameters["prefix"]) for key in self._below(parameters["prefix"]))
                return {"names": sorted({name.split("/")[0] for name in below if "/" in name})}
            case "store_read":
                return {"contents": {key: self.objects.get(key) for key in parameters["keys"]}}
            case "store_newest":
                keys = self._below(parameters["prefix"])
                found = newest(keys, parameters["patterns"]) if parameters.get("read", True) else []
                return {"keys": keys, "whole": True, "contents": {key: self.objects[key] for key in found}}
            case "store_delete":
                assert RETENTION_LOCK in self.locked
                for key in parameters["keys"]:
                    self._operation()
                    self.objects.pop(key, None)
                return {"deleted": len(parameters["keys"])}
            case "store_exists":
                return {"exists": parameters["key"] in self.objects}
            case "store_get":
                return {"content": self.objects.get(parameters["key"])}
            case "store_put":
                existed = [key for key, _ in parameters["entries"] if key in self.objects]
                for key, text in parameters["entries"]:
                    self._operation()
                    self.objects.setdefault(key, text)
                return {"existed": existed}
            case "status":
                role = {
                    "up": ["one", "two"],
                    "down": [],
                    "wanted": self.wanted,
                    "exceptions": {},
                    "serving": self.serving,
                    "go": {},
                }
                return {"roles": {"web": role}}
            case "lock_holder":
                return {"holder": None, "sentence": None}
            case "frozen":
                return {"frozen": None}
            case "prune_uploads":
                return self.uploads
            case "prune_keys":
                return {"removed": ["20260101T000000Zabcd"], "note": self.note}
            case "prune_build_server":
                return {"removed": ["/srv/logs/old.log"], "freed_bytes": 1_500_000}
        raise AssertionError(f"unscripted: {do}")


class Session:
    """As far as a cleanup, a claim or a look at the store needs one."""

    operator = Operator("ann@desk")

    def __init__(self, worker: Store, keep: int = 2, **others: int) -> None:
        self.worker = worker
        #: the operator's hooks, each with what the worker had been asked for before, and the one that fails
        self.hooked: list[tuple[str, tuple[str, ...]]] = []
        self.objects_to = ""
        self.progress = io.StringIO()
        self.console = Console(as_json=False, progress=self.progress, results=io.StringIO())

        def one(name: str, keep: int, url: str = "s3://bucket/shop") -> Any:
            return SimpleNamespace(
                application="app",
                environment=name,
                store=SimpleNamespace(url=url, endpoint_url=None, hosts_url=None, keep_releases=keep),
                trust=SimpleNamespace(signers=None),
                has_pretend_hosts=False,
                roles={"web": SimpleNamespace(hosts=SimpleNamespace(model_dump=lambda mode: {}))},
            )

        self.settings = one("production", keep)
        self.every = {
            "production": self.settings,
            "elsewhere": one("elsewhere", 50, "s3://other/shop"),
            **{name: one(name, number) for name, number in others.items()},
        }

    def now(self) -> datetime:
        return NOW

    build_server, store, bus = RealSession.build_server, RealSession.store, RealSession.bus

    def hook(self, moment: str, outcome: Outcome) -> None:
        self.hooked.append((moment, tuple(do for do, _ in getattr(self.worker, "asked", ()))))
        if moment == self.objects_to:
            raise HookError(f"hooks.{moment}[0] failed with exit status 3, on this machine")

    lock, lock_ahead, take, let_go = RealSession.lock, RealSession.lock_ahead, RealSession.take, RealSession.let_go


def record(release: ReleaseId, **changes: Any) -> Release:
    letter = release[-1]
    known = Release(
        id=release,
        application="app",
        revision=Revision(letter * 40),
        branch="main",
        built_at="2026-01-01T00:00:00Z",
        built_by="ann@desk",
        build_key=build_key_of(release),
        compression="gzip",
        checksum="0" * 64,
        size_bytes=1_000_000,
        unpacked_bytes=2,
    )
    return replace(known, **changes)


def build_key_of(release: ReleaseId) -> str:
    return release.encode().hex().ljust(64, "0")[:64]


def built(release: ReleaseId, **changes: Any) -> dict[str, str]:
    known = record(release, **changes)
    return {
        known.archive_key: "archive",
        record_key(release): release_record(known),
        built_manifest_key(release, "production", "web"): "manifest",
        build_record_key(known.build_key): json.dumps({"release": release}),
    }


def manifests(environment: str, deployment: DeploymentId, release: ReleaseId) -> dict[str, str]:
    return {
        manifest_key(environment, deployment, "web"): f'src: "s3://bucket/shop/releases/{release}/app.tar.gz"\n',
        kept_manifest_key(environment, deployment, "web"): 'src: ""\n',
    }


def deployed(environment: str, each: Deployment) -> dict[str, str]:
    """What a deployment leaves in the store."""
    said = {"release": each.release, "kind": each.kind, "nodes": [] if each.whole else ["one"]}
    objects = {begun_key(environment, each.id): json.dumps(said)}
    assert each.release is not None
    objects |= manifests(environment, each.id, each.release)
    if each.exit_code is not None:
        hosts = [
            {"role": role, "host": host, "verdict": "verified" if (role, host) in each.verified else "failed"}
            for role, host in sorted(each.expected)
        ]
        ended = {**said, "exit_code": each.exit_code, "let_go": each.let_go, "hosts": hosts}
        objects[deployment_record_key(environment, each.id)] = json.dumps(ended)
    return objects


def store_of(releases: Collection[ReleaseId], **histories: History) -> dict[str, str]:
    objects: dict[str, str] = {}
    for release in releases:
        objects |= built(release)
    for environment, known in histories.items():
        for each in known.deployments:
            objects |= deployed(environment, each)
        for mark in known.marks:
            content = {"release": mark.release, "good": mark.good, "why": mark.why, "operator": mark.operator}
            objects[mark_key(environment, mark.release, mark.moment)] = json.dumps(content)
    return objects


def releases_in(objects: Mapping[str, str]) -> set[str]:
    """Of which anything is there at all."""
    return {key.split("/")[1] for key in objects if key.startswith("releases/") and is_release_id(key.split("/")[1])}
