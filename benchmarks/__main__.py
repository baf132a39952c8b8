"""`make bench`: all measurements, or the parts that are named.

    python -m benchmarks [PART…] [--runs N] [--quick] [--within DIR] [--output DIR]

Each part has a playground of its own. Tables, JSON and the plot are written to `var/bench/` after each part, so that
one that is interrupted leaves what it has.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import deploys, django, good_runs, link, packing, plot, report, rollback, sizes, startup, verified
from benchmarks.apps import LARGE, SMALL
from benchmarks.measurements import Measurements
from benchmarks.place import measuring_place
from benchmarks.watching import CommandFailed
from deploytool.errors import DeployError
from deploytool.playground.parts import CHECKOUT, programs_directory
from deploytool.playground.playground import Playground

RUNS, QUICK_RUNS, SIZE_RUNS = 5, 1, 2
GOOD_RUNS, ROLLBACK_RUNS = 10, 2


@dataclass(frozen=True, slots=True)
class Bench:
    """What a part needs."""

    found: Measurements
    runs: int
    quick: bool
    #: the directory to measure in; None: the usual one
    within: Path | None

    @property
    def size_runs(self) -> int:
        return min(self.runs, SIZE_RUNS)


def say(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


Part = Callable[[Bench, Playground, Path], None]

#: in the order in which they run
PARTS: Mapping[str, tuple[str, Part]] = {
    "startup": (
        "start-up, and SSH's floors",
        lambda bench, playground, place: startup.measure(playground, place, bench.found, bench.runs, say),
    ),
    "small": (
        "whole deploys of 200 files, 2 MB, beside the peer's",
        lambda bench, playground, place: deploys.measure(SMALL, playground, place, bench.found, bench.runs, say),
    ),
    "link": (
        "the same over a line of 150 ms",
        lambda bench, playground, place: link.measure(playground, place, bench.found, bench.runs, say),
    ),
    "verified": (
        "from the event to the proof of three hosts",
        lambda bench, playground, place: verified.measure(playground, place, bench.found, bench.runs, say),
    ),
    "packing": (
        "packing, hashing and uploading 301 MB alone, beside pipes and uploads",
        lambda bench, playground, place: packing.measure(LARGE, playground, place, bench.found, bench.runs, say),
    ),
    "large": (
        "whole deploys of 8,000 files, 301 MB, beside the peer's",
        lambda bench, playground, place: deploys.measure(LARGE, playground, place, bench.found, bench.runs, say),
    ),
    "django": (
        "whole builds of the sample shop",
        lambda bench, playground, place: django.measure(playground, place, bench.found, bench.runs, say),
    ),
    "files": (
        "cost against the number of files",
        lambda bench, playground, place: sizes.measure(
            "files",
            sizes.by_files(sizes.FILES_QUICK if bench.quick else sizes.FILES),
            playground,
            place,
            bench.found,
            bench.size_runs,
            say,
        ),
    ),
    "megabytes": (
        "cost against megabytes",
        lambda bench, playground, place: sizes.measure(
            "MB",
            sizes.by_megabytes(sizes.MEGABYTES_QUICK if bench.quick else sizes.MEGABYTES),
            playground,
            place,
            bench.found,
            bench.size_runs,
            say,
        ),
    ),
}
HOSTS = "hosts"
#: programs of their own, which print what they find
PROGRAMS: Mapping[str, tuple[str, Callable[[], int]]] = {
    "rollback": ("a rollback beside the deploy that it undoes", lambda: rollback.main(ROLLBACK_RUNS)),
    "good_runs": ("how often a good deploy is called a failure", lambda: good_runs.main(GOOD_RUNS)),
}
EVERY = (*PARTS, HOSTS, *PROGRAMS)


def write(found: Measurements, output: Path, about: Mapping[str, object]) -> str:
    """Write the tables, the figures and the plot; returns the tables."""
    output.mkdir(parents=True, exist_ok=True)
    text = report.full_text(found, str(about["place"]))
    rows = [row.as_json() for row in report.must_reach(found)]
    (output / "bench.txt").write_text(text)
    (output / "bench.json").write_text(json.dumps({**about, "targets": rows, **found.as_json()}, indent=1))
    plot.draw(found, output / "cost.svg")
    return text


def main() -> int:
    parts = "\n".join(
        f"  {name:<10} {words}"
        for name, (words, _) in {**PARTS, HOSTS: ("listening to a large fleet", None), **PROGRAMS}.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure deploytool on the playground's real parts.",
        epilog=f"parts:\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--runs", type=int, help=f"how often; medians count (default {RUNS})")
    parser.add_argument("--quick", action="store_true", help="everything once, without the largest sizes")
    parser.add_argument("--within", type=Path, help="where to measure, such as /dev/shm (default: $TMPDIR or /tmp)")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "var" / "bench", help="default: var/bench")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in EVERY]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(EVERY)}")
    # What this machine lacks of them, for the floors: `make parts` has installed it.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(programs_directory())])
    # `kill` must leave no mount and no playground behind either.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    runs = given.runs or (QUICK_RUNS if given.quick else RUNS)
    bench = Bench(Measurements(), runs, given.quick, given.within)
    chosen = [name for name in EVERY if name in (given.parts or EVERY)]
    failed = run(bench, chosen, given.output)
    print(f"Written: {given.output}/bench.txt, bench.json, cost.svg")
    if failed:
        print(f"Without a result: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(bench: Bench, chosen: list[str], output: Path) -> list[str]:
    """Run the parts; returns those that failed. One that fails does not keep the others from their turn."""
    failed = []
    about = {
        "began_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "revision": subprocess.run(
            ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "runs": bench.runs,
        "quick": bench.quick,
        "place": "",
    }
    begin = time.monotonic()
    text = ""
    for name in chosen:
        say(f"--- {name}")
        try:
            if name in PROGRAMS:
                if PROGRAMS[name][1]() != 0:
                    bench.found.note(f"{name} says that its own limit is not kept: see what it printed")
                continue
            with measuring_place(bench.within) as place:
                about["place"] = place.description
                if name == HOSTS:
                    counts = sizes.HOSTS_QUICK if bench.quick else sizes.HOSTS
                    sizes.measure_hosts(counts, place.directory, bench.found, say)
                else:
                    with Playground(place.directory / "playground", ()) as playground:
                        PARTS[name][1](bench, playground, place.directory)
        except (CommandFailed, DeployError, OSError, subprocess.SubprocessError) as error:
            failed.append(name)
            bench.found.note(f"{name} has no result: {error}")
            say(str(error))
        finally:
            about["seconds"] = round(time.monotonic() - begin)
            text = write(bench.found, output, about)
    print(text)
    return failed


if __name__ == "__main__":
    sys.exit(main())
