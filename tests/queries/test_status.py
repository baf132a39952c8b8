"""Which host is behind, from what it said last and what is expected on it."""

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from deploytool.connection.build_server import BuildServer
from deploytool.connection.bus import BusClient
from deploytool.connection.store import StoreClient
from deploytool.errors import ConsulError
from deploytool.model.history import Due
from deploytool.model.release import DeploymentId, ReleaseId, manifest_key
from deploytool.queries.status import page
from deploytool.state.status import read_status
from tests.support.answering import Answering

OLD, NEW = "20260101T000000Z-aaaaaaa", "20260102T000000Z-bbbbbbb"
FIRST, SECOND = "20260101T000001Zaaaa", "20260102T000002Zbbbb"


class Hosts:
    """A role's selector, as far as `status` reads it."""

    def model_dump(self, mode: str) -> dict[str, Any]:
        return {"nodes": ["a"]}


NOW = datetime(2026, 11, 23, 6, 10, tzinfo=UTC)


class ScriptedWorker(Answering):
    """Answers what it was told to; refuses everything else."""

    def __init__(self, roles: dict[str, Any], manifests: dict[str, str], lock: str | None = None) -> None:
        self._roles, self._manifests, self._lock = roles, manifests, lock

    def ask(self, do: str, **parameters: Any) -> dict[str, Any]:
        match do:
            case "status":
                return {"roles": self._roles}
            case "store_read":
                return {"contents": {key: self._manifests.get(key) for key in parameters["keys"]}}
            case "lock_holder":
                return {"holder": None, "sentence": self._lock}
            case "frozen":
                return {"frozen": {"why": "audit", "operator": "jo", "at": "today"} if self._lock else None}
        raise AssertionError(f"unscripted: {do}")


def session(roles: dict[str, Any], lock: str | None = None) -> Any:
    manifests = {
        manifest_key(
            "production", DeploymentId(deployment), role
        ): f'src: "s3://b/shop/releases/{release}/shop.tar.gz"\n'
        for deployment, release in ((FIRST, OLD), (SECOND, NEW))
        for role in roles
    }
    settings = SimpleNamespace(environment="production", roles={role: SimpleNamespace(hosts=Hosts()) for role in roles})
    worker = ScriptedWorker(roles, manifests, lock)
    return SimpleNamespace(
        settings=settings,
        worker=worker,
        store=StoreClient(worker),
        bus=BusClient(worker),
        build_server=BuildServer(worker),
        now=lambda: NOW,
    )


def role(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"up": ["a"], "down": [], "wanted": None, "exceptions": {}, "serving": {}, "go": {}}
    return {**base, **changes}


def serving(release: str, deployment: str, verified: str = "true") -> str:
    return (
        f'{{"release": "{release}", "deployment": "{deployment}", "time": "T", "verified": {verified}, "releases": []}}'
    )


def test_host_that_serves_what_is_wanted_is_not_behind() -> None:
    status = read_status(session({"web": role(wanted=f"{SECOND} url", serving={"a": serving(NEW, SECOND)})}))
    assert status.exit_code == 0
    assert status.hosts[0].release == NEW
    assert "up to date" in page(status, "production").lines()[1]


@pytest.mark.parametrize(
    "said", [serving(OLD, FIRST), serving(NEW, SECOND, "false"), "no json", "[]", '{"release": 7, "verified": true}']
)
def test_host_that_does_not_prove_what_is_wanted_is_behind(said: str) -> None:
    status = read_status(session({"web": role(wanted=f"{SECOND} url", serving={"a": said})}))
    assert status.exit_code == 8
    *_, again, back, verdict = page(status, "production").lines()
    assert again.split("  ")[0] == f"next: fab production deploy --release {NEW} --nodes a"
    assert back.strip().startswith("fab production rollback")
    assert verdict == "1 of 1 host of production is behind"


def test_host_that_never_said_a_word_is_behind() -> None:
    assert read_status(session({"web": role(wanted=f"{SECOND} url")})).exit_code == 8


def test_host_that_is_down_does_not_count_and_is_shown() -> None:
    found = role(up=[], down=["a"], wanted=f"{SECOND} url", serving={"a": serving(OLD, FIRST)})
    status = read_status(session({"web": found}))
    assert status.exit_code == 0
    assert "down" in page(status, "production").lines()[1]


def test_host_with_a_wish_of_its_own_is_measured_by_that() -> None:
    found = role(
        up=["a", "b"],
        wanted=f"{FIRST} url",
        exceptions={"b": f"{SECOND} url"},
        serving={"a": serving(OLD, FIRST), "b": serving(NEW, SECOND)},
    )
    assert read_status(session({"web": found})).exit_code == 0


def test_environment_without_any_deployment_is_well() -> None:
    status = read_status(session({"web": role()}))
    assert status.exit_code == 0
    assert "nothing deployed yet" in page(status, "production").lines()[1]


def test_deployment_under_way_and_the_locks_holder_are_shown() -> None:
    found = role(wanted=f"{SECOND} url", go={SECOND: "wait 3"}, serving={"a": serving(OLD, FIRST)})
    text = "\n".join(page(read_status(session({"web": found}, lock="me@laptop since T")), "production").lines())
    assert f"deployment {SECOND} is under way" in text
    assert "production is locked by me@laptop since T" in text
    assert "production is frozen by jo since today: audit" in text


def test_nonsense_in_wanted_is_nothing_wanted() -> None:
    assert read_status(session({"web": role(wanted="zzz")})).hosts[0].wanted_release is None


def test_what_is_due_is_told_and_is_no_failure() -> None:
    found = read_status(session({"web": role(wanted=f"{SECOND} url", serving={"a": serving(NEW, SECOND)})}))
    status = replace(found, migrate_after_due=Due(ReleaseId(NEW), "2026-01-02T00:00:03Z"))
    assert status.exit_code == 0
    assert status.as_dict()["migrate_after_due"] == {"release": NEW, "since": "2026-01-02T00:00:03Z"}
    *_, due, verdict = page(status, "production").lines()
    assert due == (
        f"migrate_after of {NEW} has been due since 2026-01-02T00:00:03Z: the next deploy that is verified on every "
        "host runs it, or `fab production migrate --after`"
    )
    assert verdict == f"the host of production is up to date, on {NEW}"


def test_no_host_at_all_is_an_error() -> None:
    with pytest.raises(ConsulError, match="Consul knows no host of production"):
        read_status(session({"web": role(up=[])}))


def test_wanted_deployment_whose_manifest_is_gone_is_still_wanted() -> None:
    gone = "20260103T000003Zcccc"
    status = read_status(session({"web": role(wanted=f"{gone} url", serving={"a": serving(NEW, SECOND)})}))
    assert status.exit_code == 8
    assert f"expected deployment {gone}" in page(status, "production").lines()[1]
    status = read_status(session({"web": role(wanted=f"{gone} url", serving={"a": serving(NEW, gone)})}))
    assert status.exit_code == 0


def paused(**changes: Any) -> dict[str, Any]:
    """A role of which one host is wanted to run another release than the role as a whole."""
    given = {
        "up": ["a", "b"],
        "wanted": f"{FIRST} url",
        "exceptions": {"a": f"{SECOND} url"},
        "serving": {"a": serving(NEW, SECOND), "b": serving(OLD, FIRST)},
    }
    return role(**{**given, **changes})


def test_rollout_that_is_not_at_its_end_is_shown_with_the_commands_that_go_on() -> None:
    status = read_status(session({"web": paused()}))
    assert (status.exit_code, status.unfinished) == (0, {NEW: ("a (web)",)})
    *_, remark, promote, back, verdict = page(status, "production").lines()
    assert remark == f"{NEW} is expected on a (web), and not on every host"
    assert promote.startswith("next: fab production promote")
    assert back.strip().startswith("fab production rollback")
    assert verdict == f"{NEW} is on 1 of 2 hosts of production: its rollout is not finished"


def test_release_that_all_are_wanted_to_run_is_at_its_end_though_a_host_has_it_by_another_deployment() -> None:
    status = read_status(session({"web": paused(exceptions={"b": f"{FIRST} url"})}))
    assert status.unfinished == {}
    assert "promote" not in "\n".join(page(status, "production").lines())


@pytest.mark.parametrize("word", ["go a +3", "wait 2"])
def test_rollout_whose_worker_is_gone_is_told_from_one_under_way(word: str) -> None:
    found = {"web": paused(exceptions=dict.fromkeys("ab", f"{SECOND} url"), go={SECOND: word, FIRST: "go all"})}
    left = "\n".join(page(read_status(session(found)), "production").lines())
    assert f"the operator of deployment {SECOND} is gone" in left
    assert "next: fab production promote" in left
    # For b, too, the way on is that one.
    assert "--nodes" not in left
    running = "\n".join(page(read_status(session(found, lock="me@laptop since T")), "production").lines())
    assert f"deployment {SECOND} is under way" in running
    assert "promote" not in running


def test_rollout_that_was_closed_is_not_under_way() -> None:
    assert read_status(session({"web": paused(go={SECOND: "only a", FIRST: "go all"})})).under_way == ()
