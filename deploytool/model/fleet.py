"""What the hosts have said, and the verdict on each. Pure: reports in, verdicts out; no clock, no Consul."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypedDict

from deploytool.model.proof import known_proof
from deploytool.text.untrusted import printable, read_json

#: Longer lines of hosts are cut: with half a megabyte in one value, nothing else would be seen.
LONGEST_LINE = 2000
#: The same for what stands in a column.
LONGEST_WORD = 100


class State(StrEnum):
    """What a host reports of itself, in the order in which it gets there."""

    FETCHED = "fetched"
    ACTIVATED = "activated"
    VERIFIED = "verified"
    FAILED = "failed"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


class Verdict(StrEnum):
    """How a host ended, worst first."""

    FAILED = "failed"
    SILENT = "silent"
    SUPERSEDED = "superseded"
    ABORTED = "aborted"
    VERIFIED = "verified"


#: Which final report counts when a host has made several: a later one of these overrides an earlier.
_FINAL: Mapping[State, tuple[int, Verdict]] = {
    State.ABORTED: (1, Verdict.ABORTED),
    State.SUPERSEDED: (1, Verdict.SUPERSEDED),
    State.FAILED: (2, Verdict.FAILED),
    State.VERIFIED: (2, Verdict.VERIFIED),
}

_PROGRESS = (State.FETCHED, State.ACTIVATED)


def named(names: Sequence[str], room: int = 10) -> str:
    """The first of them by name, and how many more there are."""
    more = f" and {len(names) - room} more" if len(names) > room else ""
    return ", ".join(names[:room]) + more


@dataclass(frozen=True, slots=True)
class Report:
    """One report of one host."""

    role: str
    host: str
    state: State
    reason: str = ""
    log: tuple[str, ...] = ()
    #: the host was to serve a release that it kept, and has not kept it whole
    incomplete: bool = False
    #: how strong the host's proof is, see PROOFS; empty if it does not say
    proof: str = ""
    #: what else it saw when it proved the release, in a sentence
    notes: str = ""
    #: greater for what was written later; 0 if that is unknown
    written: int = 0


class HostResultJson(TypedDict):
    """How a deployment went on one host, in one role."""

    role: Annotated[str, "the role"]
    host: Annotated[str, "the host's name in Consul"]
    verdict: Annotated[Verdict, "how the host ended; silent: it did not report in time, or not yet"]
    state: Annotated[State | None, "the last state that the host reported; null if it reported nothing"]
    seconds: Annotated[float | None, "from the announcement to the host's last report"]
    reason: Annotated[str, "why the host is not verified; empty if it is"]
    log: Annotated[list[str], "the last lines of the host's log, if it failed"]
    proof: Annotated[str, "how strong the host's proof is; see proof.md; empty if it reported none"]
    notes: Annotated[str, "what else the host noticed during its proof"]


@dataclass(frozen=True, slots=True)
class HostResult:
    """Where one host is: its verdict so far, the last state it reached, and why it is not further."""

    role: str
    host: str
    verdict: Verdict
    #: the furthest state that it reported; None if it never said a word
    state: State | None
    #: from the announcement to the host's last report
    seconds: float | None
    reason: str
    log: tuple[str, ...]
    incomplete: bool = False
    #: of a host that is verified: how strong its proof is, and what else it saw
    proof: str = ""
    notes: str = ""

    def as_dict(self) -> HostResultJson:
        return {
            "role": self.role,
            "host": self.host,
            "verdict": self.verdict,
            "state": self.state,
            "seconds": self.seconds,
            "reason": self.reason,
            "log": list(self.log),
            "proof": self.proof,
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Bad:
    """Hosts that are bad for one cause."""

    verdict: Verdict
    #: of the first host
    reason: str
    #: of the first host that has one
    log: tuple[str, ...]
    #: whether the other hosts' logs say the same
    same_log: bool
    #: `host (role)` each
    hosts: tuple[str, ...]
    #: so many hosts: one that has two roles is one
    machines: int


def grouped(results: Iterable[HostResult]) -> tuple[Bad, ...]:
    """Those that are not verified, worst first, by their cause."""
    order = list(Verdict)
    causes: dict[tuple[Verdict, str], list[HostResult]] = {}
    for result in sorted(results, key=lambda result: order.index(result.verdict)):
        if result.verdict is not Verdict.VERIFIED:
            causes.setdefault((result.verdict, _alike(result.reason, result)), []).append(result)
    found = []
    for (verdict, _), alike in causes.items():
        logs = [result for result in alike if result.log]
        said = {tuple(_alike(line, result) for line in _telling(result.log)) for result in logs}
        first = sorted(alike, key=lambda result: not result.log)
        names = tuple(f"{result.host} ({result.role})" for result in first)
        log = _telling(first[0].log)
        found.append(Bad(verdict, first[0].reason, log, len(said) <= 1, names, len({each.host for each in alike})))
    return tuple(found)


#: What differs from host to host where the cause is the same: moments, process ids and the like, durations.
_OWN = re.compile(r"\d{4}[/-]\d\d[/-]\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?|\b\d+(\.\d+)? m?s\b|\b\d{3,}\b")


def _alike(text: str, result: HostResult) -> str:
    """The text without what is this host's own."""
    return re.sub(rf"(?<![\w-]){re.escape(result.host)}(?![\w-])", "{host}", _OWN.sub("#", text))


def _telling(log: Sequence[str]) -> tuple[str, ...]:
    """The log without stretcher's dump of the manifest, which says nothing about this host."""
    return tuple(line for line in log if "&stretcher.Manifest{" not in line)


def read_report(role: str, host: str, state: str, value: str, written: int = 0) -> Report | None:
    """A report as it stands in Consul; None for a state that we do not know.

    The value is JSON with `reason` and `log`; what can't be read as such is kept as the log, since any host may write
    anything there. The host is the one in the key, whatever the value says: that is where its token may write.
    """
    try:
        known = State(state)
    except ValueError:
        return None
    try:
        content = read_json(value)
        reason, log = str(content.get("reason") or ""), str(content.get("log") or "")
        incomplete = content.get("incomplete") is True
        proof, notes = str(content.get("proof") or ""), str(content.get("notes") or "")
    except (ValueError, AttributeError):
        reason, log, incomplete, proof, notes = "", value, False, "", ""
    lines = tuple(printable(line[:LONGEST_LINE]) for line in log.splitlines()[-20:])
    said = _sentence(reason)
    return Report(role, host, known, said, lines, incomplete, known_proof(proof), _sentence(notes), written)


def _sentence(text: str) -> str:
    return printable(" ".join(text.split())[:LONGEST_LINE])


@dataclass(frozen=True, slots=True)
class LastWord:
    """What a host said last of what it serves."""

    release: str | None = None
    deployment: str | None = None
    #: as text, in UTC
    time: str | None = None
    #: whether the release was proven when the host said so
    verified: bool = False
    #: the releases that it has whole
    kept: tuple[str, ...] = ()
    #: why it is not proven any more; empty if it is, or never was
    reason: str = ""
    #: how strong the proof was, see PROOFS; empty if the host does not say
    proof: str = ""
    #: what it checks before it runs anything: `digest` or `signed`; `none` for a watch of before; empty: unknown
    receiver: str = ""
    #: what it could not remove, paths below its `deploy_to`; empty: nothing
    unremoved: str = ""

    @property
    def sentence(self) -> str:
        verified = "verified" if self.verified else "not verified"
        return f"it serves {self.release or 'nothing'} by {self.deployment or 'no deployment'}, {verified}"


def read_last_word(value: str | None) -> LastWord:
    """A host's last word as it stands in Consul, where any host may write anything; what makes no sense is left out."""
    try:
        said = read_json(value or "{}")
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return LastWord()

    def text(name: str) -> str | None:
        found = said.get(name)
        return printable(found[:LONGEST_WORD]) if isinstance(found, str) else None

    kept = said.get("releases")
    return LastWord(
        release=text("release"),
        deployment=text("deployment"),
        time=text("time"),
        verified=said.get("verified") is True,
        kept=tuple(printable(each[:LONGEST_WORD]) for each in kept if isinstance(each, str))
        if isinstance(kept, list)
        else (),
        reason=_sentence(str(said.get("reason") or "")),
        proof=known_proof(str(said.get("proof") or "")),
        receiver=text("receiver") or "",
        unremoved=_sentence(str(said.get("unremoved") or "")),
    )


def unremoved_words(host: str, role: str, unremoved: str) -> str:
    """What to do where a host can't remove something, for people."""
    return (
        f"{host} ({role}) can't remove {', '.join(unremoved.split())}: another user owns something in it, or it is "
        "read-only; remove it there as root, below deploy_to"
    )


class Fleet:
    """The expected hosts of a deployment and what each has said."""

    def __init__(self, expected: Mapping[str, Iterable[str]]) -> None:
        self.expected: tuple[tuple[str, str], ...] = tuple(
            (role, host) for role, hosts in expected.items() for host in hosts
        )
        #: host → its last report of each state and when that was heard, the last heard at the end
        self._reports: dict[tuple[str, str], dict[State, tuple[Report, float]]] = {}
        #: what hosts that reported verified say that they serve; None if that is the release, by this deployment
        self._words: dict[tuple[str, str], str | None] = {}
        # Kept up to date with each report: whoever waits for thousands of hosts asks after every one of them.
        #: expected hosts without a final report, in their order
        self._silent = dict.fromkeys(self.expected)
        #: those that have not even said that they hold the archive
        self._unheard = dict.fromkeys(self.expected)
        #: those that have ended otherwise than verified
        self._lost: dict[tuple[str, str], None] = {}
        self._known = frozenset(self.expected)
        #: how long anybody has listened to them since the announcement, in seconds
        self.listened_seconds = 0.0

    def hear(self, report: Report, seconds: float) -> bool:
        """Take in one report, `seconds` after the announcement; False if the host was not expected."""
        key = (report.role, report.host)
        said = self._reports.setdefault(key, {})
        said.pop(report.state, None)
        said[report.state] = (report, seconds)
        if key not in self._known:
            return False
        if report.state not in (State.ACTIVATED, State.VERIFIED):
            self._unheard.pop(key, None)
        self._settle(key)
        return True

    def hear_word(self, role: str, host: str, serves: str | None) -> None:
        """Take in what a host that reported verified says that it serves; None: the release, by this deployment."""
        self._words[role, host] = serves
        if (role, host) in self._known:
            self._settle((role, host))

    def _settle(self, key: tuple[str, str]) -> None:
        match self.result(*key).verdict:
            case Verdict.SILENT:
                self._silent[key] = None
                self._lost.pop(key, None)
            case Verdict.VERIFIED:
                self._silent.pop(key, None)
                self._lost.pop(key, None)
            case _:
                self._silent.pop(key, None)
                self._lost[key] = None

    def result(self, role: str, host: str) -> HostResult:
        said = self._reports.get((role, host), {})
        last = next((seconds for _, seconds in reversed(said.values())), None)
        state = next((each for each in reversed(_PROGRESS) if each in said), None)
        doubt = self._doubt(role, host)
        best: tuple[int, int, Verdict, Report] | None = None
        for report, _ in said.values():
            final = _FINAL.get(report.state)
            if final is not None and not (doubt and report.state is State.VERIFIED):
                rank, verdict = final
                if best is None or (rank, report.written) >= best[:2]:
                    best = (rank, report.written, verdict, report)
        if best is None:
            return HostResult(role, host, Verdict.SILENT, state, last, doubt or self._still(state), ())
        *_, verdict, told = best
        if verdict is Verdict.VERIFIED:
            state = State.VERIFIED
        return HostResult(
            role, host, verdict, state, last, told.reason, told.log, told.incomplete, told.proof, told.notes
        )

    def _doubt(self, role: str, host: str) -> str:
        """Why a report of `verified` does not count, in a sentence; empty if it does, or there is none.

        Whoever may write there may write anything; but the bus tells in which order, and the last word has to agree.
        """
        said = self._reports.get((role, host), {})
        if State.VERIFIED not in said:
            return ""
        written = {state: report.written for state, (report, _) in said.items()}
        proven, fetched = written[State.VERIFIED], written.get(State.FETCHED)
        # Whoever begins again after a failure fetches again.
        earlier = next((each for each in _FINAL if (fetched or 0) < written.get(each, proven) < proven), None)
        if proven and fetched is None:
            odd = "it has not fetched the release"
        elif fetched is not None and fetched > proven:
            odd = "it fetched the release only later"
        elif written.get(State.ACTIVATED, 0) > proven:
            odd = "it switched only later"
        elif earlier is not None:
            odd = f"it reported {earlier.value} before, and has not started again"
        elif (word := self._words.get((role, host), "there is none")) is not None:
            return (
                f"it reported verified, but its last word, `serving/{role}/{host}` in Consul, does not agree: {word}. "
                f"Check what the host runs, whether its token may write that key, and which other tokens may write "
                f"`reports/{role}/{host}/`"
            )
        else:
            return ""
        return (
            f"its `verified` report does not count: by the order in Consul, {odd}. Somebody else may have written it. "
            f"Check what the host runs, and which Consul tokens may write `reports/{role}/{host}/`"
        )

    def _still(self, state: State | None) -> str:
        match state:
            case None:
                # A deployment that was given up early has not listened for long: not a reason to suspect the host.
                heard = f"no report in {self.listened_seconds:.0f} s"
                return (
                    f"{heard}: is it still fetching, is its consul watch running, can its token read `wanted/` "
                    "(key_prefix read), and can it read the store?"
                )
            case State.FETCHED:
                return "it fetched the archive and reported nothing since"
            case _:
                return f"it reported {state.value} and nothing since"

    def results(self) -> tuple[HostResult, ...]:
        """The expected hosts, in their order."""
        return tuple(self.result(role, host) for role, host in self.expected)

    def unexpected(self) -> tuple[HostResult, ...]:
        """Hosts that reported without being expected; they do not count for the verdict."""
        return tuple(self.result(*key) for key in sorted(self._reports) if key not in self._known)

    def waiting_for(self, *, fetched: bool) -> tuple[tuple[str, str], ...]:
        """Expected hosts without a final report, and, if `fetched`, without the report that they hold the archive."""
        return tuple(self._unheard if fetched else self._silent)

    def is_waiting(self, *, fetched: bool, among: frozenset[tuple[str, str]] | None = None) -> bool:
        """Whether there are any of those; of these hosts only, if they are given."""
        waiting = self._unheard if fetched else self._silent
        return bool(waiting) if among is None else not among.isdisjoint(waiting)

    def lost(self) -> tuple[HostResult, ...]:
        """Expected hosts that have ended otherwise than verified, in the order in which they did."""
        return tuple(self.result(*key) for key in self._lost)

    def bad(self) -> tuple[HostResult, ...]:
        """Expected hosts that are not verified, worst first."""
        order = list(Verdict)
        found = [result for result in self.results() if result.verdict is not Verdict.VERIFIED]
        return tuple(sorted(found, key=lambda result: order.index(result.verdict)))
