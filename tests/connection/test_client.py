"""The operator's end of the line: whatever comes over it, an answer has the right shape, or is a sentence."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploytool.connection.client import Asked, WorkerClient
from deploytool.errors import ConnectionFailed, ConsulError, DeployError
from deploytool.worker import line
from deploytool.worker.shapes import fits
from deploytool.worker.wire import ANSWERS, EVENTS, Done
from tests.support.shapes import of_kind

few = settings(max_examples=80, deadline=None)


class Line:
    """A channel whose other end says what a test gives it, once it is asked for the first time."""

    def __init__(self, said: bytes) -> None:
        self._said = [said[start : start + 7] for start in range(0, len(said), 7)]
        self._asked = threading.Event()

    def write(self, data: bytes) -> None:
        self._asked.set()

    def read(self) -> bytes:
        self._asked.wait(5)
        return self._said.pop(0) if self._said else b""

    def set_patience(self, seconds: float | None) -> None:
        pass

    def end(self, patience_seconds: float = 15) -> int | None:
        self._asked.set()
        return 0

    def last_words(self) -> tuple[str, ...]:
        return ()


@contextmanager
def asked(said: bytes | Mapping[str, Any], do: str = "store_list") -> Iterator[Asked]:
    """A request whose answer is `said`, then the end of the line."""
    if isinstance(said, Mapping):
        said = json.dumps({"id": 1, **said}).encode() + b"\n"
    line = Line(said)
    with closing(WorkerClient(line, line.read, "deploy@build")) as client:
        yield client.start(do, dict)


NUMBERS = st.integers(-2, 2) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["id", "ok", "error", "event", "kind", "message", "keys", "tail", "hint"])
            | st.text(max_size=2),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@few
@given(st.sampled_from(sorted(ANSWERS)).flatmap(lambda do: st.tuples(st.just(do), of_kind(ANSWERS[do]))))
def test_answer_of_its_shape_arrives_as_it_is(case: tuple[str, Any]) -> None:
    do, answer = case
    with asked({"ok": answer}, do) as question:
        assert question.answer() == answer


@few
@given(st.sampled_from(sorted(ANSWERS)), JSON)
def test_any_other_answer_is_a_sentence(do: str, answer: Any) -> None:
    with asked({"ok": answer}, do) as question:
        if fits(answer, ANSWERS[do]):
            assert question.answer() == answer
        else:
            with pytest.raises(ConnectionFailed, match="the connection to the build server deploy@build broke"):
                question.answer()


@pytest.mark.parametrize(
    "number",
    ["1" + "0" * 400, "1" + "0" * 5000, str(2**63), str(-(2**63) - 1), "1e300", "1e400", "-1e19", "NaN", "-Infinity"],
)
def test_number_that_64_bits_do_not_hold_is_no_answer(number: str) -> None:
    compressor = {"name": "gzip 1.12", "ready": True, "warning": None}
    hello = {**dict.fromkeys(get_type_hints(ANSWERS["hello"]), "x"), "compressor": compressor, "pid": 1, "time": 1.5}
    for do, answer, name in (
        ("hello", hello, "time"),
        ("hello", hello, "pid"),
        (
            "publish_archive",
            {"checksum": "x", "size_bytes": 1, "unpacked_bytes": 1, "links": {}, "lock_files": []},
            "size_bytes",
        ),
        ("prune_build_server", {"removed": [], "freed_bytes": 1}, "freed_bytes"),
    ):
        with asked({"ok": answer}, do) as question:
            assert question.answer() == answer
        said = json.dumps({"id": 1, "ok": {**answer, name: "HERE"}}).replace('"HERE"', number)
        with asked(said.encode() + b"\n", do) as question, pytest.raises(ConnectionFailed, match="build server"):
            question.answer()


@few
@given(JSON, st.sampled_from(["ok", "error", "event"]))
def test_any_message_is_an_answer_or_a_sentence(content: Any, kind: str) -> None:
    for message in (content, {"id": 1, kind: content}, {"id": content, kind: {"keys": []}}):
        with asked(json.dumps(message).encode() + b"\n") as question:
            try:
                assert fits(question.answer(), ANSWERS["store_list"])
            except DeployError as error:
                assert error.exit_code != 1 or error.message == content["message"]  # noqa: PT017


@few
@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_are_noise_or_a_sentence(noise: bytes, cut: bool) -> None:
    answer = b'{"id": 1, "ok": {"keys": ["a"]}}'
    with asked(noise + b"\n" + (answer[:-3] if cut else answer + b"\n")) as question:
        try:
            assert question.answer() == {"keys": ["a"]}
            assert not cut
        except ConnectionFailed:
            assert cut or noise.startswith(b"{") or b"\n{" in noise


@pytest.mark.parametrize(
    "said",
    [
        b"[1]\n7\nnull\nmotd\n",
        b'{"id": "1"}\n{"id": [1]}\n{"id": 2, "ok": {}}\n{"beat": true}\n',
    ],
)
def test_what_answers_nobody_is_passed_over(said: bytes) -> None:
    with asked(said + b'{"id": 1, "ok": {"keys": []}}\n') as question:
        assert question.answer() == {"keys": []}


def test_deeply_nested_answer_is_a_sentence() -> None:
    with (
        asked(b'{"id": 1, "ok": ' + b"[" * 100_000 + b"\n") as question,
        pytest.raises(ConnectionFailed, match="not JSON"),
    ):
        question.answer()


def test_line_without_an_end_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploytool.connection.client.LONGEST_LINE_BYTES", 1000)
    with asked(b"{" * 2000) as question, pytest.raises(ConnectionFailed, match="a line without an end"):
        question.answer()


@pytest.mark.parametrize("event", [{}, {"line": 1}, {"reports": [{"role": "web"}]}, None])
def test_event_of_another_shape_is_a_sentence(event: Any) -> None:
    for do in EVENTS:
        with (
            asked({"event": event}, do) as question,
            pytest.raises(ConnectionFailed, match=f"an invalid answer to `{do}`"),
        ):
            question.answer()


def test_error_has_the_exit_code_of_its_kind() -> None:
    error = {"kind": "consul", "message": "no leader", "tail": ["x"], "hint": None}
    with asked({"error": error}) as question, pytest.raises(ConsulError, match="no leader"):
        question.answer()
    for odd in ({**error, "kind": "fleet"}, {**error, "kind": []}, {**error, "tail": "x"}, {"kind": "consul"}, {}):
        with asked({"error": odd}) as question, pytest.raises(ConnectionFailed):
            question.answer()


def test_every_request_of_the_worker_has_its_shape() -> None:
    nowhere: Any = open(os.devnull, "rb")  # noqa: SIM115
    with nowhere:
        actions: Mapping[str, Callable[..., Any]] = line.Worker(nowhere, nowhere)._actions()
    assert set(ANSWERS) == set(actions)
    # What returns nothing is answered with nothing.
    answers = {name: get_type_hints(action)["return"] for name, action in actions.items()}
    assert {name: Done if kind is type(None) else kind for name, kind in answers.items()} == ANSWERS
