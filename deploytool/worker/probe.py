"""A live probe of the hosts: an event of each role's own name, whose manifest changes nothing and only answers.

It takes the way that a deployment takes: event, `consul watch`, receive.sh, stretcher, store, report. What it needs in
store and bus is removed again, whatever happens; its caller holds the environment's lock, so that no host of before
finds it in one list of events with a deployment, of which stretcher would take either.
"""

from __future__ import annotations

import hashlib
import time
from typing import Callable, Dict, List

from deploytool.text.masking import Masking

from . import orders
from .bus import Bus
from .failure import Failure
from .reports import MOST_BYTES
from .store import Store
from .wire import Answers, Question, Signed, Trouble

LOOK_SECONDS = 0.1
#: In its place hosts try whether they may report for others (probe.sh).
NOBODY = "-"


def probe_hosts(
    bus: Bus,
    store: Store,
    prefix: str,
    place: str,
    probe: str,
    roles: List[Question],
    signed: Signed,
    *,
    seconds: float,
    masking: Masking,
    go_on: Callable[[], None],
) -> Answers:
    """Ask every host of the roles, and wait for their answers until that many seconds have passed.

    `place` is where manifests of probes are in the store: what an earlier one left there goes as well. `go_on` raises
    to stop it.
    """
    below = "{}/reports/".format(prefix)
    bells = {role.role: "{}/wanted/{}.probe".format(prefix, role.role) for role in roles}
    failures: Dict[str, Trouble] = {}
    try:
        for left in store.list(place):
            store.delete(left)
        orders.publish(bus, prefix, probe, {role.role: role.manifest for role in roles}, signed)
        digest = hashlib.sha256(signed.statement.encode()).hexdigest()
        asked: List[Question] = []
        for role in roles:
            if role.archive:
                store.put_new(role.archive_key, role.archive.encode())
            store.put_new(role.key, role.manifest.encode())
            bus.put(bells[role.role], "{} {}#sha256={}".format(probe, role.url, digest))
            try:
                bus.fire(role.event, role.url, role.hosts)
                asked.append(role)
            except Failure as failure:
                failures[role.role] = failure.masked(masking)
        awaited = {
            "{}{}/{}/{}/listens".format(below, role.role, host, probe): (role.role, host)
            for role in asked
            for host in role.hosts
        }
        answers: Dict[str, Dict[str, str]] = {role.role: {} for role in roles}
        deadline = time.monotonic() + seconds
        while awaited and time.monotonic() < deadline:
            go_on()
            listed = bus.keys(below)
            there = [key for key in (listed[0] if listed is not None else awaited) if key in awaited]
            for each in bus.read(there, most_bytes=MOST_BYTES):
                role_name, host = awaited.pop(each.key)
                answers[role_name][host] = each.value or "too long an answer"
            time.sleep(LOOK_SECONDS)
        return Answers(answers, failures)
    finally:
        try:
            for role in roles:
                bus.delete(bells[role.role])
                for key in (role.key, *([role.archive_key] if role.archive else [])):
                    store.delete(key)
        finally:
            bus.delete_places(
                [
                    *(
                        "{}{}/{}/{}/".format(below, role.role, host, probe)
                        for role in roles
                        for host in (*role.hosts, NOBODY)
                    ),
                    orders.place(prefix, probe),
                ]
            )
