"""This version over pretend hosts and a store that the version before has left."""

from pathlib import Path

from tests.support.local import HOSTS, Local
from tests.support.version_before import version_before


def test_store_and_hosts_of_the_version_before_are_gone_on_with_and_gone_back_on(tmp_path: Path) -> None:
    local, old = Local(tmp_path), version_before(tmp_path / "before")
    for version in ("1", "2"):
        local.repository.commit({"VERSION": version}, "by the version before")
        assert local.fab("local", "deploy", env=old).code == 0
    assert local.served() == dict.fromkeys(HOSTS, "2")
    status = local.fab("local", "status")
    assert status.code == 0, status.out
    local.repository.commit({"VERSION": "3"})
    deployed = local.fab("local", "deploy")
    assert deployed.code == 0, deployed.err
    assert local.served() == dict.fromkeys(HOSTS, "3")
    for version in ("2", "1"):
        back = local.fab("local", "rollback")
        assert back.code == 0, back.err
        assert local.served() == dict.fromkeys(HOSTS, version)
    assert len(local.fab("local", "releases", "--json").json["releases"]) == 3
