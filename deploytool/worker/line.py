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
import re
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from deploytool.text.masking import Masking, secrets_in
from deploytool.text.untrusted import read_json

from . import archive, compressors, freezing, locks, ownership, retention, steps, unfinished
from .announcement import Announcement, deployment_named, watch_reports
from .bus import Bus
from .consul import Consul
from .directory_bus import DirectoryBus
from .failure import Failure
from .findings import Findings
from .inside import refuse_outside
from .own_isal import OwnIsal
from .probe import probe_hosts
from .processes import Groups, started_at
from .standalone import Inspection
from .store import open_store

#: An operator whose heartbeat stops for this long counts as gone, even if the connection seems to stand.
OPERATOR_GONE_SECONDS = 90.0
LAST_ANSWERS_SECONDS = 5.0

#: So many records are read from the store side by side.
READERS = 8
#: What deployments have written, which nobody ever writes again; and of how many objects a worker remembers the text.
WRITTEN_ONCE = re.compile(r"environments/[^/]+/deployments/.+\.json$")
REMEMBERED = 1000

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
        "store_list",
        "store_directories",
        "store_newest",
        "store_built",
        "status",
        "frozen",
    )
)

Tell = Callable[[Dict[str, Any]], None]


def now_text() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def newest(keys: Sequence[str], patterns: Sequence[Sequence[Any]]) -> List[str]:
    """Of each (pattern, count): the keys that match, and whose first group is among the `count` greatest; None: all."""
    chosen: List[str] = []
    for pattern, count in patterns:
        named = {key: found.group(1) for key in keys for found in [re.fullmatch(pattern, key)] if found}
        names = set(sorted(set(named.values()), reverse=True)[:count])
        chosen += [key for key, name in named.items() if name in names]
    return chosen


def has_enough(keys: Sequence[str], patterns: Sequence[Sequence[Any]]) -> bool:
    """Whether for each (pattern, count) there are that many first groups among the keys."""
    return all(
        len({found.group(1) for key in keys for found in [re.fullmatch(pattern, key)] if found}) >= count
        for pattern, count in patterns
        if count is not None
    )


def named_release(text: Optional[str]) -> Optional[str]:
    """The release that a record for reuse names; None for what is no such record."""
    try:
        name = read_json(text or "")["release"]
    except (ValueError, LookupError, TypeError):
        return None
    # It becomes part of keys; whether it is an id, the operator's side knows.
    return name if isinstance(name, str) and re.fullmatch("[0-9A-Za-z-]+", name) else None


class Worker:
    """One operator's worker: what it holds and what is under way."""

    def __init__(self, read: Any, write: Any, *, read_only: bool = False, to_compile: Optional[str] = None) -> None:
        """`to_compile` is the worker's own file if it is to be kept compiled, for the next start."""
        self._read = read
        self._write = write
        self._write_guard = threading.Lock()
        self._heard = time.monotonic()
        self._masking = Masking()
        self._locks: Dict[str, locks.Lock] = {}
        #: key → text
        self._remembered: Dict[str, str] = {}
        #: prefix → a key before those that were newest when they were last asked for
        self._late: Dict[str, str] = {}
        self._groups = Groups(self._note_groups)
        self._log: Optional[steps.Log] = None
        self._read_only = read_only
        self._to_compile = to_compile
        self._bus_client: Optional[Bus] = None
        self._store_client: Any = None
        #: whether the store is this application's, or nobody's yet; None until it was looked at
        self._store_owned: Optional[bool] = None
        #: what is made at its first use is made once, though several requests may need it at the same time
        self._store_guard, self._bus_guard, self._log_guard = threading.Lock(), threading.Lock(), threading.Lock()
        self._announcement: Optional[Announcement] = None
        self._watch_ended = threading.Event()
        self._hello: Dict[str, Any] = {}
        self._root = ""
        self._compressor = compressors.Compressor("none", None)
        self._ending = threading.Lock()
        #: requests whose answer is owed, but for `watch`, which ends when it is told to
        self._owed: Set[int] = set()
        #: request → whether it went well, once that is known
        self._went_well: Dict[int, "Future[bool]"] = {}

    # --- the line

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
            if self._announcement is not None:
                self._announcement.tick(silent)
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
            if self._read_only and do not in READ_ONLY:
                raise Failure(
                    "bug",
                    "a worker that writes nothing was asked for `{}`, and refused".format(do),
                    hint="this is a bug in deploytool; please report it with the command that you gave",
                )
            result = action(lambda event: self.send({"id": number, "event": event}), **message) or {}
            went_well = all(result.get(name) == value for name, value in expect.items())
            self.send({"id": number, "ok": result})
        except Failure as failure:
            self.send({"id": number, "error": self._masking.value(failure.as_json())})
        except OSError as error:
            trouble = Failure(
                "step",
                "the build server could not do `{}`: {}".format(do, error),
                hint="is its disk full? see build.root",
            )
            self.send({"id": number, "error": self._masking.value(trouble.as_json())})
        except Exception as error:
            bug = Failure(
                "bug",
                "the worker failed in `{}`: {}: {}".format(do, type(error).__name__, error),
                tail=traceback.format_exc().splitlines()[-12:],
                hint="this is a bug in deploytool; please report it with the lines above",
            )
            self.send({"id": number, "error": self._masking.value(bug.as_json())})
        finally:
            self._went_well[number].set_result(went_well)
            self._owed.discard(number)

    def _wait_for(self, earlier: int, do: str) -> None:
        """Wait until that request has gone well. Raises Failure if it has not, or if all was cancelled meanwhile."""
        if not self._went_well[earlier].result():
            # The operator has been told why, by the answer to the earlier one.
            raise Failure("step", "`{}` was not begun: what it comes after has not gone well".format(do))
        self._groups.refuse_if_cancelled("waiting for the turn of `{}`".format(do))

    def end(self, why: str) -> None:
        """End the steps, take back what was announced, let go of the locks, and leave. Comes back to nobody."""
        if not self._ending.acquire(blocking=False):
            # Another thread is at it, and ends the process.
            threading.Event().wait()
        self._watch_ended.set()
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
                print(self._masking.text(traceback.format_exc()), end="", file=sys.stderr, flush=True)
        os._exit(0)

    def _end_steps(self, why: str) -> None:
        self._groups.cancel(why)

    def _let_answers_out(self, why: str) -> None:
        """Whoever waits for a step is told why it ended.

        And an upload whose source has died is given up, which needs a moment: its parts would stay and cost.
        """
        deadline = time.monotonic() + LAST_ANSWERS_SECONDS
        while self._owed and time.monotonic() < deadline:
            time.sleep(0.02)

    def _take_back(self, why: str) -> None:
        if self._announcement is not None:
            self._announcement.abort()
            # All were let go, and nobody is left who would say what follows from that.
            self._announcement.settle()

    def _release_locks(self, why: str) -> None:
        for lock in self._locks.values():
            lock.release()

    def _say_farewell(self, why: str) -> None:
        if self._log is not None:
            self._log.write("*** " + why)
            self._log.flush()

    def _keep_compiled(self, why: str) -> None:
        """Last of all, when nobody waits for anything else."""
        if self._to_compile is not None and not self._read_only:
            from .compiled import keep_compiled

            keep_compiled(self._to_compile)

    def _actions(self) -> Dict[str, Callable[..., Optional[Dict[str, Any]]]]:
        return {
            "hello": self.hello,
            "lock": self.lock,
            "release_lock": self.release_lock,
            "lock_holder": self.lock_holder,
            "break_lock": self.break_lock,
            "run": self.run,
            "name_log": self.name_log,
            "cancel": self.cancel,
            "install_compressor": self.install_compressor,
            "publish_archive": self.publish_archive,
            "unpack_release": self.unpack_release,
            "remove_unpacked": self.remove_unpacked,
            "store_get": self.store_get,
            "store_read": self.store_read,
            "store_exists": self.store_exists,
            "store_put": self.store_put,
            "store_list": self.store_list,
            "store_directories": self.store_directories,
            "store_newest": self.store_newest,
            "store_built": self.store_built,
            "store_delete": self.store_delete,
            "prune_uploads": self.prune_uploads,
            "check_store": self.check_store,
            "check_consul": self.check_consul,
            "probe_hosts": self.probe_hosts,
            "status": self.status,
            "frozen": self.frozen,
            "freeze": self.freeze,
            "thaw": self.thaw,
            "prune_keys": self.prune_keys,
            "prune_build_server": self.prune_build_server,
            "announce": self.announce,
            "watch": self.watch,
            "end_watch": self.end_watch,
            "go": self.go,
            "halt": self.halt,
            "settle": self.settle,
            "abort": self.abort,
        }

    # --- who speaks, and where

    def hello(self, tell: Tell, **given: Any) -> Dict[str, Any]:
        """Settings of this run: root, application, environment, store, consul, secrets, operator, purpose, read_only,
        compression (as `build.compression`). `compressor` in the answer is the one that a build would use: its name
        with its version, whether it is `ready` or a build installs it first, and a warning if it stands in for that.

        A worker that was started, or once greeted, as one that writes nothing stays so.
        """
        self._hello = given
        self._read_only = self._read_only or bool(given.get("read_only", False))
        # What the build server has for itself, steps can print as well.
        self._masking.learn([*given["secrets"], *secrets_in(os.environ)])
        # Before a step could print its token; what is wrong with it is told to the first who needs it.
        with contextlib.suppress(Failure, ValueError):
            self._open_bus()
        root = os.path.abspath(os.path.expanduser(given["root"]))
        self._root = os.path.join(root, given["application"])
        try:
            if not self._read_only:
                os.makedirs(self._root, exist_ok=True)
        except OSError as error:
            raise Failure(
                "step",
                "the work area {} can't be made on the build server: {}".format(self._root, error.strerror),
                hint="mend build.root, or the rights there",
            ) from error
        self._compressor = compressors.choose(given.get("compression", "none"), self._own_isal)
        if given["store"]["url"].startswith("s3:"):
            threading.Thread(target=self._prepare_store, daemon=True).start()
        return {
            "root": root,
            "python": "{}.{}.{}".format(*sys.version_info[:3]),
            "executable": sys.executable,
            "host": socket.gethostname(),
            "user": getpass.getuser(),
            "pid": os.getpid(),
            "time": time.time(),
            "compressor": self._about_compressor,
        }

    @property
    def _own_isal(self) -> OwnIsal:
        return OwnIsal(self._python_directory, read_only=self._read_only)

    @property
    def _about_compressor(self) -> Dict[str, Any]:
        return {
            "name": self._compressor.name,
            "ready": self._compressor.ready,
            "warning": self._masking.text(self._compressor.warning) if self._compressor.warning else None,
        }

    def install_compressor(self, tell: Tell, again: bool) -> Dict[str, Any]:
        """Install the worker's own compressor if it has to be; `compressor` is what compresses from now on.

        If that failed less than an hour ago, it is tried with `again` only.
        """
        chosen = self._compressor
        if not chosen.ready or (again and chosen.warning):
            own = self._own_isal
            why_not = own.install(self._groups, again=again, mask=self._masking.text)
            self._compressor = compressors.after_installing(own, why_not)
        return {"compressor": self._about_compressor}

    @property
    def _bus(self) -> Bus:
        return self._open_bus()

    def _open_bus(self) -> Bus:
        with self._bus_guard:
            if self._bus_client is None:
                settings = self._hello["consul"]
                address = settings.get("address")
                if address is not None and address.startswith("file:"):
                    self._bus_client = DirectoryBus(address, settings["receiver"])
                else:
                    consul = Consul(address, settings.get("token_file"))
                    self._masking.learn([consul.token or ""])
                    self._bus_client = consul
            return self._bus_client

    @property
    def _python_directory(self) -> str:
        """Where the worker keeps packages of its own."""
        return os.path.join(os.path.dirname(self._root), ".worker")

    @property
    def _store(self) -> Any:
        """The store, for reading: this application's, or nobody's yet. Raises Failure if it is another's."""
        with self._store_guard:
            if self._store_client is None:
                self._store_client = self._open_store(read_only=self._read_only)
            if self._store_owned is None:
                self._store_owned = ownership.is_owned(self._store_client, *self._store_and_application)
            return self._store_client

    @property
    def _own_store(self) -> Any:
        """The store, for writing and deleting: from now on this application's."""
        store = self._store
        with self._store_guard:
            if not self._store_owned:
                ownership.claim(store, *self._store_and_application)
                self._store_owned = True
        return store

    @property
    def _store_and_application(self) -> Tuple[str, str]:
        return self._hello["store"]["url"], self._hello["application"]

    def _open_store(self, *, read_only: bool) -> Any:
        return open_store(self._hello["store"], self._python_directory, self._groups, read_only=read_only)

    def _prepare_store(self) -> None:
        """Have the client ready when the first request for the store comes: boto3 takes a while to import.

        What goes wrong is tried again then, and told; boto3 is installed then as well, if it has to be.
        """
        with self._store_guard:
            if self._store_client is None:
                with contextlib.suppress(Exception):
                    self._store_client = self._open_store(read_only=True)

    @property
    def _prefix(self) -> str:
        return "deploytool/{application}/{environment}".format(**self._hello)

    # --- locks

    def _lock_path(self, name: str) -> str:
        return os.path.join(self._root, "locks", name)

    def lock(self, tell: Tell, name: str, wait: bool) -> None:
        """Take a lock. With `wait`, tell who holds it, about every 5 s, until it is free."""
        told = [0.0]

        def waiting(current: Dict[str, Any]) -> bool:
            if time.monotonic() - told[0] >= 5:
                told[0] = time.monotonic()
                tell({"waiting": locks.sentence(current)})
            self._groups.refuse_if_cancelled("waiting for the {} lock".format(name))
            return True

        self._locks[name] = locks.acquire(self._lock_path(name), self._holder(), waiting=waiting if wait else None)

    def _holder(self) -> Dict[str, Any]:
        return {
            "operator": self._hello["operator"],
            "environment": self._hello["environment"],
            "purpose": self._hello["purpose"],
            "since": now_text(),
            "pid": os.getpid(),
            "started": started_at(os.getpid()),
        }

    def release_lock(self, tell: Tell, name: str) -> None:
        lock = self._locks.pop(name, None)
        if lock is not None:
            lock.release()

    def lock_holder(self, tell: Tell, name: str) -> Dict[str, Any]:
        holder = locks.read_holder(self._lock_path(name))
        return {"holder": holder, "sentence": locks.sentence(holder) if holder else None}

    def break_lock(self, tell: Tell, name: str) -> Dict[str, Any]:
        holder = locks.break_lock(self._lock_path(name))
        return {"ended": locks.sentence(holder) if holder else None}

    def _note_groups(self, running: List[List[Any]]) -> None:
        for lock in list(self._locks.values()):
            lock.note_groups(running)

    # --- steps

    def _current_log(self) -> steps.Log:
        with self._log_guard:
            if self._log is None:
                name = "{}-{}-{}".format(
                    time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), self._hello["environment"], os.getpid()
                )
                self._log = steps.Log(os.path.join(self._root, "logs"), name, self._masking)
            return self._log

    def name_log(self, tell: Tell, name: str) -> Dict[str, Any]:
        log = self._current_log()
        log.rename(name)
        return {"log": log.path}

    def run(self, tell: Tell, step: str, script: str, timeout_seconds: float) -> Dict[str, Any]:
        self._groups.refuse_if_cancelled("starting the step {}".format(step))
        try:
            return steps.run_step(
                step,
                script,
                timeout_seconds=timeout_seconds,
                log=steps.NoLog(self._masking) if self._read_only else self._current_log(),
                groups=self._groups,
                progress=lambda line: tell({"line": line}),
            )
        except OSError as error:
            raise Failure(
                "step",
                "the step {} can't go on on the build server: {}".format(step, error),
                hint="is its disk full? see build.root",
            ) from error

    def cancel(self, tell: Tell) -> None:
        """End what runs now. Steps that are waited for answer `interrupted`."""
        self._groups.cancel("by the operator")

    # --- the store

    def publish_archive(
        self, tell: Tell, directory: str, exclude: List[str], epoch: int, key: str, **inspected: Any
    ) -> Dict[str, Any]:
        """Pack the tree and upload it under a new key, in one pass, by the compressor of `hello`.

        A build has had it installed before, as its name is an input of the build. `inspected` is what `Inspection` must
        know to tell whether the tree stands alone.
        """
        begin = time.monotonic()
        store = self._own_store
        self.install_compressor(tell, again=False)
        if not os.path.isdir(directory):
            raise Failure("step", "the tree to pack, {}, is not there".format(directory))
        if inspected.get("workspace") is not None:
            # A step may have replaced what the checkout saw.
            refuse_outside(inspected["workspace"], os.path.join(directory, "."))
        settings = self._hello["store"]
        journal = unfinished.Journal(
            os.path.join(self._root, "uploads"), "{} {}".format(settings.get("endpoint_url"), settings["url"])
        )
        journal.remove_left(store)

        def go_on() -> None:
            self._groups.refuse_if_cancelled("uploading the release")

        inspection = Inspection(
            directory, [self._root], exclude=exclude, environment=self._hello["environment"], **inspected
        )
        stream = archive.PackedStream(
            directory,
            exclude=exclude,
            epoch=epoch,
            compressor=self._compressor,
            groups=self._groups,
            inspection=inspection,
        )
        try:
            with journal.entry() as entry:
                store.upload(key, stream, lambda upload: entry.begin(key, upload), go_on)
            if stream.size_bytes == 0:
                raise Failure("step", "packing {} gave nothing".format(directory))
        finally:
            stream.stop()
        return {
            "checksum": stream.checksum,
            "size_bytes": stream.size_bytes,
            "unpacked_bytes": stream.unpacked_bytes,
            "compressor": self._compressor.name,
            "links": stream.links,
            "seconds": round(time.monotonic() - begin, 3),
        }

    def unpack_release(self, tell: Tell, key: str, compression: str, checksum: str, name: str) -> Dict[str, Any]:
        """Unpack an archive of the store below `unpacked/`, in place of this environment's last."""
        directory = os.path.join(self._root, "unpacked", self._hello["environment"], name)
        refuse_outside(self._root, directory)
        shutil.rmtree(os.path.dirname(directory), ignore_errors=True)
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        with self._store.open(key) as stream:
            archive.unpack(stream, directory, compression, checksum, self._groups)
        return {"directory": directory}

    def remove_unpacked(self, tell: Tell) -> None:
        directory = os.path.join(self._root, "unpacked", self._hello["environment"])
        refuse_outside(self._root, directory)
        shutil.rmtree(directory, ignore_errors=True)

    def store_get(self, tell: Tell, key: str) -> Dict[str, Any]:
        return {"content": self._text(key)}

    def _text(self, key: str) -> Optional[str]:
        """None if there is none. What is written once is asked for once, as a deploy looks back more than once."""
        if key in self._remembered:
            return self._remembered[key]
        content = self._store.get(key)
        if content is None:
            return None
        text: str = content.decode("utf-8", "replace")
        if WRITTEN_ONCE.match(key) and len(self._remembered) < REMEMBERED:
            self._remembered[key] = text
        return text

    def store_read(self, tell: Tell, keys: List[str]) -> Dict[str, Any]:
        """The text of each key, None where there is none."""
        contents: Dict[str, Optional[str]] = {}
        if not keys:
            return {"contents": contents}
        with ThreadPoolExecutor(READERS) as readers:
            asked = {key: readers.submit(self._text, key) for key in dict.fromkeys(keys)}
            try:
                for key, answer in asked.items():
                    contents[key] = answer.result()
                    self._groups.refuse_if_cancelled("reading the store")
            except BaseException:
                # Of a store that can't be reached no other keys are asked for.
                for answer in asked.values():
                    answer.cancel()
                raise
        return {"contents": contents}

    def store_newest(
        self, tell: Tell, prefix: str, patterns: List[List[Any]], since: Sequence[str] = (), read: bool = True
    ) -> Dict[str, Any]:
        """The keys below a prefix, and with them the texts of the `newest`; `whole`: whether these are all its keys.

        Where there are very many keys, those after the first of `since` will do that have as many as the patterns ask
        for. So it does not take longer with every key that was ever written. Asked again, those will do that come after
        where the newest began.
        """
        keys, whole = self._recent(prefix, patterns, since)
        chosen = newest(keys, patterns)
        if not whole and chosen and (before := keys[: keys.index(min(chosen))]):
            self._late[prefix] = before[-1]
        return {"keys": keys, "whole": whole, **self.store_read(tell, chosen if read else [])}

    def _recent(self, prefix: str, patterns: Sequence[Sequence[Any]], since: Sequence[str]) -> Tuple[List[str], bool]:
        """Keys below the prefix among which are the newest of the patterns, and whether these are all."""
        store = self._store
        if late := self._late.get(prefix):
            keys = store.list(prefix, late)
            if has_enough(keys, patterns):
                return keys, False
        first, whole = store.first(prefix)
        if whole:
            return first, True
        for beyond in since:
            keys = [key for key in first if key > beyond] + store.list(prefix, max(beyond, first[-1]))
            if has_enough(keys, patterns):
                return keys, False
        return first + store.list(prefix, first[-1]), True

    def store_built(self, tell: Tell, key: str) -> Dict[str, Any]:
        """The release that a record for reuse names, the text of that one's own record, and its keys.

        All is empty if it names none.
        """
        name = named_release(self._text(key))
        if name is None:
            return {"release": None, "record": None, "keys": []}
        below = "releases/{}/".format(name)
        return {"release": name, "record": self._text(below + "release.json"), "keys": self._store.list(below)}

    def store_exists(self, tell: Tell, key: str) -> Dict[str, Any]:
        return {"exists": self._store.exists(key)}

    def store_put(self, tell: Tell, entries: List[List[str]]) -> Dict[str, Any]:
        """Write each [key, content] in this order; names that exist already are given back, untouched."""
        store = self._own_store
        return {"existed": [key for key, content in entries if not store.put_new(key, content.encode())]}

    def store_list(self, tell: Tell, prefix: str, beyond: str = "") -> Dict[str, Any]:
        """The keys below a prefix; with `beyond`, those only that come after it."""
        return {"keys": self._store.list(prefix, beyond)}

    def store_directories(self, tell: Tell, prefix: str) -> Dict[str, Any]:
        """The names right below a prefix that have keys below them."""
        return {"names": self._store.directories(prefix)}

    def store_delete(self, tell: Tell, keys: List[str]) -> Dict[str, Any]:
        """Delete each key, strictly in this order and one after the other: whatever points to another goes first.

        One that is gone already is no error.
        """
        for key in keys:
            if any(part in ("", ".", "..") for part in key.split("/")):
                raise Failure(
                    "bug",
                    "{!r} is no key of the store that could be deleted".format(key),
                    hint="this is a bug in deploytool; please report it with the command that you gave",
                )
        store = self._own_store
        for key in keys:
            self._groups.refuse_if_cancelled("deleting {} from the store".format(key))
            store.delete(key)
        return {"deleted": len(keys)}

    def prune_uploads(self, tell: Tell) -> Dict[str, Any]:
        """Remove uploads of archives that began more than a day ago and never ended, whoever began them.

        A right that is missing for it is told: it must not make anything fail.
        """
        try:
            before = time.time() - retention.UPLOAD_SECONDS
            return {"removed": self._own_store.remove_unfinished("releases/", before), "trouble": None}
        except Failure as failure:
            return {"removed": [], "trouble": self._masking.value(failure.as_json())["message"]}

    # --- check

    def check_store(self, tell: Tell) -> Dict[str, Any]:
        """Try every right on the store; `findings` as `Findings` has them."""
        findings = Findings()
        trouble: Optional[Failure] = None
        try:
            store = self._store
        except Failure as failure:
            store, trouble = self._store_client, failure
        # Nothing is tried in a store that is another application's.
        if store is not None and (trouble is None or trouble.kind != "usage"):
            store.check(findings)
        # A right that is missing, or a bucket, is named by then.
        if trouble is not None and not findings.any_failed:
            findings.failed("store", trouble)
        return {"findings": self._masking.value(findings.all)}

    def check_consul(self, tell: Tell, probe: str, events: List[str], services: List[str]) -> Dict[str, Any]:
        """Try every right in Consul, with keys of `probe`, an id that no deployment has."""
        findings = Findings()
        self._bus.check(findings, self._prefix, probe, events, services)
        return {"findings": self._masking.value(findings.all)}

    def probe_hosts(
        self, tell: Tell, probe: str, place: str, roles: List[Dict[str, Any]], seconds: float
    ) -> Dict[str, Any]:
        """Have every host of the roles answer over the way that a deployment takes; see `probe.probe_hosts`."""
        found = probe_hosts(
            self._bus,
            self._store,
            self._prefix,
            place,
            probe,
            roles,
            seconds=seconds,
            go_on=lambda: self._groups.refuse_if_cancelled("waiting for the hosts' answers"),
        )
        return {"answers": found["answers"], "failures": self._masking.value(found["failures"])}

    # --- Consul

    def _role(self, role: str, selector: Dict[str, Any]) -> Dict[str, Any]:
        up, down = self._bus.hosts(selector)
        wanted = self._bus.get("{}/wanted/{}".format(self._prefix, role))
        return {
            "up": up,
            "down": down,
            "wanted": wanted.value if wanted else None,
            "exceptions": self._below("wanted/{}/".format(role)),
        }

    def _below(self, place: str) -> Dict[str, str]:
        """host → value of the keys there; a key further below is no host's"""
        top = "{}/{}".format(self._prefix, place)
        found = {entry.key[len(top) :]: entry.value for entry in self._bus.list(top)[0]}
        return {host: value for host, value in found.items() if "/" not in host}

    def status(self, tell: Tell, roles: Dict[str, Any]) -> Dict[str, Any]:
        """For each role: its hosts, those that are down, what is wanted of all and of single hosts (`exceptions`), each
        host's last word (`serving`), and the barriers of the deployments that are wanted (`go`).
        """
        answer = {}
        for role, selector in roles.items():
            found = self._role(role, selector)
            found["serving"] = self._below("serving/{}/".format(role))
            found["go"] = {}
            names = {deployment_named(value) for value in (found["wanted"] or "", *found["exceptions"].values())}
            for name in names - {None}:
                go = self._bus.get("{}/deployments/{}/{}/go".format(self._prefix, name, role))
                if go is not None:
                    found["go"][name] = go.value
            answer[role] = found
        return {"roles": answer}

    # --- freezing

    def frozen(self, tell: Tell) -> Dict[str, Any]:
        """Who froze the environment, when and why; null if it is not frozen."""
        return {"frozen": freezing.read(self._bus, self._prefix)}

    def freeze(self, tell: Tell, why: str) -> Dict[str, Any]:
        told = freezing.freeze(
            self._bus, self._prefix, why=self._masking.text(why), operator=self._hello["operator"], at=now_text()
        )
        return {"frozen": told}

    def thaw(self, tell: Tell) -> Dict[str, Any]:
        return {"was": freezing.thaw(self._bus, self._prefix)}

    # --- retention

    def prune_keys(self, tell: Tell, keep: List[str]) -> Dict[str, Any]:
        """Remove the keys of deployments that nobody needs any more; see `retention.prune_deployments`."""
        return {
            "removed": retention.prune_deployments(
                self._bus,
                self._prefix,
                keep,
                now=time.time(),
                go_on=lambda: self._groups.refuse_if_cancelled("removing keys of old deployments"),
            )
        }

    def prune_build_server(self, tell: Tell, keep: List[str], logs: int) -> Dict[str, Any]:
        """Remove old logs, leftovers of migrations in this environment, and worker files of old versions."""
        environment = self._hello["environment"]
        sweep = retention.Sweep()
        now = time.time()
        top = os.path.dirname(self._root)
        logs_directory, unpacked = os.path.join(self._root, "logs"), os.path.join(self._root, "unpacked", environment)
        worker_files = os.path.join(top, ".worker")
        if sweep.is_inside(self._root, os.path.join(logs_directory, ".")):
            retention.prune_logs(sweep, logs_directory, keep, logs, now=now)
        if sweep.is_inside(self._root, unpacked):
            retention.prune_unpacked(
                sweep,
                unpacked,
                self._lock_path(environment),
                None if environment in self._locks else self._holder(),
            )
        if sweep.is_inside(top, os.path.join(worker_files, ".")):
            retention.prune_worker_files(sweep, worker_files, now=now)
        return sweep.finish()

    # --- a deployment

    def announce(
        self,
        tell: Tell,
        deployment: str,
        roles: List[Dict[str, Any]],
        only_hosts: bool,
        wait: bool,
        in_waves: bool = False,
        goes_back: bool = False,
    ) -> Dict[str, Any]:
        self._groups.refuse_if_cancelled("announcing the deployment")
        self._announcement = Announcement(self._bus, self._prefix, deployment, roles, only_hosts, in_waves)
        return {"frozen": self._announcement.announce(wait=wait, goes_back=goes_back)}

    def watch(self, tell: Tell, deployment: str) -> None:
        """Tell the hosts' reports until `end_watch`."""
        # Its own: an earlier one may still wait for Consul, and is to end then.
        ended = self._watch_ended = threading.Event()
        watch_reports(self._bus, self._prefix, deployment, lambda news: tell({"reports": news}), ended)

    def end_watch(self, tell: Tell) -> None:
        self._watch_ended.set()

    def go(self, tell: Tell, hosts: Optional[Dict[str, List[str]]] = None) -> None:
        """Let all hosts go, or those by role; the others wait on."""
        assert self._announcement is not None
        self._announcement.go(hosts)

    def halt(self, tell: Tell, stay: Dict[str, List[str]]) -> None:
        """No more hosts are let go, and what is wanted of all but these is what it was."""
        assert self._announcement is not None
        self._announcement.halt(stay)

    def settle(self, tell: Tell) -> None:
        """All have gone: it is wanted of the roles as a whole."""
        assert self._announcement is not None
        self._announcement.settle()

    def abort(self, tell: Tell) -> Dict[str, Any]:
        """Take the deployment back, unless its hosts have been let go: `let_go` says so."""
        return {"let_go": self._announcement.abort() if self._announcement is not None else False}


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
