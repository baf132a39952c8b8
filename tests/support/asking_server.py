"""An SSH server that asks for what a test wants, in whatever words, and tells what it was answered."""

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.server import InteractiveQuery


@dataclass(slots=True)
class Asking:
    port: int
    #: all that it was told
    told: list[str] = field(default_factory=list)


class _Server(paramiko.ServerInterface):
    def __init__(self, questions: Sequence[str], answers: Sequence[str], asking: Asking) -> None:
        self._questions, self._answers, self._asking = questions, answers, asking

    def get_allowed_auths(self, username: str) -> str:
        return "keyboard-interactive"

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        query: Any = InteractiveQuery("", "")
        for question in self._questions:
            query.add_prompt(question, False)
        return query

    def check_auth_interactive_response(self, responses: list[Any]) -> Any:
        answers = [str(each) for each in responses]
        self._asking.told += answers
        return AUTH_SUCCESSFUL if answers == list(self._answers) else AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> Any:
        # paramiko sends it this way first, whatever the server offers.
        self._asking.told.append(f"password {password}")
        return AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> Any:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
        threading.Thread(target=_execute, args=(channel, command), daemon=True).start()
        return True


def _execute(channel: Any, command: bytes) -> None:
    with subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def feed() -> None:
            with stdin, contextlib.suppress(OSError):
                while data := channel.recv(65536):
                    stdin.write(data)
                    stdin.flush()

        threading.Thread(target=feed, daemon=True).start()
        # Whoever asked may be gone by now.
        with contextlib.suppress(Exception):
            while data := os.read(stdout.fileno(), 65536):
                channel.sendall(data)
    with contextlib.suppress(Exception):
        channel.send_exit_status(process.returncode)
        channel.close()


@contextlib.contextmanager
def asking(host_key: Path, questions: Sequence[str], answers: Sequence[str] = ()) -> Iterator[Asking]:
    """It lets in who gives these answers, in one round of keyboard-interactive; by default nobody."""
    key = paramiko.Ed25519Key(filename=str(host_key))
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Asking(listener.getsockname()[1])

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    transport = paramiko.Transport(listener.accept()[0])
                    transports.append(transport)
                    transport.add_server_key(key)
                    transport.start_server(threading.Event(), _Server(questions, answers, running))

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield running
        finally:
            # What waits in accept wakes up.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for transport in transports:
                transport.close()
