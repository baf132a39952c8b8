"""The build server itself, as a command reaches it: through the worker, a method for each request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deploytool.connection.client import Asked, Pending, Worker
from deploytool.model.release import Release
from deploytool.worker import wire


@dataclass(frozen=True, slots=True)
class BuildServer:
    """Each method asks without waiting: what is asked in a row costs one round trip together. See `Worker.start`."""

    _worker: Worker

    def greet(self, greeting: wire.Greeting) -> Pending[wire.Hello]:
        """Comes first, and tells the settings of the run."""
        return self._worker.start("hello", wire.Hello, greeting=greeting)

    def lock(
        self, name: str, *, wait: bool, told: Callable[[wire.Waiting], None], after: Asked | None = None
    ) -> Pending[wire.Done]:
        """Take a lock. With `wait`, wait until it is free, and tell for whom; else LockedError."""
        return self._worker.start("lock", wire.Done, name=name, wait=wait, after=after, told=told)

    def release_lock(self, name: str, *, after: Asked | None = None) -> Pending[wire.Done]:
        return self._worker.start("release_lock", wire.Done, name=name, after=after)

    def lock_holder(self, name: str) -> Pending[wire.Holder]:
        return self._worker.start("lock_holder", wire.Holder, name=name)

    def break_lock(self, name: str) -> Pending[wire.Broken]:
        """End whoever holds it."""
        return self._worker.start("break_lock", wire.Broken, name=name)

    def name_log(self, name: str) -> Pending[wire.LogFile]:
        return self._worker.start("name_log", wire.LogFile, name=name)

    def run(
        self, step: str, script: str, timeout_seconds: float, *, after: Asked | None = None
    ) -> Pending[wire.StepEnd]:
        """Run a step. What comes after this is done only if it ends with 0. `Line`s are told meanwhile."""
        return self._worker.start(
            "run",
            wire.StepEnd,
            after=after,
            expect={"exit_code": 0},
            step=step,
            script=script,
            timeout_seconds=timeout_seconds,
        )

    def cancel(self) -> Pending[wire.Done]:
        """End what runs."""
        return self._worker.start("cancel", wire.Done)

    def install_compressor(self, *, again: bool) -> Pending[wire.Compressor]:
        """Install what compresses, if it has to be. With `again`, also if that failed just now."""
        return self._worker.start("install_compressor", wire.Compressor, again=again)

    def publish_archive(
        self,
        directory: str,
        key: str,
        *,
        exclude: Sequence[str],
        epoch: int,
        workspace: str,
        allow: Sequence[str],
        links: Mapping[str, Sequence[str]],
        demands: Sequence[wire.Demand],
        lock_files: Sequence[str],
        after: Asked | None = None,
    ) -> Pending[wire.Packed]:
        """See `BuildRequests.publish_archive`."""
        return self._worker.start(
            "publish_archive",
            wire.Packed,
            after=after,
            directory=directory,
            exclude=exclude,
            epoch=epoch,
            key=key,
            workspace=workspace,
            allow=allow,
            links=links,
            demands=demands,
            lock_files=lock_files,
        )

    def unpack_release(self, release: Release) -> Pending[wire.Unpacked]:
        """Unpack the release's archive under its name, in place of this environment's last."""
        return self._worker.start(
            "unpack_release",
            wire.Unpacked,
            key=release.archive_key,
            compression=release.compression,
            checksum=release.checksum,
            size_bytes=release.size_bytes,
            unpacked_bytes=release.unpacked_bytes,
            name=release.id,
        )

    def remove_unpacked(self) -> Pending[wire.Done]:
        return self._worker.start("remove_unpacked", wire.Done)

    def prune(self, keep: Sequence[str], logs: int, *, after: Asked | None = None) -> Pending[wire.Freed]:
        """Remove old logs, leftovers of migrations in this environment, and worker files of old versions."""
        return self._worker.start("prune_build_server", wire.Freed, keep=keep, logs=logs, after=after)
