"""The operator's end of the line to the worker: ask and wait, hear what is told meanwhile, keep saying that we live."""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from deploytool.connection.channel import Channel
from deploytool.connection.protocol import is_answer
from deploytool.errors import BY_KIND, ConnectionFailed, DeployError
from deploytool.text.untrusted import read_json
from deploytool.trace import log
from deploytool.worker import wire
from deploytool.worker.shapes import plain, read

#: The worker holds the operator for dead after 90 s without one.
BEAT_SECONDS = 5.0
#: The worker answers each beat. After this long without a word it counts as gone, whatever the connection looks like.
SILENT_SECONDS = 60.0
#: No answer comes near it: the manifests of a thousand deployments have a tenth of that.
LONGEST_LINE_BYTES = 256 << 20

Message = dict[str, Any]
#: hears what is told, of the class that `wire.EVENTS` has for the request
Listener = Callable[[Any], None]
A = TypeVar("A")


class Worker(Protocol):
    """What the story of a deployment needs of a worker."""

    def start(
        self,
        do: str,
        kind: type[A],
        /,
        *,
        after: "Asked | None" = None,
        expect: Mapping[str, object] | None = None,
        told: Listener | None = None,
        **parameters: object,
    ) -> "Pending[A]":
        """Ask without waiting: what is asked in a row costs one round trip together.

        The worker does it beside whatever else it was asked. With `after` it begins once that has gone well, and never
        if that failed, or if all is cancelled before its turn. An answer that has not the values of `expect` is an
        answer like any other, and has not gone well. `kind` is the class of the answer; `told` hears what is told
        meanwhile.
        """


class Pending(Generic[A]):
    """A question under way, or in line after another, and the class of its answer."""

    def __init__(
        self,
        where: str,
        do: str,
        kind: type[A],
        *,
        number: int = 0,
        after: "Asked | None" = None,
        told: Listener | None = None,
    ) -> None:
        self.number = number
        self.do = do
        self.after = after
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._where = where
        self._told = told
        self.kind = kind
        self._last: Message | None = None
        self.sent_at, self.sent_bytes = time.monotonic(), 0

    def deliver(self, message: Message) -> None:
        self._messages.put(message)

    def hear(self, timeout_seconds: float) -> Any:
        """The next that is told, of the class in `wire.EVENTS`; None if it is not told in time. Raises DeployError."""
        try:
            message = self._messages.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if "event" in message:
            return read(wire.EVENTS[self.do], message["event"])
        self._last = message
        _checked(message)
        return None

    def answer(self, *, told: Listener | None = None, limit_seconds: float | None = None) -> A:
        """Wait for the answer; `told` hears what is told meanwhile. May be called again.

        Whatever this comes after is waited for first, so that of several the one that failed tells why. Raises
        DeployError. `limit_seconds` is for whoever is about to leave: no answer in that time is ConnectionFailed.
        """
        if self.after is not None:
            self.after.answer(limit_seconds=limit_seconds)
        begin = time.monotonic()
        told = told or self._told
        while self._last is None:
            # A time-out, so that Ctrl-C gets through on every platform.
            event = self.hear(0.5)
            if event is not None:
                if told is not None:
                    told(event)
            elif self._last is None and limit_seconds is not None and time.monotonic() - begin > limit_seconds:
                raise ConnectionFailed(f"the worker on {self._where} did not answer within {limit_seconds:g} s")
        return read(self.kind, _checked(self._last)["ok"])


#: whatever it is answered
Asked = Pending[Any]


class Later(Generic[A]):
    """What is known once several have answered; asked without waiting, as they were."""

    def __init__(self, answer: Callable[[], A]) -> None:
        self.answer = answer


def error_of(trouble: wire.Trouble) -> DeployError:
    return BY_KIND[trouble.kind](trouble.message, tail=trouble.tail, hint=trouble.hint)


def _checked(message: Message) -> Message:
    """The message; an error is raised."""
    if "error" in message:
        raise error_of(read(wire.Trouble, message["error"]))
    return message


def _trace(asked: Asked, message: Message, received_bytes: int) -> None:
    if "event" not in message:
        failed = f", failed: {message['error']['message']}" if "error" in message else ""
        milliseconds = (time.monotonic() - asked.sent_at) * 1000
        log.info(
            "%s: %.0f ms, %d bytes there, %d back%s", asked.do, milliseconds, asked.sent_bytes, received_bytes, failed
        )
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s receives %s", asked.do, json.dumps(message.get("ok", message)))


def _line(message: Mapping[str, object]) -> str:
    """What is sent, as a line of JSON; in it are values of `wire`."""
    return json.dumps(plain(message))


class _Nonsense(Exception):
    """What came over the line is no message of our worker's; the text says what it is."""


class WorkerClient:
    """A worker that was started on the build server."""

    def __init__(self, channel: Channel, read: Callable[[], bytes], where: str) -> None:
        self._channel = channel
        self._read = read
        self._where = where
        self._asked: dict[int, Asked] = {}
        self._number = 0
        self._guard = threading.Lock()
        self._cut: Message | None = None
        self._heard = time.monotonic()
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        threading.Thread(target=self._beat, daemon=True).start()

    def start(
        self,
        do: str,
        kind: type[A],
        /,
        *,
        after: Asked | None = None,
        expect: Mapping[str, object] | None = None,
        told: Listener | None = None,
        **parameters: object,
    ) -> Pending[A]:
        with self._guard:
            self._number += 1
            asked = Pending(self._where, do, kind, number=self._number, after=after, told=told)
            self._asked[asked.number] = asked
            if self._cut is not None:
                asked.deliver(self._cut)
                return asked
        order = {} if after is None else {"after": after.number}
        condition = {} if expect is None else {"expect": dict(expect)}
        self._send({"id": asked.number, "do": do, **order, **condition, **parameters}, asked)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s sends %s", do, _line(parameters))
        return asked

    def close(self) -> None:
        """End the line; the worker ends what still runs, takes back what was not let go, and frees its locks."""
        self._closing.set()
        self._channel.end()
        self._reader.join(2)

    def _send(self, message: Mapping[str, Any], asked: Asked | None = None) -> None:
        data = (_line(message) + "\n").encode()
        if asked is not None:
            # Before its answer may come.
            asked.sent_bytes = len(data)
        try:
            with self._guard:
                self._channel.write(data)
        except OSError as error:
            self._cut_off(str(error))

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            self._send({"beat": True})
            silent = time.monotonic() - self._heard
            if silent > SILENT_SECONDS:
                self._cut_off(f"it sent nothing for {silent:.0f} s")

    def _listen(self) -> None:
        # Joined once its end is there: a long line comes in many pieces.
        line: list[bytes] = []
        why = "the connection ended"
        try:
            while data := self._read():
                self._heard = time.monotonic()
                first, *others = data.split(b"\n")
                line.append(first)
                for other in others:
                    self._deliver(b"".join(line))
                    line = [other]
                if sum(map(len, line)) > LONGEST_LINE_BYTES:
                    raise _Nonsense("a line without an end")
        except (OSError, EOFError):
            pass
        except _Nonsense as nonsense:
            why = f"it sent {nonsense}"
        self._cut_off(why)

    def _deliver(self, line: bytes) -> None:
        """Hand a message to whoever asked. Raises _Nonsense for one of another shape than its question's answers."""
        if not line.startswith(b"{"):
            # What a login script leaves running may write here; nobody waits for that.
            return
        try:
            message = read_json(line)
        except ValueError as error:
            raise _Nonsense("a line that is not JSON") from error
        if "id" not in message:
            # The answer to a beat.
            return
        number = message["id"]
        with self._guard:
            asked = self._asked.get(number) if isinstance(number, int) else None
            if asked is None:
                # Not any more: all waiting was ended.
                return
            if not is_answer(asked.do, message):
                raise _Nonsense(f"an invalid answer to `{asked.do}`")
            if "event" not in message:
                del self._asked[number]
        _trace(asked, message, len(line))
        asked.deliver(message)

    def _cut_off(self, why: str) -> None:
        message: Message = {
            "error": {
                "kind": ConnectionFailed.kind,
                "message": f"the connection to the build server {self._where} broke: {why}",
                "tail": list(self._channel.last_words()),
                "hint": "run the same command again. What ran there ends within 90 s, or with that command if the "
                "worker was killed",
            }
        }
        with self._guard:
            if self._cut is not None:
                return
            self._cut = message
            waiting = list(self._asked.values())
            self._asked.clear()
        for asked in waiting:
            asked.deliver(message)
