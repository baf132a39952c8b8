"""What the operator sees: progress on stderr, results on stdout; a live table on a terminal, plain lines elsewhere.

It shows, and decides nothing. Text that comes from hosts or repositories is neutralised before it is shown.
"""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from deploytool.model.fleet import Fleet, HostResult, Report, State, Verdict, named
from deploytool.screen.ending import COLUMNS, STYLES
from deploytool.screen.github_actions import Annotation, GitHubActions, add_to_summary, harmless, harmless_json
from deploytool.screen.page import Page, wrapped
from deploytool.text.untrusted import one_line, printable
from deploytool.text.words import counted

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.table import Table

#: Without a terminal, a step that is silent is named this often: CI jobs are killed for silence.
HEARTBEAT_SECONDS = 15.0
#: Steps that took less need no estimate.
WORTH_SECONDS = 5.0


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
        #: step → how long it took in this command, and how long it took before, in seconds
        self.took: dict[str, float] = {}
        self.expected: Mapping[str, float] = {}
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
                for each in wrapped(line, self._rich.width):
                    self._rich.print(each, soft_wrap=True)
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
        usual = self.expected.get(name, 0.0)
        if not quiet and not self._live:
            self.note(f"{name} …" + (f" (about {usual:.0f} s)" if usual >= WORTH_SECONDS else ""))
        with self._status(lambda: _still(name, begin, last[0], usual)):
            yield lambda line: last.__setitem__(0, printable(line))
        seconds = time.monotonic() - begin
        self.took[name] = round(self.took.get(name, 0.0) + seconds, 1)
        if not quiet:
            self.note(f"{name}: done in {seconds:.1f} s")

    @contextmanager
    def fleet(self, fleet: Fleet, phase: str, among: frozenset[tuple[str, str]] | None = None) -> Iterator[None]:
        """Show the hosts while they are waited for; those only whose turn it is, if they are given."""
        self.doing = f"waiting for the hosts ({phase})"
        begin = time.monotonic()
        with self._status(
            lambda: _still(waiting_words(fleet, phase, among), begin, ""), lambda: self._table(fleet.results())
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
        """A host has reported. On a terminal the table shows it; that a host only left the barrier is no news."""
        if report.state is not State.ABORTED and (not self._live or not expected):
            unexpected = "" if expected else " (not an expected host)"
            reason = f": {report.reason}" if report.reason else ""
            self.note(f"{report.host} ({report.role}) {report.state.value} after {seconds:.1f} s{unexpected}{reason}")

    def _table(self, results: tuple[HostResult, ...]) -> "Table":
        """The hosts so far, those that need attention first, folded when there are more than lines."""
        from rich.table import Table
        from rich.text import Text

        order = list(Verdict)
        shown = sorted(results, key=lambda result: order.index(result.verdict))
        room = max(self._rich.height - 6, 3)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in COLUMNS:
            table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
        for result in shown[:room]:
            verdict = result.verdict.value if result.verdict is not Verdict.SILENT else "…"
            table.add_row(
                Text(printable(result.role)),
                Text(printable(result.host)),
                Text(verdict, style=STYLES[result.verdict]),
                Text(result.state.value if result.state else "-"),
                Text(f"{result.seconds:.1f}" if result.seconds is not None else "-"),
            )
        if len(shown) > room:
            table.add_row(Text(f"and {len(shown) - room} more"), "", "", "", "")
        return table

    def page(self, page: Page) -> None:
        """A command's result, for people. On a terminal it is wrapped at words, and coloured."""
        from rich.text import Text

        rich = _rich_as_it_is(self._results)
        with rich.capture() as written:
            for pieces in page.styled_lines(self.width):
                rich.print(Text.assemble(*pieces), soft_wrap=True)
        tell(self._results, self.shown(written.get()), end="")

    @property
    def width(self) -> int | None:
        """The columns that a line of a result may take; None where there is no edge."""
        return shutil.get_terminal_size().columns if self._results.isatty() else None

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


def _rich_as_it_is(stream: TextIO) -> "RichConsole":
    """rich, told to leave texts as they are: to it `:100:` is a picture, `[b]` a style, and a number has a colour."""
    from rich.console import Console as RichConsole

    return RichConsole(file=stream, markup=False, emoji=False, highlight=False)


def tell(stream: TextIO, text: str, *, end: str = "\n") -> None:
    """Write a line; what its encoding has no character for is written by number. See `streams` for closed pipes."""
    encoding = stream.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream, end=end, flush=True)


def _still(name: str, begin: float, last: str, usual: float = 0.0) -> str:
    about = f" of about {usual:.0f} s" if usual >= WORTH_SECONDS else " s"
    return f"{name} ({time.monotonic() - begin:.0f}{about})" + (f": {last}" if last else "")


def waiting_words(fleet: Fleet, phase: str, among: frozenset[tuple[str, str]] | None) -> str:
    """How many hosts are there, and which are not; a host with two roles is one."""
    concerned = {host for _, host in (fleet.expected if among is None else among)}
    waiting = dict.fromkeys(
        host for role, host in fleet.waiting_for(fetched=phase == "fetch") if among is None or (role, host) in among
    )
    names = f"; waiting for {named([*waiting], room=5)}" if waiting else ""
    return f"{phase}: {len(concerned) - len(waiting)} of {counted(len(concerned), 'host')}{names}"
