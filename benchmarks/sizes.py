"""Cost against size: files up to 100,000, megabytes up to 2,000, and hosts; with peak memory at each.

Each size is deployed from nothing and then with one file changed, the largest also with zstd; see fleet.py for the
hosts.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import apps, fleet
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.sides import CHANGED, COLD, Bucket, Ours, Say, note_deploy
from benchmarks.watching import event_clock
from deploytool.playground.playground import Playground
from tests.support.project import Repository

FILES = (1_000, 10_000, 30_000, 100_000)
FILES_QUICK = (1_000, 10_000)
#: small, so that their number is what costs
SMALL_FILE_BYTES = 500
MEGABYTES = (1, 30, 300, 2_000)
MEGABYTES_QUICK = (1, 30, 300)
#: few, so that their size is what costs
LARGE_FILES = 200
HOSTS = (500, 1_000, 2_000, 5_000)
HOSTS_QUICK = (500, 1_000)
#: for its memory: zstd's own threads and windows are not gzip's
COLD_ZSTD = f"{COLD}, zstd"


def by_files(counts: Sequence[int]) -> list[tuple[int, App]]:
    return [(count, App(f"f{count}", count, SMALL_FILE_BYTES)) for count in counts]


def by_megabytes(sizes: Sequence[int]) -> list[tuple[int, App]]:
    return [(size, App(f"m{size}", LARGE_FILES, size * 1_000_000 // LARGE_FILES)) for size in sizes]


def measure(
    kind: str,
    sizes: Sequence[tuple[int, App]],
    playground: Playground,
    directory: Path,
    found: Measurements,
    runs: int,
    say: Say,
) -> None:
    """One row of sizes."""
    clock, bucket = event_clock(playground), Bucket(playground)

    def deploy(side: Ours, case: str, size: int) -> None:
        seen = side.deploy(clock)
        note_deploy(found, f"size/{kind}/{case}/{size}", seen, bucket.new_mb())
        say(f"{size} {kind}, {case}: {seen.until_event_seconds:.2f} s")
        bucket.remove_archives()

    largest = max(size for size, _ in sizes)
    for size, app in sizes:
        repository = Repository(directory / app.name)
        apps.fill(app, repository)
        side = Ours(playground, directory, app, repository, "gzip")
        found.compressors[side.label] = side.compressor
        for number in range(runs):
            repository.commit({}, f"{COLD}, {number}")
            side.forget()
            deploy(side, COLD, size)
            apps.change_one_file(app, repository, number)
            deploy(side, CHANGED, size)
        side.forget()
        if size == largest:
            deploy(Ours(playground, directory, app, repository, "zstd"), COLD_ZSTD, size)
    clock.close()


def measure_hosts(counts: Sequence[int], directory: Path, found: Measurements, say: Say) -> None:
    """What listening to a fleet costs: CPU time of the worker and of the operator's side together."""
    for each in fleet.measured(counts, directory):
        if each.heard != each.hosts:
            found.note(f"of {each.hosts} hosts only {each.heard} were heard")
        found.add(f"size/hosts/CPU time/{each.hosts}", each.worker_cpu_seconds + each.operator_cpu_seconds)
        found.add(f"size/hosts/lag/{each.hosts}", each.lag_seconds)
        found.add(f"size/hosts/peak memory/worker/{each.hosts}", each.worker_peak_mb, "MB")
        found.add(f"size/hosts/peak memory/operator/{each.hosts}", each.operator_peak_mb, "MB")
        say(f"{each.hosts} hosts: {each.worker_cpu_seconds + each.operator_cpu_seconds:.2f} s of CPU time")
