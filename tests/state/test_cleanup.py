"""Removing what the store has no need of, and what a deployment has claimed meanwhile; killed at any point, too."""

import contextlib
import json
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from deploytool.errors import (
    ConnectionFailed,
    ConsulError,
    DeployError,
    FleetError,
    LockedError,
    StoreError,
    UsageError,
)
from deploytool.model.history import Deployment, History, Mark
from deploytool.model.lifecycle import Status
from deploytool.model.release import (
    ReleaseId,
    begun_key,
    build_record_key,
    is_release_id,
    record_key,
)
from deploytool.state.cleanup import Cleaned, clean_up, cleaned_up
from deploytool.state.history_store import RETENTION_LOCK
from tests.support.histories import NOBODY, RELEASES, deployment_id, good, one_after_the_other, release_id
from tests.support.stores import Dead, Session, Store, build_key_of, built, manifests, record, releases_in, store_of


def remaining(objects: Mapping[str, str], live: Collection[ReleaseId] = (), **keep: int) -> dict[str, str]:
    worker = Store(objects)
    clean_up(Session(worker, **keep), live)  # type: ignore[arg-type]
    assert worker.locked == set()
    return worker.objects


def hold(objects: Mapping[str, str], needed: Collection[ReleaseId]) -> None:
    """The store has no record that points to something missing, and whatever is needed."""
    for key, text in objects.items():
        if key.startswith("builds/"):
            assert record_key(json.loads(text)["release"]) in objects
        if key.endswith("/release.json") and is_release_id(key.split("/")[1]):
            release = ReleaseId(key.split("/")[1])
            assert record(release).archive_key in objects
        if "/deployments/" in key and key.endswith(".yml") and "releases/" in text:
            assert record(ReleaseId(text.split("releases/")[1].split("/")[0])).archive_key in objects
    for release in needed:
        assert built(release).items() <= objects.items()


def full_store() -> dict[str, str]:
    """Two environments, an old deployment without a word of what it was about, what a killed build left, and noise."""
    staging = History(
        (
            *one_after_the_other(RELEASES, until_hours_ago=40).deployments,
            good(35, RELEASES[6], exit_code=8, verified=NOBODY),
            Deployment(deployment_id(2), RELEASES[2]),
        ),
        (Mark(RELEASES[5], False, "slow", "ann@desk", deployment_id(30)),),
    )
    objects = store_of(RELEASES, staging=staging, production=one_after_the_other(RELEASES[:5], until_hours_ago=50))
    orphan, building = release_id(300, "e"), release_id(1, "f")
    return {
        **objects,
        **manifests("staging", deployment_id(520), RELEASES[1]),
        record(orphan).archive_key: "archive",
        f"releases/{orphan}/other": "noise",
        record(building).archive_key: "archive",
        "releases/README": "noise",
        "releases/latest/release.json": "noise",
        "environments/README": "noise",
    }


def test_everything_of_a_release_goes_but_what_happened() -> None:
    objects = full_store()
    left = remaining(objects, [RELEASES[4]])
    # Production runs the fifth, after the fourth. Staging is wanted to run the seventh; its hosts rolled back to the
    # last, and would go on to the one before. The third has just been claimed.
    stays = {RELEASES[at] for at in (2, 3, 4, 6, 10, 11)}
    assert releases_in(left) == {*stays, release_id(1, "f")}
    gone = set(objects) - set(left)
    assert {key for key in gone if key.startswith("builds/")} == {
        build_record_key(build_key_of(release)) for release in RELEASES if release not in stays
    }
    assert set(manifests("staging", deployment_id(520), RELEASES[1])) <= gone
    assert not [key for key in gone if key.endswith("begun.json") or "/marks/" in key]
    assert not [key for key in gone if key.startswith("environments/") and key.count("/") == 3]
    assert {key for key in objects if key.endswith(("README", "latest/release.json"))} <= set(left)
    hold(left, stays)


def test_cleanup_killed_at_any_operation_leaves_nothing_wrong_and_the_next_one_ends_it() -> None:
    objects, live = full_store(), [RELEASES[4]]
    undisturbed = Store(objects)
    clean_up(Session(undisturbed), live)  # type: ignore[arg-type]
    needed = [ReleaseId(name) for name in releases_in(undisturbed.objects) if name in RELEASES]
    hold(objects, needed)
    assert undisturbed.operations > 50
    for operation in range(undisturbed.operations):
        killed = Store(objects, dies_at=operation)
        with pytest.raises(Dead):
            clean_up(Session(killed), live)  # type: ignore[arg-type]
        hold(killed.objects, needed)
        # Its worker is dead, and its lock with it.
        assert remaining(killed.objects, live) == undisturbed.objects


def test_nothing_older_than_the_oldest_release_is_listed() -> None:
    worker = Store(store_of(RELEASES, production=one_after_the_other(RELEASES)))
    clean_up(Session(worker), ())  # type: ignore[arg-type]
    below = "environments/production/deployments/"
    day_before = f"{datetime.strptime(min(RELEASES)[:16], '%Y%m%dT%H%M%SZ') - timedelta(days=1):%Y%m%dT%H%M%SZ}"
    assert [asked for do, asked in worker.asked if do == "store_list"] == [
        {"prefix": "releases/", "beyond": ""},
        {"prefix": below, "beyond": below + day_before},
    ]


def test_small_store_is_not_read() -> None:
    worker = Store(store_of(RELEASES[:2], production=one_after_the_other(RELEASES[:2])))
    cleaned = clean_up(Session(worker), ())  # type: ignore[arg-type]
    assert [do for do, _ in worker.asked] == [
        "lock",
        "store_list",
        "store_newest",
        "store_directories",
        "release_lock",
        "prune_uploads",
        "prune_build_server",
        "prune_keys",
    ]
    assert cleaned.releases == ()
    newest = tuple(each.id for each in one_after_the_other(RELEASES[:2]).deployments)
    assert worker.asked[-1][1] == {"keep": newest}
    assert worker.asked[-2][1] == {"keep": list(RELEASES[:2]), "logs": 50}


def test_store_of_a_single_day_is_not_read() -> None:
    """However many releases it has: none of them may go yet."""
    young = tuple(release_id(hours) for hours in range(23, 1, -1))
    worker = Store(store_of(young, production=one_after_the_other(young, until_hours_ago=1)))
    assert clean_up(Session(worker, production=1), ()).releases == ()  # type: ignore[arg-type]
    assert "store_read" not in {do for do, _ in worker.asked}
    assert releases_in(worker.objects) == set(young)
    young = (release_id(25), *young)
    worker = Store(store_of(young, production=one_after_the_other(young, until_hours_ago=1)))
    assert [each.release for each in clean_up(Session(worker, production=1), ()).releases] == [young[0]]  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [2, 12])
def test_consul_keeps_the_newest_ten_deployments_of_this_environment(count: int) -> None:
    known = one_after_the_other([RELEASES[at % 3] for at in range(count)])
    worker = Store(store_of(RELEASES, production=known, staging=one_after_the_other(RELEASES)))
    clean_up(Session(worker), ())  # type: ignore[arg-type]
    assert worker.asked[-1] == ("prune_keys", {"keep": tuple(each.id for each in known.deployments)[-10:]})


def test_environment_that_wants_to_keep_more_is_heard_by_all_that_share_the_store() -> None:
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES))
    assert releases_in(remaining(objects, keep=2, staging=5)) == set(RELEASES[-5:])


def test_build_record_that_names_another_release_stays() -> None:
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES))
    rebuilt = build_record_key(build_key_of(RELEASES[0]))
    objects[rebuilt] = json.dumps({"release": RELEASES[-1]})
    left = remaining(objects)
    assert rebuilt in left
    assert RELEASES[0] not in releases_in(left)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"build_key": 7}', '{"build_key": "../.."}', "[" * 100_000])
def test_damaged_record_leaves_no_build_record_behind(text: str) -> None:
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES))
    objects[record_key(RELEASES[0])] = text
    objects[build_record_key("f" * 64)] = "damaged as well"
    left = remaining(objects)
    assert not [key for key, content in left.items() if key.startswith("builds/") and RELEASES[0] in content]
    assert RELEASES[0] not in releases_in(left)
    assert build_record_key("f" * 64) in left


def test_damaged_record_has_no_size() -> None:
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES))
    objects[record_key(RELEASES[0])] = ""
    cleaned = clean_up(Session(Store(objects)), ())  # type: ignore[arg-type]
    assert [each.size_bytes for each in cleaned.releases] == [None, *[1_000_000] * 9]


def test_release_of_another_application_is_left_alone() -> None:
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES))
    objects |= built(RELEASES[0], application="blog")
    assert RELEASES[0] in releases_in(remaining(objects))


def test_leftover_that_something_needs_stays() -> None:
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES))
    del objects[record_key(RELEASES[-1])], objects[record_key(RELEASES[0])]
    left = releases_in(remaining(objects))
    assert RELEASES[-1] in left
    assert RELEASES[0] not in left


def test_live_release_stays_when_the_store_knows_of_no_deployment() -> None:
    assert releases_in(remaining(store_of(RELEASES), [RELEASES[0]])) == {RELEASES[0], RELEASES[-1]}


def test_environment_that_nobody_has_settings_for_keeps_what_it_runs() -> None:
    objects = store_of(
        RELEASES, production=one_after_the_other(RELEASES), forgotten=one_after_the_other(RELEASES[:2], 200)
    )
    assert releases_in(remaining(objects)) >= set(RELEASES[:2])


def test_history_is_read_until_it_tells_what_an_environment_would_go_back_to() -> None:
    tries = tuple(
        good(300 - at, RELEASES[5], exit_code=4, status=Status.ABORTED, expected=NOBODY, verified=NOBODY)
        for at in range(120)
    )
    known = History((*one_after_the_other(RELEASES[:2], 400).deployments, *tries))
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES), staging=known)
    assert releases_in(remaining(objects)) >= set(RELEASES[:2])


def test_manifest_tells_what_an_unended_deployment_of_an_older_version_is_about() -> None:
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES))
    objects |= manifests("production", deployment_id(3), RELEASES[0])
    left = remaining(objects)
    assert releases_in(left) == {RELEASES[0], RELEASES[-2], RELEASES[-1]}
    assert set(manifests("production", deployment_id(3), RELEASES[0])) <= set(left)


def test_store_is_left_alone_and_it_is_said_when_a_claim_can_not_be_read() -> None:
    objects = store_of(RELEASES, production=one_after_the_other(RELEASES))
    objects[begun_key("staging", deployment_id(3))] = "damaged"
    worker = Store(objects)
    cleaned = clean_up(Session(worker), ())  # type: ignore[arg-type]
    assert worker.objects == objects
    assert f"staging's deployment {deployment_id(3)} can't be read" in cleaned.sentences()[0]
    assert cleaned.as_dict()["unreadable"] == [{"environment": "staging", "deployment": deployment_id(3)}]
    assert worker.asked[-2] == ("prune_build_server", {"keep": list(RELEASES), "logs": 50})


def test_what_was_removed_is_told() -> None:
    objects = full_store()
    cleaned = clean_up(Session(Store(objects)), [RELEASES[4]])  # type: ignore[arg-type]
    releases, leftovers, keys, files = cleaned.sentences()
    assert releases.startswith("removed 6 releases from the store (6.0 MB): 2026")
    assert leftovers == f"removed leftovers of {release_id(300, 'e')} from the store, which had no record"
    assert keys == "removed the keys of 1 deployment from Consul"
    assert files == "removed 1 old log or leftover from the build server (1.5 MB)"
    document = json.loads(json.dumps(cleaned.as_dict()))
    assert document["releases"][0] == {"release": RELEASES[0], "size_bytes": 1_000_000}
    assert document["freed_bytes"] == 1_500_000


def test_unfinished_uploads_that_were_removed_are_told() -> None:
    worker = Store({})
    worker.uploads = {"removed": ["releases/r/shop.tar.gz", "releases/s/shop.tar.gz"], "trouble": None}
    cleaned = clean_up(Session(worker), ())  # type: ignore[arg-type]
    assert cleaned.sentences()[0] == "removed 2 unfinished uploads from the store"
    assert cleaned.as_dict()["uploads"] == ["releases/r/shop.tar.gz", "releases/s/shop.tar.gz"]


def test_unfinished_uploads_that_may_not_be_removed_are_noted_and_stop_nothing() -> None:
    worker = Store({})
    worker.uploads = {"removed": [], "trouble": "removing unfinished uploads in s3://b was refused"}
    said = deploying(worker)
    assert "unfinished uploads stay in the store: removing unfinished uploads in s3://b was refused" in said
    assert worker.asked[-1][0] == "prune_keys"


def test_directories_that_a_file_manager_made_are_no_leftovers() -> None:
    objects = {**store_of(RELEASES[-1:]), "releases/": "", f"releases/{RELEASES[0]}/": ""}
    assert remaining(objects) == objects


def test_nothing_is_said_when_nothing_was_removed() -> None:
    assert Cleaned().sentences() == []
    assert Cleaned().sentences() == []


# --- at the end of a deployment


def deploying(worker: Store, error: BaseException | None = None) -> str:
    """What a deployment says that ends like that."""
    session: Any = Session(worker)
    with contextlib.nullcontext() if error is None else pytest.raises(type(error)) as raised, cleaned_up(session):
        if error is not None:
            raise error
    assert raised is None or raised.value is error
    said: str = session.progress.getvalue()
    return said


def pruned(worker: Store) -> bool:
    return "prune_build_server" in [do for do, _ in worker.asked]


def test_deployment_ends_with_a_cleanup_that_knows_what_its_hosts_say_and_what_is_wanted() -> None:
    # All of that is long ago by the records, and nobody has told the store of the last two.
    worker = Store(store_of(RELEASES, production=one_after_the_other(RELEASES)))
    worker.wanted = f"{deployment_id(500)} s3://bucket/shop/manifest.yml"
    worker.objects |= manifests("production", deployment_id(500), RELEASES[3])
    worker.serving = {"one": json.dumps({"release": RELEASES[6]}), "two": "damaged"}
    said = deploying(worker)
    assert {RELEASES[3], RELEASES[6], RELEASES[-1], RELEASES[-2]} <= releases_in(worker.objects)
    assert RELEASES[1] not in releases_in(worker.objects)
    assert "releases from the store" in said


@pytest.mark.parametrize("error", [FleetError("failed"), StoreError("refused"), ConsulError("away")])
def test_failed_deployment_is_cleaned_up_after_too(error: DeployError) -> None:
    worker = Store(full_store())
    deploying(worker, error)
    assert pruned(worker)
    assert worker.locked == set()


@pytest.mark.parametrize("error", [ConnectionFailed("gone"), LockedError("ann"), UsageError("no"), KeyboardInterrupt()])
def test_what_has_done_nothing_or_is_gone_or_in_a_hurry_is_not_cleaned_up_after(error: BaseException) -> None:
    worker = Store(full_store())
    deploying(worker, error)
    assert worker.asked == []


@pytest.mark.parametrize(
    "do", ["status", "lock", "store_list", "store_read", "store_delete", "prune_keys", "prune_build_server"]
)
@pytest.mark.parametrize("error", [StoreError("refused"), ConnectionFailed("gone"), ConsulError("away")])
def test_trouble_at_the_end_of_a_deployment_is_noted(do: str, error: Exception) -> None:
    worker = Store(full_store())
    worker.refusals[do] = error
    assert f"could not be cleaned up, the next deployment tries again: {error}" in deploying(worker)
    assert worker.locked == set()


def test_trouble_with_the_cleanup_does_not_hide_why_the_deployment_failed() -> None:
    worker = Store(full_store())
    worker.refusals["store_list"] = StoreError("refused")
    session: Any = Session(worker)
    with pytest.raises(FleetError, match="app2 failed"), cleaned_up(session):
        raise FleetError("app2 failed")


def test_interrupted_cleanup_leaves_the_result_of_its_deployment() -> None:
    worker = Store(full_store())
    worker.refusals["store_delete"] = KeyboardInterrupt()
    assert "interrupted while cleaning up" in deploying(worker)


def test_deployment_that_failed_while_it_claimed_its_release_does_not_wait_for_itself() -> None:
    worker = Store(full_store())
    worker.locked.add(RETENTION_LOCK)
    deploying(worker, StoreError("begun.json was refused"))
    assert pruned(worker)
    assert worker.locked == set()


def test_worker_that_is_gone_for_good_makes_no_deployment_fail() -> None:
    worker = Store(full_store())
    worker.refusals = {do: ConnectionFailed("gone") for do in ("lock", "release_lock")}
    assert "could not be cleaned up" in deploying(worker)
