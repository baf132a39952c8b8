"""What the operator sees: progress on stderr, results on stdout; a live table on a terminal, plain lines elsewhere.

It shows, and decides nothing. Text that comes from hosts or repositories is neutralised before it is shown.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from deploytool.errors import FleetError, Interrupted
from deploytool.model.fleet import Fleet, HostResult, Report, Verdict, grouped, named
from deploytool.model.lifecycle import Status
from deploytool.model.proof import PROOFS, weakest
from deploytool.screen.github_actions import Annotation, GitHubActions, add_to_summary, harmless, harmless_json
from deploytool.text.untrusted import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.table import Table

    from deploytool.screen.summary import Outcome

#: Without a terminal, a step that is silent is named this often: CI jobs are killed for silence.
HEARTBEAT_SECONDS = 15.0

_COLOURS: Mapping[Verdict, str] = {
    Verdict.VERIFIED: "green",
    Verdict.FAILED: "red",
    Verdict.SILENT: "yellow",
    Verdict.ABORTED: "yellow",
    Verdict.SUPERSEDED: "magenta",
}


class Console:
    """One command's screen."""

    def __init__(
        self,
        *,
        as_json: bool,
        progress: TextIO | None = None,
        results: TextIO | None = None,
        answers: TextIO | None = None,
        actions: GitHubActions | None = None,
    ) -> None:
        """`actions`: the step of GitHub Actions that runs it, and reads along."""
        self.as_json = as_json
        self._actions = actions
        self._progress = progress or sys.stderr
        self._results = results or sys.stdout
        # There is none if it was closed.
        self._answers: TextIO | None = answers or sys.stdin
        self._begin = time.monotonic()
        self._live = self._progress.isatty()
        self._guard = threading.Lock()
        #: what is under way now, for the sentence of an interruption
        self.doing = "starting"
        self._rich_console: RichConsole | None = None

    @property
    def _rich(self) -> "RichConsole":
        if self._rich_console is None:
            self._rich_console = _rich_as_it_is(self._progress)
        return self._rich_console

    def note(self, text: str) -> None:
        """One line of progress, also of what has several."""
        elapsed = int(time.monotonic() - self._begin)
        with self._guard:
            line = self.shown(f"[{elapsed // 60:02d}:{elapsed % 60:02d}] {one_line(text)}")
            if self._live:
                self._rich.print(line, soft_wrap=True)
            else:
                tell(self._progress, line)

    def confirm(self, question: str) -> bool | None:
        """What a person at the terminal answers; None if there is no terminal. No answer is a no."""
        if not self._live or self._answers is None or not self._answers.isatty():
            return None
        self.doing = "waiting for an answer"
        tell(self._progress, f"{one_line(question)} [y/N] ", end="")
        return self._answers.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def step(self, name: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
        """Show a step while it runs. Gives a function that takes the step's last line of output."""
        self.doing = name
        begin = time.monotonic()
        last = [""]
        if not quiet and not self._live:
            self.note(f"{name} …")
        with self._status(lambda: _still(name, begin, last[0])):
            yield lambda line: last.__setitem__(0, printable(line))
        if not quiet:
            self.note(f"{name}: done in {time.monotonic() - begin:.1f} s")

    @contextmanager
    def fleet(self, fleet: Fleet, phase: str, among: frozenset[tuple[str, str]] | None = None) -> Iterator[None]:
        """Show the hosts while they are waited for; those only whose turn it is, if they are given."""
        self.doing = f"waiting for the hosts ({phase})"
        begin = time.monotonic()
        with self._status(
            lambda: _still(_waiting(fleet, phase, among), begin, ""), lambda: self._table(fleet.results())
        ):
            yield

    @contextmanager
    def _status(self, text: Callable[[], str], table: "Callable[[], Table] | None" = None) -> Iterator[None]:
        ended = threading.Event()
        if self._live:
            from rich.console import Group
            from rich.live import Live
            from rich.spinner import Spinner
            from rich.text import Text

            from deploytool.connection.openssh import is_asking

            spinner = Spinner("dots")

            def picture() -> Group:
                while is_asking():
                    time.sleep(0.1)
                spinner.update(text=Text(one_line(text()), overflow="ellipsis", no_wrap=True))
                return Group(*([table()] if table else []), spinner)

            with Live(get_renderable=picture, console=self._rich, refresh_per_second=8, transient=True):
                yield
            return

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                self.note(text())

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def report(self, report: Report, seconds: float, *, expected: bool) -> None:
        """A host said something. On a terminal the table shows it."""
        if not self._live or not expected:
            unexpected = "" if expected else " (not an expected host)"
            reason = f": {report.reason}" if report.reason else ""
            self.note(f"{report.host} ({report.role}) {report.state.value} after {seconds:.1f} s{unexpected}{reason}")

    def _table(self, results: tuple[HostResult, ...], *, rows: int | None = None) -> "Table":
        """The hosts, worst first, folded when there are more than lines."""
        from rich.table import Table
        from rich.text import Text

        order = list(Verdict)
        shown = sorted(results, key=lambda result: order.index(result.verdict))
        room = rows if rows is not None else max(self._rich.height - 6, 3)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("role", "host", "verdict", "state", "seconds"):
            table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
        for result in shown[:room]:
            verdict = result.verdict.value if result.verdict is not Verdict.SILENT or rows is not None else "…"
            table.add_row(
                Text(printable(result.role)),
                Text(printable(result.host)),
                Text(verdict, style=_COLOURS[result.verdict]),
                Text(result.state.value if result.state else "-"),
                Text(f"{result.seconds:.1f}" if result.seconds is not None else "-"),
            )
        if len(shown) > room:
            table.add_row(Text(f"and {len(shown) - room} more"), "", "", "", "")
        return table

    def summary(self, outcome: "Outcome", environment: str, role_hosts: tuple[HostResult, ...]) -> None:
        """The end of a deployment, for people: the table, then why each bad host is bad, and what to do."""
        # Where no screen has an edge, no name is broken at one.
        rich = _rich_as_it_is(self._results, width=None if self._results.isatty() else 1000)
        with rich.capture() as written:
            if role_hosts:
                rich.print(self._table(role_hosts, rows=len(role_hosts)))
            for line in (*reasons(outcome.concerned), *ending(outcome, environment)):
                rich.print(one_line(line), soft_wrap=True)
        tell(self._results, self.shown(written.get()), end="")

    def print(self, line: str) -> None:
        """One line of a result, for people, also of what has several."""
        tell(self._results, self.shown(one_line(line)))

    def print_file(self, text: str) -> None:
        """A result that is a file of ours, for a machine, as it is but for what no line of it can hold."""
        tell(self._results, self.shown("\n".join(map(printable, text.rstrip("\n").split("\n")))))

    def document(self, content: Mapping[str, Any]) -> None:
        """The result as the one JSON document."""
        text = json.dumps(content, indent=2)
        tell(self._results, harmless_json(text) if self._actions else text)

    def shown(self, text: str) -> str:
        """The text as it may be written here: nothing in it is a command to what reads along."""
        return harmless(text) if self._actions else text

    def trace(self, traceback: str) -> None:
        """A bug's traceback, beside the progress; its last lines quote whatever could not be borne."""
        tell(self._progress, self.shown("\n".join(map(printable, traceback.rstrip("\n").split("\n")))))

    @property
    def in_ci(self) -> bool:
        """Whether there is somebody to annotate and to summarise for."""
        return self._actions is not None

    def annotate(self, told: Sequence[Annotation]) -> None:
        """Say beside the run what went wrong. On stderr, which is read as well: stdout may be one document."""
        if self._actions:
            for each in told:
                tell(self._progress, each.command())

    def summarise(self, title: str, hosts: Sequence[HostResult], lines: Sequence[str]) -> None:
        """Add how the command ended to the step's summary. Trouble with that is noted."""
        if self._actions and self._actions.summary:
            try:
                add_to_summary(self._actions.summary, title, hosts, lines)
            except OSError as error:
                self.note(f"the step's summary could not be written: {error}")


def _rich_as_it_is(stream: TextIO, width: int | None = None) -> "RichConsole":
    """rich, told to leave texts as they are: to it `:100:` is a picture, `[b]` a style, and a number has a colour."""
    from rich.console import Console as RichConsole

    return RichConsole(file=stream, width=width, markup=False, emoji=False, highlight=False)


def tell(stream: TextIO, text: str, *, end: str = "\n") -> None:
    """Write a line, whoever reads it; what its encoding has no character for is written by number."""
    encoding = stream.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    with surviving_a_closed_pipe(stream):
        print(text, file=stream, end=end, flush=True)


@contextmanager
def surviving_a_closed_pipe(stream: TextIO) -> Iterator[None]:
    """Nobody listens any more, as in `fab … | head -3`: what is under way goes on, in silence."""
    try:
        yield
    except BrokenPipeError:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, stream.fileno())
        os.close(silence)


def ending(outcome: "Outcome", environment: str) -> list[str]:
    """What is told of a deployment after its hosts."""
    return [*others(outcome), *proofs(outcome), *conclusion(outcome, environment), *still_due(outcome)]


def reasons(results: Sequence[HostResult]) -> list[str]:
    """Why each bad host is bad, worst first, with the end of its log; hosts with one reason and no log in one line."""
    lines = []
    for bad in grouped(results):
        lines += ["", f"{', '.join(bad.hosts)} {bad.verdict.value}" + (f": {bad.reason}" if bad.reason else "")]
        lines += [f"  | {line}" for line in bad.log]
    return [*lines, ""] if lines else []


def proofs(outcome: "Outcome") -> list[str]:
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


def others(outcome: "Outcome") -> list[str]:
    """The hosts that do not count for the verdict."""
    lines = [f"{host} ({role}) was down and was not waited for" for role, host in outcome.down]
    for result in outcome.unexpected:
        state = result.state.value if result.state else result.verdict.value
        lines.append(f"{result.host} ({result.role}) was not expected, and reported {state}")
    return lines


def conclusion(outcome: "Outcome", environment: str) -> list[str]:
    """The last lines: how it ended, and the very command that comes next."""
    bad = [result for result in outcome.hosts if result.verdict is not Verdict.VERIFIED]
    # A role on a host counts as one.
    total = counted(len(outcome.hosts), "host")
    interrupted = outcome.exit_code == Interrupted.exit_code
    if outcome.stopped:
        return stopped(outcome, environment)
    if outcome.unwatched:
        return [f"{outcome.release} announced to {environment} as {outcome.deployment}; unverified (--no-wait)"]
    if not outcome.hosts and outcome.exit_code != 0:
        return []
    if not bad:
        proven = len(outcome.hosts) + len(outcome.spared)
        verified = (
            f"{outcome.release} is verified on {'all ' if proven > 1 else ''}{counted(proven, 'host')} of {environment}"
            + (f", {len(outcome.spared)} of which served it before" if outcome.spared else "")
        )
        if outcome.exit_code == 0:
            return [f"{verified} ({outcome.deployment}, {sum(outcome.phases.values()):.1f} s)"]
        how = "was interrupted after `go`" if interrupted else "did not end well"
        why = [outcome.objection] if outcome.objection is not None else []
        return [f"the command {how}, but {verified} ({outcome.deployment})", *why]
    lines = [f"{outcome.release} is NOT verified on {len(bad)} of {total} of {environment} ({outcome.deployment})"]
    switched = [result for result in outcome.hosts if result.verdict is Verdict.VERIFIED]
    if switched or outcome.exit_code == FleetError.exit_code:
        nodes = ",".join(dict.fromkeys(result.host for result in bad))
        if interrupted and any(result.verdict is Verdict.SILENT for result in bad):
            lines.append("silent hosts may still be finishing by themselves")
        lines.append(f"try them again: fab {environment} deploy --release {outcome.release} --nodes {nodes}")
    return lines


def stopped(outcome: "Outcome", environment: str) -> list[str]:
    """The last lines of a rollout that ended before all its hosts had gone, or that was taken back."""
    gone = [result for result in outcome.hosts if (result.role, result.host) in outcome.gone]
    verified = [result for result in gone if result.verdict is Verdict.VERIFIED]
    total = f"{counted(len(outcome.hosts), 'host')} of {environment}"
    go_on = f"go on: fab {environment} promote      go back: fab {environment} rollback"
    left = len(outcome.hosts) - len(gone)
    if outcome.status is Status.PAUSED:
        rest = "the other host keeps what it has" if left == 1 else f"the other {left} keep what they have"
        bad = f", not on {len(gone) - len(verified)}" if len(verified) < len(gone) else ""
        return [
            f"{outcome.release} is verified on {len(verified)} of {total}{bad}, and PAUSED ({outcome.deployment})",
            f"{rest}, for as long as you like",
            go_on,
        ]
    lines = [
        f"{outcome.release} was {'HALTED' if outcome.status is Status.HALTED else 'STOPPED'} ({outcome.deployment}): "
        f"{len(gone)} of {total} let go; not verified: {len(gone) - len(verified)}; not touched: {left}"
    ]
    if outcome.objection is not None:
        lines.append(outcome.objection)
    for undone in outcome.undone:
        back = [result for result in undone.hosts if result.verdict is Verdict.VERIFIED]
        lines.append(
            f"went back to {undone.release}: verified on {len(back)} of {counted(len(undone.hosts), 'host')} "
            f"({undone.deployment})"
        )
        lines += [
            f"  {result.host} ({result.role}) {result.verdict.value}: {result.reason}"
            for result in undone.hosts
            if result.verdict is not Verdict.VERIFIED
        ]
        lines += [f"  {host} ({role}) is silent: told to go back as well, not waited for" for role, host in undone.told]
    lines += [f"NOT taken back: {reason}" for reason in outcome.not_undone]
    if outcome.spared:
        lines.append(f"on {outcome.release} as before: {counted(len(outcome.spared), 'host')}")
    if outcome.not_undone or any(undone.exit_code for undone in outcome.undone):
        lines.append(f"what is where: fab {environment} status      go back: fab {environment} rollback")
    elif not outcome.undone and verified:
        lines += [f"{counted(len(verified), 'host')} now on {outcome.release}", go_on]
    elif outcome.spared:
        lines.append(go_on)
    return lines


def still_due(outcome: "Outcome") -> list[str]:
    """That the drops and renames of a deployment have not run, if it has any."""
    if outcome.migrate_after != "due":
        return []
    return [f"migrate_after of {outcome.release} is due: it runs once a deploy or promote has verified every host"]


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 host`, `2 hosts`"""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _still(name: str, begin: float, last: str) -> str:
    return f"{name} ({time.monotonic() - begin:.0f} s)" + (f": {last}" if last else "")


def _waiting(fleet: Fleet, phase: str, among: frozenset[tuple[str, str]] | None) -> str:
    waiting = [key for key in fleet.waiting_for(fetched=phase == "fetch") if among is None or key in among]
    concerned = len(fleet.expected if among is None else among)
    names = named([host for _, host in waiting], room=5) or "nobody"
    return f"{phase}: {concerned - len(waiting)} of {concerned} hosts; waiting for {names}"
