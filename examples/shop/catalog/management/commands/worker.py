import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from catalog.models import Heartbeat
from shop.environment import RELEASE, REVISION


class Command(BaseCommand):
    help = "Do the shop's background work, and leave a heartbeat with the revision, until SIGTERM"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--pid-file", type=Path, required=True)
        parser.add_argument("--every", type=float, default=2.0, help="seconds between two rounds")

    def handle(self, *args: Any, pid_file: Path, every: float, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        # Each place on a host is a worker of its own, whichever release it runs.
        worker = f"{socket.gethostname()}:{RELEASE.parent.parent if RELEASE.parent.name == 'releases' else RELEASE}"
        self._round(worker)
        # Only now, when the first round is done, the worker says that it is there.
        beside = pid_file.with_name(f"{pid_file.name}.{os.getpid()}")
        beside.write_text(f"{os.getpid()}\n")
        beside.replace(pid_file)
        while not stop.wait(every):
            self._round(worker)
        if pid_file.read_text() == f"{os.getpid()}\n":
            pid_file.unlink()

    def _round(self, worker: str) -> None:
        Heartbeat.objects.update_or_create(worker=worker[:200], defaults={"revision": REVISION})
