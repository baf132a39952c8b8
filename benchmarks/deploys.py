"""Whole deploys of the seeded applications until their event, beside the peer's and beside the floors of the same run.

The sides take turns within each case, in an order that moves on with each round.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import apps, floors, peer
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.sides import (
    CASES,
    CHANGED,
    COLD,
    SAME,
    UNCHANGED,
    Bucket,
    Ours,
    Say,
    Side,
    Theirs,
    note_deploy,
    repository_url,
)
from benchmarks.watching import event_clock
from deploytool.playground.playground import Playground
from tests.support.project import Repository

COMPRESSIONS = ("gzip", "zstd")


def measure(app: App, playground: Playground, directory: Path, found: Measurements, runs: int, say: Say) -> None:
    """All cases of one application, all sides, `runs` times; with floors."""
    repository = Repository(directory / app.name)
    apps.fill(app, repository)
    sides: list[Side] = [Ours(playground, directory, app, repository, each) for each in COMPRESSIONS]
    reason = peer.why_not()
    if reason is None:
        sides += [Theirs(playground, directory, app, repository, tuned=tuned) for tuned in (False, True)]
    else:
        found.note(f"the peer was not measured: {reason}")
    found.compressors |= {side.label: side.compressor for side in sides}
    clock, bucket = event_clock(playground), Bucket(playground)
    tree = directory / f"{app.name}-floor"
    for number in range(runs):
        for case in CASES:
            if case == CHANGED:
                apps.change_one_file(app, repository, number)
            elif case != SAME:
                repository.commit({}, f"{case}, {number}")
            for side in _turned([each for each in sides if case in each.cases], number):
                if case == COLD:
                    side.forget()
                deploy = side.deploy(clock)
                note_deploy(found, f"{app.name}/{case}/{side.label}", deploy, bucket.new_mb())
                say(f"{app.name} {number + 1}, {case}, {side.label}: {deploy.until_event_seconds:.2f} s")
            if case == COLD:
                found.add(f"{app.name}/floor/git, fresh", floors.git_fresh(repository_url(repository), tree))
            elif case == UNCHANGED:
                floors.git_again(tree)
            elif case == CHANGED:
                found.add(f"{app.name}/floor/git, one file changed", floors.git_again(tree))
        bucket.remove_archives()
    clock.close()


def _turned(sides: Sequence[Side], number: int) -> list[Side]:
    first = number % len(sides)
    return [*sides[first:], *sides[:first]]
