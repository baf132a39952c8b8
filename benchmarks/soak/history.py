"""A deploy after thousands of others: what an environment has behind it must cost the next deployment little.

The records of those others are written into the store as a deployment would have left them: years of them, in seconds.
"""

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.sides import Say, repository_url
from benchmarks.soak.findings import Findings
from benchmarks.soak.running import Finished, run
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

NAME = "aged"
DEPLOYS = 7
EVERY = timedelta(hours=4)
WRITERS = 16
LIMIT_TIME = 1.2
#: The worker lists one page of keys and the last 30 days, thrice: some tenths of a second, whatever came before.
LIMIT_WORKER_TIME = 2.0
KEEP = 3


def measure(directory: Path, deployments: int, say: Say) -> Findings:
    """Some deploys, `deployments` more behind them, some deploys again. Raises CommandFailed."""
    with Playground(directory / "playground", ()) as playground:
        application = Application(NAME, (PlaygroundRole("web", ("app1",)),))
        playground.add_application(application)
        project = Project(playground, directory / NAME, application)
        project.settings["repository"] = repository_url(project.repository)
        # Something is removed from the store by each.
        project.settings["store"]["keep_releases"] = KEEP
        project.write()

        def several(words: str) -> list[Finished]:
            done = []
            for number in range(DEPLOYS):
                project.repository.commit({"VERSION": f"{words} {number}\n"}, f"{words} {number}")
                done.append(run(project, "playground", "deploy", "--json"))
            say(f"{words}: {statistics.median(each.seconds for each in done):.2f} s")
            return done[2:]

        before = several("deploys with nothing behind them")
        _write_records(playground, deployments)
        after = several(f"deploys with {deployments:,} behind them")
    found = Findings()
    for what, name, limit in (
        ("processor, fab", "operator_cpu_seconds", LIMIT_TIME),
        ("processor, worker and its programs", "worker_cpu_seconds", LIMIT_WORKER_TIME),
        ("peak memory, fab", "operator_peak_mb", LIMIT_TIME),
        ("peak memory, worker", "worker_peak_mb", LIMIT_TIME),
    ):
        late, early = (statistics.median(getattr(each, name) for each in done) for done in (after, before))
        unit = "MB" if "memory" in what else "s"
        found.ratio(f"a deploy after {deployments:,} others: {what}", late, limit, early, "one of the first", unit)
    late, early = (statistics.median(each.seconds for each in done) for done in (after, before))
    found.show(f"a deploy after {deployments:,} others: wall clock", late, "s", f"one of the first: {early:.2f}")
    return found


def _write_records(playground: Playground, count: int) -> None:
    """`count` deployments before all that there are, each a copy of the newest one's records."""
    client = playground.s3_client()
    below = f"{NAME}/environments/playground/deployments/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=playground.bucket, Prefix=below)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    newest = max(key.removeprefix(below).removesuffix(".json") for key in keys if key.count("/") == below.count("/"))
    texts = {
        ending: client.get_object(Bucket=playground.bucket, Key=f"{below}{newest}{ending}")["Body"].read().decode()
        for ending in ("/begun.json", ".json")
    }

    def objects() -> Iterator[tuple[str, bytes]]:
        first = datetime.now(UTC) - EVERY * (count + 6)
        for number in range(count):
            name = f"{first + number * EVERY:%Y%m%dT%H%M%SZ}aged"
            for ending, text in texts.items():
                yield f"{below}{name}{ending}", text.replace(newest, name).encode()

    with ThreadPoolExecutor(WRITERS) as writers:
        list(
            writers.map(lambda each: client.put_object(Bucket=playground.bucket, Key=each[0], Body=each[1]), objects())
        )
    client.close()
