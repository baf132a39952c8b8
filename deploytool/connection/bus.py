"""Consul, or what takes its place, as a command reaches it: through the worker, a method for each request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploytool.connection.client import Asked, Pending, Worker
from deploytool.worker import wire


@dataclass(frozen=True, slots=True)
class BusClient:
    """Each method asks without waiting: what is asked in a row costs one round trip together. See `Worker.start`."""

    _worker: Worker

    def status(self, roles: Mapping[str, wire.Selector], *, after: Asked | None = None) -> Pending[wire.Roles]:
        """What Consul says of the hosts of these roles, by the settings that choose them."""
        return self._worker.start("status", wire.Roles, roles=roles, after=after)

    def frozen(self, *, after: Asked | None = None) -> Pending[wire.Frozen]:
        """What comes after this is done only if the environment is not frozen."""
        return self._worker.start("frozen", wire.Frozen, after=after, expect={"frozen": None})

    def freeze(self, why: str) -> Pending[wire.Frozen]:
        return self._worker.start("freeze", wire.Frozen, why=why)

    def thaw(self) -> Pending[wire.Thawed]:
        return self._worker.start("thaw", wire.Thawed)

    def prune_keys(self, keep: Sequence[str], *, after: Asked | None = None) -> Pending[wire.Removed]:
        return self._worker.start("prune_keys", wire.Removed, keep=keep, after=after)

    def publish(
        self, deployment: str, manifests: Mapping[str, str], signed: wire.Signed, *, after: Asked | None = None
    ) -> Pending[wire.Done]:
        """Put manifests where hosts read them: name → key of one that was put into the store before."""
        return self._worker.start(
            "publish", wire.Done, deployment=deployment, manifests=manifests, signed=signed, after=after
        )

    def announce(
        self,
        deployment: str,
        roles: Sequence[wire.Target],
        *,
        only_hosts: bool,
        wait: bool,
        in_waves: bool,
        goes_back: bool,
        after: Asked | None = None,
    ) -> Pending[wire.Announced]:
        """Answers with the freeze that it passed, as it goes back."""
        return self._worker.start(
            "announce",
            wire.Announced,
            deployment=deployment,
            roles=roles,
            only_hosts=only_hosts,
            wait=wait,
            in_waves=in_waves,
            goes_back=goes_back,
            after=after,
        )

    def watch(
        self, deployment: str, release: str, hosts: Mapping[str, Sequence[str]], *, after: Asked | None = None
    ) -> Pending[wire.Done]:
        """Hear the `Reports` of these hosts, by role, as events, until `end_watch`."""
        return self._worker.start("watch", wire.Done, deployment=deployment, release=release, hosts=hosts, after=after)

    def last_words(self, deployment: str, release: str, hosts: Mapping[str, Sequence[str]]) -> Pending[wire.Words]:
        """The last words of these hosts, by role, as they are now."""
        return self._worker.start("last_words", wire.Words, deployment=deployment, release=release, hosts=hosts)

    def check(self, probe: str, events: Sequence[str], services: Sequence[str]) -> Pending[wire.Findings]:
        """Try every right, with keys of `probe`, an id that no deployment has."""
        return self._worker.start("check_consul", wire.Findings, probe=probe, events=events, services=services)

    def probe(
        self, probe: str, place: str, roles: Sequence[wire.Question], signed: wire.Signed, seconds: float
    ) -> Pending[wire.Answers]:
        """Have every host of the roles answer over the way that a deployment takes."""
        return self._worker.start(
            "probe_hosts", wire.Answers, probe=probe, place=place, roles=roles, signed=signed, seconds=seconds
        )

    def end_watch(self) -> Pending[wire.Done]:
        return self._worker.start("end_watch", wire.Done)

    def go(self) -> Pending[wire.Done]:
        """Let all hosts go."""
        return self._worker.start("go", wire.Done)

    def go_only(self, hosts: Mapping[str, Sequence[str]]) -> Pending[wire.Done]:
        """Let these go, by role; the others wait on."""
        return self._worker.start("go", wire.Done, hosts=hosts)

    def halt(self, stay: Mapping[str, Sequence[str]]) -> Pending[wire.Done]:
        """No more hosts are let go, and what is expected of all but these, by role, is what it was."""
        return self._worker.start("halt", wire.Done, stay=stay)

    def settle(self) -> Pending[wire.Done]:
        """All have gone: it is expected of the roles as a whole."""
        return self._worker.start("settle", wire.Done)

    def abort(self) -> Pending[wire.LetGo]:
        """Take the deployment back, unless its hosts have been let go."""
        return self._worker.start("abort", wire.LetGo)
