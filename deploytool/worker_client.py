"""The operator's end of the line to the worker: ask and wait, hear what is told meanwhile, keep saying that we live."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from deploytool.build_server import Channel
from deploytool.errors import (
    ConnectionFailed,
    ConsulError,
    DeployError,
    Interrupted,
    LockedError,
    StepError,
    StoreError,
    UsageError,
)

#: The worker holds the operator for dead after 90 s without one.
BEAT_SECONDS = 5.0
#: The worker answers each beat. After this long without a word it counts as gone, whatever the connection looks like.
SILENT_SECONDS = 60.0

ERRORS: Mapping[str, type[DeployError]] = {
    error.kind: error
    for error in (UsageError, LockedError, StepError, ConnectionFailed, StoreError, ConsulError, Interrupted)
}

Answer = dict[str, Any]
Listener = Callable[[Answer], None]


class Worker(Protocol):
    """What the story of a deployment needs of a worker."""

    def ask(
        self, do: str, *, told: Listener | None = None, limit_seconds: float | None = None, **parameters: Any
    ) -> Answer:
        """Ask, wait, return the answer; `told` hears what is told meanwhile. Raises DeployError.

        `limit_seconds` is for whoever is about to leave: no answer in that time is ConnectionFailed.
        """

    def start(self, do: str, **parameters: Any) -> "Asked":
        """Ask without waiting."""


class Asked:
    """A question under way. Iterating gives what is told, until the answer is there."""

    def __init__(self, where: str) -> None:
        self._messages: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._where = where

    def deliver(self, message: Answer) -> None:
        self._messages.put(message)

    def next(self, timeout_seconds: float) -> Answer | None:
        """The next message: `{"event": …}` or `{"ok": …}`; None if none comes in time. Raises its error."""
        try:
            message = self._messages.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        error = message.get("error")
        if error is None:
            return message
        raise ERRORS.get(error["kind"], DeployError)(error["message"], tail=error["tail"], hint=error["hint"])

    def events(self, limit_seconds: float | None = None) -> Iterator[Answer]:
        """What is told, until the answer is there: then `answer` holds it."""
        begin = time.monotonic()
        while True:
            # A time-out, so that Ctrl-C gets through on every platform.
            message = self.next(0.5)
            if message is None:
                if limit_seconds is not None and time.monotonic() - begin > limit_seconds:
                    raise ConnectionFailed(f"the worker on {self._where} did not answer within {limit_seconds:g} s")
                continue
            if "ok" in message:
                self.answer: Answer = message["ok"]
                return
            yield message["event"]


class WorkerClient:
    """A worker that was started on the build server."""

    def __init__(self, channel: Channel, read: Callable[[], bytes], where: str) -> None:
        self._channel = channel
        self._read = read
        self._where = where
        self._asked: dict[int, Asked] = {}
        self._number = 0
        self._guard = threading.Lock()
        self._cut: Answer | None = None
        self._heard = time.monotonic()
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        threading.Thread(target=self._beat, daemon=True).start()

    def start(self, do: str, **parameters: Any) -> Asked:
        asked = Asked(self._where)
        with self._guard:
            self._number += 1
            number = self._number
            self._asked[number] = asked
            if self._cut is not None:
                asked.deliver(self._cut)
                return asked
        self._send({"id": number, "do": do, **parameters})
        return asked

    def ask(
        self, do: str, *, told: Listener | None = None, limit_seconds: float | None = None, **parameters: Any
    ) -> Answer:
        asked = self.start(do, **parameters)
        for event in asked.events(limit_seconds):
            if told is not None:
                told(event)
        return asked.answer

    def close(self) -> None:
        """End the line; the worker ends what still runs, takes back what was not let go, and frees its locks."""
        self._closing.set()
        self._channel.end()
        self._reader.join(2)

    def _send(self, message: Mapping[str, Any]) -> None:
        data = (json.dumps(message) + "\n").encode()
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
                self._cut_off(f"nothing was heard from it for {silent:.0f} s")

    def _listen(self) -> None:
        rest = b""
        try:
            while data := self._read():
                *lines, rest = (rest + data).split(b"\n")
                self._heard = time.monotonic()
                for line in lines:
                    self._deliver(line)
        except (OSError, EOFError, ValueError):
            pass
        self._cut_off("the connection ended")

    def _deliver(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            # Nothing but the worker writes here; noise on the line is not an answer.
            return
        if "id" not in message:
            # The answer to a beat.
            return
        with self._guard:
            asked = self._asked.get(message["id"])
            if asked is not None and "event" not in message:
                del self._asked[message["id"]]
        if asked is not None:
            asked.deliver(message)

    def _cut_off(self, why: str) -> None:
        message: Answer = {
            "error": {
                "kind": ConnectionFailed.kind,
                "message": f"the connection to the build server {self._where} broke: {why}",
                "tail": list(self._channel.last_words()),
                "hint": "what ran there ends when its worker notices, within 90 s; if the worker itself was killed, "
                "with the next command. Run the same command again",
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
