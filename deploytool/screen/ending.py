"""How the end of a deployment reads: the hosts, why the bad ones are bad, what to type next, and the verdict."""

from collections.abc import Iterable, Sequence

from deploytool.errors import FleetError, Interrupted
from deploytool.model.fleet import HostResult, Verdict, grouped, named
from deploytool.model.lifecycle import Status
from deploytool.model.proof import PROOFS, weakest
from deploytool.screen.page import BAD, GOOD, WARNING, Next, Page, Row
from deploytool.screen.summary import Outcome
from deploytool.text.words import counted

#: Above so many rows, hosts that need no attention are counted and not listed.
FOLDED_ABOVE = 20
#: So many of those that do are listed then; all of them are named with their cause.
LISTED = 10
#: So many hosts stand before their cause; more stand below it.
BESIDE_CAUSE = 3

COLUMNS = ("role", "host", "verdict", "state", "seconds")
STYLES = {
    Verdict.VERIFIED: GOOD,
    Verdict.FAILED: BAD,
    Verdict.SILENT: WARNING,
    Verdict.ABORTED: WARNING,
    Verdict.SUPERSEDED: "magenta",
}


def deployment_page(outcome: Outcome, environment: str) -> Page:
    """The end of a deployment, for people. `outcome` has hosts, or was not waited for."""
    shown, bad = outcome.hosts, outcome.concerned
    if is_taken_back(outcome):
        bad = tuple(result for result in bad if verdict_word(outcome, result) != "unchanged")
        shown = shown if bad else ()
    return Page(
        columns=COLUMNS if shown else (),
        rows=tuple(host_rows(outcome, shown)),
        remarks=(*causes(bad), *remarks(outcome)),
        next=tuple(next_commands(outcome, environment)),
        verdict=verdict(outcome, environment),
        style=style_of(outcome),
    )


def ending(outcome: Outcome, environment: str) -> list[str]:
    """The same without the hosts and their logs, in lines."""
    page = deployment_page(outcome, environment)
    return Page(remarks=remarks(outcome), next=page.next, verdict=page.verdict).lines()


def message(outcome: Outcome, environment: str) -> list[str]:
    """The same for a message: the verdict first, without the proofs."""
    return [
        *filter(None, [verdict(outcome, environment)]),
        *_rollout_remarks(outcome),
        *_still_due(outcome),
        *Page(next=tuple(next_commands(outcome, environment))).lines(),
    ]


def is_taken_back(outcome: Outcome) -> bool:
    """Whether no host was let go, and so none has changed."""
    return outcome.status is Status.ABORTED


def style_of(outcome: Outcome) -> str:
    if outcome.status is Status.PAUSED or outcome.unwatched:
        return WARNING
    return BAD if outcome.exit_code else GOOD


# --- hosts


def verdict_word(outcome: Outcome, result: HostResult) -> str:
    """The host's verdict; a host whose turn did not come is waiting, or as it was."""
    if result.verdict not in (Verdict.ABORTED, Verdict.SILENT) or (result.role, result.host) in outcome.gone:
        return result.verdict.value
    if outcome.status is Status.PAUSED:
        return "waiting"
    # Those that only left the barrier; and where the operator did not wait, those that had no time to say a word.
    interrupted = outcome.exit_code == Interrupted.exit_code
    if outcome.stopped or (is_taken_back(outcome) and (interrupted or result.verdict is Verdict.ABORTED)):
        return "unchanged"
    return result.verdict.value


def host_rows(outcome: Outcome, results: Sequence[HostResult]) -> list[Row]:
    """A row for each host, the worst first; above 20, those that need no attention are counted."""
    order = list(Verdict)
    words = {id(result): verdict_word(outcome, result) for result in results}
    calm = ("verified", "waiting", "unchanged")

    def place(result: HostResult) -> tuple[int, int]:
        word = words[id(result)]
        return (calm.index(word) if word in calm else -1, order.index(result.verdict))

    ordered = sorted(results, key=place)
    if len(ordered) <= FOLDED_ABOVE:
        return [_row(result, words[id(result)]) for result in ordered]
    rows = [_row(result, words[id(result)]) for result in ordered if words[id(result)] not in calm]
    rows, more = rows[:LISTED], len(rows) - LISTED
    if more > 0:
        rows.append(Row(("", f"and {more} more", "", "", "")))
    counts: dict[tuple[str, str], int] = {}
    for result in ordered:
        if (word := words[id(result)]) in calm:
            counts[result.role, word] = counts.get((result.role, word), 0) + 1
    for (role, word), count in counts.items():
        rows.append(Row((role, counted(count, "host"), word, "", ""), GOOD if word == "verified" else "", 2))
    return rows


def _row(result: HostResult, word: str) -> Row:
    seconds = f"{result.seconds:.1f}" if result.seconds is not None else "-"
    cells = (result.role, result.host, word, result.state.value if result.state else "-", seconds.rjust(7))
    return Row(cells, STYLES[result.verdict] if word == result.verdict.value else "", 2)


def causes(results: Iterable[HostResult]) -> list[str]:
    """Why hosts are bad: each cause once, with one log and all the hosts that it is true of."""
    lines = []
    for bad in grouped(results):
        reason = f": {bad.reason}" if bad.reason else ""
        if len(bad.hosts) <= BESIDE_CAUSE:
            lines += ["", f"{', '.join(bad.hosts)} {bad.verdict.value}{reason}"]
        else:
            lines += ["", f"{counted(bad.machines, 'host')} {bad.verdict.value}{reason}", f"  {', '.join(bad.hosts)}"]
        if bad.log and not bad.same_log:
            lines.append(f"  the log of {bad.hosts[0]}; --json has the others:")
        lines += [f"  | {line}" for line in bad.log]
    return [*lines, ""] if lines else []


# --- remarks


def remarks(outcome: Outcome) -> tuple[str, ...]:
    """What else there is to know of a deployment."""
    return (*_others(outcome), *proofs(outcome), *_rollout_remarks(outcome), *_still_due(outcome))


def proofs(outcome: Outcome) -> list[str]:
    """What the verified hosts have proved, the weakest of each role; and what else they saw."""
    verified = [result for result in outcome.hosts if result.verdict is Verdict.VERIFIED]
    by_role: dict[str, list[str]] = {}
    for result in verified:
        if result.proof:
            by_role.setdefault(result.role, []).append(result.proof)
    lines = [f"proof of {role}: {PROOFS[weakest(words)]}" for role, words in by_role.items()]
    seen: dict[str, list[str]] = {}
    for result in verified:
        if result.notes:
            seen.setdefault(result.notes, []).append(f"{result.host} ({result.role})")
    return [*lines, *(f"{named(hosts)}: {notes}" for notes, hosts in seen.items())]


def _others(outcome: Outcome) -> list[str]:
    """The hosts that do not count for the verdict."""
    lines = [f"{host} ({role}) was down and was not waited for" for role, host in outcome.down]
    for result in outcome.unexpected:
        state = result.state.value if result.state else result.verdict.value
        lines.append(f"{result.host} ({result.role}) was not expected, and reported {state}")
    return lines


def _rollout_remarks(outcome: Outcome) -> list[str]:
    lines = [outcome.objection] if outcome.objection is not None else []
    for undone in outcome.undone:
        back = [result for result in undone.hosts if result.verdict is Verdict.VERIFIED]
        lines.append(
            f"rolled back to {undone.release}: verified on {_machines(back)} of {_hosts(undone.hosts)} "
            f"({undone.deployment})"
        )
        lines += [
            f"  {result.host} ({result.role}) {result.verdict.value}: {result.reason}"
            for result in undone.hosts
            if result.verdict is not Verdict.VERIFIED
        ]
        lines += [f"  {host} ({role}) is silent: notified, and not waited for" for role, host in undone.told]
    lines += [f"NOT rolled back: {reason}" for reason in outcome.not_undone]
    if outcome.stopped and outcome.status is not Status.PAUSED:
        stay = [result for result in _gone(outcome) if result.verdict is Verdict.VERIFIED]
        if outcome.spared:
            lines.append(f"still on {outcome.release}: {_count(host for _, host in outcome.spared)}")
        elif stay and not outcome.undone and not outcome.not_undone:
            lines.append(f"now on {outcome.release}: {_hosts(stay)}")
    interrupted = outcome.exit_code == Interrupted.exit_code and not is_taken_back(outcome)
    if interrupted and any(result.verdict is Verdict.SILENT for result in outcome.concerned):
        lines.append("silent hosts may still be switching by themselves")
    return lines


def _still_due(outcome: Outcome) -> list[str]:
    """That the drops and renames of a deployment have not run, if it has any."""
    if outcome.migrate_after != "due":
        return []
    return [f"migrate_after of {outcome.release} is due: it runs once a deploy or promote has verified every host"]


# --- the verdict, and what comes next


def verdict(outcome: Outcome, environment: str) -> str:
    """How it ended, in one sentence; empty if the command's error says it all."""
    total = f"{_hosts(outcome.hosts)} of {environment}"
    if outcome.unwatched:
        return f"{outcome.release} announced to {environment} as {outcome.deployment}; unverified (--no-wait)"
    if is_taken_back(outcome):
        return f"{outcome.release} was not deployed: no host of {environment} was switched ({outcome.deployment})"
    if outcome.stopped:
        return _stopped(outcome, total)
    if not outcome.hosts and outcome.exit_code != 0:
        return ""
    bad = [result for result in outcome.hosts if result.verdict is not Verdict.VERIFIED]
    if bad:
        return f"{outcome.release} is NOT verified on {_machines(bad)} of {total} ({outcome.deployment})"
    everywhere = [*((result.role, result.host) for result in outcome.hosts), *outcome.spared]
    proven = len({host for _, host in everywhere})
    verified = (
        f"{outcome.release} is verified on {'all ' if proven > 1 else ''}{counted(proven, 'host')} of {environment}"
        + (f", {len({host for _, host in outcome.spared})} of which had it before" if outcome.spared else "")
    )
    if outcome.exit_code == 0:
        return f"{verified} ({outcome.deployment}, {sum(outcome.phases.values()):.1f} s)"
    how = "was interrupted after `go`" if outcome.exit_code == Interrupted.exit_code else "did not end well"
    return f"the command {how}, but {verified} ({outcome.deployment})"


def _stopped(outcome: Outcome, total: str) -> str:
    gone = _gone(outcome)
    verified = [result for result in gone if result.verdict is Verdict.VERIFIED]
    bad = [result for result in gone if result.verdict is not Verdict.VERIFIED]
    untouched = _count(result.host for result in outcome.hosts if (result.role, result.host) not in outcome.gone)
    if outcome.status is Status.PAUSED:
        failed = f", not on {_machines(bad)}" if bad else ""
        wait = "waits" if untouched.startswith("1 ") else "wait"
        return (
            f"PAUSED: {outcome.release} is verified on {_machines(verified)} of {total}{failed}; {untouched} {wait} "
            f"({outcome.deployment})"
        )
    word = "HALTED" if outcome.status is Status.HALTED else "STOPPED"
    return (
        f"{word}: {outcome.release} was let go on {_machines(gone)} of {total}; not verified: {_machines(bad)}; "
        f"unchanged: {untouched} ({outcome.deployment})"
    )


def next_commands(outcome: Outcome, environment: str) -> list[Next]:
    """What people may want to type next, in that order."""
    status = Next(f"fab {environment} status", "which host runs what")
    rollback = Next(f"fab {environment} rollback", "go back to the release before")
    promote = Next(f"fab {environment} promote", "continue with the other hosts")
    if outcome.unwatched:
        return [status]
    if is_taken_back(outcome) or (not outcome.hosts and not outcome.spared):
        return []
    if outcome.status is Status.PAUSED:
        return [promote, rollback]
    if outcome.stopped:
        if outcome.not_undone or any(undone.exit_code for undone in outcome.undone):
            return [status, rollback]
        verified = any(result.verdict is Verdict.VERIFIED for result in _gone(outcome))
        return [promote, rollback] if outcome.spared or (verified and not outcome.undone) else []
    bad = [result for result in outcome.hosts if result.verdict is not Verdict.VERIFIED]
    good = [result for result in outcome.hosts if result.verdict is Verdict.VERIFIED]
    if not bad or not (good or outcome.exit_code == FleetError.exit_code):
        return []
    again = f"fab {environment} deploy --release {outcome.release}"
    # All of them need no names.
    nodes = f" --nodes {','.join(dict.fromkeys(result.host for result in bad))}" if good or outcome.spared else ""
    return [status, Next(again + nodes, "try these hosts again" if nodes else "try again"), rollback]


def _gone(outcome: Outcome) -> list[HostResult]:
    return [result for result in outcome.hosts if (result.role, result.host) in outcome.gone]


def _machines(results: Iterable[HostResult]) -> int:
    """So many hosts: one that has two roles is one."""
    return len({result.host for result in results})


def _hosts(results: Iterable[HostResult]) -> str:
    return counted(_machines(results), "host")


def _count(hosts: Iterable[str]) -> str:
    return counted(len(set(hosts)), "host")
