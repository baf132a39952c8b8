"""`fab`, run by a process that has imported it already and forks: most of what a short command costs is its imports.

`start` of a project runs the program itself, as do the tests of its start, of its flags and of the first steps.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.documents import check_document

FAB = str(Path(sys.executable).parent / "fab")
#: what Python itself reads before it imports anything
_READ_AT_ONCE = ("PYTHON", "LC_", "LANG", "LD_")


@dataclass(frozen=True, slots=True)
class Result:
    """How a `fab` command ended."""

    code: int
    out: str
    err: str
    #: after `fab`; without them its document may be any command's
    arguments: tuple[str, ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.out)
        assert isinstance(document, dict)
        check_document(document, self.arguments)
        return document

    def verdicts(self) -> dict[str, str]:
        """host/role → verdict"""
        return {f"{host['host']}/{host['role']}": host["verdict"] for host in self.json["hosts"]}


def run(arguments: tuple[str, ...], cwd: Path, env: Mapping[str, str], timeout_seconds: float) -> Result:
    """`fab ARGUMENTS`, to its end. Raises AssertionError if it does not end."""
    if _changes_python(env):
        return execute(arguments, cwd, env, timeout_seconds)
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        out, err = os.pipe(), os.pipe()
        readers = {out[0]: bytearray(), err[0]: bytearray()}
        for descriptor in readers:
            stack.callback(os.close, descriptor)
        request = {"arguments": arguments, "cwd": str(cwd), "env": dict(env)}
        with theirs:
            _forker().ask(request, [theirs.fileno(), out[1], err[1]])
        os.close(out[1])
        os.close(err[1])
        answers = ours.makefile("rb")
        stack.enter_context(answers)
        told = answers.readline()
        assert told, "the process that forks has ended: what it said is above"
        pid = int(told)
        deadline = time.monotonic() + timeout_seconds
        with selectors.DefaultSelector() as selector:
            for descriptor in readers:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(max(0, deadline - time.monotonic())):
                    data = os.read(key.fd, 1 << 16)
                    readers[key.fd] += data
                    if not data:
                        selector.unregister(key.fd)
                if time.monotonic() >= deadline:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                    said = b"\n".join(readers.values()).decode(errors="replace")
                    raise AssertionError(f"fab {' '.join(arguments)} did not end:\n{said}")
        code = int(answers.readline())
        said_out, said_err = (text.decode() for text in readers.values())
        return Result(code, said_out, said_err, arguments)


def execute(arguments: tuple[str, ...], cwd: Path, env: Mapping[str, str], timeout_seconds: float) -> Result:
    """The same, by the program itself; another version of the tool (PYTHONPATH) is run by Fabric's."""
    program = [sys.executable, "-m", "fabric"] if "PYTHONPATH" in env else [FAB]
    process = subprocess.Popen(
        [*program, *arguments],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return finish(process, timeout_seconds)


def finish(process: "subprocess.Popen[str]", timeout_seconds: float) -> Result:
    """Wait for the end of `fab`, a group of its own. Raises AssertionError, and ends it, if it does not end."""
    with process:
        try:
            out, err = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"{process.args!r} did not end:\n{out}\n{err}") from None
    assert isinstance(process.args, list)
    return Result(process.returncode, out, err, tuple(map(str, process.args[1:])))


def _changes_python(env: Mapping[str, str]) -> bool:
    names = {name for name in {*env, *os.environ} if name.startswith(_READ_AT_ONCE)}
    return any(env.get(name) != os.environ.get(name) for name in names)


class _Forker:
    """The process that forks. It ends with this one."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.support.fab", str(theirs.fileno())]
            root = Path(__file__).parents[2]
            self.process = subprocess.Popen(command, cwd=root, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def ask(self, request: Mapping[str, Any], descriptors: list[int]) -> None:
        with _text_in_memory(json.dumps(request)) as text:
            socket.send_fds(self._line, [b"fab"], [text, *descriptors])


@contextlib.contextmanager
def _text_in_memory(text: str) -> Any:
    descriptor = os.memfd_create("request")
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode())
        file.flush()
        yield descriptor


_running: dict[int, _Forker] = {}
_starting = threading.Lock()


def _forker() -> _Forker:
    # Two commands may begin side by side.
    with _starting:
        if os.getpid() not in _running:
            _running[os.getpid()] = _Forker()
        return _running[os.getpid()]


# --- in the process that forks


def _import_all() -> None:
    """Not `tasks`, which looks for the project's environments as it is imported, nor what it sets up."""
    import boto3  # noqa: F401
    import fabric.main  # noqa: F401

    import deploytool

    for module in pkgutil.walk_packages(deploytool.__path__, "deploytool."):
        if not module.name.endswith(("__main__", "deploytool.tasks")):
            importlib.import_module(module.name)


def _in_a_child(line: socket.socket) -> bool:
    """True in a child that has become what was asked for; False in the parent, once nobody asks any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, 16, 4)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not message:
            return False
        if os.fork() == 0:
            text, answer, out, err = descriptors
            child = os.fork()
            if child == 0:
                line.close()
                os.close(answer)
                _become(json.loads(os.pread(text, os.fstat(text).st_size, 0)), out, err)
                return True
            for descriptor in (line.fileno(), text, out, err):
                os.close(descriptor)
            # Both are short enough to arrive whole, and are told apart by their line's end.
            os.write(answer, b"%d\n" % child)
            os.write(answer, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def _become(request: Mapping[str, Any], out: int, err: int) -> None:
    """A process as a shell would have started it."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for descriptor, standard in ((out, 1), (err, 2)):
        os.dup2(descriptor, standard)
    os.closerange(3, 1 << 10)
    sys.argv = [FAB, *request["arguments"]]
    sys.path[0] = str(Path(FAB).parent)


def main() -> None:
    _import_all()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as line:
        if not _in_a_child(line):
            return
    from deploytool.cli.fab import main as fab

    fab()


if __name__ == "__main__":
    main()
