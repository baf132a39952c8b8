"""One deployment as the bus holds it: the barrier `go`, the desired state `wanted`, the event, and the hosts' reports.

Keys and their order are design §8. What is announced and not yet let go is taken back when the operator interrupts,
goes away, or is no longer heard.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, Optional

from .bus import Bus, Entry
from .failure import Failure

#: The barrier's counter grows this often, as long as the operator is heard: hosts leave when it stands still for 60 s.
TICK_SECONDS = 15.0
#: An operator that was not heard for this long no longer counts as alive.
OPERATOR_SILENT_SECONDS = 30.0
#: One look at the reports may follow the last one this soon; with many hosts every look is a large answer.
LOOK_SECONDS = 0.1
LOOK_SECONDS_LARGE = 0.5
LARGE = 100


class Announcement:
    """An announced deployment. `roles` holds for each role its event's name, the manifest's URL and its hosts."""

    def __init__(self, bus: Bus, prefix: str, deployment: str, roles: List[Dict[str, Any]], only_hosts: bool) -> None:
        self._bus = bus
        self._prefix = prefix
        self.deployment = deployment
        self._roles = roles
        self._only_hosts = only_hosts
        self._waiting = {role["role"] for role in roles}
        self._previous: Dict[str, Optional[Entry]] = {}
        self._written: Dict[str, Optional[str]] = {}
        self._ticks = 0
        self._ticked = time.monotonic()
        # Whoever takes the deployment back waits until it is announced whole.
        self._guard = threading.RLock()

    def _go_key(self, role: str) -> str:
        return "{}/deployments/{}/{}/go".format(self._prefix, self.deployment, role)

    def _wanted_keys(self, role: Dict[str, Any]) -> List[str]:
        whole = "{}/wanted/{}".format(self._prefix, role["role"])
        return ["{}/{}".format(whole, host) for host in role["hosts"]] if self._only_hosts else [whole]

    def announce(self, *, wait: bool) -> None:
        """Abort what is open, write `go` and `wanted`, fire the events. A failure on the way takes everything back."""
        with self._guard:
            try:
                for role in self._roles:
                    self._abort_open(role["role"])
                for role in self._roles:
                    self._bus.put(self._go_key(role["role"]), "wait 0" if wait else "go all")
                for role in self._roles:
                    for key in self._wanted_keys(role):
                        self._want(key, "{} {}".format(self.deployment, role["url"]))
                    if not self._only_hosts:
                        self._end_exceptions(role["role"])
                for role in self._roles:
                    self._bus.fire(role["event"], role["url"], role["hosts"])
            except BaseException:
                self.abort()
                raise
            if not wait:
                self._waiting.clear()

    def _want(self, key: str, value: str) -> None:
        current = self._bus.get(key)
        if current is not None and current.value.split(" ")[0] > self.deployment:
            raise Failure(
                "consul",
                "a newer deployment, {}, has been announced meanwhile".format(current.value.split(" ")[0]),
                hint="somebody deploys from another build server; see `fab ENV status`",
            )
        self._previous[key] = current
        if not self._bus.put(key, value, expected_index=current.modified if current else 0):
            self._previous.pop(key)
            raise Failure(
                "consul",
                "another deployment was announced at the same moment: {} changed under our hands".format(key),
                hint="somebody deploys from another build server; see `fab ENV status`",
            )
        self._written[key] = value

    def _end_exceptions(self, role: str) -> None:
        """A whole deployment ends what `--nodes` had set for single hosts."""
        for entry in self._bus.list("{}/wanted/{}/".format(self._prefix, role))[0]:
            self._previous[entry.key] = entry
            self._written[entry.key] = None
            self._bus.delete(entry.key, expected_index=entry.modified)

    def _abort_open(self, role: str) -> None:
        whole = self._bus.get("{}/wanted/{}".format(self._prefix, role))
        single, _ = self._bus.list("{}/wanted/{}/".format(self._prefix, role))
        for name in {entry.value.split(" ")[0] for entry in [*single, *([whole] if whole else [])]}:
            go = self._bus.get("{}/deployments/{}/{}/go".format(self._prefix, name, role))
            if go is not None and go.value.startswith("wait"):
                self._bus.put(go.key, "abort", expected_index=go.modified)

    def tick(self, heard_seconds_ago: float) -> None:
        """Let the barrier's counter grow if it is time and the operator lives. Called about once a second."""
        with self._guard:
            if not self._waiting or time.monotonic() - self._ticked < TICK_SECONDS:
                return
            if heard_seconds_ago > OPERATOR_SILENT_SECONDS:
                return
            self._ticked = time.monotonic()
            self._ticks += 1
            for role in sorted(self._waiting):
                try:
                    self._bus.put(self._go_key(role), "wait {}".format(self._ticks))
                except Failure:
                    # Consul may be restarting; the hosts bear four missed ticks.
                    self._ticked = time.monotonic() - TICK_SECONDS + 3

    def go(self, value: str) -> None:
        """Let the hosts go: `all`, or names with spaces between."""
        with self._guard:
            for role in self._roles:
                self._bus.put(self._go_key(role["role"]), "go " + value)
            self._waiting.clear()

    def abort(self) -> None:
        """Before `go`: hosts at the barrier leave, `wanted` is what it was. After it: nothing to do. Safe to repeat."""
        with self._guard:
            if not self._waiting:
                return
            trouble: Optional[Failure] = None
            for role in sorted(self._waiting):
                try:
                    self._bus.put(self._go_key(role), "abort")
                except Failure as failure:
                    trouble = failure
            for key, previous in list(self._previous.items()):
                try:
                    current = self._bus.get(key)
                    if (current.value if current else None) != self._written.get(key):
                        continue
                    if previous is not None:
                        self._bus.put(key, previous.value, expected_index=current.modified if current else 0)
                    elif current is not None:
                        self._bus.delete(key, expected_index=current.modified)
                except Failure as failure:
                    trouble = failure
            self._waiting.clear()
            if trouble is not None:
                raise Failure(
                    trouble.kind,
                    "the deployment was not taken back whole: {}".format(trouble.message),
                    hint="hosts leave the barrier by themselves after a minute; deploy again to put `wanted` right",
                )


def watch_reports(
    bus: Bus, prefix: str, deployment: str, report: Callable[[List[Dict[str, str]]], None], ended: threading.Event
) -> None:
    """Send each new or changed report below the deployment's key, until `ended` is set.

    A Consul that restarts meanwhile is borne for as long as the operator cares to wait.
    """
    top = "{}/deployments/{}/".format(prefix, deployment)
    seen: Dict[str, int] = {}
    index = 0
    while not ended.is_set():
        try:
            entries, now = bus.list(top, index=index, wait_seconds=10)
        except Failure as failure:
            report([{"trouble": failure.message}])
            ended.wait(1.0)
            continue
        # An index that goes backwards means that Consul's memory is another one: begin again.
        index = now if now >= index else 0
        news = []
        for entry in entries:
            role, _, rest = entry.key[len(top) :].partition("/")
            parts = rest.split("/")
            if len(parts) == 3 and parts[0] == "hosts" and seen.get(entry.key) != entry.modified:
                seen[entry.key] = entry.modified
                news.append({"role": role, "host": parts[1], "state": parts[2], "value": entry.value})
        if news:
            report(news)
        ended.wait(LOOK_SECONDS_LARGE if len(entries) > LARGE else LOOK_SECONDS)
