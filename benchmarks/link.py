"""A whole deploy of the small application until its event, over a line with a round trip of 150 ms and without one."""

from pathlib import Path

from benchmarks import apps
from benchmarks.measurements import Measurements
from benchmarks.sides import Bucket, Ours, Say, note_deploy
from benchmarks.watching import event_clock
from deploytool.playground.playground import Playground
from deploytool.playground.slow_link import SlowLink
from tests.support.project import Repository

ROUND_TRIP_SECONDS = 0.15
NEAR, FAR = "fab gzip, near", "fab gzip, 150 ms away"


def measure(playground: Playground, directory: Path, found: Measurements, runs: int, say: Say) -> None:
    repository = Repository(directory / "link")
    apps.fill(apps.SMALL, repository)
    side = Ours(playground, directory / "link-project", apps.SMALL, repository, "gzip")
    near = side.project.settings["build"]["server"]
    found.compressors[side.label] = side.compressor
    clock, bucket = event_clock(playground), Bucket(playground)
    with SlowLink(playground.ssh_port, round_trip_seconds=ROUND_TRIP_SECONDS) as link:
        far = f"{playground.user}@{playground.ssh_host}:{link.port}"
        side.project.settings["build"]["ssh_config"] = str(ssh_config_behind(playground, directory, link.port))
        # Once before: the first deploy of all sends the worker and makes the mirror.
        for number in range(-1, runs):
            for label, server in ((NEAR, near), (FAR, far)):
                side.project.settings["build"]["server"] = server
                side.project.write()
                apps.change_one_file(apps.SMALL, repository, 2 * number + (label == FAR))
                deploy = side.deploy(clock)
                stored_mb = bucket.new_mb()
                if number >= 0:
                    note_deploy(found, f"small/link/{label}", deploy, stored_mb)
                    say(f"small {number + 1}, {label}: {deploy.until_event_seconds:.2f} s")
    clock.close()


def ssh_config_behind(playground: Playground, directory: Path, port: int) -> Path:
    """The playground's, which knows its host key behind that port, too."""
    known = playground.known_hosts.read_text().rstrip("\n")
    behind = known.replace(f":{playground.ssh_port} ", f":{port} ")
    known_hosts, config = directory / "known_hosts", directory / "ssh_config"
    known_hosts.write_text(f"{known}\n{behind}\n")
    config.write_text(playground.ssh_config.read_text().replace(str(playground.known_hosts), str(known_hosts)))
    return config
