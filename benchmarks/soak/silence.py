"""Builds whose commands say nothing for a long time, on a short and on a long line; one that is interrupted meanwhile,
and one that takes too long. All four at the same time, as they only wait.
"""

import fcntl
import time
from pathlib import Path

from benchmarks.link import ssh_config_behind
from benchmarks.sides import Say, repository_url
from benchmarks.soak import census
from benchmarks.soak.findings import Findings
from benchmarks.soak.running import Running
from benchmarks.watching import CommandFailed, SshLog
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from deploytool.playground.slow_link import SlowLink
from tests.support.project import Project

ROUND_TRIP_SECONDS = 0.15
NEAR, FAR, INTERRUPTED, LATE = "near", "far", "interrupted", "late"
#: from Ctrl-C to the end of the command
AT_ONCE_SECONDS = 5
#: between what `build.timeout_seconds` says and the end of the command
LATE_SECONDS = 15


class Quiet:
    """One application whose build sleeps, by a number of seconds that no other has."""

    def __init__(self, playground: Playground, directory: Path, name: str, seconds: float) -> None:
        self.playground = playground
        self.name = f"silent-{name}"
        self.sleep = f"sleep {seconds:.3f}"
        application = Application(self.name, (PlaygroundRole("web", ("app1",)),))
        self.project = Project(playground, directory / self.name, application)
        self.project.settings["repository"] = repository_url(self.project.repository)
        self.project.settings["build"]["assets"] = [self.sleep]
        self.project.write()

    def start(self) -> Running:
        return Running(self.project, ("playground", "build"))

    def sleeps(self) -> bool:
        return any(census.command_of(each) == self.sleep for each in census.below(self.playground, "sshd"))

    def left(self) -> list[str]:
        """What is left of a build that is over, in words."""
        home = self.playground.build_root / self.name
        found = []
        if not census.until(lambda: not self.sleeps(), AT_ONCE_SECONDS):
            found.append("its command still runs")
        for lock in (home / "locks").iterdir():
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    found.append(f"the lock {lock.name} is held")
        found += [f"upload {path.name}" for path in (home / "uploads").glob("*")]
        found += [f"object {key}" for key in census.objects(self.playground, self.name) if key != "application.json"]
        found += [f"key {key}" for key in census.consul_keys(self.playground, self.name)]
        return found


def measure(directory: Path, seconds: float, say: Say) -> Findings:
    """`seconds` of silence; Ctrl-C and the time limit come after half of it. Raises CommandFailed."""
    with (
        Playground(directory / "playground", ()) as playground,
        SlowLink(playground.ssh_port, round_trip_seconds=ROUND_TRIP_SECONDS) as link,
    ):
        silent = {
            name: Quiet(playground, directory, name, seconds + number / 8)
            for number, name in enumerate((NEAR, FAR, INTERRUPTED, LATE))
        }
        silent[FAR].project.settings["build"] |= {
            "server": f"{playground.user}@{playground.ssh_host}:{link.port}",
            "ssh_config": str(ssh_config_behind(playground, directory, link.port)),
        }
        silent[FAR].project.write()
        half = round(seconds / 2)
        silent[LATE].project.settings["build"]["timeout_seconds"] = half
        silent[LATE].project.write()
        log = SshLog(playground)
        running = {name: each.start() for name, each in silent.items()}
        if not census.until(lambda: all(each.sleeps() for each in silent.values()), 60):
            raise CommandFailed("\n".join(each.screen() for each in running.values()))
        say(f"four builds are silent for {seconds:g} s")
        time.sleep(half)
        found = Findings()
        interrupted_at = time.monotonic()
        running[INTERRUPTED].interrupt()
        ended = running[INTERRUPTED].end(seconds)
        case = f"{seconds:g} s of silence"
        took = time.monotonic() - interrupted_at
        found.within(f"{case}: from Ctrl-C in its middle to the end of the command", took, AT_ONCE_SECONDS, "s")
        found.within(f"{case}: that command's exit code is not 130", int(ended.code != 130), 0)
        left = silent[INTERRUPTED].left()
        found.within(f"{case}: left behind by that one", len(left), 0)
        late = running[LATE].end(seconds)
        found.more(f"{case}, build.timeout_seconds: ended after", late.seconds, LATE_SECONDS, half, "the limit", "s")
        told = late.code == 4 and "build.timeout_seconds" in late.err
        found.within(f"{case}, build.timeout_seconds: it does not say so", int(not told), 0)
        left += silent[LATE].left()
        found.within(f"{case}, build.timeout_seconds: left behind by both", len(left), 0)
        for name, words in ((NEAR, "on loopback"), (FAR, f"over a line of {ROUND_TRIP_SECONDS * 1e3:.0f} ms")):
            whole = running[name].end(seconds + 120)
            found.within(f"{case}, {words}: exit code", whole.code, 0)
            found.more(f"{case}, {words}: the command", whole.seconds, LATE_SECONDS, seconds, "the silence", "s")
            found.show(f"{case}, {words}: on the screen", whole.screen_kilobytes, "kB")
            found.show(f"{case}, {words}: processor time of fab", whole.operator_cpu_seconds)
            if whole.code:
                say(whole.err[-2_000:])
        found.within(f"{case}: SSH connections of the four commands", log.connections(), len(silent))
        for each in left:
            say(f"left behind: {each}")
    return found
