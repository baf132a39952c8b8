"""Whatever Consul or S3 answers: what is asked for, or a Failure with a sentence, which has an exit code.

Both are asked through their own clients, down to the bytes of the answer; only the network is left out.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deploytool.worker.bus import Entry
from deploytool.worker.consul import Consul
from deploytool.worker.failure import Failure
from deploytool.worker.ownership import is_owned
from deploytool.worker.processes import Groups
from deploytool.worker.s3_store import S3Store
from deploytool.worker.wire import ConsulSettings, Credentials, Selector, StoreSettings

few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

NAMES = ("Key", "Value", "ModifyIndex", "Node", "Status", "Meta", "ID", "Errors", "Results", "What")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=2), inner, max_size=4)
        | st.fixed_dictionaries(dict.fromkeys(NAMES, inner))
    ),
    max_leaves=10,
)
#: an answer: status, body, headers
ANSWERS = st.tuples(
    st.sampled_from([200, 200, 200, 200, 204, 301, 400, 403, 404, 409, 418]),
    JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20) | st.just(b"[" * 20_000),
    st.dictionaries(st.just("x-consul-index"), st.text(max_size=5), max_size=1),
)


class Answering(Consul):
    """A Consul that answers each call the same."""

    def __init__(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        super().__init__(ConsulSettings("http://127.0.0.1:1"))
        self._answer = status, content, headers

    def _call(self, *_: Any) -> tuple[int, bytes, dict[str, str]]:
        return self._answer


CALLS: Mapping[str, Callable[[Consul], object]] = {
    "get": lambda consul: consul.get("a/b"),
    "list": lambda consul: consul.list("a/"),
    "wait": lambda consul: consul.wait("a/", index=3, wait_seconds=0.1),
    "keys": lambda consul: consul.keys("a/"),
    "read": lambda consul: consul.read(["a/b", "a/c"], most_bytes=5),
    "delete_keys": lambda consul: consul.delete_keys(["a//b"]),
    "put": lambda consul: consul.put("a/b", "value", expected_index=0),
    "put_all": lambda consul: consul.put_all([("a/b", "value", 0)]),
    "delete": lambda consul: consul.delete("a/b"),
    "names": lambda consul: consul.names("a/"),
    "delete_all": lambda consul: consul.delete_all("a/"),
    "fire": lambda consul: consul.fire("deploy_x", "url", []),
    "nodes": lambda consul: consul.hosts(Selector(nodes=["app1"])),
    "service": lambda consul: consul.hosts(Selector(service="web")),
    "node_meta": lambda consul: consul.hosts(Selector(node_meta={"role": "web"})),
}


@few
@given(ANSWERS)
@example((200, b'[{"Key": "a/b", "Value": "!!!", "ModifyIndex": 1}]', {}))
@example((200, b'[{"Key": "a/b", "Value": "eA==", "ModifyIndex": {}}]', {}))
@example((200, b'[{"Key": "a/b", "Value": "eA==", "ModifyIndex": 1e999}]', {}))
@example((200, b"null", {"x-consul-index": "-1"}))
@example((200, b"[[]]", {"x-consul-index": "\u0b6b" * 5000}))
@example((200, b'[{"Node": ["app1"], "Status": "passing", "Meta": 7}]', {}))
def test_any_answer_of_consul_is_an_answer_or_a_sentence(answer: tuple[int, bytes, dict[str, str]]) -> None:
    for call in CALLS.values():
        try:
            call(Answering(*answer))
        except Failure as failure:
            assert failure.kind == "consul"  # noqa: PT017


def test_key_that_was_not_asked_for_is_no_answer() -> None:
    def entry(key: str) -> dict[str, Any]:
        return {"Key": key, "Value": base64.b64encode(b"x").decode(), "ModifyIndex": 7}

    consul = Answering(200, json.dumps([entry("a/c"), entry("b/a/"), entry("a/b")]).encode(), {})
    assert consul.get("a/b") == Entry("a/b", "x", 7)
    assert consul.get("a/d") is None
    assert [each.key for each in consul.list("a/")] == ["a/c", "a/b"]


@pytest.mark.parametrize("content", [b"null", b"{}", b"[]", b'{"Errors": null}', b'{"Errors": "none"}', b"true"])
def test_hosts_are_let_go_only_by_an_answer_that_says_so(content: bytes) -> None:
    with pytest.raises(Failure, match="makes no sense"):
        Answering(200, content, {}).put_all([("a/b", "go all", 3)])


# --- S3


class Raw:
    """The body of an answer, as botocore reads it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Any:
        yield self._content

    def read(self, amount: int | None = None, **_: Any) -> bytes:
        content, self._content = self._content[:amount], self._content[len(self._content[:amount]) :]
        return content

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture(scope="module")
def answered() -> Callable[[int, bytes, dict[str, str]], S3Store]:
    """A store whose server answers each request the same."""
    settings = StoreSettings("s3://bucket/prefix", "http://127.0.0.1:1", "us-east-1", Credentials("a", "s", None))
    store = S3Store(settings, "", Groups(lambda _: None), read_only=True)
    answer: list[tuple[int, bytes, dict[str, str]]] = []

    def send(**_: Any) -> AWSResponse:
        status, content, headers = answer[-1]
        return AWSResponse("http://127.0.0.1:1", status, headers, Raw(content))

    store._client.meta.events.register("before-send.s3", send)

    def answering(status: int, content: bytes, headers: dict[str, str]) -> S3Store:
        answer.append((status, content, headers))
        return store

    return answering


TAGS = ("Contents", "Key", "Code", "Message", "IsTruncated", "UploadId", "Upload", "Initiated", "KeyCount", "Size")
XML = st.recursive(
    st.text(alphabet="ab/1 \x1b", max_size=6),
    lambda inner: st.lists(st.tuples(st.sampled_from(TAGS), inner), max_size=4).map(
        lambda each: "".join(f"<{tag}>{text}</{tag}>" for tag, text in each)
    ),
    max_leaves=8,
)
S3_ANSWERS = st.tuples(
    st.sampled_from([200, 200, 200, 204, 304, 400, 403, 404, 412]),
    st.binary(max_size=20)
    | st.tuples(st.sampled_from(["ListBucketResult", "Error", "x"]), XML).map(
        lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>".encode()
    ),
    st.dictionaries(
        st.sampled_from(["Content-Length", "Last-Modified", "ETag", "x-amz-expiration", "Content-Type"]),
        st.text(alphabet="ab12 -/,:", max_size=8),
        max_size=2,
    ),
)


@settings(few, max_examples=50)
@given(S3_ANSWERS)
@example((301, b"<Error><Code>PermanentRedirect</Code></Error>", {}))
@example((200, b"<html>Log in first</html>", {}))
@example((200, b"<ListBucketResult><Contents><Size>x</Size></Contents></ListBucketResult>", {}))
@example((200, b"", {"Content-Length": "many"}))
@example((200, b"", {"Last-Modified": "yesterday"}))
def test_any_answer_of_s3_is_an_answer_or_a_sentence(
    answered: Callable[[int, bytes, dict[str, str]], S3Store], answer: tuple[int, bytes, dict[str, str]]
) -> None:
    store = answered(*answer)

    def read() -> None:
        with store.open("a") as stream:
            stream.read()

    for call in (
        lambda: store.get("a"),
        lambda: store.exists("a"),
        lambda: store.put_new("a", b"x"),
        lambda: [key.split("/")[1] for key in store.list("releases/")],
        lambda: store.delete("a"),
        lambda: store.remove_unfinished("releases/", 0.0),
        lambda: is_owned(store, "s3://bucket/prefix", "shop"),
        read,
    ):
        try:
            call()
        except Failure as failure:
            assert failure.kind in ("store", "usage")  # noqa: PT017


def test_keys_that_were_not_asked_for_are_none_of_ours(
    answered: Callable[[int, bytes, dict[str, str]], S3Store],
) -> None:
    keys = ("prefix/releases/a", "releases/b", "x", "prefix/other", "prefixed/releases/c")
    listed = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    store = answered(200, f"<ListBucketResult>{listed}</ListBucketResult>".encode(), {})
    assert store.list("releases/") == ["releases/a"]
