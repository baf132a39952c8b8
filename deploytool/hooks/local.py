"""Hooks on the operator's side: shell commands around the steps of a deploy, which get its record as JSON on stdin.

They run on the operator's machine, in the project's directory. What a failure means is for the steps around them.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO, TYPE_CHECKING, Any, Literal

from deploytool import signals
from deploytool.errors import DeployError, HookError
from deploytool.text.masking import Masking, secrets_in

if TYPE_CHECKING:
    from deploytool.model.operator import Operator
    from deploytool.screen.console import Console
    from deploytool.screen.summary import Outcome
    from deploytool.settings import Settings

Moment = Literal[
    "before_build",
    "after_publish",
    "before_announce",
    "after_fetch",
    "before_go",
    "after_wave",
    "after_deploy",
    "after_rollback",
    "on_failure",
]

#: A failure of these ends a deployment while nothing has changed on any host yet.
BEFORE_GO: tuple[Moment, ...] = ("before_build", "after_publish", "before_announce", "after_fetch", "before_go")
#: Those that a deploy comes to only if it builds.
OF_A_BUILD: tuple[Moment, ...] = ("before_build", "after_publish")

#: So many of the last lines of output an error has.
TAIL_LINES = 20
LONGEST_LINE = 2000
#: Of a line that is longer, the rest is read and forgotten: it may have no end.
LINE_BYTES = 64 * 1024
#: How long a command that is ended has to clear up.
GRACE_SECONDS = 5.0
#: After its end, how long its last lines are waited for: a daemon that it leaves behind may keep its output open.
LAST_LINES_SECONDS = 1.0

#: What of the record is in the environment as well, as DEPLOYTOOL_<NAME>; empty if it is not known yet.
IN_ENVIRONMENT = ("hook", "notice", "environment", "application", "release", "revision", "deployment", "exit_code")


#: what a command gets on its stdin
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    #: negative: the number of the signal that ended it
    exit_status: int
    timed_out: bool
    #: its last lines
    tail: tuple[str, ...]


def run_hooks(
    settings: "Settings",
    console: "Console",
    operator: "Operator",
    moment: Moment,
    outcome: "Outcome",
    *,
    exit_code: int | None = None,
    error: DeployError | None = None,
) -> None:
    """Run the commands of `hooks.<moment>`, one after the other; nothing if there are none.

    `exit_code` and `error` are how the command ended, once it has. Raises HookError at the first that fails.
    """
    commands: tuple[str, ...] = getattr(settings.hooks, moment)
    if not commands:
        return
    masking = masking_of_output(settings)
    said = record_of(settings, operator, outcome, exit_code=exit_code, error=error)
    record = Masking(settings.secrets).value({"hook": moment, **said})
    for number, command in enumerate(commands):
        label = f"hooks.{moment}[{number}]"

        def tell(line: str, label: str = label) -> None:
            console.note(f"{label} | {line}")

        with console.step(label):
            try:
                ended = run_command(
                    command,
                    record,
                    directory=settings.directory,
                    timeout_seconds=settings.build.timeout_seconds,
                    masking=masking,
                    tell=tell,
                )
            except OSError as trouble:
                raise HookError(f"{label} could not be started on this machine: {trouble}") from trouble
            if problem := problem_of(ended, settings.build.timeout_seconds, "build.timeout_seconds"):
                hint = "no host was switched" if moment in BEFORE_GO else None
                raise HookError(f"{label} {problem}, on this machine", tail=ended.tail, hint=hint)


def masking_of_output(settings: "Settings") -> Masking:
    """For what commands of the user's print: they have the operator's environment, and all the secrets in it."""
    return Masking([*settings.secrets, *secrets_in(os.environ)])


def record_of(
    settings: "Settings",
    operator: "Operator",
    outcome: "Outcome",
    *,
    exit_code: int | None,
    error: DeployError | None,
) -> Record:
    """What is known of the deployment so far, in the words of its record in the store and of `--json`."""
    return {
        "application": settings.application,
        "environment": settings.environment,
        "operator": operator.name,
        "ci_job": operator.ci_job,
        "kind": None,
        **outcome.story,
        **outcome.as_dict(),
        "branch": outcome.branch,
        "phase": outcome.began,
        "unverified": outcome.unwatched,
        "exit_code": exit_code,
        "error": error.as_dict() if error is not None else None,
    }


def problem_of(ended: Ended, timeout_seconds: int, setting: str) -> str | None:
    """What is wrong with how a command ended, in words; `setting` is where its time comes from."""
    if ended.timed_out:
        return f"was stopped after {timeout_seconds} s (`{setting}`)"
    if ended.exit_status < 0:
        return f"was killed by signal {-ended.exit_status}"
    return f"failed with exit status {ended.exit_status}" if ended.exit_status else None


def run_command(
    command: str,
    record: Mapping[str, Any],
    *,
    directory: Path,
    timeout_seconds: float,
    masking: Masking,
    tell: Callable[[str], None],
) -> Ended:
    """Run one command with the record as JSON on its stdin; `tell` gets each line of its output, secrets masked.

    It has a process group of its own, which is ended when its time is over, and when this is interrupted. Its text may
    hold secrets, so it is read from a file without a name, and never stands in a list of processes. Raises OSError if
    it can't be started.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)

    def read(output: IO[bytes]) -> None:
        begins = True
        with output:
            while line := output.readline(LINE_BYTES):
                if begins:
                    # Of a progress bar, what stands there in the end.
                    text = line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2]
                    shown = masking.text(text)[:LONGEST_LINE]
                    tail.append(shown)
                    tell(shown)
                begins = line.endswith(b"\n")

    process: subprocess.Popen[bytes] | None = None
    timed_out = False
    try:
        # Whatever has begun is known here, so that it can be ended.
        with signals.held_back():
            process = _start(command, record, directory)
            reader = Thread(target=read, args=(process.stdout,), daemon=True)
            reader.start()
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        if process is not None and process.poll() is None:
            _end_group(process)
    assert process is not None, "what keeps it from being started has been raised"
    reader.join(LAST_LINES_SECONDS)
    return Ended(process.returncode, timed_out, tuple(tail))


def _start(command: str, record: Mapping[str, Any], directory: Path) -> "subprocess.Popen[bytes]":
    told = {f"DEPLOYTOOL_{name.upper()}": _in_environment(record.get(name)) for name in IN_ENVIRONMENT}
    with tempfile.TemporaryFile() as script, tempfile.TemporaryFile() as stdin:
        script.write(f"{command}\n".encode())
        stdin.write(f"{json.dumps(record)}\n".encode())
        for file in (script, stdin):
            file.seek(0)
        return subprocess.Popen(
            ["/bin/sh", "-e", f"/dev/fd/{script.fileno()}"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **told},
            pass_fds=(script.fileno(),),
            start_new_session=True,
        )


def _in_environment(value: object) -> str:
    return "" if value is None else str(value)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End the command and all that it has started, also if this is interrupted once more."""
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
