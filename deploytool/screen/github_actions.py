"""What GitHub Actions is told of a command: annotations, and the step's summary; and nothing by mistake.

Its runner obeys lines of a step's output, of stdout and stderr alike, so text of others must not look like such a line.
Pure, but for adding to the summary's file. The forms are those of the runner (`ActionCommand.cs`) and of the page
"Workflow commands for GitHub Actions".
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool.model.fleet import HostResult, Verdict, grouped, named
from deploytool.text.untrusted import one_line, printable

#: GitHub shows so many error annotations of a step, and drops the others.
MOST_ANNOTATIONS = 10
#: GitHub takes 1 MiB for a step's summary, and drops a larger one whole.
SUMMARY_BYTES = 1 << 20
_CUT_OFF = "\nThere was more than GitHub takes: see the step's log.\n"


@dataclass(frozen=True, slots=True)
class GitHubActions:
    """The step that this command runs in."""

    #: the file that becomes the step's summary; None where there is none
    summary: Path | None


def github_actions(environ: Mapping[str, str]) -> GitHubActions | None:
    """The step of GitHub Actions that the environment tells of; None elsewhere."""
    if environ.get("GITHUB_ACTIONS") != "true":
        return None
    name = environ.get("GITHUB_STEP_SUMMARY")
    return GitHubActions(Path(name) if name else None)


# --- the log


def harmless(text: str) -> str:
    """The text without what the runner would take for a command.

    `::name …::` at the beginning of a line, and, as in the days before that, `##[name …]` anywhere in one.
    """
    return re.sub(r"((?:^|[\r\n])\s*)::", r"\1: :", text).replace("##[", "# #[")


def harmless_json(document: str) -> str:
    """The same document for whoever reads it as JSON. No line of it begins with anything but JSON's own characters."""
    return document.replace("##[", "#\\u0023[")


@dataclass(frozen=True, slots=True)
class Annotation:
    """What stands beside the run, without opening its log."""

    title: str
    message: str

    def command(self) -> str:
        """The line by which the runner learns of it."""
        title = _escaped(printable(self.title)).replace(":", "%3A").replace(",", "%2C")
        message = "\n".join(map(printable, self.message.split("\n")))
        return f"::error title={title}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\n", "%0A")


def annotations(title: str, error: Sequence[str], hosts: Sequence[HostResult]) -> list[Annotation]:
    """Why a command failed, in lines, and why each bad host is bad; hosts that are bad for one reason share one.

    A host that did as it was told, and went away from an aborted deployment, needs none.
    """
    told = [Annotation(title, "\n".join(error))]
    for bad in grouped(host for host in hosts if host.verdict is not Verdict.ABORTED):
        names, verdict = named(bad.hosts, room=5), bad.verdict.value
        told.append(Annotation(f"{names} {verdict}", "\n".join((bad.reason or verdict, *bad.log))))
    return told[:MOST_ANNOTATIONS]


# --- the summary


def summary(title: str, hosts: Sequence[HostResult], lines: Sequence[str], room_bytes: int = SUMMARY_BYTES) -> str:
    """The end of a command in Markdown: its hosts, worst first, why the bad ones are bad, and the last `lines`.

    What does not fit into the room is left out, and that is said. Nothing that a host or a commit says is taken for
    Markdown or HTML.
    """
    parts = [f"### {_literal(title)}\n", *([_table(hosts)] if hosts else [])]
    if lines:
        parts.append(_block(lines))
    for bad in grouped(hosts):
        what = f"{', '.join(bad.hosts)} {bad.verdict.value}" + (f": {bad.reason}" if bad.reason else "")
        parts.append(f"<details><summary>{_literal(what)}</summary>\n\n{_block(bad.log or ('no log',))}\n</details>\n")
    return "".join(_fitting((f"{part}\n" for part in parts), room_bytes))


def _fitting(parts: Iterable[str], room_bytes: int) -> Iterator[str]:
    left = room_bytes - len(_CUT_OFF)
    for part in parts:
        left -= len(part.encode())
        if left < 0:
            yield _CUT_OFF
            return
        yield part


def _table(hosts: Sequence[HostResult]) -> str:
    rows = [("role", "host", "verdict", "state", "seconds"), ("---", "---", "---", "---", "--:")]
    rows += [
        (
            _literal(host.role),
            _literal(host.host),
            ("" if host.verdict is Verdict.VERIFIED else "❌ ") + host.verdict.value,
            host.state.value if host.state else "-",
            f"{host.seconds:.1f}" if host.seconds is not None else "-",
        )
        for host in sorted(hosts, key=lambda host: list(Verdict).index(host.verdict))
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _block(lines: Sequence[str]) -> str:
    # In `pre` nothing is Markdown, up to its end; and no `<` is left that could begin that.
    return "<pre>\n" + "".join(f"{html.escape(one_line(line), quote=False)}\n" for line in lines) + "</pre>\n"


def _literal(text: str) -> str:
    """Text on one line of Markdown: whatever could mean something is written by its number, which never does."""
    return re.sub(r"[^0-9A-Za-z ]", lambda found: f"&#{ord(found[0])};", one_line(text))


def add_to_summary(path: Path, title: str, hosts: Sequence[HostResult], lines: Sequence[str]) -> None:
    """Add a command's end to the step's summary. Raises OSError."""
    with path.open("a", encoding="utf-8") as file:
        file.write(summary(title, hosts, lines, SUMMARY_BYTES - file.tell()))
