"""Names and keys."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from deploytool.deployment import new_deployment_id
from deploytool.release import (
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
)

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
