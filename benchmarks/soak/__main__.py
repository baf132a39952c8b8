"""`make soak`: what only shows after many deploys, at large sizes and after long silence; all parts, or those named.

    python -m benchmarks.soak [PART…] [--quick] [--within DIR] [--output DIR]

Each part has a playground of its own on the playground's real parts. Figures are written to `var/soak/`, the table is
shown at the end; exit status 1 if a bound does not hold, or a part has no result.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.place import measuring_place
from benchmarks.soak import deploys, history, large, logs, silence
from benchmarks.soak.findings import Findings
from benchmarks.watching import CommandFailed
from deploytool.errors import DeployError
from deploytool.playground.parts import CHECKOUT


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long and how large."""

    deploys: int
    megabytes: int
    files: int
    log_megabytes: int
    silence_seconds: int
    history: int


WHOLE = Sizes(deploys=200, megabytes=2_000, files=100_000, log_megabytes=200, silence_seconds=600, history=10_000)
QUICK = Sizes(
    deploys=deploys.WINDOWS.shortest,
    megabytes=50,
    files=2_000,
    log_megabytes=20,
    silence_seconds=20,
    history=1_000,
)


def say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


Part = Callable[[Path, Sizes, Path], Findings]

#: in the order in which they are shown
PARTS: Mapping[str, tuple[str, Part]] = {
    "deploys": (
        "200 deploys in a row: growth, and the time of the last",
        lambda place, sizes, output: deploys.measure(place, sizes.deploys, output, say),
    ),
    "history": (
        "a deploy after 10,000 others",
        lambda place, sizes, _: history.measure(place, sizes.history, say),
    ),
    "large": (
        "2 GB in 100,000 files: deployed, and taken back to",
        lambda place, sizes, _: large.measure(place, sizes.files, sizes.megabytes, say),
    ),
    "logs": (
        "builds that print 200 MB",
        lambda place, sizes, _: logs.measure(place, sizes.log_megabytes, say),
    ),
    "silence": (
        "builds that say nothing for 10 minutes",
        lambda place, sizes, _: silence.measure(place, sizes.silence_seconds, say),
    ),
}
#: It only waits: it runs beside the others.
BESIDE = "silence"


def found_file(output: Path, part: str) -> Path:
    return output / f"{part}.found.json"


def run_part(name: str, sizes: Sizes, within: Path | None, output: Path) -> bool:
    """Run one part and write what it found; whether it has a result."""
    say(f"--- {name}")
    begin = time.monotonic()
    found_file(output, name).unlink(missing_ok=True)
    try:
        with measuring_place(within) as place:
            found = PARTS[name][1](place.directory, sizes, output)
    except (CommandFailed, DeployError, OSError, subprocess.SubprocessError) as error:
        say(f"{name} has no result: {error}")
        return False
    found_file(output, name).write_text(found.as_json())
    say(f"--- {name}: {time.monotonic() - begin:.0f} s")
    return True


@contextlib.contextmanager
def beside(arguments: Sequence[str]) -> Iterator[None]:
    """A part in a process of its own; it is waited for, and ends with us."""
    command = [sys.executable, "-m", "benchmarks.soak", BESIDE, "--no-table", *arguments]
    process = subprocess.Popen(command, cwd=CHECKOUT)
    try:
        yield
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def main() -> int:
    parts = "\n".join(f"  {name:<10} {words}" for name, (words, _) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Deploy for a long time, and what is large, on the playground's real parts.",
        epilog=f"parts:\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether the soak itself works")
    parser.add_argument("--within", type=Path, help="where to work, such as /dev/shm (default: $TMPDIR or /tmp)")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "var" / "soak", help="default: var/soak")
    # Of the part that runs beside the others: whoever started it shows what it found.
    parser.add_argument("--no-table", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    # `kill` must leave no mount and no playground behind either.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sizes = QUICK if given.quick else WHOLE
    output: Path = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in PARTS if name in (given.parts or PARTS)]
    if chosen == [BESIDE]:
        run_part(BESIDE, sizes, given.within, output)
        if given.no_table:
            return 0
    else:
        options = ["--quick"] * given.quick + ["--output", str(output)]
        options += ["--within", str(given.within)] if given.within else []
        with beside(options) if BESIDE in chosen else contextlib.nullcontext():
            for name in chosen:
                if name != BESIDE:
                    run_part(name, sizes, given.within, output)
    return tell(chosen, output)


def tell(chosen: Sequence[str], output: Path) -> int:
    """Show the table of what the parts have found, and write it; the exit status."""
    found, missing = Findings(), []
    for name in chosen:
        try:
            found.add(Findings.from_json(found_file(output, name).read_text()))
        except FileNotFoundError:
            missing.append(name)
    revision = subprocess.run(
        ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    text = f"Soak of {revision}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n\n{found.text()}"
    (output / "soak.txt").write_text(text)
    (output / "soak.json").write_text(found.as_json())
    print(text)
    for row in found.broken:
        print(f"Does not hold: {row.case}", file=sys.stderr)
    if missing:
        print(f"Without a result: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing or found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
