"""Builds that print much: whole in the log, nothing of it kept in memory, little of it on the operator's screen."""

import codecs
import hashlib
import mmap
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.sides import Say, repository_url
from benchmarks.soak import print_much
from benchmarks.soak.findings import Findings
from benchmarks.soak.running import Finished, run
from benchmarks.watching import CommandFailed
from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

NAME = "loud"
LITTLE_MB = 2
#: of the peak of the build that prints little
LIMIT_MEMORY = 1.2
LIMIT_SCREEN_KB = 64
PIECE_BYTES = 1 << 20
#: Something is masked, as in real life.
SECRET = {"SOAK_TOKEN": "a-token-that-no-command-prints"}


def measure(directory: Path, megabytes: int, say: Say) -> Findings:
    """Each kind of output, little and much. Raises CommandFailed."""
    with Playground(directory / "playground", ()) as playground:
        application = Application(NAME, (PlaygroundRole("web", ("app1",)),))
        playground.add_application(application)
        project = Project(playground, directory / NAME, application)
        project.settings["repository"] = repository_url(project.repository)
        project.settings["build"]["env"] = {"TOKEN": "${SOAK_TOKEN}"}
        shutil.copy(print_much.__file__, project.repository.directory)
        found = Findings()
        for kind in print_much.KINDS:
            little = _build(project, kind, LITTLE_MB)
            much = _build(project, kind, megabytes)
            bare = directory / "bare"
            bare_seconds = _print_to(bare, project, kind, megabytes)
            case = f"{megabytes} MB of {kind}"
            beside = f"with {LITTLE_MB} MB"
            for who, peak, small in (
                ("fab", much.operator_peak_mb, little.operator_peak_mb),
                ("worker", much.worker_peak_mb, little.worker_peak_mb),
            ):
                found.ratio(f"{case}: peak memory, {who}", peak, LIMIT_MEMORY, small, beside, "MB")
            found.within(f"{case}: on the operator's screen", much.screen_kilobytes, LIMIT_SCREEN_KB, "kB")
            same = _digest(_decoded(_pieces(bare))) == _digest(_logged(_newest_log(playground)))
            found.within(f"{case}: something is missing in the log", int(not same), 0)
            # What each build takes besides is as in the one that prints little.
            more_seconds = much.seconds - little.seconds
            found.show(f"{case}: the command into a file", bare_seconds)
            found.show(f"{case}: in a build", more_seconds, "s", f"{more_seconds / bare_seconds:.1f} × as long")
            found.show(f"{case}: processor time, fab", much.operator_cpu_seconds)
            found.show(f"{case}: processor time, worker and the command", much.worker_cpu_seconds)
            say(f"logs, {kind}: {much.seconds:.1f} s")
        failed = _build(project, "long lines", megabytes, fails=True)
        found.within(
            f"{megabytes} MB of long lines, then a failure: on the screen",
            failed.screen_kilobytes,
            LIMIT_SCREEN_KB,
            "kB",
        )
    return found


def _build(project: Project, kind: str, megabytes: int, *, fails: bool = False) -> Finished:
    words = f"python3 print_much.py '{kind}' {megabytes}" + (" 3" if fails else "")
    project.settings["build"]["assets"] = [words]
    project.write()
    project.repository.commit({}, f"{megabytes} MB of {kind}")
    return run(project, "playground", "build", env=SECRET, code=4 if fails else 0)


def _print_to(file: Path, project: Project, kind: str, megabytes: int) -> float:
    """Seconds of the command alone."""
    program = project.repository.directory / "print_much.py"
    begin = time.monotonic()
    with file.open("wb") as out:
        subprocess.run(["python3", str(program), kind, str(megabytes)], stdout=out, check=True)
    return time.monotonic() - begin


def _newest_log(playground: Playground) -> Path:
    logs = (playground.build_root / NAME / "logs").glob("*.log")
    return max(logs, key=lambda path: path.stat().st_mtime_ns)


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece


def _decoded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """As a log has it: what is no UTF-8 is replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield decoder.decode(piece).encode()
    yield decoder.decode(b"", final=True).encode()


def _logged(log: Path) -> Iterator[bytes]:
    """What the log has of the command's output. Raises CommandFailed if its beginning or end is not there."""
    with log.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        asked = text.rfind(b"\n$ python3 print_much.py ")
        begin = text.find(b"\n", asked + 1)
        end = text.rfind(b"\n<== assets ended with exit status 0")
        if min(asked, begin, end) < 0:
            raise CommandFailed(f"{log} does not hold the command and its end")
        for place in range(begin, end, PIECE_BYTES):
            yield text[place : min(place + PIECE_BYTES, end)]


def _digest(pieces: Iterable[bytes]) -> Mapping[str, object]:
    """All but the ends of lines: a line that is very long is cut, and each drawing of a progress bar becomes one."""
    digest, length = hashlib.sha256(), 0
    for piece in pieces:
        plain = piece.translate(None, b"\r\n")
        digest.update(plain)
        length += len(plain)
    return {"sha256": digest.hexdigest(), "length": length}
