"""Buckets as people have them: encrypted, locked, of another account, behind a gateway.

moto is the server where SeaweedFS has no such thing. Answers that only Amazon gives come from a server of ours that
says them as Amazon's documentation has them.
"""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from deploytool.errors import SettingsError, StoreError
from deploytool.playground.playground import Playground
from deploytool.session import store_settings
from deploytool.settings import Settings, load_settings
from deploytool.worker import multipart
from deploytool.worker.failure import Failure
from deploytool.worker.processes import Groups
from deploytool.worker.s3_store import S3Store
from deploytool.worker.wire import Credentials, StoreSettings
from tests.support.certificates import own_certificate
from tests.support.http import serving, url_of
from tests.support.project import TINY, Project
from tests.support.waiting import until

LARGE = os.urandom(multipart.PART_BYTES + 1000)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The URL of a server that is all of AWS, as far as it is asked for here."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: process.poll() is not None or _listens(port), "moto listens")
            assert process.poll() is None
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(autouse=True)
def nobodys_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def client_of(url: str, service: str = "s3") -> Any:
    return boto3.client(
        service, endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="secret"
    )


def store(url: str, bucket: str, directory: Path, **changes: Any) -> S3Store:
    settings = {
        "url": f"s3://{bucket}/shop",
        "endpoint_url": url,
        "region": "us-east-1",
        "credentials": Credentials("a", "secret", None),
        **changes,
    }
    return S3Store(StoreSettings(**settings), str(directory), Groups(lambda groups: None), read_only=True)


class Source:
    def __init__(self, content: bytes) -> None:
        self._left = memoryview(content)

    def readinto(self, buffer: memoryview) -> int:
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


def write_both_ways(made: S3Store) -> None:
    """One object in one request, and one in parts."""
    assert made.put_new("small", b"small")
    made.upload("large", Source(LARGE), lambda upload_id: None, lambda: None)


# --- what objects are written with


def test_encryption_class_and_acl_are_asked_for_in_one_request_and_in_parts(moto: str, tmp_path: Path) -> None:
    s3, key = client_of(moto), client_of(moto, "kms").create_key()["KeyMetadata"]["KeyId"]
    s3.create_bucket(Bucket="encrypted")
    said = {
        "encryption": {"algorithm": "aws:kms", "kms_key": key, "bucket_key": True},
        "storage_class": "STANDARD_IA",
        "acl": "public-read",
    }
    settings = store_settings(settings_of(tmp_path, said))
    write_both_ways(store(moto, "encrypted", tmp_path, written_with=settings.written_with))
    for name in ("small", "large"):
        found = s3.head_object(Bucket="encrypted", Key=f"shop/{name}")
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"].endswith(key)) == ("aws:kms", True)
        assert found["StorageClass"] == "STANDARD_IA"
        # moto forgets it of what comes in parts.
        assert name == "large" or found["BucketKeyEnabled"]
        grants = s3.get_object_acl(Bucket="encrypted", Key=f"shop/{name}")["Grants"]
        assert any("AllUsers" in str(grant["Grantee"]) for grant in grants)


def test_nothing_is_asked_for_where_the_settings_say_nothing(moto: str, tmp_path: Path) -> None:
    assert store_settings(settings_of(tmp_path, {})).written_with == {}
    s3 = client_of(moto)
    s3.create_bucket(Bucket="plain")
    write_both_ways(store(moto, "plain", tmp_path))
    assert "SSEKMSKeyId" not in s3.head_object(Bucket="plain", Key="shop/large")


def test_bucket_with_object_lock_takes_releases(moto: str, tmp_path: Path) -> None:
    s3 = client_of(moto)
    s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    lock = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}}
    s3.put_object_lock_configuration(Bucket="locked", ObjectLockConfiguration=lock)
    made = store(moto, "locked", tmp_path)
    write_both_ways(made)
    assert (made.get("small"), made.get("large")) == (b"small", LARGE)
    assert not made.put_new("small", b"another")


def test_whoever_asks_pays_where_that_is_said(tmp_path: Path) -> None:
    for requester_pays in (True, False):
        with answering(200, "") as server:
            store(server.url, "theirs", tmp_path, requester_pays=requester_pays).exists("any")
            assert [seen.get("x-amz-request-payer") for seen in server.headers] == (
                ["requester"] if requester_pays else [None]
            )


# --- where the bucket is


def test_bucket_stands_in_the_hosts_name_where_the_server_wants_that(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_of(moto).create_bucket(Bucket="virtual")
    real, asked = socket.getaddrinfo, list[str]()

    def resolve(host: Any, *arguments: Any, **named: Any) -> Any:
        asked.append(str(host))
        return real("127.0.0.1" if str(host).endswith("s3.test") else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = moto.replace("127.0.0.1", "s3.test")
    store(url, "virtual", tmp_path, addressing="virtual").exists("any")
    store(url, "virtual", tmp_path).exists("any")
    assert asked == ["virtual.s3.test", "s3.test"]


# --- whose credentials


def settings_of(directory: Path, said: dict[str, Any]) -> Settings:
    (directory / "config").mkdir(exist_ok=True)
    (directory / "config/deploy.yml").write_text("")
    (directory / "config/production.yml").write_text(
        yaml.safe_dump(
            {
                "application": "shop",
                "repository": "git@git.example.org:shop.git",
                "deploy_to": "/srv/shop",
                "build": {"server": "build@build.example.org"},
                "store": {"url": "s3://bucket/shop", **said},
                "roles": {"web": {"hosts": {"nodes": ["app1"]}, "restart": "true"}},
            }
        )
    )
    return load_settings(directory, "production", {})


def test_operators_profile_may_assume_a_role(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "AWS_CONFIG_FILE").write_text(
        "[profile base]\naws_access_key_id = a\naws_secret_access_key = secret\n"
        "[profile deployer]\nrole_arn = arn:aws:iam::123456789012:role/deploy\n"
        "source_profile = base\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    found = store_settings(settings_of(tmp_path, {"credentials": "operator", "profile": "deployer"}))
    assert found.credentials is not None
    assert found.credentials.token
    assert found.credentials.access_key != "a"
    assert found.profile is None


def test_ci_jobs_token_is_taken_for_a_role(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("a.b.c")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/deploy")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    found = store_settings(settings_of(tmp_path, {"credentials": "operator"}))
    assert found.credentials is not None
    assert found.credentials.token


def test_operators_profile_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        store_settings(settings_of(tmp_path, {"credentials": "operator", "profile": "deployer"}))
    assert "deployer" in caught.value.message
    assert "store.profile" in str(caught.value.hint)


def test_profile_of_the_build_server_is_used_there_and_named_if_it_is_missing(moto: str, tmp_path: Path) -> None:
    found = store_settings(settings_of(tmp_path, {"profile": "deployer"}))
    assert (found.profile, found.credentials) == ("deployer", None)
    with pytest.raises(Failure) as caught:
        store(moto, "plain", tmp_path, profile="deployer", credentials=None)
    assert "deployer" in caught.value.message
    assert "store.profile" in str(caught.value.hint)
    (tmp_path / "AWS_SHARED_CREDENTIALS_FILE").write_text("[deployer]\naws_access_key_id=a\naws_secret_access_key=s\n")
    client_of(moto).create_bucket(Bucket="profiled")
    assert store(moto, "profiled", tmp_path, profile="deployer", credentials=None).put_new("small", b"small")


# --- what a server refuses


class Server:
    """Answers each request with the same, and keeps their headers."""

    http: ThreadingHTTPServer

    def __init__(self, status: int, body: str, headers: dict[str, str]) -> None:
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                pass

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        self.handler = Handler

    @property
    def url(self) -> str:
        return url_of(self.http)


@contextmanager
def answering(status: int, body: str, **headers: str) -> Iterator[Server]:
    server = Server(status, body, {name.replace("_", "-"): value for name, value in headers.items()})
    with serving(server.handler) as server.http:
        yield server


#: Amazon's code, its status and its words, and what the hint must say
REFUSALS: dict[str, tuple[int, str, str]] = {
    "RequestTimeTooSkewed": (
        403,
        "The difference between the times is too large.",
        "clock",
    ),
    "ExpiredToken": (400, "The provided token has expired.", "get new ones"),
    "PermanentRedirect": (301, "The bucket must be addressed using the specified endpoint.", "store.region: eu-west-1"),
    "AuthorizationHeaderMalformed": (400, "The region 'us-east-1' is wrong", "store.region: eu-west-1"),
    "AccessControlListNotSupported": (400, "The bucket does not allow ACLs", "`store.acl`"),
    "InvalidStorageClass": (400, "The storage class you specified is not valid", "store.storage_class"),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist", "mend the access key"),
    "SignatureDoesNotMatch": (403, "The request signature we calculated does not match", "mend the access key"),
    "KMS.DisabledException": (400, "arn:aws:kms:us-east-1:1:key/2 is disabled.", "kms:GenerateDataKey"),
    "AccessDenied": (403, "not authorized to perform: kms:GenerateDataKey on this resource", "kms:GenerateDataKey"),
    "InvalidObjectState": (403, "The operation is not valid for the object's storage class", "restore it"),
    "QuotaExceeded": (403, "Bucket quota exceeded", "store.keep_releases"),
    "AllAccessDisabled": (403, "All access to this object has been disabled", "its owner can tell why"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_what_amazon_refuses_has_a_hint_of_its_own(tmp_path: Path, code: str) -> None:
    status, message, hint = REFUSALS[code]
    region = "<Region>eu-west-1</Region>" if "region" in hint else ""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message>{region}</Error>"
    with answering(status, body) as server, pytest.raises(Failure) as caught:
        store(server.url, "bucket", tmp_path).put_new("any", b"thing")
    assert caught.value.message.startswith("writing any in s3://bucket ")
    assert code in caught.value.message
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_policy_that_demands_encryption_is_hinted_at_where_writing_is_denied(tmp_path: Path) -> None:
    body = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    with answering(403, body) as server, pytest.raises(Failure) as caught:
        store(server.url, "bucket", tmp_path).put_new("any", b"thing")
    assert "store.encryption" in str(caught.value.hint)


def test_certificate_that_nobody_here_trusts_is_said(tmp_path: Path) -> None:
    pair = own_certificate(tmp_path)
    with answering(200, "") as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
        with pytest.raises(Failure) as caught:
            store(server.url.replace("http:", "https:"), "bucket", tmp_path).put_new("any", b"thing")
    assert "certificate" in caught.value.message
    assert "AWS_CA_BUNDLE" in str(caught.value.hint)


def test_https_where_the_server_speaks_http_is_said(tmp_path: Path) -> None:
    with answering(200, "") as server, pytest.raises(Failure) as caught:
        store(server.url.replace("http:", "https:"), "bucket", tmp_path).put_new("any", b"thing")
    assert "speaks no TLS" in caught.value.message
    assert "http://" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://cache.internal/shop?token=1", "must not contain `?`"),
        ("https://me:secret@cache.internal/shop", "must not contain a user"),
        ("ftp://cache.internal", "must look like"),
    ],
)
def test_address_for_hosts_that_can_not_be_says_why(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of(tmp_path, {"hosts_url": url})
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


# --- hosts that fetch from elsewhere


class Gateway:
    """Serves what is below a prefix of the bucket to whoever asks, as a site's cache does."""

    def __init__(self, playground: Playground, prefix: str) -> None:
        self.asked: list[str] = []
        gateway, client = self, playground.s3_client()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                gateway.asked.append(self.path)
                body = client.get_object(Bucket=playground.bucket, Key=prefix + self.path)["Body"].read()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.handler = Handler


def test_hosts_fetch_from_a_gateway_that_the_settings_name(playground: Playground, tmp_path: Path) -> None:
    playground.add_application(TINY)
    project = Project(playground, tmp_path)
    prefix = project.settings["store"]["url"].partition(f"{playground.bucket}/")[2]
    gateway = Gateway(playground, prefix)
    with serving(gateway.handler) as server:
        project.settings["store"]["hosts_url"] = url_of(server)
        project.write()
        deployed = project.deploy()
        assert set(deployed.verdicts().values()) == {"verified"}
        archive = f"/releases/{deployed.json['release']}/"
        assert sum(path.startswith(archive) for path in gateway.asked) >= 3
        checked = project.fab("playground", "check", "--json")
        assert checked.code == 0, checked.out
        assert any("/checks/" in path for path in gateway.asked)
