"""Names and keys, and the records in the store."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.build.build import find_built, put_new_records
from deploytool.connection.store import StoreClient
from deploytool.errors import StoreError, UsageError
from deploytool.model.release import (
    NO_DEPLOYMENT,
    DeploymentId,
    ReleaseId,
    archive_key,
    build_key,
    consul_prefix,
    event_name,
    is_deployment_id,
    is_release_id,
    manifest_key,
    read_record,
    release_record,
)
from deploytool.rollout.attempt import new_deployment_id
from deploytool.state.releases import read_release
from deploytool.worker.requests_store import named_release
from tests.support.answering import Answering
from tests.support.manifests import RELEASE as RECORD

RELEASE = ReleaseId("20261123T061500Z-1a2b3c4")


def test_keys_are_those_of_the_contract() -> None:
    assert archive_key(RELEASE, "shop", "zstd") == f"releases/{RELEASE}/shop.tar.zst"
    deployment = DeploymentId("20261123T062233Zab1c")
    assert (
        manifest_key("production", deployment, "web")
        == "environments/production/deployments/20261123T062233Zab1c/web.yml"
    )
    assert event_name("shop", "web", "production") == "deploy_shop_web_production"
    assert consul_prefix("shop", "production") == "deploytool/shop/production"


def test_ids_are_told_from_other_texts() -> None:
    assert is_release_id(RELEASE)
    assert not is_release_id("20261123T061500Z-1A2B3C4")
    assert not is_release_id(RELEASE + "\n")
    assert not is_release_id("../" + RELEASE)
    assert is_deployment_id("20261123T062233Zab1c")
    assert not is_deployment_id("20261123T062233Z")


def test_manifest_without_a_deployment_sorts_before_every_real_one() -> None:
    assert new_deployment_id(datetime(1971, 1, 1, tzinfo=UTC), (), "aaaa") > NO_DEPLOYMENT


@given(
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)),
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)),
    st.text("abcxyz0189", min_size=4, max_size=4),
    st.text("abcxyz0189", min_size=4, max_size=4),
)
def test_deployment_ids_grow_even_when_the_clock_goes_back(one: datetime, two: datetime, a: str, b: str) -> None:
    first = new_deployment_id(one.replace(tzinfo=UTC), (), a)
    second = new_deployment_id(two.replace(tzinfo=UTC), (first, "nonsense"), b)
    assert second > first
    assert is_deployment_id(second)


@given(st.dictionaries(st.text(), st.integers() | st.text(), max_size=5))
def test_build_key_does_not_depend_on_the_order_of_names(inputs: dict[str, object]) -> None:
    assert build_key(inputs) == build_key(dict(reversed(inputs.items())))


def test_build_key_changes_with_any_input() -> None:
    base = {"revision": "a" * 40, "subdirectory": ".", "tools": {"python3": "Python 3.11.2"}}
    keys = {build_key(base), build_key({**base, "revision": "b" * 40}), build_key({**base, "tools": {}})}
    assert len(keys) == 3


# the record in the store


def record(**changes: object) -> str:
    """`release.json` with some values changed; `...` takes one away."""
    changed = {**json.loads(release_record(RECORD)), **changes}
    return json.dumps({name: value for name, value in changed.items() if value is not ...})


@given(
    st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))),
    st.integers(min_value=0, max_value=2**63 - 1),
    st.sampled_from(("gzip", "zstd", "none")),
)
def test_record_is_read_as_it_was_written(branch: str, size_bytes: int, compression: str) -> None:
    release = replace(RECORD, branch=branch, size_bytes=size_bytes, compression=compression)
    assert read_record(release_record(release), RELEASE) == release


def test_record_of_a_newer_deploytool_is_read() -> None:
    assert read_record(record(notes="something new"), RELEASE) == RECORD


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"unpacked_bytes": "1;echo ran>/tmp/pwned"}, "unpacked_bytes is no number of bytes"),
        ({"unpacked_bytes": True}, "unpacked_bytes is no number"),
        ({"unpacked_bytes": 5.0}, "unpacked_bytes is no number"),
        ({"unpacked_bytes": 2**63}, "unpacked_bytes is no number"),
        ({"size_bytes": -1}, "size_bytes is no number"),
        ({"compression": "xz"}, 'compression is none of gzip, zstd, none: "xz"'),
        ({"compression": ["gzip"]}, "compression is none of"),
        ({"checksum": 5}, "checksum is not 64 hexadecimal digits: 5"),
        ({"checksum": "AB" * 32}, "checksum is not 64"),
        ({"checksum": "ab" * 32 + "\n"}, "checksum is not 64"),
        ({"revision": "1a2b3c4"}, "revision is not a full SHA"),
        ({"revision": "$(reboot)"}, "revision is not a full SHA"),
        ({"revision": "f" * 40}, "its revision f{40} is not the one in the release's name"),
        ({"build_key": None}, "build_key is not 64 hexadecimal digits: null"),
        ({"application": "../shop"}, "application is not an application's name"),
        ({"branch": "main\nRolled back"}, "branch is not one line"),
        ({"built_by": "\ud800"}, "built_by is not one line"),
        ({"built_at": "yesterday"}, "built_at is no time"),
        ({"id": "20261123T061501Z-1a2b3c4"}, "it is the record of release 20261123T061501Z-1a2b3c4"),
        ({"id": 5}, "id is no release id"),
        ({"checksum": ...}, "checksum is missing"),
        ({"checksum": "x" * 9999}, "x…"),
    ],
)
def test_record_that_we_would_not_have_written_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        read_record(record(**changes), RELEASE)
    assert len(str(caught.value)) < 200


def test_all_that_is_wrong_with_a_record_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"compression is .*; checksum is missing"):
        read_record(record(compression="xz", checksum=...), RELEASE)


@pytest.mark.parametrize("text", ["", "[1]", "null", "{", "[" * 100_000, '{"size_bytes": ' + "9" * 5000 + "}"])
def test_record_that_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|not a JSON|nested too deeply"):
        read_record(text, RELEASE)


class StoreOnly(Answering):
    """A worker with nothing but a store, which overwrites nothing."""

    def __init__(self, objects: dict[str, str]) -> None:
        self.objects = objects

    def ask(self, do: str, **parameters: Any) -> Any:
        match do:
            case "store_get":
                return {"content": self.objects.get(parameters["key"])}
            case "store_read":
                return {"contents": {key: self.objects.get(key) for key in parameters["keys"]}}
            case "store_built":
                release = named_release(self.objects.get(parameters["key"]))
                record = self.objects.get(f"releases/{release}/release.json")
                return {"release": release, "record": record, "keys": list(self.objects)}
            case "store_exists":
                return {"exists": parameters["key"] in self.objects}
            case "store_put":
                existed = [key for key, _ in parameters["entries"] if key in self.objects]
                self.objects = {**dict(parameters["entries"]), **self.objects}
                return {"existed": existed}
        raise AssertionError(do)


BUILD_RECORD = f"builds/{RECORD.build_key}.json"
WHOLE = {
    BUILD_RECORD: json.dumps({"release": RELEASE}),
    f"releases/{RELEASE}/release.json": release_record(RECORD),
    RECORD.archive_key: "the archive",
}


def session_with(changes: dict[str, str], notes: list[str] | None = None) -> Any:
    settings = SimpleNamespace(application="shop", store=SimpleNamespace(url="s3://acme/shop", hosts_url=None))
    worker = StoreOnly({key: text for key, text in {**WHOLE, **changes}.items() if text})
    return SimpleNamespace(
        settings=settings,
        every={},
        worker=worker,
        store=StoreClient(worker),
        console=SimpleNamespace(note=(notes if notes is not None else []).append),
    )


def test_whole_release_is_reused() -> None:
    assert find_built(session_with({}), RECORD.build_key) == RECORD


@pytest.mark.parametrize(
    "changes",
    [
        {BUILD_RECORD: "garbage"},
        {BUILD_RECORD: "[]"},
        {BUILD_RECORD: '"x"'},
        {BUILD_RECORD: '{"release": 5}'},
        {BUILD_RECORD: '{"release": "../../x"}'},
        {f"releases/{RELEASE}/release.json": ""},
        {f"releases/{RELEASE}/release.json": record(compression="xz")},
        {f"releases/{RELEASE}/release.json": record(checksum=5)},
        {f"releases/{RELEASE}/release.json": record(id="20261123T061501Z-1a2b3c4")},
        {f"releases/{RELEASE}/release.json": record(build_key="1" * 64)},
        {f"releases/{RELEASE}/release.json": record(application="other")},
        {RECORD.archive_key: ""},
    ],
)
def test_release_with_damaged_records_is_not_reused(changes: dict[str, str]) -> None:
    assert find_built(session_with(changes), RECORD.build_key) is None


def test_damaged_record_is_no_bug_but_a_sentence() -> None:
    session = session_with({f"releases/{RELEASE}/release.json": record(compression="xz")})
    with pytest.raises(UsageError, match=f"the record of release {RELEASE} in the store is damaged: compression is"):
        read_release(session, RELEASE)


AGAIN = replace(RECORD, id=ReleaseId("20261123T070000Z-1a2b3c4"))


def test_damaged_build_record_is_named_so_that_somebody_can_delete_it() -> None:
    notes: list[str] = []
    session = session_with({BUILD_RECORD: "garbage"}, notes)
    put_new_records(session, AGAIN)
    assert session.worker.objects[BUILD_RECORD] == "garbage"
    assert len(notes) == 1
    assert f"s3://acme/shop/{BUILD_RECORD} is damaged" in notes[0]
    assert "delete it" in notes[0]


def test_good_build_record_of_somebody_who_was_faster_is_no_matter() -> None:
    notes: list[str] = []
    put_new_records(session_with({}, notes), AGAIN)
    assert notes == []


def test_release_whose_id_is_taken_is_not_announced_under_the_other_record() -> None:
    key = f"releases/{AGAIN.id}/release.json"
    session = session_with({key: release_record(replace(AGAIN, checksum="cd" * 32))})
    with pytest.raises(StoreError, match=f"{key} is there already"):
        put_new_records(session, AGAIN)


def test_provenance_that_is_there_already_is_not_taken_for_our_own() -> None:
    key = f"releases/{AGAIN.id}/provenance.json"
    with pytest.raises(StoreError, match=f"{key} is there already"):
        put_new_records(session_with({key: "another's"}), AGAIN, [(key, "ours")])


def test_record_that_a_repeated_write_finds_is_our_own() -> None:
    key = f"releases/{AGAIN.id}/provenance.json"
    objects = {f"releases/{AGAIN.id}/release.json": release_record(AGAIN), key: "ours"}
    put_new_records(session_with(objects), AGAIN, [(key, "ours")])
