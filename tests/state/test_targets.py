"""What is expected on hosts, as it stands in Consul."""

from dataclasses import replace
from typing import Any

import pytest

from deploytool.errors import ConsulError
from deploytool.model.fleet import LastWord
from deploytool.model.release import DeploymentId
from deploytool.state.targets import Expected, refuse_impossible_ids
from tests.support.histories import deployment_id
from tests.support.stores import Session, Store, store_of

#: two days ahead of the build server's clock
AHEAD = deployment_id(-48)


def wanted(name: DeploymentId, *, single: bool) -> Expected:
    whole, by_host = ({}, {("web", "one"): name}) if single else ({"web": name}, {})
    return Expected({"web": ("one",)}, (), (name,), whole, by_host, {})


@pytest.mark.parametrize(("single", "key"), [(False, "wanted/web"), (True, "wanted/web/one")])
def test_id_that_nobody_can_have_made_is_refused_with_its_key(single: bool, key: str) -> None:
    session: Any = Session(Store(store_of(())))
    refuse_impossible_ids(session, wanted(deployment_id(-12), single=single))
    for name, why in ((AHEAD, "is of 20260303, 2 days ahead"), (DeploymentId("99999999T999999Zaaaa"), "no time")):
        with pytest.raises(ConsulError, match=why) as raised:
            refuse_impossible_ids(session, wanted(name, single=single))
        assert f"`consul kv delete deploytool/app/production/{key}`" in str(raised.value.hint)


def test_id_of_a_clock_that_was_wrong_once_goes_on_if_a_host_has_had_it() -> None:
    """The history does not tell: whoever can write to the store can write that."""
    session: Any = Session(Store({f"environments/production/deployments/{AHEAD}.json": '{"release": "r"}'}))
    found = wanted(AHEAD, single=False)
    with pytest.raises(ConsulError):
        refuse_impossible_ids(session, found)
    refuse_impossible_ids(session, replace(found, words={("web", "one"): LastWord(deployment=AHEAD)}))
