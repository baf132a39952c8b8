"""Consul as companies run it: https with an authority of their own, client certificates, a name in the certificate that
is no address, ACLs that deny by default, gossip encrypted."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploytool.playground.playground import SERVER_NODE
from deploytool.playground.processes import free_ports
from deploytool.worker.consul import Consul
from deploytool.worker.consul_way import ConsulWay
from deploytool.worker.failure import Failure
from deploytool.worker.wire import ConsulSettings
from tests.real.test_trust import Encrypted
from tests.support.certificates import Authority
from tests.support.project import TINY, Project

NAME = "server.playground.consul"
HOSTS = ("app1", "app2", "app3")


class Enclosed(Encrypted):
    """Each agent speaks https on a port of its own, and to nobody without a certificate of the authority's."""

    https: dict[str, int]
    authority: Authority

    def _consul_config(self, node: str, data_dir: Path) -> str:
        if not hasattr(self, "https"):
            self.https = free_ports([SERVER_NODE, *HOSTS])
            self.authority = Authority(self.directory / "authority")
            # For a name alone, as `consul tls cert create` makes them for servers.
            self.pair = self.authority.issue("agent", names=(NAME,), address=False)
        config = json.loads(super()._consul_config(node, data_dir))
        config["ports"]["https"] = self.https[node]
        files = {"ca_file": self.authority.file, "cert_file": self.pair[0], "key_file": self.pair[1]}
        return json.dumps(
            {**config, **{name: str(path) for name, path in files.items()}, "verify_incoming_https": True}
        )

    def host_environment(self, host: str) -> dict[str, str]:
        return {
            **super().host_environment(host),
            "CONSUL_HTTP_ADDR": f"https://127.0.0.1:{self.https[host]}",
            "CONSUL_CACERT": str(self.authority.file),
            "CONSUL_CLIENT_CERT": str(self.pair[0]),
            "CONSUL_CLIENT_KEY": str(self.pair[1]),
            "CONSUL_TLS_SERVER_NAME": NAME,
        }

    def build_server_environment(self) -> dict[str, str]:
        environment = super().build_server_environment()
        del environment["CONSUL_HTTP_ADDR"]
        return environment

    def said(self) -> dict[str, Any]:
        """What `consul:` in the settings says."""
        return {
            "address": f"https://127.0.0.1:{self.https[SERVER_NODE]}",
            "ca_file": str(self.authority.file),
            "client_cert": str(self.pair[0]),
            "client_key": str(self.pair[1]),
            "tls_server_name": NAME,
        }


@pytest.fixture(scope="module")
def enclosed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclosed]:
    with Enclosed(tmp_path_factory.mktemp("enclosed") / "state", (TINY,)) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_of_consul_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADDR", "SSL", "SSL_VERIFY", "TOKEN", "TOKEN_FILE", "AUTH"):
        monkeypatch.delenv(f"CONSUL_HTTP_{name}", raising=False)
    for name in ("CACERT", "CAPATH", "CLIENT_CERT", "CLIENT_KEY", "TLS_SERVER_NAME", "NAMESPACE", "PARTITION"):
        monkeypatch.delenv(f"CONSUL_{name}", raising=False)


def ask(settings: ConsulSettings) -> None:
    Consul(settings).get("deploytool/tiny/playground/any")


def refusal(settings: ConsulSettings) -> tuple[str, str]:
    with pytest.raises(Failure) as caught:
        ask(settings)
    return caught.value.message, str(caught.value.hint)


def test_deployment_goes_from_end_to_end_over_https_with_client_certificates_by_settings(
    enclosed: Enclosed, tmp_path: Path
) -> None:
    enclosed.allow_hosts()
    enclosed.allow("build_server", enclosed.build_server_rules)
    project = Project(enclosed, tmp_path)
    (tmp_path / "token").write_text(enclosed.token("build_server") + "\n")
    project.settings["consul"] = {**enclosed.said(), "token_file": str(tmp_path / "token"), "datacenter": "playground"}
    project.write()
    deployed = project.deploy()
    assert set(deployed.verdicts().values()) == {"verified"}
    checked = project.fab("playground", "check", "--json")
    assert checked.code == 0, checked.out


def test_environment_of_the_build_servers_session_says_the_same(
    enclosed: Enclosed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {
        "CONSUL_HTTP_ADDR": f"127.0.0.1:{enclosed.https[SERVER_NODE]}",
        # As Go reads a truth value.
        "CONSUL_HTTP_SSL": "t",
        "CONSUL_CACERT": enclosed.said()["ca_file"],
        "CONSUL_CLIENT_CERT": enclosed.said()["client_cert"],
        "CONSUL_CLIENT_KEY": enclosed.said()["client_key"],
        "CONSUL_TLS_SERVER_NAME": NAME,
        "CONSUL_HTTP_TOKEN": enclosed.token("build_server"),
    }.items():
        monkeypatch.setenv(variable, value)
    enclosed.allow("build_server", enclosed.build_server_rules)
    ask(ConsulSettings(None))


def test_authority_in_a_directory_of_files_with_any_names_is_trusted(enclosed: Enclosed, tmp_path: Path) -> None:
    (tmp_path / "authorities").mkdir()
    (tmp_path / "authorities/README").write_text("nothing\n")
    (tmp_path / "authorities/ours.pem").write_text(enclosed.authority.file.read_text())
    said = {**enclosed.said(), "ca_path": str(tmp_path / "authorities"), "token_file": str(tmp_path / "token")}
    (tmp_path / "token").write_text(enclosed.token("build_server"))
    del said["ca_file"]
    ask(ConsulSettings(**said))
    (tmp_path / "authorities/ours.pem").unlink()
    message, _ = refusal(ConsulSettings(**said))
    assert "holds no certificate" in message


def test_address_of_the_environment_is_read_as_consul_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def address(settings: ConsulSettings) -> str:
        connection = ConsulWay(settings).connection(1)
        return f"{type(connection).__name__.strip('_')} {connection.host}:{connection.port}"

    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    for given, expected in (
        ("http://consul.test:8501", "TlsConnection consul.test:8501"),
        ("https://consul.test", "TlsConnection consul.test:443"),
        ("consul.test:8501", "TlsConnection consul.test:8501"),
    ):
        monkeypatch.setenv("CONSUL_HTTP_ADDR", given)
        assert address(ConsulSettings(None)) == expected
    # What the settings say goes before that, with Consul's own ports.
    assert address(ConsulSettings("http://consul.test")) == "HTTPConnection consul.test:8500"
    assert address(ConsulSettings("https://consul.test")) == "TlsConnection consul.test:8501"
    assert ConsulWay(ConsulSettings("https://consul.test/behind/")).prefix == "/behind"


def test_authority_that_is_not_named_is_said(enclosed: Enclosed) -> None:
    said = enclosed.said()
    del said["ca_file"]
    message, hint = refusal(ConsulSettings(**said))
    assert "the build server does not trust its certificate" in message
    assert "consul.ca_file or ca_path" in hint


def test_other_name_in_the_certificate_is_said(enclosed: Enclosed) -> None:
    said = enclosed.said()
    del said["tls_server_name"]
    message, hint = refusal(ConsulSettings(**said))
    assert "the build server does not trust its certificate: IP address mismatch" in message
    assert "consul.tls_server_name" in hint


def test_missing_client_certificate_is_said_to_be_missing(enclosed: Enclosed) -> None:
    said = enclosed.said()
    for name in ("client_cert", "client_key"):
        del said[name]
    message, hint = refusal(ConsulSettings(**said))
    assert "it asks for a client certificate" in message
    assert "consul.client_cert and consul.client_key" in hint


def test_client_certificate_of_another_authority_is_said_not_to_be_taken(enclosed: Enclosed, tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).issue("stranger")
    message, hint = refusal(ConsulSettings(**{**enclosed.said(), "client_cert": str(cert), "client_key": str(key)}))
    assert f"it does not take the client certificate {cert}" in message
    assert "signed by the authority" in hint


@pytest.mark.parametrize("name", ["ca_file", "client_cert", "client_key"])
def test_certificates_file_that_is_not_there_is_named(enclosed: Enclosed, name: str) -> None:
    message, hint = refusal(ConsulSettings(**{**enclosed.said(), name: "/no/such/file.pem"}))
    assert f"its {name} /no/such/file.pem on the build server is not there" in message
    assert f"consul.{name}" in hint


def test_key_that_belongs_to_no_certificate_or_has_a_passphrase_is_said(enclosed: Enclosed, tmp_path: Path) -> None:
    _, other = Authority(tmp_path).issue("other")
    message, hint = refusal(ConsulSettings(**{**enclosed.said(), "client_key": str(other)}))
    assert "can't be used with its key" in message
    locked = tmp_path / "locked.pem"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", str(other), "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    message, hint = refusal(ConsulSettings(**{**enclosed.said(), "client_key": str(locked)}))
    assert "the key has a passphrase" in message
    assert "without a passphrase" in hint


def test_http_where_it_speaks_https_and_the_other_way_round_are_said(enclosed: Enclosed) -> None:
    plain = {**enclosed.said(), "address": f"http://127.0.0.1:{enclosed.https[SERVER_NODE]}"}
    message, hint = refusal(ConsulSettings(**plain))
    assert "it speaks https" in message
    assert "CONSUL_HTTP_SSL=true" in hint
    other = {**enclosed.said(), "address": enclosed.consul_address().replace("http:", "https:")}
    message, hint = refusal(ConsulSettings(**other))
    assert "it speaks no TLS" in message
    assert "http://" in hint


def test_namespace_of_a_consul_that_has_none_is_said(enclosed: Enclosed) -> None:
    message, hint = refusal(ConsulSettings(**enclosed.said(), namespace="team-a"))
    assert "it knows no namespaces" in message
    assert "consul.namespace" in hint


def test_datacenter_that_nobody_knows_is_said(enclosed: Enclosed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", enclosed.token("build_server"))
    message, _ = refusal(ConsulSettings(**enclosed.said(), datacenter="mars"))
    assert "No path to datacenter" in message


def test_password_before_the_agent_is_sent_and_masked(enclosed: Enclosed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_AUTH", "me:correct-horse")
    way = ConsulWay(ConsulSettings(enclosed.consul_address()))
    assert "correct-horse" in way.secrets
    assert way.headers["Authorization"] == "Basic bWU6Y29ycmVjdC1ob3JzZQ=="
