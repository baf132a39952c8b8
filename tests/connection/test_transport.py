"""What Fabric can do of that which a configuration asks for; no network."""

from pathlib import Path

import pytest

from deploytool.connection.openssh import explain, strictness
from deploytool.connection.ssh import is_list
from deploytool.connection.ssh_config import Host
from deploytool.connection.transport import asks_for_openssh, uses_agent

NOBODY: dict[str, str | None] = {"passphrase": None, "password": None}
#: Of a key on hardware, whose private half no file has.
ON_HARDWARE = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIA== me"


def host(tmp_path: Path, **options: str) -> Host:
    known = {"userknownhostsfile": "none", "globalknownhostsfile": "none", "stricthostkeychecking": "yes", **options}
    return Host("build", {name: (value,) for name, value in known.items()}, ("ssh",))


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("pkcs11provider", "/usr/lib/softhsm.so", "PKCS11Provider is set"),
        ("certificatefile", "~/cert.pub", "CertificateFile is set"),
        ("knownhostscommand", "/bin/hosts %H", "KnownHostsCommand is set"),
        ("revokedhostkeys", "/etc/revoked", "RevokedHostKeys is set"),
        ("bindinterface", "tun0", "BindInterface is set"),
        ("verifyhostkeydns", "true", "VerifyHostKeyDNS is set"),
        ("verifyhostkeydns", "ask", "VerifyHostKeyDNS is set"),
        ("pubkeyauthentication", "false", "PubkeyAuthentication is switched off"),
        ("identityagent", "/run/1password.sock", "IdentityAgent is set"),
        ("identityagent", "$NO_SUCH_AGENT", None),
        ("identityagent", "$OTHER_AGENT", "IdentityAgent is set"),
        ("identityagent", "SSH_AUTH_SOCK", None),
        ("identityagent", "none", None),
        ("proxycommand", "connect %h %p", None),
        ("proxycommand", "connect %K", "a token or variable that only ssh knows: 'K'"),
        ("identityfile", "${NO_SUCH_VARIABLE}/key", "a token or variable that only ssh knows: 'NO_SUCH_VARIABLE'"),
        ("controlpath", "/nowhere/socket", None),
        (
            "stricthostkeychecking",
            "accept-new",
            "its host key is not known yet, and StrictHostKeyChecking is accept-new",
        ),
    ],
)
def test_what_only_ssh_can_do_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str, why: str | None
) -> None:
    monkeypatch.setenv("OTHER_AGENT", "/run/other.sock")
    assert asks_for_openssh(host(tmp_path, **{option: value}), NOBODY) == why


def test_key_on_hardware_takes_ssh(tmp_path: Path) -> None:
    """Its file holds no private half, only a handle."""
    (tmp_path / "yubikey").write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nhandle\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    (tmp_path / "yubikey.pub").write_text(ON_HARDWARE)
    named = host(tmp_path, identityfile=str(tmp_path / "yubikey"))
    private = f"the private half of {tmp_path}/yubikey"
    assert asks_for_openssh(named, NOBODY) == f"{private} is not a file that Fabric can use"
    # One of those that ssh tries anyway may not be the one that opens; Fabric is asked first.
    (tmp_path / "yubikey").rename(tmp_path / "id_ed25519_sk")
    usual = host(tmp_path, identityfile=str(tmp_path / "id_ed25519_sk"))
    assert asks_for_openssh(usual, NOBODY) is None


@pytest.mark.parametrize(
    ("said", "meant"), [("false", "yes"), ("no", "yes"), ("off", "yes"), ("accept-new", "accept-new")]
)
def test_no_to_host_keys_is_never_handed_on(tmp_path: Path, said: str, meant: str) -> None:
    assert strictness(host(tmp_path, stricthostkeychecking=said)) == meant


def test_agent_that_is_switched_off_is_not_asked(tmp_path: Path) -> None:
    assert uses_agent(host(tmp_path))
    assert not uses_agent(host(tmp_path, identityagent="none"))
    assert not uses_agent(host(tmp_path, identitiesonly="yes"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ssh: connect to host build port 22: No route to host", "can't be reached: No route to host"),
        ("ssh: connect to host build port 22: Connection timed out", "can't be reached: Connection timed out"),
        ("Connection timed out during banner exchange", "no SSH handshake: no answer in time"),
        ("kex_exchange_identification: Connection closed by remote host", "no SSH handshake: Connection closed by"),
        ("Unable to negotiate with 10.0.0.1 port 22: no matching host key type found.", "no matching host key type"),
        (
            'Load key "/k": error in libcrypto\nme@build: Permission denied (publickey).',
            "authentication failed: Permission denied",
        ),
        ("something new", "can't be reached: ssh ended without a connection"),
        ("", "can't be reached: ssh ended without a connection"),
    ],
)
def test_words_of_ssh_become_a_sentence(tmp_path: Path, words: str, message: str) -> None:
    error = explain(words.splitlines(), [host(tmp_path, hostname="build", user="me")])
    assert error.message.startswith("me@build:22")
    assert message in error.message
    assert error.hint
    assert error.tail == tuple(words.splitlines())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("aes256-ctr,aes128-ctr", True),
        ("+ssh-rsa", False),
        ("^ssh-ed25519", False),
        ("-*cbc", False),
        ("aes*", False),
        ("", False),
    ],
)
def test_words_that_change_a_list_which_only_ssh_knows_leave_nothing_out(said: str, expected: bool) -> None:
    assert is_list(said) is expected
