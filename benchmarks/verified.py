"""From the event until all three hosts have proved that they serve the small application; signed as well."""

import json
import subprocess
from functools import partial
from pathlib import Path

from benchmarks import apps
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.sides import HOSTS, Bucket, Ours, Say, note_deploy
from benchmarks.watching import event_clock, report_clock, watched
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Repository

#: as the small one, under names that hosts listen to; for the second they ask for a signature
HEARD = App("heard", apps.SMALL.files, apps.SMALL.file_bytes)
SIGNED = App("signed", apps.SMALL.files, apps.SMALL.file_bytes)
LAST_HOST, ALL_KNOWN = "verified/event to the last host's proof", "verified/event to the end of the command"
LAST_HOST_SIGNED = f"{LAST_HOST}, signed"


def measure(playground: Playground, directory: Path, found: Measurements, runs: int, say: Say) -> None:
    repositories = {app: Repository(directory / app.name) for app in (HEARD, SIGNED)}
    sides = {}
    for app, repository in repositories.items():
        apps.fill(app, repository)
        side = sides[app] = Ours(playground, directory, app, repository, "gzip")
        playground.add_application(Application(side.name, (PlaygroundRole("web", HOSTS),)))
    _ask_for_signatures(playground, directory, sides[SIGNED])
    clock, bucket = event_clock(playground), Bucket(playground)
    reports = {app: report_clock(playground, side.name) for app, side in sides.items()}
    # Once before: that first deploy has nothing to switch from.
    for number in range(-1, runs):
        for app, side in sides.items():
            apps.change_one_file(app, repositories[app], number)
            deploy = watched(
                partial(side.project.start, "playground", "deploy", "--json"),
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
            seconds = max(reports[app].first(proof, deploy.event_at) for proof in proofs) - deploy.event_at
            if app == HEARD:
                note_deploy(found, "verified/fab gzip", deploy, stored_mb)
                found.add(ALL_KNOWN, deploy.whole_seconds - deploy.until_event_seconds)
            found.add(LAST_HOST if app == HEARD else LAST_HOST_SIGNED, seconds)
            say(f"verified {number + 1}, {app.name}: {seconds:.2f} s after the event")
    clock.close()
    for each in reports.values():
        each.close()


def _ask_for_signatures(playground: Playground, directory: Path, side: Ours) -> None:
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    signers = side.project.directory / "config/signers"
    signers.write_text(f"alice@example.org {key.with_suffix('.pub').read_text()}")
    side.project.settings["trust"] = {"signers": "config/signers", "key": str(key)}
    side.project.write()
    for host in HOSTS:
        place = playground.host_directory(host) / "signers"
        place.write_text(signers.read_text())
        playground.watch(host, side.name, "web", "playground", str(playground.host_home / "signers"))
