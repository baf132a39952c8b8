"""Signing by the real ssh-keygen and ssh-agent, and what hosts would make of it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploytool.errors import ConsulError, DeployError, SettingsError, UsageError
from deploytool.model.release import DeploymentId
from deploytool.queries.checks.hosts import check_trust
from deploytool.settings import Settings, load_settings
from deploytool.text import ids
from deploytool.trust.signing import find_key, sign
from deploytool.trust.statement import statement

SETTINGS: dict[str, Any] = {
    "application": "shop",
    "repository": "git@git.example.org:shop.git",
    "deploy_to": "/srv/shop",
    "build": {"server": "build@build.example.org"},
    "store": {"url": "s3://bucket/shop"},
    "roles": {"web": {"hosts": {"nodes": ["app1"]}, "restart": "true"}},
}
SAID = "deploytool statement 1\napplication shop\n"


class Team:
    """A project whose signers are alice, and bob until a moment that is over; mallory is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        (self.home / ".ssh").mkdir(parents=True)
        (directory / "config").mkdir()
        keys = {name: self.make_key(directory / name) for name in ("alice", "bob", "mallory")}
        (directory / "config/signers").write_text(
            f'alice@example.org {keys["alice"]}\nbob@example.org valid-before="20200101" {keys["bob"]}\n'
        )

    @staticmethod
    def make_key(path: Path) -> str:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
        return path.with_suffix(".pub").read_text().strip()

    def settings(self, said: Mapping[str, Any] = SETTINGS, /, **trust: str) -> Settings:
        return self.load({**said, "trust": {"signers": "config/signers", **trust}})

    def load(self, said: Mapping[str, Any]) -> Settings:
        (self.directory / "config/deploy.yml").write_text("")
        (self.directory / "config/production.yml").write_text(yaml.safe_dump(said))
        return load_settings(self.directory, "production", {})


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    made = Team(tmp_path)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return made


@pytest.fixture
def agent(team: Team, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    socket = team.directory / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as process:
        while not socket.exists():
            assert process.poll() is None
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        yield
        process.terminate()


def test_key_file_that_is_named_signs_in_its_owners_name(team: Team) -> None:
    signature = sign(team.settings(key=str(team.directory / "alice")), SAID, ids.now())
    assert signature is not None
    assert signature.name == "alice@example.org"
    assert signature.text.startswith("-----BEGIN SSH SIGNATURE-----")


def test_agents_key_that_may_deploy_is_found_among_others(team: Team, agent: None) -> None:
    for name in ("mallory", "alice"):
        subprocess.run(["ssh-add", "-q", str(team.directory / name)], check=True)
    # The agent alone has it.
    (team.directory / "alice").unlink()
    signature = sign(team.settings(), SAID, ids.now())
    assert signature is not None
    assert signature.name == "alice@example.org"


def test_key_in_the_users_own_directory_is_found(team: Team) -> None:
    for name in ("alice", "alice.pub"):
        os.rename(team.directory / name, team.home / ".ssh" / f"id_{name.replace('alice', 'ed25519')}")
    assert find_key(team.settings()) is not None
    assert sign(team.settings(), SAID, ids.now()) is not None


def test_hardware_key_says_that_it_waits_for_a_touch(team: Team) -> None:
    """The real ssh-keygen, with a key that no token here has: what it says goes to nobody's terminal."""
    public = (team.directory / "alice.pub").read_text()
    (team.directory / "alice.pub").write_text(public.replace("ssh-ed25519", "sk-ssh-ed25519@openssh.com"))
    told: list[str] = []
    with contextlib.suppress(UsageError):
        sign(team.settings(key=str(team.directory / "alice")), SAID, ids.now(), tell=told.append)
    assert told == [f"touch the hardware key {team.directory / 'alice'}: it signs the deployment"]
    told.clear()
    (team.directory / "alice.pub").write_text(public)
    assert sign(team.settings(key=str(team.directory / "alice")), SAID, ids.now(), tell=told.append) is not None
    assert told == []


def test_check_says_what_is_not_protected_where_nobody_signs(team: Team) -> None:
    [line] = check_trust(team.load(SETTINGS))
    assert line.ok
    assert "anyone who can write those can run anything on hosts" in line.text


def test_check_says_that_a_lent_agent_signs_for_the_build_server_too(team: Team, agent: None) -> None:
    subprocess.run(["ssh-add", "-q", str(team.directory / "alice")], check=True)
    lent = {**SETTINGS, "build": {**SETTINGS["build"], "forward_agent": True}}
    for said, key, warned in (
        (lent, {}, True),
        (lent, {"key": str(team.directory / "alice")}, False),
        (SETTINGS, {}, False),
    ):
        [line] = check_trust(team.settings(said, **key))
        assert "who may deploy here: alice@example.org" in line.text
        assert ("build.forward_agent lends the agent" in line.text) == warned


def test_nobodys_key_is_said_before_anything_begins(team: Team) -> None:
    with pytest.raises(SettingsError) as caught:
        find_key(team.settings())
    assert "none of your keys may deploy to production; those of alice@example.org, bob@example.org may" in str(
        caught.value
    )


@pytest.mark.parametrize("who", ["mallory", "bob"])
def test_what_hosts_would_refuse_is_not_announced(team: Team, who: str) -> None:
    """A key that is nobody's, and one whose time is over."""
    with pytest.raises(UsageError) as caught:
        sign(team.settings(key=str(team.directory / who)), SAID, ids.now())
    assert "may not deploy to production, or its time is over" in caught.value.message


@pytest.mark.parametrize(
    ("trust", "problem"), [({"key": "nowhere"}, "there is no file"), ({"signers": "none"}, "No such")]
)
def test_file_that_is_not_there_is_named(team: Team, trust: dict[str, str], problem: str) -> None:
    with pytest.raises(DeployError) as caught:
        find_key(team.settings(**trust))
    assert problem in str(caught.value)


def test_pretend_hosts_need_no_signature(team: Team) -> None:
    settings = team.settings()
    pretend = settings.model_copy(update={"consul": settings.consul.model_copy(update={"address": "file:///var/bus"})})
    assert sign(pretend, SAID, ids.now()) is None


def test_nothing_is_signed_that_is_far_ahead_of_this_machines_clock(team: Team) -> None:
    """Hosts would take nothing any more that is earlier, whoever has made the build server date it so."""
    with pytest.raises(UsageError) as caught:
        sign(team.settings(key=str(team.directory / "alice")), SAID, ids.now() + timedelta(days=3))
    assert "in 3 days" in caught.value.message


@pytest.mark.parametrize("name", ["app1\nmanifest batch 0", "app1 app2", "", "a/b"])
def test_name_of_a_host_that_would_be_read_as_something_else_is_not_signed(name: str) -> None:
    with pytest.raises(ConsulError):
        statement("shop", "production", DeploymentId("20261201T000000Zabcd"), [("web", "text")], {"web": [name]})


def test_signature_counts_at_the_time_that_hosts_look_at_and_now(team: Team) -> None:
    """Hosts go by the time in the deployment's id: the build server's, and later than that of any deployment before."""
    settings, now = team.settings(key=str(team.directory / "alice")), ids.now()
    public = (team.directory / "alice.pub").read_text().strip()
    over = now + timedelta(hours=1)
    (team.directory / "config/signers").write_text(f'alice@example.org valid-before="{over:%Y%m%d%H%M%S}" {public}\n')
    assert sign(settings, SAID, now) is not None
    with pytest.raises(UsageError) as caught:
        sign(settings, SAID, over + timedelta(seconds=1))
    assert f"may not deploy to production at {ids.recorded(over + timedelta(seconds=1))}" in caught.value.message
    # Nor may a clock that goes wrong let somebody deploy whose time is over.
    (team.directory / "config/signers").write_text(f'alice@example.org valid-before="20200101" {public}\n')
    with pytest.raises(UsageError) as caught:
        sign(settings, SAID, ids.read("2019-12-31T00:00:00Z"))
    assert "may not deploy to production, or its time is over" in caught.value.message
