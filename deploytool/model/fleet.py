"""What the hosts have said, and the verdict on each. Pure: reports in, verdicts out; no clock, no Consul."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

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

    def as_dict(self) -> Mapping[str, object]:
        return {
            "role": self.role,
            "host": self.host,
            "verdict": self.verdict.value,
            "state": self.state.value if self.state else None,
            "seconds": self.seconds,
            "reason": self.reason,
            "log": list(self.log),
            "proof": self.proof,
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Bad:
    """Hosts that are bad for one reason, with one and the same log."""

    verdict: Verdict
    reason: str
    log: tuple[str, ...]
    #: `host (role)` each
    hosts: tuple[str, ...]


def grouped(results: Iterable[HostResult]) -> tuple[Bad, ...]:
    """Those that are not verified, worst first, by what is wrong with them."""
    order = list(Verdict)
    hosts: dict[tuple[Verdict, str, tuple[str, ...]], list[str]] = {}
    for result in sorted(results, key=lambda result: order.index(result.verdict)):
        if result.verdict is not Verdict.VERIFIED:
            hosts.setdefault((result.verdict, result.reason, result.log), []).append(f"{result.host} ({result.role})")
    return tuple(Bad(verdict, reason, log, tuple(names)) for (verdict, reason, log), names in hosts.items())


def read_report(role: str, host: str, state: str, value: str) -> Report | None:
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
    return Report(role, host, known, _sentence(reason), lines, incomplete, known_proof(proof), _sentence(notes))


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
    )


class Fleet:
    """The expected hosts of a deployment and what each has said."""

    def __init__(self, expected: Mapping[str, Iterable[str]]) -> None:
        self.expected: tuple[tuple[str, str], ...] = tuple(
            (role, host) for role, hosts in expected.items() for host in hosts
        )
        self._reports: dict[tuple[str, str], list[tuple[Report, float]]] = {}
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
        self._reports.setdefault(key, []).append((report, seconds))
        if key not in self._known:
            return False
        self._unheard.pop(key, None)
        if report.state in _FINAL:
            self._silent.pop(key, None)
            if self.result(*key).verdict is Verdict.VERIFIED:
                self._lost.pop(key, None)
            else:
                self._lost[key] = None
        return True

    def result(self, role: str, host: str) -> HostResult:
        best: tuple[int, Verdict, Report] | None = None
        state: State | None = None
        last: float | None = None
        for report, seconds in self._reports.get((role, host), ()):
            last = seconds
            final = _FINAL.get(report.state)
            if final is None:
                if state is None or _PROGRESS.index(report.state) > _PROGRESS.index(state):
                    state = report.state
            elif best is None or final[0] >= best[0]:
                best = (*final, report)
        if best is None:
            return HostResult(role, host, Verdict.SILENT, state, last, self._still(state), ())
        if best[1] is Verdict.VERIFIED:
            state = State.VERIFIED
        _, verdict, said = best
        return HostResult(
            role, host, verdict, state, last, said.reason, said.log, said.incomplete, said.proof, said.notes
        )

    def _still(self, state: State | None) -> str:
        match state:
            case None:
                # A deployment that was given up early has not listened for long: not a reason to suspect the host.
                heard = f"not a word in {self.listened_seconds:.0f} s"
                return (
                    f"{heard}: is it still fetching, is its consul watch running, may its token read what is wanted "
                    "(key_prefix read), and can it read the store?"
                )
            case State.FETCHED:
                return "it fetched the archive and said nothing more"
            case _:
                return f"it reported {state.value} and said nothing more"

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
