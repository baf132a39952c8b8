"""Requests about Consul, or what takes its place: hosts, freezes, deployments."""

from __future__ import annotations

import threading
import time
from typing import Dict, List, Optional

from deploytool.text import ids

from . import freezing, orders, retention, wire
from .announcement import Announcement
from .context import Context, Tell
from .findings import Findings
from .probe import probe_hosts
from .reports import read_words, watch_reports


class BusRequests:
    """Each public method is the request of its name."""

    def __init__(self, here: Context) -> None:
        self._here = here
        self.announcement: Optional[Announcement] = None
        self.watch_ended = threading.Event()

    def _role(self, role: str, selector: wire.Selector) -> wire.Role:
        up, down = self._here.bus.hosts(selector)
        entry = self._here.bus.get("{}/wanted/{}".format(self._here.prefix, role))
        wanted = entry.value if entry else None
        exceptions = self._below("wanted/{}/".format(role))
        names = {ids.deployment_in(value) for value in (wanted, *exceptions.values())}
        places = {name: "{}/deployments/{}/{}/go".format(self._here.prefix, name, role) for name in names if name}
        go = {name: self._here.bus.get(place) for name, place in places.items()}
        return wire.Role(
            up=up,
            down=down,
            wanted=wanted,
            exceptions=exceptions,
            serving=self._below("serving/{}/".format(role)),
            go={name: entry.value for name, entry in go.items() if entry is not None},
        )

    def _below(self, place: str) -> Dict[str, str]:
        """host → value of the keys there; a key further below is no host's"""
        top = "{}/{}".format(self._here.prefix, place)
        found = {entry.key[len(top) :]: entry.value for entry in self._here.bus.list(top)}
        return {host: value for host, value in found.items() if "/" not in host}

    def status(self, tell: Tell, roles: Dict[str, wire.Selector]) -> wire.Roles:
        return wire.Roles({role: self._role(role, selector) for role, selector in roles.items()})

    def frozen(self, tell: Tell) -> wire.Frozen:
        return wire.Frozen(freezing.read(self._here.bus, self._here.prefix))

    def freeze(self, tell: Tell, why: str) -> wire.Frozen:
        told = freezing.freeze(
            self._here.bus,
            self._here.prefix,
            why=self._here.masking.text(why),
            operator=self._here.hello.operator,
            at=ids.recorded(ids.now()),
        )
        return wire.Frozen(told)

    def thaw(self, tell: Tell) -> wire.Thawed:
        return wire.Thawed(freezing.thaw(self._here.bus, self._here.prefix))

    def prune_keys(self, tell: Tell, keep: List[str]) -> wire.Removed:
        """Remove the keys of deployments that nobody needs any more; see `retention.prune_deployments`."""
        now = time.time()
        note = retention.prune_reports(self._here.bus, self._here.prefix, keep, now=now)
        removed = retention.prune_deployments(
            self._here.bus,
            self._here.prefix,
            keep,
            now=now,
            go_on=lambda: self._here.groups.refuse_if_cancelled("removing keys of old deployments"),
        )
        return wire.Removed(removed, note)

    def check_consul(self, tell: Tell, probe: str, events: List[str], services: List[str]) -> wire.Findings:
        """Try every right in Consul, with keys of `probe`, an id that no deployment has."""
        findings = Findings(self._here.masking)
        self._here.bus.check(findings, self._here.prefix, probe, events, services)
        return wire.Findings(findings.all)

    def probe_hosts(
        self, tell: Tell, probe: str, place: str, roles: List[wire.Question], signed: wire.Signed, seconds: float
    ) -> wire.Answers:
        """Have every host of the roles answer over the way that a deployment takes; see `probe.probe_hosts`."""
        return probe_hosts(
            self._here.bus,
            self._here.store,
            self._here.prefix,
            place,
            probe,
            roles,
            signed,
            seconds=seconds,
            masking=self._here.masking,
            go_on=lambda: self._here.groups.refuse_if_cancelled("waiting for the hosts' answers"),
        )

    def publish(self, tell: Tell, deployment: str, manifests: Dict[str, str], signed: wire.Signed) -> None:
        """Put a deployment's manifests where hosts read them: name → key of one that this worker has stored."""
        texts = {name: self._here.stored[key] for name, key in manifests.items()}
        # Of a probe whose worker was killed.
        for name in manifests:
            self._here.bus.delete("{}/wanted/{}.probe".format(self._here.prefix, name))
        orders.publish(self._here.bus, self._here.prefix, deployment, texts, signed)

    def announce(
        self,
        tell: Tell,
        deployment: str,
        roles: List[wire.Target],
        only_hosts: bool,
        wait: bool,
        in_waves: bool = False,
        goes_back: bool = False,
    ) -> wire.Announced:
        self._here.groups.refuse_if_cancelled("announcing the deployment")
        self.announcement = Announcement(self._here.bus, self._here.prefix, deployment, roles, only_hosts, in_waves)
        frozen = self.announcement.announce(wait=wait, goes_back=goes_back)
        return wire.Announced(frozen, self.announcement.note)

    def watch(self, tell: Tell, deployment: str, release: str, hosts: Dict[str, List[str]]) -> None:
        """Tell these hosts' reports until `end_watch`."""
        # Its own: an earlier one may still wait for Consul, and is to end then.
        ended = self.watch_ended = threading.Event()
        watch_reports(self._here.bus, self._here.prefix, deployment, release, hosts, tell, ended)

    def last_words(self, tell: Tell, deployment: str, release: str, hosts: Dict[str, List[str]]) -> wire.Words:
        """What these hosts serve now, as each says."""
        return wire.Words(read_words(self._here.bus, self._here.prefix, deployment, release, hosts))

    def end_watch(self, tell: Tell) -> None:
        self.watch_ended.set()

    def go(self, tell: Tell, hosts: Optional[Dict[str, List[str]]] = None) -> None:
        """Let all hosts go, or those by role; the others wait on."""
        assert self.announcement is not None
        self.announcement.go(hosts)

    def halt(self, tell: Tell, stay: Dict[str, List[str]]) -> None:
        """No more hosts are let go, and what is wanted of all but these is what it was."""
        assert self.announcement is not None
        self.announcement.halt(stay)

    def settle(self, tell: Tell) -> None:
        """All have gone: it is wanted of the roles as a whole."""
        assert self.announcement is not None
        self.announcement.settle()

    def abort(self, tell: Tell) -> wire.LetGo:
        return wire.LetGo(self.announcement.abort() if self.announcement is not None else False)
