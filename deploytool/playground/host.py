"""A pretend app server: the first process of its namespaces. Runs its Consul agent and a `consul watch` per role.

Run as `python host.py DESCRIPTION` inside new mount, pid and uts namespaces. It may import nothing but the standard
library: it starts six times in every test run. When it ends, the kernel ends everything that runs on the host,
daemons included, as with a power cut.

It is told what to do by files in the host's directory, so that whoever can see the directory can do it:

    watches/<any>         one line `application role environment directory`: keep a watch for that event running, and
                          catch up, both with templates/app-server/receive.sh, at the host's start and from time to
                          time; the directory is `deploy_to`, relative to the host's own; a fifth word is the file of
                          signers, or `-` for a watch that hands events to stretcher itself, as those of before did
    control/no-agent      while it is there, the Consul agent is down: killed, or if it holds `leave`, after leaving
    control/restart-watches   end all watches, remove this file; they start again and Consul replays its old events
"""

import contextlib
import ctypes
import json
import os
import shlex
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.2
#: Between two starts of the same program, so that one that always fails does not eat the machine.
BACKOFF_SECONDS = 0.5
MS_BIND = 4096


def bind_mount(source: Path, target: Path) -> None:
    """Let `target` show `source`, in this mount namespace only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None) != 0:
        raise OSError(ctypes.get_errno(), f"{source} can't be shown at {target}")


class Program:
    """A program that is kept running: started again when it ends."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command = command
        self.log = log
        self.pid: int | None = None
        self.next_start = 0.0
        self.told_to_end = False

    def keep_running(self) -> None:
        if self.pid is not None or time.monotonic() < self.next_start:
            return
        self.next_start = time.monotonic() + BACKOFF_SECONDS
        self.told_to_end = False
        output = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # Not subprocess: the first process of a pid namespace reaps all that ends there; two who reap lose some.
            self.pid = os.posix_spawn(
                self.command[0],
                self.command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE],
            )
        finally:
            os.close(output)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal, once, the program and its process group, a stretcher under way included."""
        if self.pid is not None and not self.told_to_end:
            self.told_to_end = True
            os.killpg(self.pid, number)


def receive_command(line: str, home: Path, receive: str, how: str) -> list[str]:
    application, role, environment, directory, *signers = line.split()
    return [receive, how, application, environment, role, str(home / directory), *signers]


def watch_command(line: str, consul: str, handler: list[str]) -> list[str]:
    application, role, environment = line.split()[:3]
    # consul hands its handler to a shell.
    event = f"-name=deploy_{application}_{role}_{environment}"
    return [consul, "watch", "-type=event", event, shlex.join(handler)]


def log_name(line: str) -> str:
    return "-".join(line.split()[:3])


class CatchUp(Program):
    """The boot unit and timer of docs/app-servers.md: again soon if Consul did not answer, else every so often."""

    def __init__(self, command: list[str], log: Path, every_seconds: float | None) -> None:
        super().__init__(command, log)
        #: None: only at the host's start
        self.every_seconds = every_seconds

    def has_ended(self, status: int) -> None:
        pause = self.every_seconds if status == 0 else 2 * BACKOFF_SECONDS
        self.next_start = float("inf") if pause is None else time.monotonic() + pause


class Host:
    """Keeps what should run on the host running, and reaps what has ended."""

    def __init__(self, home: Path, consul: str, stretcher: str, receive: str, catch_up_seconds: float | None) -> None:
        self.home = home
        self.consul = consul
        self.stretcher = stretcher
        self.receive = receive
        self.catch_up_seconds = catch_up_seconds
        self.booting = True
        self.agent = Program([consul, "agent", f"-config-file={home}/consul.json"], home / "log" / "consul.log")
        self.watches: dict[tuple[str, str], Program] = {}
        self.catch_ups: dict[tuple[str, str], CatchUp] = {}
        self.ending = False

    def step(self) -> None:
        no_agent = self.home / "control" / "no-agent"
        if no_agent.exists():
            self.agent.end(signal.SIGTERM if no_agent.read_text(encoding="utf-8") == "leave" else signal.SIGKILL)
        else:
            self.agent.keep_running()
        wanted = {}
        for place in sorted((self.home / "watches").iterdir()):
            # A dot begins the name of a file that is still being written.
            if not place.name.startswith("."):
                # It may be taken away at any moment.
                with contextlib.suppress(FileNotFoundError):
                    line = place.read_text(encoding="utf-8").strip()
                    wanted[place.name, line] = line
        for name in self.watches.keys() - wanted.keys():
            self.watches[name].end()
            del self.watches[name]
            if name in self.catch_ups:
                del self.catch_ups[name]
        for name, line in wanted.items():
            if name not in self.catch_ups and (self.booting or self.catch_up_seconds is not None):
                self.catch_ups[name] = self.new_catch_up(line)
            if name in self.catch_ups:
                self.catch_ups[name].keep_running()
            if name not in self.watches:
                log = self.home / "log" / f"watch-{log_name(line)}.log"
                is_old = line.endswith(" -")
                handler = [self.stretcher] if is_old else receive_command(line, self.home, self.receive, "event")
                self.watches[name] = Program(watch_command(line, self.consul, handler), log)
            self.watches[name].keep_running()
        restart = self.home / "control" / "restart-watches"
        if restart.exists():
            for watch in self.watches.values():
                watch.end()
            restart.unlink()
        self.booting = False

    def new_catch_up(self, line: str) -> CatchUp:
        command = receive_command(line.removesuffix(" -"), self.home, self.receive, "catch-up")
        log = self.home / "log" / f"catch-up-{log_name(line)}.log"
        return CatchUp(command, log, self.catch_up_seconds)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for program in (self.agent, *self.watches.values()):
                if program.pid == pid:
                    program.pid = None
            for catch_up in self.catch_ups.values():
                if catch_up.pid == pid:
                    catch_up.pid = None
                    catch_up.has_ended(status)

    def run(self) -> None:
        while not self.ending:
            self.step()
            time.sleep(POLL_SECONDS)
            self.reap()
        # A shutdown in good order: the watches first, then the agent, which leaves the cluster.
        for watch in self.watches.values():
            watch.end()
        self.agent.end()
        deadline = time.monotonic() + 5
        while self.agent.pid is not None and time.monotonic() < deadline:
            time.sleep(0.02)
            self.reap()

    def shut_down(self, _number: int, _frame: FrameType | None) -> None:
        self.ending = True


def main() -> None:
    description = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    home = Path(description["home"])
    socket.sethostname(description["hostname"])
    bind_mount(Path(description["directory"]), home)
    os.chdir(home)
    host = Host(
        home,
        description["consul"],
        description["stretcher"],
        description["receive"],
        description["catch_up_seconds"],
    )
    signal.signal(signal.SIGTERM, host.shut_down)
    (home / "ready").touch()
    host.run()


if __name__ == "__main__":
    main()
