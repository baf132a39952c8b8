"""From the event until all three hosts have proved that they serve the small application; SSH channels."""

import json
from pathlib import Path

from benchmarks import apps
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.sides import HOSTS, Bucket, Ours, Say, note_deploy
from benchmarks.watching import event_clock, report_clock, watched
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Repository

#: as the small one, under a name that hosts listen to
HEARD = App("heard", apps.SMALL.files, apps.SMALL.file_bytes)
LAST_HOST, ALL_KNOWN = "verified/event to the last host's proof", "verified/event to the end of the command"


def measure(playground: Playground, directory: Path, found: Measurements, runs: int, say: Say) -> None:
    repository = Repository(directory / HEARD.name)
    apps.fill(HEARD, repository)
    side = Ours(playground, directory, HEARD, repository, "gzip")
    playground.add_application(Application(side.name, (PlaygroundRole("web", HOSTS),)))
    clock, bucket = event_clock(playground), Bucket(playground)
    reports = report_clock(playground, side.name)
    # Once before: that first deploy has nothing to switch from.
    for number in range(-1, runs):
        apps.change_one_file(HEARD, repository, number)
        deploy = watched(
            lambda: side.project.start("playground", "deploy", "--json"),
            playground=playground,
            clock=clock,
            event=f"deploy_{side.name}_web_playground",
            ours=True,
        )
        stored_mb = bucket.new_mb()
        if number < 0:
            continue
        deployment = json.loads(deploy.out)["deployment"]
        proofs = [f"web/{host}/{deployment}/verified" for host in HOSTS]
        last = max(reports.first(proof, deploy.event_at) for proof in proofs)
        note_deploy(found, "verified/fab gzip", deploy, stored_mb)
        found.add(LAST_HOST, last - deploy.event_at)
        found.add(ALL_KNOWN, deploy.whole_seconds - deploy.until_event_seconds)
        say(f"verified {number + 1}: {last - deploy.event_at:.2f} s after the event")
    clock.close()
    reports.close()
