"""What hosts write of themselves in Consul: watched while a command waits for it, and removed once it is over.

Any host may write anything there, as much as it likes: only known keys are read, of each so many bytes, and what
belongs to no deployment is removed. docs/architecture.md tells of the keys ("Text of others").
"""

from __future__ import annotations

import json
import threading
from typing import Callable, Dict, List, Literal, Mapping, Optional, Sequence, Set, Tuple

from deploytool.text import ids
from deploytool.text.untrusted import read_json

from .bus import Bus, Value, is_below_something
from .failure import Failure
from .wire import STATES, Report, Reports, Word

#: One look may follow the last one after this long for each report that was there: with many hosts every look is a
#: large answer, so that at most a thousand reports a second are read, within these limits.
LOOK_SECONDS_PER_REPORT = 0.001
LOOK_SECONDS_MIN = 0.02
LOOK_SECONDS_MAX = 0.7
#: of a report, a last word or an answer: a failure's log of 20 lines has a tenth of it
MOST_BYTES = 65536
#: Where a host has more keys that belong to no deployment, its whole place is emptied.
MOST_ODD = 100
#: What stands in a report's key: those of deployments, and the answer to a probe.
KNOWN_STATES = (*STATES, "listens")
#: how many hosts a sentence names
NAMED = 10

RoleHost = Tuple[str, str]
#: of a deployment's reports: they are still needed, nobody needs them any more, or there is no such deployment
Fate = Literal["stays", "over", "foreign"]


class Watch:
    """What these hosts report on one deployment, look by look. A report is of the host that its key names."""

    def __init__(
        self, bus: Bus, prefix: str, deployment: str, release: str, hosts: Mapping[str, Sequence[str]]
    ) -> None:
        self._bus = bus
        self._prefix = prefix
        self._deployment = deployment
        self._release = release
        self._places = {
            "{}/reports/{}/{}/{}/{}".format(prefix, role, host, deployment, state): (role, host, state)
            for role, names in hosts.items()
            for host in names
            for state in STATES
        }
        #: key → when what was told of it was written
        self._told: Dict[str, int] = {}
        #: the index of all reports at the last look
        self._index = 0
        #: hosts whose last word agrees with their report
        self._agreed: Set[RoleHost] = set()
        #: how many reports there are
        self.there = 0

    def look(self) -> Reports:
        """What is new since the last look. Raises Failure."""
        top = self._prefix + "/reports/"
        listed = self._bus.keys(top)
        # Where somebody drowns the names, each of the known ones is asked for.
        names, index = listed if listed is not None else (list(self._places), 0)
        there = [key for key in names if key in self._places]
        self.there = len(there)
        verified = {self._places[key][:2] for key in there if self._places[key][2] == "verified"} - self._agreed
        fresh = {self._places[key][:2] for key in there if key not in self._told}
        # A report that was written again has no new name.
        again = not fresh and (index != self._index or listed is None)
        keys = [key for key in there if again or self._places[key][:2] in fresh or self._places[key][:2] in verified]
        words = {"{}/serving/{}/{}".format(self._prefix, *each): each for each in sorted(verified)}
        # What can't be read in one of these calls is new the next time as well.
        reported = self._bus.read(keys, most_bytes=MOST_BYTES)
        said = self._bus.read(list(words), most_bytes=MOST_BYTES)
        self._index = index
        return Reports(
            [Report(*self._places[each.key], _text(each), each.written) for each in reported if self._is_news(each)],
            [
                Word(*words[each.key], _text(each), self._agrees(words[each.key], each))
                for each in said
                if self._is_news(each)
            ],
            None,
        )

    def _is_news(self, value: Value) -> bool:
        is_news = self._told.get(value.key) != value.written
        self._told[value.key] = value.written
        return is_news

    def _agrees(self, host: RoleHost, value: Value) -> bool:
        agrees = _says(value, self._release, self._deployment)
        if agrees:
            self._agreed.add(host)
        return agrees


def _says(value: Value, release: str, deployment: str) -> bool:
    """Whether a host's last word says that it serves the release by this deployment, verified."""
    try:
        said = read_json(value.value or "")
        return bool((said["release"], said["deployment"], said["verified"]) == (release, deployment, True))
    except (ValueError, LookupError, TypeError):
        return False


def read_words(bus: Bus, prefix: str, deployment: str, release: str, hosts: Mapping[str, Sequence[str]]) -> List[Word]:
    """The last words of these hosts, as they are now: one may have lost since what it had proved. Raises Failure."""
    places = {
        "{}/serving/{}/{}".format(prefix, role, host): (role, host) for role, names in hosts.items() for host in names
    }
    said = bus.read(list(places), most_bytes=MOST_BYTES)
    return [Word(*places[each.key], _text(each), _says(each, release, deployment)) for each in said]


def _text(value: Value) -> str:
    if value.value is not None:
        return value.value
    return json.dumps({"reason": "it wrote more than {} bytes here, which were not read".format(MOST_BYTES)})


def watch_reports(
    bus: Bus,
    prefix: str,
    deployment: str,
    release: str,
    hosts: Mapping[str, Sequence[str]],
    tell: Callable[[Reports], None],
    ended: threading.Event,
) -> None:
    """Send each new or changed report of these hosts on the deployment, until `ended` is set.

    With `verified` comes the host's last word. A Consul that restarts meanwhile is borne for as long as the operator
    cares to wait.
    """
    watch = Watch(bus, prefix, deployment, release, hosts)
    index = 0
    while not ended.is_set():
        try:
            now = bus.wait(prefix + "/", index=index, wait_seconds=10)
            news = watch.look()
        except Failure as failure:
            tell(Reports([], [], failure.message))
            ended.wait(1.0)
            continue
        # An index that goes backwards means that Consul's memory is another one: begin again.
        index = now if now >= index else 0
        if news.reports or news.words:
            tell(news)
        ended.wait(min(max(LOOK_SECONDS_PER_REPORT * watch.there, LOOK_SECONDS_MIN), LOOK_SECONDS_MAX))


def clear_reports(bus: Bus, prefix: str, fate: Callable[[str], Fate]) -> Optional[str]:
    """Remove the reports of deployments that do not stay, and all that is no report. Raises Failure.

    Returns a sentence about the hosts that had filled their places with what belongs to no deployment; None if there
    were none. Values are not read.
    """
    top = prefix + "/reports/"
    listed = bus.keys(top)
    if listed is None:
        roles = [role for role in bus.names(top) if is_below_something(role + "/")]
        places = {"{}/{}/".format(role, host): (role, host) for role in roles for host in bus.names(top + role + "/")}
        filled = [each for place, each in places.items() if is_below_something(place) and bus.keys(top + place) is None]
        bus.delete_all(top)
        return _sentence(top, dict.fromkeys(filled, "too many to count"))
    gone: Set[str] = set()
    keys: List[str] = []
    odd: Dict[RoleHost, int] = {}
    for key in listed[0]:
        role, host, name, state, *more = [*key[len(top) :].split("/"), "", "", ""]
        kind = fate(name) if ids.DEPLOYMENT.fullmatch(name) else "foreign"
        if kind == "foreign" or state not in KNOWN_STATES or any(more):
            odd[role, host] = odd.get((role, host), 0) + 1
        elif kind == "stays":
            continue
        keys.append(key)
        if kind != "stays":
            gone.add("{}/{}/{}/".format(role, host, name))
    gone |= {"{}/{}/".format(*each) for each, count in odd.items() if count > MOST_ODD}
    whole = {top + place for place in gone if is_below_something(place)}
    bus.delete_places(sorted(whole))
    bus.delete_keys([key for key in keys if not _above(key) & whole])
    return _sentence(top, {each: str(count) for each, count in odd.items() if each[1]})


def _above(key: str) -> Set[str]:
    """The places that a key lies in."""
    parts = key.split("/")
    return {"/".join(parts[:count]) + "/" for count in range(1, len(parts))}


def _sentence(top: str, filled: Mapping[RoleHost, str]) -> Optional[str]:
    if not filled:
        return None
    # Names may be as long as whoever wrote them likes.
    named = ["{:.100} ({:.100}): {}".format(host, role, count) for (role, host), count in list(filled.items())[:NAMED]]
    more = " and {} more hosts".format(len(filled) - NAMED) if len(filled) > NAMED else ""
    return (
        "hosts had written what belongs to no deployment into {} in Consul, and it was removed: {}{}. Look what runs "
        "there, and who else has their Consul tokens".format(top, ", ".join(named), more)
    )
