"""One deployment as the bus holds it: the barrier `go`, the desired state `wanted`, the event, and the hosts' reports.

docs/architecture.md tells of its keys ("The bus"). What is announced and not yet let go is taken back when the operator
interrupts, goes away, or is no longer heard.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from datetime import datetime
from typing import Dict, List, Optional, Sequence, Tuple

from deploytool.text import ids

from . import freezing
from .bus import Bus, Entry
from .failure import Failure
from .reports import Fate, clear_reports
from .wire import Freeze, Target

#: The barrier's counter grows this often, as long as the operator is heard: hosts leave when it stands still for 60 s.
TICK_SECONDS = 15.0
#: An operator that was not heard for this long no longer counts as alive.
OPERATOR_SILENT_SECONDS = 30.0
ABORT_TRIES = 5


class Announcement:
    """An announced deployment.

    It is open from `announce` until all hosts were let go, or `abort`; only an open one is taken back.

    `in_waves`: hosts are let go in several steps. Until the last of them nothing is wanted of the role as a whole, only
    of each host: a new host gets what all had before, and what is halted leaves what is wanted of each as it is. After
    the last of them, `settle`.
    """

    def __init__(
        self,
        bus: Bus,
        prefix: str,
        deployment: str,
        roles: List[Target],
        only_hosts: bool,
        in_waves: bool = False,
    ) -> None:
        self._bus = bus
        self._prefix = prefix
        self.deployment = deployment
        self._roles = roles
        self._in_waves = in_waves
        self._by_host = only_hosts or in_waves
        self._open = True
        #: about hosts that had filled their places for reports
        self.note: Optional[str] = None
        #: whether all were let go, in waves, and it is not wanted of the roles as a whole yet
        self._unsettled = False
        #: role → the hosts that were let go by name
        self._gone: Dict[str, List[str]] = {}
        #: whether the hosts were let go; None if that can't be found out
        self._let_go: Optional[bool] = False
        #: what stands in each `go` key, if it is ours
        self._said: Dict[str, str] = {}
        #: keys of `wanted` that we changed: what stood there, and what we wrote (None: we deleted it)
        self._previous: Dict[str, Optional[Entry]] = {}
        self._written: Dict[str, Optional[str]] = {}
        self._ticks = 0
        self._ticked = time.monotonic()
        # Whoever takes the deployment back waits until it is announced whole.
        self._guard = threading.RLock()

    def _go_key(self, role: str) -> str:
        return "{}/deployments/{}/{}/go".format(self._prefix, self.deployment, role)

    def _whole_key(self, role: str) -> str:
        return "{}/wanted/{}".format(self._prefix, role)

    def _wanted_keys(self, role: Target) -> List[str]:
        whole = self._whole_key(role.role)
        return ["{}/{}".format(whole, host) for host in role.hosts] if self._by_host else [whole]

    def announce(self, *, wait: bool, goes_back: bool = False) -> Optional[Freeze]:
        """Abort what is open, write `go` and `wanted`, fire the events. A failure on the way takes everything back.

        If the environment is frozen, or a newer deployment was announced, nothing is written. A freeze does not stop
        one that `goes_back`: it is the way out of what the freeze found. Returns the freeze that it passed, if any.
        """
        with self._guard:
            try:
                frozen = freezing.read(self._bus, self._prefix)
                if frozen is not None and not goes_back:
                    raise freezing.refusal(self._prefix, frozen)
                self._refuse_older()
                for role in self._roles:
                    self._abort_open(role.role)
                # Whoever waited for older ones has heard them. What can't be removed now goes with the next.
                with contextlib.suppress(Failure):
                    self.note = clear_reports(self._bus, self._prefix, self._fate)
                for role in self._roles:
                    self._say(role.role, "wait 0" if wait else "go all", 0)
                for role in self._roles:
                    for key in self._wanted_keys(role):
                        self._want(key, "{} {}".format(self.deployment, role.url))
                    if not self._by_host:
                        self._end_exceptions(role.role)
                for role in (role for role in self._roles if role.hosts):
                    self._bus.fire(role.event, role.payload, role.hosts)
                    # Hosts that are not waited for go as soon as they hear: nothing is taken back from here on.
                    self._open = self._open and wait
            except BaseException:
                self.abort()
                raise
        return frozen

    def _refuse_older(self) -> None:
        for role in self._roles:
            whole = self._whole_key(role.role)
            for key in dict.fromkeys([whole, *self._wanted_keys(role)]):
                self._refuse_if_newer(self._bus.get(key))

    def _refuse_if_newer(self, current: Optional[Entry]) -> None:
        name = deployment_of(current)
        if name is not None and name > self.deployment:
            refuse_impossible(current, ids.now())
            raise Failure(
                "consul",
                "a newer deployment, {}, has been announced meanwhile".format(name),
                hint="somebody deploys from another build server; look who, and deploy again",
            )

    def _want(self, key: str, value: str) -> None:
        current = self._bus.get(key)
        self._refuse_if_newer(current)
        self._previous[key], self._written[key] = current, value
        if not self._bus.put(key, value, expected_index=current.modified if current else 0):
            del self._previous[key], self._written[key]
            raise Failure(
                "consul",
                "another deployment was announced at the same moment: {} changed under our hands".format(key),
                hint="somebody deploys from another build server; look who, and deploy again",
            )

    def _end_exceptions(self, role: str, spared: Sequence[str] = ()) -> None:
        """A whole deployment ends what `--nodes` had set for single hosts."""
        for entry in self._bus.list(self._whole_key(role) + "/"):
            if entry.key.rpartition("/")[2] not in spared:
                self._previous[entry.key], self._written[entry.key] = entry, None
                self._bus.delete(entry.key, expected_index=entry.modified)

    def _abort_open(self, role: str) -> None:
        whole = self._bus.get(self._whole_key(role))
        single = self._bus.list(self._whole_key(role) + "/")
        for name in {deployment_of(entry) for entry in [*single, whole]} - {None}:
            # Its operator may be counting at this very moment: then once more.
            for _ in range(ABORT_TRIES):
                go = self._bus.get("{}/deployments/{}/{}/go".format(self._prefix, name, role))
                if go is None or not is_open(go.value):
                    break
                if self._bus.put(go.key, closed(go.value), expected_index=go.modified):
                    break

    def _fate(self, name: str) -> Fate:
        return "stays" if name == self.deployment else "over" if name < self.deployment else "foreign"

    def _say(self, role: str, value: str, expected_index: int) -> bool:
        if not self._bus.put(self._go_key(role), value, expected_index=expected_index):
            return False
        self._said[role] = value
        return True

    def tick(self, heard_seconds_ago: float) -> None:
        """Let the barrier's counter grow if it is time and the operator lives. Called about once a second."""
        if time.monotonic() - self._ticked < TICK_SECONDS or heard_seconds_ago > OPERATOR_SILENT_SECONDS:
            return
        with self._guard:
            if not self._open:
                return
            self._ticked = time.monotonic()
            self._ticks += 1
            for role in sorted(self._said):
                try:
                    current = self._bus.get(self._go_key(role))
                    # Whoever aborted us has the last word.
                    if current is not None and current.value == self._said[role]:
                        self._say(role, self._word(role, self._ticks), current.modified)
                except Failure:
                    # Consul may be restarting; the hosts bear three missed ticks.
                    self._ticked = time.monotonic() - TICK_SECONDS + 3

    def _word(self, role: str, ticks: int) -> str:
        """What stands at the barrier of a role as long as not all of its hosts were let go: it grows with the ticks."""
        gone = self._gone.get(role)
        return "go {} +{}".format(" ".join(gone), ticks) if gone else "wait {}".format(ticks)

    def go(self, hosts: Optional[Dict[str, List[str]]] = None) -> None:
        """Let all hosts of all roles go at once; or those, by role: the others wait on.

        Raises Failure if the deployment was aborted meanwhile, or if Consul can't be asked; then nobody went, or, where
        even that can't be found out, the sentence says so and nothing is taken back any more.
        """
        with self._guard:
            if not self._open:
                raise Failure("consul", "the deployment was taken back before the hosts were let go")
            writes = []
            told: Dict[str, str] = {}
            # So that what hosts hear of a wave is news, also where they hear of it late.
            self._ticks += 1
            for role in self._said if hosts is None else hosts:
                current = self._bus.get(self._go_key(role))
                if current is None or current.value != self._said[role]:
                    raise Failure(
                        "consul",
                        "somebody else aborted this deployment at the barrier: {} is {!r}".format(
                            self._go_key(role), current.value if current else None
                        ),
                        hint="a newer deployment does that; look who deploys",
                    )
                if hosts is None:
                    told[role] = "go all"
                else:
                    told[role] = "go {} +{}".format(" ".join(hosts[role]), self._ticks)
                writes.append((current.key, told[role], current.modified))
            try:
                went = self._bus.put_all(writes)
            except Failure as failure:
                went = self._went(writes, failure)
            if not went:
                raise Failure("consul", "the hosts could not be let go: a key changed under our hands; nobody went")
            self._open, self._let_go = hosts is not None, True
            self._said.update(told)
            self._gone.update(hosts or {})
            self._unsettled = hosts is None and self._in_waves

    def halt(self, stay: Dict[str, List[str]]) -> None:
        """End it in the middle: hosts that still wait leave, and what is wanted of all but these is what it was."""
        with self._guard:
            self._gone = {role: list(hosts) for role, hosts in stay.items()}
            # Where the last of them went already, there is nobody at the barrier, and what is wanted counts still.
            self._open, self._unsettled = True, False
            self.abort()

    def settle(self) -> None:
        """If all have gone, in waves: from now on it is wanted of the roles as a whole, and of no host by itself.

        Safe to repeat, also after a failure. Raises Failure for a newer deployment.
        """
        with self._guard:
            if not self._unsettled:
                return
            for role in self._roles:
                self._want(self._whole_key(role.role), "{} {}".format(self.deployment, role.url))
                self._end_exceptions(role.role, role.spared)
            self._unsettled = False

    def _went(self, writes: List[Tuple[str, str, int]], failure: Failure) -> bool:
        """After a write that was not answered: whether it was done."""
        try:
            current = self._bus.get(writes[0][0])
        except Failure:
            # From here on the hosts may have gone: nothing may be taken back.
            self._open, self._let_go = False, None
            raise Failure(
                "consul",
                "it is not known whether the hosts were let go: {}".format(failure.message),
                hint="nothing was taken back; when Consul is up again, deploy again",
            ) from failure
        if current is not None and current.value == writes[0][1]:
            return True
        raise failure

    def abort(self) -> Optional[bool]:
        """If open: hosts at the barrier leave, and `wanted` is what it was. Safe to repeat, also after a failure.

        Hosts that were let go by name go on, and what is wanted of them stays.

        Returns whether the hosts had been let go before; None if that can't be found out.
        """
        with self._guard:
            if not self._open:
                return self._let_go
            trouble: Optional[Failure] = None
            for role in sorted(self._said):
                try:
                    self._abort_own(role)
                    del self._said[role]
                except Failure as failure:
                    trouble = failure
            stay = {"{}/{}".format(self._whole_key(role), host) for role, hosts in self._gone.items() for host in hosts}
            for key, previous in sorted(self._previous.items()):
                if key in stay:
                    continue
                try:
                    self._put_back(key, previous)
                    del self._previous[key]
                except Failure as failure:
                    trouble = failure
            if trouble is not None:
                raise Failure(
                    trouble.kind,
                    "the deployment was not taken back whole: {}".format(trouble.message),
                    hint="hosts leave the barrier by themselves after a minute; deploy again to put `wanted` right",
                )
            self._open = False
            return self._let_go

    def _abort_own(self, role: str) -> None:
        for _ in range(ABORT_TRIES):
            current = self._bus.get(self._go_key(role))
            # A `go` that was written without our hearing of it stands, and so does somebody else's `abort`.
            if current is not None and current.value != self._said[role]:
                return
            # Who is named has gone already, or is just going; all others leave.
            word = closed(self._word(role, 0))
            if self._bus.put(self._go_key(role), word, expected_index=current.modified if current else 0):
                return

    def _put_back(self, key: str, previous: Optional[Entry]) -> None:
        current = self._bus.get(key)
        if (current.value if current else None) != self._written[key]:
            return
        if previous is not None:
            self._bus.put(key, previous.value, expected_index=current.modified if current else 0)
        elif current is not None:
            self._bus.delete(key, expected_index=current.modified)


def is_open(go: str) -> bool:
    """Whether hosts may still wait at a barrier that says this: as long as it counts, in ticks."""
    return re.search(r"^wait|^go .* \+[0-9]+$", go) is not None


def closed(go: str) -> str:
    """What an open barrier says in the end: hosts that it has let go by name go on, all others leave."""
    return re.sub(r"^go (.*) \+[0-9]+$", r"only \1", go) if go.startswith("go ") else "abort"


def deployment_of(wanted: Optional[Entry]) -> Optional[str]:
    """The deployment that an entry of `wanted` names; None for none."""
    return ids.deployment_in(wanted.value) if wanted is not None else None


def refuse_impossible(wanted: Optional[Entry], now: datetime) -> None:
    """Raise Failure for an entry of `wanted` whose deployment nobody can have made: all others would be older."""
    name = deployment_of(wanted)
    why = ids.why_impossible(name, now) if name is not None else None
    if wanted is not None and why is not None:
        raise Failure(
            "consul",
            "{} in Consul names the deployment {}, which {}: no build server made it".format(wanted.key, name, why),
            hint="look who can write there, and at the build server's clock; then `consul kv delete {}`, and deploy "
            "again".format(wanted.key),
        )
