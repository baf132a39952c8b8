"""Requests about the build server itself: locks, steps, archives, and what is left of old ones."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any, Dict, List, Optional

from . import archive, compressors, locks, retention, steps, unfinished, wire
from .context import Context, Tell
from .failure import Failure
from .inside import refuse_outside
from .lock_files import lock_file
from .own_isal import OwnIsal
from .standalone import Inspection


class BuildRequests:
    """Each public method is the request of its name."""

    def __init__(self, here: Context) -> None:
        self._here = here

    def lock(self, tell: Tell, name: str, wait: bool) -> None:
        """Take a lock. With `wait`, tell who holds it, about every 5 s, until it is free."""
        told = [0.0]

        def waiting(current: Dict[str, Any]) -> bool:
            if time.monotonic() - told[0] >= 5:
                told[0] = time.monotonic()
                tell(wire.Waiting(locks.sentence(current)))
            self._here.groups.refuse_if_cancelled("waiting for the {} lock".format(name))
            return True

        self._here.locks[name] = locks.acquire(
            self._here.lock_path(name), self._here.holder(), waiting=waiting if wait else None
        )

    def release_lock(self, tell: Tell, name: str) -> None:
        lock = self._here.locks.pop(name, None)
        if lock is not None:
            lock.release()

    def lock_holder(self, tell: Tell, name: str) -> wire.Holder:
        holder = locks.read_holder(self._here.lock_path(name))
        return wire.Holder(holder, locks.sentence(holder) if holder else None)

    def break_lock(self, tell: Tell, name: str) -> wire.Broken:
        holder = locks.break_lock(self._here.lock_path(name))
        return wire.Broken(locks.sentence(holder) if holder else None)

    def name_log(self, tell: Tell, name: str) -> wire.LogFile:
        log = self._here.current_log()
        log.rename(name)
        return wire.LogFile(log.path)

    def run(self, tell: Tell, step: str, script: str, timeout_seconds: float) -> wire.StepEnd:
        self._here.groups.refuse_if_cancelled("starting the step {}".format(step))
        try:
            return steps.run_step(
                step,
                script,
                timeout_seconds=timeout_seconds,
                log=steps.NoLog(self._here.masking) if self._here.read_only else self._here.current_log(),
                groups=self._here.groups,
                progress=lambda line: tell(wire.Line(line)),
            )
        except OSError as error:
            raise Failure(
                "step",
                "the step {} can't go on on the build server: {}".format(step, error),
                hint="is its disk full? see build.root",
            ) from error

    def cancel(self, tell: Tell) -> None:
        """End what runs now. Steps that are waited for answer `interrupted`."""
        self._here.groups.cancel("by the operator")

    @property
    def own_isal(self) -> OwnIsal:
        return OwnIsal(self._here.python_directory, read_only=self._here.read_only)

    @property
    def about_compressor(self) -> wire.Compressor:
        chosen = self._here.compressor
        return wire.Compressor(
            chosen.name, chosen.ready, self._here.masking.text(chosen.warning) if chosen.warning else None
        )

    def install_compressor(self, tell: Tell, again: bool) -> wire.Compressor:
        """Install the worker's own compressor if it has to be; the answer is what compresses from now on.

        If that failed less than an hour ago, it is tried with `again` only.
        """
        chosen = self._here.compressor
        if not chosen.ready or (again and chosen.warning):
            own = self.own_isal
            why_not = own.install(self._here.groups, again=again, mask=self._here.masking.text)
            self._here.compressor = compressors.after_installing(own, why_not)
        return self.about_compressor

    def publish_archive(
        self,
        tell: Tell,
        directory: str,
        exclude: List[str],
        epoch: int,
        key: str,
        workspace: Optional[str] = None,
        allow: List[str] = [],  # noqa: B006
        links: Dict[str, List[str]] = {},  # noqa: B006
        demands: List[wire.Demand] = [],  # noqa: B006
        lock_files: List[str] = [],  # noqa: B006
    ) -> wire.Packed:
        """Pack the tree and upload it under a new key, in one pass, by the compressor of `hello`.

        A build has had it installed before, as its name is an input of the build. From `workspace` on, it is what
        `Inspection` must know to tell whether the tree stands alone. Of `lock_files`, names in the directory, the
        answer has the texts.
        """
        store = self._here.own_store
        self.install_compressor(tell, again=False)
        if not os.path.isdir(directory):
            raise Failure("step", "the tree to pack, {}, is not there".format(directory))
        if workspace is not None:
            # A step may have replaced what the checkout saw.
            refuse_outside(workspace, os.path.join(directory, "."))
        settings = self._here.hello.store
        journal = unfinished.Journal(
            os.path.join(self._here.root, "uploads"), "{} {}".format(settings.endpoint_url, settings.url)
        )
        journal.remove_left(store)

        def go_on() -> None:
            self._here.groups.refuse_if_cancelled("uploading the release")

        inspection = Inspection(
            directory,
            [self._here.root],
            workspace=workspace,
            exclude=exclude,
            allow=allow,
            links=links,
            environment=self._here.hello.environment,
            demands=demands,
        )
        stream = archive.PackedStream(
            directory,
            exclude=exclude,
            epoch=epoch,
            compressor=self._here.compressor,
            groups=self._here.groups,
            inspection=inspection,
        )
        try:
            with journal.entry() as entry:
                store.upload(key, stream, lambda upload: entry.begin(key, upload), go_on)
            if stream.size_bytes == 0:
                raise Failure("step", "packing {} gave nothing".format(directory))
        finally:
            stream.stop()
        return wire.Packed(
            stream.checksum,
            stream.size_bytes,
            stream.unpacked_bytes,
            stream.links,
            [read for name in lock_files for read in lock_file(directory, name)],
        )

    def unpack_release(
        self,
        tell: Tell,
        key: str,
        compression: str,
        checksum: str,
        size_bytes: int,
        unpacked_bytes: int,
        name: str,
    ) -> wire.Unpacked:
        """Unpack an archive of the store below `unpacked/`, in place of this environment's last."""
        directory = os.path.join(self._here.root, "unpacked", self._here.hello.environment, name)
        refuse_outside(self._here.root, directory)
        shutil.rmtree(os.path.dirname(directory), ignore_errors=True)
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        with self._here.store.open(key) as stream:
            known = archive.Known(compression, checksum, size_bytes, unpacked_bytes)
            archive.unpack(stream, directory, known, self._here.groups)
        return wire.Unpacked(directory)

    def remove_unpacked(self, tell: Tell) -> None:
        directory = os.path.join(self._here.root, "unpacked", self._here.hello.environment)
        refuse_outside(self._here.root, directory)
        shutil.rmtree(directory, ignore_errors=True)

    def prune_build_server(self, tell: Tell, keep: List[str], logs: int) -> wire.Freed:
        """Remove old logs, leftovers of migrations in this environment, and worker files of old versions."""
        environment = self._here.hello.environment
        sweep = retention.Sweep()
        now = time.time()
        top = os.path.dirname(self._here.root)
        logs_directory, unpacked = (
            os.path.join(self._here.root, "logs"),
            os.path.join(self._here.root, "unpacked", environment),
        )
        worker_files = os.path.join(top, ".worker")
        if sweep.is_inside(self._here.root, os.path.join(logs_directory, ".")):
            retention.prune_logs(sweep, logs_directory, keep, logs, now=now)
        if sweep.is_inside(self._here.root, unpacked):
            retention.prune_unpacked(
                sweep,
                unpacked,
                self._here.lock_path(environment),
                None if environment in self._here.locks else self._here.holder(),
            )
        if sweep.is_inside(top, os.path.join(worker_files, ".")):
            retention.prune_worker_files(sweep, worker_files, now=now)
        return sweep.finish()
