"""The worker's line to the operator: requests in, answers out, each a line of JSON; when it is cut, all that runs ends.

A request is `{"id": 7, "do": "run", …}`; its answers are `{"id": 7, "event": …}` any number of times, then
`{"id": 7, "ok": …}` or `{"id": 7, "error": …}`. `{"beat": …}` says that the operator lives. Requests run side by
side, each in a thread of its own; one with `"after": 6` begins once 6 has gone well, and never if it has not: if it
failed, or if its answer has not the values that its own `expect` names. So the operator can send many requests at
once, and they are done one after the other, up to the first that does not go well.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from typing import Any, Callable, Dict, Optional, Set

from deploytool.text.masking import secrets_in

from . import compressors, shapes, strict, wire
from .context import Context, Tell
from .failure import Failure
from .requests_build import BuildRequests
from .requests_bus import BusRequests
from .requests_store import StoreRequests

#: An operator whose heartbeat stops for this long counts as gone, even if the connection seems to stand.
OPERATOR_GONE_SECONDS = 90.0
LAST_ANSWERS_SECONDS = 5.0

#: All that a worker does that was started to write nothing. `run` is among them: its scripts are the operator's, who
#: gives them a temporary directory of their own.
READ_ONLY = frozenset(
    (
        "hello",
        "run",
        "cancel",
        "lock_holder",
        "store_get",
        "store_read",
        "store_exists",
        "store_digest",
        "store_list",
        "store_directories",
        "store_newest",
        "store_built",
        "status",
        "frozen",
        "last_words",
    )
)


class Worker:
    """One operator's worker: its line, and what is under way."""

    def __init__(self, read: Any, write: Any, *, read_only: bool = False, to_compile: Optional[str] = None) -> None:
        """`to_compile` is the worker's own file if it is to be kept compiled, for the next start."""
        self._read = read
        self._write = write
        self._write_guard = threading.Lock()
        self._heard = time.monotonic()
        self._to_compile = to_compile
        self._here = Context(read_only=read_only)
        self._build, self._store, self._bus = (
            BuildRequests(self._here),
            StoreRequests(self._here),
            BusRequests(self._here),
        )
        self._ending = threading.Lock()
        #: requests whose answer is owed, but for `watch`, which ends when it is told to
        self._owed: Set[int] = set()
        #: request → whether it went well, once that is known
        self._went_well: Dict[int, "Future[bool]"] = {}

    def send(self, message: Dict[str, Any]) -> None:
        data = (json.dumps(message, ensure_ascii=True) + "\n").encode()
        with self._write_guard:
            try:
                self._write.write(data)
                self._write.flush()
            except (OSError, ValueError):
                # Nobody listens any more; the reader of stdin sees the same and ends the worker.
                pass

    def serve(self) -> None:
        """Answer requests until the operator's line ends, then end everything."""
        threading.Thread(target=self._mind_the_operator, daemon=True).start()
        try:
            for line in self._read:
                self._heard = time.monotonic()
                # A line without an end was cut, with the connection.
                if line.endswith(b"\n"):
                    message = json.loads(line.decode())
                    if "do" in message:
                        self._went_well[message["id"]] = Future()
                        threading.Thread(target=self._answer, args=(message,), daemon=True).start()
                    else:
                        self.send({"beat": True})
        finally:
            self.end("the operator's connection ended")

    def _mind_the_operator(self) -> None:
        while True:
            time.sleep(1)
            silent = time.monotonic() - self._heard
            if self._bus.announcement is not None:
                self._bus.announcement.tick(silent)
            if silent > OPERATOR_GONE_SECONDS:
                self.end("the operator was not heard for {} s".format(int(silent)))

    def _answer(self, message: Dict[str, Any]) -> None:
        number = message.pop("id")
        do = message.pop("do")
        after, expect = message.pop("after", None), message.pop("expect", {})
        if do != "watch":
            self._owed.add(number)
        went_well = False
        try:
            action = self._actions()[do]
            if after is not None:
                self._wait_for(after, do)
            if self._here.read_only and do not in READ_ONLY:
                raise Failure(
                    "bug",
                    "a worker that writes nothing was asked for `{}`, and refused".format(do),
                    hint="this is a bug in deploytool; please report it with the command that you gave",
                )
            asked = shapes.read_parameters(action, message)
            answer = action(lambda event: self.send({"id": number, "event": shapes.plain(event)}), **asked)
            result = shapes.plain(answer or wire.Done())
            went_well = all(result.get(name) == value for name, value in expect.items())
            self.send({"id": number, "ok": result})
        except Failure as failure:
            self._send_failure(number, failure)
        except OSError as error:
            trouble = "the build server could not do `{}`: {}".format(do, error)
            self._send_failure(number, Failure("step", trouble, hint="is its disk full? see build.root"))
        except Exception as error:
            bug = Failure(
                "bug",
                "the worker failed in `{}`: {}: {}".format(do, type(error).__name__, error),
                tail=traceback.format_exc().splitlines()[-12:],
                hint="this is a bug in deploytool; please report it with the lines above",
            )
            self._send_failure(number, bug)
        finally:
            self._went_well[number].set_result(went_well)
            self._owed.discard(number)

    def _send_failure(self, number: int, failure: Failure) -> None:
        self.send({"id": number, "error": shapes.plain(failure.masked(self._here.masking))})

    def _wait_for(self, earlier: int, do: str) -> None:
        """Wait until that request has gone well. Raises Failure if it has not, or if all was cancelled meanwhile."""
        if not self._went_well[earlier].result():
            # The operator has been told why, by the answer to the earlier one.
            raise Failure("step", "`{}` was not begun: what it comes after has not gone well".format(do))
        self._here.groups.refuse_if_cancelled("waiting for the turn of `{}`".format(do))

    def end(self, why: str) -> None:
        """End the steps, take back what was announced, let go of the locks, and leave. Comes back to nobody."""
        if not self._ending.acquire(blocking=False):
            # Another thread is at it, and ends the process.
            threading.Event().wait()
        self._bus.watch_ended.set()
        # In this order, and each whatever becomes of the others.
        for act in (
            self._end_steps,
            self._let_answers_out,
            self._take_back,
            self._release_locks,
            self._say_farewell,
            self._keep_compiled,
        ):
            try:
                act(why)
            except Exception:
                # The operator is shown them as last words.
                print(self._here.masking.text(traceback.format_exc()), end="", file=sys.stderr, flush=True)
        os._exit(0)

    def _end_steps(self, why: str) -> None:
        self._here.groups.cancel(why)

    def _let_answers_out(self, why: str) -> None:
        """Whoever waits for a step is told why it ended.

        And an upload whose source has died is given up, which needs a moment: its parts would stay and cost.
        """
        deadline = time.monotonic() + LAST_ANSWERS_SECONDS
        while self._owed and time.monotonic() < deadline:
            time.sleep(0.02)

    def _take_back(self, why: str) -> None:
        if self._bus.announcement is not None:
            self._bus.announcement.abort()
            # All were let go, and nobody is left who would say what follows from that.
            self._bus.announcement.settle()

    def _release_locks(self, why: str) -> None:
        for lock in self._here.locks.values():
            lock.release()

    def _say_farewell(self, why: str) -> None:
        if self._here.log is not None:
            self._here.log.write("*** " + why)
            self._here.log.flush()

    def _keep_compiled(self, why: str) -> None:
        """Last of all, when nobody waits for anything else."""
        if self._to_compile is not None and not self._here.read_only:
            from .compiled import keep_compiled

            keep_compiled(self._to_compile)

    def _actions(self) -> Dict[str, Callable[..., Any]]:
        actions: Dict[str, Callable[..., Any]] = {"hello": self.hello}
        for requests in (self._build, self._store, self._bus):
            for name, method in vars(type(requests)).items():
                if callable(method) and not name.startswith("_"):
                    actions[name] = getattr(requests, name)
        return actions

    def hello(self, tell: Tell, greeting: wire.Greeting) -> wire.Hello:
        """A worker that was started, or once greeted, as one that writes nothing stays so."""
        self._here.hello = greeting
        self._here.read_only = self._here.read_only or greeting.read_only
        # What the build server has for itself, steps can print as well.
        self._here.masking.learn([*greeting.secrets, *secrets_in(os.environ)])
        # Before a step could print its token; what is wrong with it is told to the first who needs it.
        with contextlib.suppress(Failure, ValueError):
            self._here.open_bus()
        root = os.path.abspath(os.path.expanduser(greeting.root))
        self._here.root = os.path.join(root, greeting.application)
        try:
            strict.refuse_unsafe_way(root, shared=True)
            if not self._here.read_only:
                os.makedirs(self._here.root, exist_ok=True)
            strict.refuse_unsafe_area(self._here.root)
        except strict.Unsafe as unsafe:
            sentence, hint = unsafe.args
            raise Failure("connection", "the build server can't be used safely: " + sentence, hint=hint) from None
        except OSError as error:
            raise Failure(
                "step",
                "the work area {} can't be made on the build server: {}".format(self._here.root, error.strerror),
                hint="mend build.root, or the rights there",
            ) from error
        self._here.compressor = compressors.choose(greeting.compression, self._build.own_isal)
        if greeting.store.url.startswith("s3:"):
            threading.Thread(target=self._here.prepare_store, daemon=True).start()
        return wire.Hello(
            root=root,
            python="{}.{}.{}".format(*sys.version_info[:3]),
            executable=sys.executable,
            host=socket.gethostname(),
            user=getpass.getuser(),
            pid=os.getpid(),
            time=time.time(),
            compressor=self._build.about_compressor,
        )


def main() -> None:
    # The line keeps its own descriptors; whatever else prints must not get into it.
    line_in = os.fdopen(os.dup(0), "rb")
    line_out = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    # Where it ends so, Python has compiled this module just now.
    to_compile = sys.argv[0] if __file__.endswith(".py") else None
    worker = Worker(line_in, line_out, read_only="read-only" in sys.argv[1:], to_compile=to_compile)

    def ended(number: int, frame: Any) -> None:
        # In a thread: the handler may have interrupted whatever holds the locks that `end` needs.
        threading.Thread(
            target=worker.end, args=("the worker was ended by signal {}, as `fab ENV unlock` does".format(number),)
        ).start()

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, ended)
    worker.serve()
