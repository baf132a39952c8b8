"""Each fault: how it strikes, and how it is mended."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.faults.clock import HOUR_SECONDS
from tests.faults.relay import Answer, Hang, Request
from tests.faults.world import BUILD_NODE, HOSTS, World

Strike = Callable[[World, "subprocess.Popen[str]"], None]
Mend = Callable[[World], None]

#: so that a disk with little left has none
PIECE = b"\0" * (1 << 20)


def _signal(number: signal.Signals) -> Strike:
    def strike(_world: World, fab: "subprocess.Popen[str]") -> None:
        os.kill(fab.pid, number)

    return strike


def _s3_says(status: str, code: str) -> Strike:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()

    def strike(world: World, _fab: "subprocess.Popen[str]") -> None:
        world.playground.s3.fault = lambda _request: Answer(status, body)

    return strike


def _s3_hangs(world: World, _fab: "subprocess.Popen[str]") -> None:
    world.playground.s3.fault = lambda _request: Hang()


def _s3_refuses(world: World, _fab: "subprocess.Popen[str]") -> None:
    world.playground.s3.refuse()


def _s3_mended(world: World) -> None:
    world.playground.s3.accept()
    world.playground.s3.fault = lambda _request: None
    # Whoever was left hanging is not left so.
    world.playground.s3.cut()


def _consul_403(world: World, _fab: "subprocess.Popen[str]") -> None:
    for relay in world.playground.consul_relays.values():
        relay.fault = _denied


def _denied(request: Request) -> Answer | None:
    # A watch that is refused ends; a token that may no longer touch keys is what is meant.
    if "/v1/event/list" in request.target or "/v1/agent/" in request.target:
        return None
    return Answer("403 Forbidden", b"Permission denied")


def _consul_allowed(world: World) -> None:
    for relay in world.playground.consul_relays.values():
        relay.fault = lambda _request: None


def _fill(directory: Path) -> None:
    with (directory / "filler").open("wb", buffering=0) as file:
        size = len(PIECE)
        while size:
            try:
                file.write(PIECE[:size])
            except OSError:
                # What is less than a piece is taken, too.
                size //= 2


def _fill_build_server(world: World, _fab: "subprocess.Popen[str]") -> None:
    _fill(world.playground.build_root)


def _fill_host(world: World, _fab: "subprocess.Popen[str]") -> None:
    _fill(world.playground.host_directory(HOSTS[0]))


def _clock(offset_seconds: int) -> tuple[Strike, Mend]:
    return (lambda world, fab: world.playground.clock.set(offset_seconds), lambda world: world.playground.clock.set(0))


def _nothing(_world: World) -> None:
    """It is over by itself."""


FAULTS: Mapping[str, tuple[Strike, Mend]] = {
    "sigkill": (_signal(signal.SIGKILL), _nothing),
    "sigterm": (_signal(signal.SIGTERM), _nothing),
    "ctrl_c": (_signal(signal.SIGINT), _nothing),
    "ssh_cut": (lambda world, fab: world.playground.ssh.cut(), _nothing),
    "sshd_restarted": (lambda world, fab: world.playground.restart_sshd(), _nothing),
    "s3_refuses": (_s3_refuses, _s3_mended),
    "s3_hangs": (_s3_hangs, _s3_mended),
    "s3_500": (_s3_says("500 Internal Server Error", "InternalError"), _s3_mended),
    "s3_503": (_s3_says("503 Service Unavailable", "SlowDown"), _s3_mended),
    "s3_403": (_s3_says("403 Forbidden", "AccessDenied"), _s3_mended),
    "consul_leader_lost": (
        lambda world, fab: world.playground.kill_consul_server(),
        lambda world: world.playground.start_consul_server(),
    ),
    "consul_agent_down": (
        lambda world, fab: world.playground.stop_agent(BUILD_NODE),
        lambda world: world.playground.start_agent(BUILD_NODE),
    ),
    "consul_403": (_consul_403, _consul_allowed),
    "build_server_full": (_fill_build_server, lambda world: (world.playground.build_root / "filler").unlink()),
    "clock_ahead": _clock(HOUR_SECONDS),
    "clock_back": _clock(-HOUR_SECONDS),
    "host_clock_ahead": (
        lambda world, fab: world.playground.host_clock.set(HOUR_SECONDS),
        lambda world: world.playground.host_clock.set(0),
    ),
    "host_agent_down": (
        lambda world, fab: world.playground.stop_agent(HOSTS[0]),
        lambda world: world.playground.start_agent(HOSTS[0]),
    ),
    "host_full": (_fill_host, lambda world: (world.playground.host_directory(HOSTS[0]) / "filler").unlink()),
}
