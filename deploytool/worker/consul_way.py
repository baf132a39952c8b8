"""The way to a Consul agent: its address, TLS, the token, and what stands in each request's head.

What the settings do not say comes from the CONSUL_* environment, as for Consul's own commands
(developer.hashicorp.com/consul/commands#environment-variables).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
from base64 import b64encode
from typing import Dict, List, Optional
from urllib.parse import urlsplit

from .failure import Failure
from .wire import ConsulSettings

#: as Go reads a truth value
_YES = ("1", "t", "T", "TRUE", "true", "True")
_NO = ("0", "f", "F", "FALSE", "false", "False")
#: What an agent says to plain HTTP on a port of TLS; it is Go's own sentence.
_SPEAKS_HTTPS = b"HTTP request to an HTTPS server"
#: OpenSSL's words of an agent that wants to know who asks
_WHO_ARE_YOU = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "CERTIFICATE_UNKNOWN")


class ConsulWay:
    """How one agent is reached."""

    def __init__(self, settings: ConsulSettings) -> None:
        """Raises Failure if the token's file can't be used."""

        def said(value: Optional[str], variable: str) -> Optional[str]:
            return value or os.environ.get(variable) or None

        given = said(settings.address, "CONSUL_HTTP_ADDR") or "http://127.0.0.1:8500"
        if not settings.address:
            secure = os.environ.get("CONSUL_HTTP_SSL", "") in _YES
            if "://" not in given:
                given = "http://" + given
            if secure and given.startswith("http:"):
                # As Consul's own commands: it is never less than that.
                given = "https" + given[4:]
        self.address = given
        self._url = urlsplit(given)
        # Without a port an address of the settings has Consul's own; one of the environment the web's, as for `consul`.
        self._ports = {"https": 8501, "http": 8500} if settings.address else {"https": 443, "http": 80}
        #: what stands before each path, behind a proxy, say
        self.prefix = self._url.path.rstrip("/") if self._url.scheme != "unix" else ""
        self._token = _read_token(said(settings.token_file, "CONSUL_HTTP_TOKEN_FILE"))
        self._basic = os.environ.get("CONSUL_HTTP_AUTH") or None
        self._authority = said(settings.ca_file, "CONSUL_CACERT")
        self._authorities = said(settings.ca_path, "CONSUL_CAPATH")
        self._certificate = said(settings.client_cert, "CONSUL_CLIENT_CERT")
        self._key = said(settings.client_key, "CONSUL_CLIENT_KEY")
        self._server_name = said(settings.tls_server_name, "CONSUL_TLS_SERVER_NAME")
        self._verified = os.environ.get("CONSUL_HTTP_SSL_VERIFY", "") not in _NO
        self._namespace = said(settings.namespace, "CONSUL_NAMESPACE")
        self._partition = os.environ.get("CONSUL_PARTITION") or None
        self._context: Optional[ssl.SSLContext] = None

    @property
    def secrets(self) -> List[str]:
        """What must not be shown."""
        return [self._token or "", (self._basic or "").partition(":")[2]]

    @property
    def headers(self) -> Dict[str, str]:
        found = {
            "X-Consul-Token": self._token,
            "X-Consul-Namespace": self._namespace,
            "X-Consul-Partition": self._partition,
            "Authorization": "Basic {}".format(b64encode(self._basic.encode()).decode()) if self._basic else None,
        }
        return {name: value for name, value in found.items() if value}

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """A connection that is not open yet. Raises Failure for a certificate's file that can't be used."""
        if self._url.scheme == "unix":
            return _UnixConnection(self._url.path, timeout)
        host = self._url.hostname or "127.0.0.1"
        try:
            port = self._url.port
        except ValueError as error:
            raise self._no_way(str(error), "mend consul.address") from error
        if self._url.scheme == "https":
            if self._context is None:
                self._context = self._made_context()
            return _TlsConnection(host, port or self._ports["https"], timeout, self._context, self._server_name or host)
        return http.client.HTTPConnection(host, port or self._ports["http"], timeout=timeout)

    def _made_context(self) -> ssl.SSLContext:
        for setting, variable, path in (
            ("ca_file", "CONSUL_CACERT", self._authority),
            ("ca_path", "CONSUL_CAPATH", self._authorities),
            ("client_cert", "CONSUL_CLIENT_CERT", self._certificate),
            ("client_key", "CONSUL_CLIENT_KEY", self._key),
        ):
            if path and not os.access(os.path.expanduser(path), os.R_OK):
                there = os.path.exists(os.path.expanduser(path))
                raise self._no_way(
                    "its {} {} on the build server {}".format(
                        setting, path, "can't be read by its user" if there else "is not there"
                    ),
                    "mend consul.{}, or {} there".format(setting, variable),
                )
        try:
            context = ssl.create_default_context(cafile=_path(self._authority))
            if self._authorities and not self._authority:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self._authorities:
                self._trust_all_in(context, _path(self._authorities) or "")
        except (OSError, ssl.SSLError) as error:
            raise self._no_way(
                "consul.ca_file or ca_path holds no certificates: {}".format(error), "both are PEM files"
            ) from error
        if self._certificate:
            try:
                context.load_cert_chain(_path(self._certificate) or "", _path(self._key), password=_no_passphrase)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise self._no_way(
                    "its client certificate {} can't be used with its key: {}".format(self._certificate, error),
                    "consul.client_cert and consul.client_key are PEM files that belong together, without a passphrase"
                    "; without client_key the key is looked for in client_cert",
                ) from error
        if not self._verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _trust_all_in(self, context: ssl.SSLContext, directory: str) -> None:
        """Python itself takes only files that `openssl rehash` has named; Consul takes all."""
        trusted = 0
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                # Others may lie there, too.
                with contextlib.suppress(OSError, ssl.SSLError):
                    context.load_verify_locations(cafile=path)
                    trusted += 1
        if not trusted:
            raise self._no_way("its ca_path {} holds no certificate".format(directory), "put PEM files there")

    def failure_of(self, error: BaseException) -> Optional[Failure]:
        """What is wrong with TLS, of an error in the middle of a request; None if it is about something else."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._no_way(
                "the build server does not trust its certificate: {}".format(error.verify_message),
                "consul.ca_file or ca_path (CONSUL_CACERT, CONSUL_CAPATH there) has the authority that signed it; "
                "consul.tls_server_name is the name in it, as server.dc1.consul, where that is not the address's",
            )
        reason = error.reason or "" if isinstance(error, ssl.SSLError) else ""
        if any(word in reason for word in _WHO_ARE_YOU):
            return self._no_client(reason)
        if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
            return self._no_way("it speaks no TLS", "write http:// in consul.address, or name its port of https")
        if reason:
            return self._no_way("TLS failed: {}".format(error), "look into the agent's log")
        if self._url.scheme == "https" and not self._certificate and isinstance(error, ConnectionError):
            # What an agent says of a missing certificate is lost where it closes the line at once.
            return self._no_client(str(error)) if isinstance(error, (ConnectionResetError, BrokenPipeError)) else None
        return None

    def _no_client(self, reason: str) -> Failure:
        if self._certificate:
            return self._no_way(
                "it does not take the client certificate {} ({})".format(self._certificate, reason),
                "is it signed by the authority that the agent knows, and still valid?",
            )
        return self._no_way(
            "it asks for a client certificate ({})".format(reason),
            "name one in consul.client_cert and consul.client_key (CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY there)",
        )

    def refusal_of(self, status: int, content: bytes) -> Optional[Failure]:
        """What an answer says of the way, and not of what was asked."""
        if status == 400 and _SPEAKS_HTTPS in content:
            return self._no_way(
                "it speaks https", "write https:// in consul.address, or set CONSUL_HTTP_SSL=true there"
            )
        if status == 400 and (b"X-Consul-Namespace" in content or b"X-Consul-Partition" in content):
            return self._no_way(
                "it knows no namespaces: they are Consul Enterprise's",
                "take consul.namespace out, and CONSUL_NAMESPACE and CONSUL_PARTITION there",
            )
        return None

    def _no_way(self, why: str, hint: str) -> Failure:
        return Failure("consul", "Consul at {} can't be used: {}".format(self.address, why), hint=hint)


def _path(path: Optional[str]) -> Optional[str]:
    return os.path.expanduser(path) if path else None


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _read_token(path: Optional[str]) -> Optional[str]:
    if not path:
        return os.environ.get("CONSUL_HTTP_TOKEN") or None
    try:
        with open(os.path.expanduser(path)) as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            "consul",
            "the Consul token file {} on the build server can't be read: {}".format(
                path, getattr(error, "strerror", None) or "it is not text"
            ),
            hint="mend consul.token_file, or the file's rights",
        ) from error
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise Failure(
            "consul",
            "the Consul token file {} on the build server must hold the token and nothing else".format(path),
            hint="one line, without spaces or comments",
        )
    return token or None


class _TlsConnection(http.client.HTTPSConnection):
    """With another name in the certificate than the address's, if there is one."""

    def __init__(self, host: str, port: int, timeout: float, context: ssl.SSLContext, name: str) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._made, self._name = context, name

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._made.wrap_socket(self.sock, server_hostname=self._name)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
