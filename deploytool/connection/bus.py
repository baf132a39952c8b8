"""Consul, or what takes its place, as a command reaches it: through the worker, a method for each request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploytool.connection.client import Asked, Pending, Worker
from deploytool.worker import wire


@dataclass(frozen=True, slots=True)
class BusClient:
    """Each method asks without waiting: what is asked in a row costs one round trip together. See `Worker.start`."""

    _worker: Worker

    def status(self, roles: Mapping[str, Any], *, after: Asked | None = None) -> Pending[wire.Roles]:
        """What Consul says of the hosts of these roles, by the settings that choose them."""
        return self._worker.start("status", roles=dict(roles), after=after, kind=wire.Roles)

    def frozen(self, *, after: Asked | None = None) -> Pending[wire.Frozen]:
        """What comes after this is done only if the environment is not frozen."""
        return self._worker.start("frozen", after=after, expect={"frozen": None}, kind=wire.Frozen)

    def freeze(self, why: str) -> Pending[wire.Frozen]:
        return self._worker.start("freeze", why=why, kind=wire.Frozen)

    def thaw(self) -> Pending[wire.Thawed]:
        return self._worker.start("thaw", kind=wire.Thawed)

    def prune_keys(self, keep: Sequence[str], *, after: Asked | None = None) -> Pending[wire.Removed]:
        return self._worker.start("prune_keys", keep=list(keep), after=after, kind=wire.Removed)

    def announce(
        self,
        deployment: str,
        roles: Sequence[Mapping[str, object]],
        *,
        only_hosts: bool,
        wait: bool,
        in_waves: bool,
        goes_back: bool,
        after: Asked | None = None,
    ) -> Pending[wire.Frozen]:
        """Answers with the freeze that it passed, as it goes back."""
        return self._worker.start(
            "announce",
            deployment=deployment,
            roles=list(roles),
            only_hosts=only_hosts,
            wait=wait,
            in_waves=in_waves,
            goes_back=goes_back,
            after=after,
            kind=wire.Frozen,
        )

    def watch(self, deployment: str, *, after: Asked | None = None) -> Asked:
        """Hear the hosts' reports, as events, until `end_watch`."""
        return self._worker.start("watch", deployment=deployment, after=after)

    def end_watch(self) -> Pending[wire.Done]:
        return self._worker.start("end_watch", kind=wire.Done)

    def go(self) -> Pending[wire.Done]:
        """Let all hosts go."""
        return self._worker.start("go", kind=wire.Done)

    def go_only(self, hosts: Mapping[str, Sequence[str]]) -> Pending[wire.Done]:
        """Let these go, by role; the others wait on."""
        return self._worker.start("go", hosts=dict(hosts), kind=wire.Done)

    def halt(self, stay: Mapping[str, Sequence[str]]) -> Pending[wire.Done]:
        """No more hosts are let go, and what is expected of all but these, by role, is what it was."""
        return self._worker.start("halt", stay=dict(stay), kind=wire.Done)

    def settle(self) -> Pending[wire.Done]:
        """All have gone: it is expected of the roles as a whole."""
        return self._worker.start("settle", kind=wire.Done)

    def abort(self) -> Pending[wire.LetGo]:
        """Take the deployment back, unless its hosts have been let go."""
        return self._worker.start("abort", kind=wire.LetGo)
