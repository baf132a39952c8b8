"""What a build needs on the build server: programs, room on the disk, files, and the repository."""

from deploytool.build import stages
from deploytool.connection.step import values
from deploytool.errors import StepError
from deploytool.queries.checks.finding import Check, tried
from deploytool.session import Session
from deploytool.text.untrusted import printable

#: With less than this a build is not worth beginning: archives are made beside work tree, dependencies and logs.
FREE_MB = 256


def check_build_server(session: Session) -> list[Check]:
    return [
        tried("programs", lambda: programs_found(session)),
        tried("compressor", lambda: compressor_found(session)),
        tried("disk", lambda: space_found(session)),
        tried("linked files", lambda: linked_files_found(session)),
        tried("repository", lambda: repository_found(session)),
    ]


def programs_found(session: Session) -> str:
    results = session.run(stages.programs(session.settings, session.place), quiet=True).results()
    return ", ".join(values(results, "found"))


def compressor_found(session: Session) -> str:
    """What compresses archives. The worker installs its own if it can; where it can't, a warning says what follows."""
    found = session.build_server.install_compressor(again=True).answer()
    return found.name + (f"; {printable(found.warning)}" if found.warning else "")


def space_found(session: Session) -> str:
    results = session.run(stages.space(session.place), quiet=True).results()
    free_kib = stages.free_kib(results)
    if free_kib is None:
        return f"df does not report the free space in {session.place.root}"
    free_mb = free_kib // 1024
    if free_mb < FREE_MB:
        raise StepError(
            f"only {free_mb} MB are free in {session.place.root} on the build server",
            hint=f"a build needs at least {FREE_MB} MB: free some space, or set `build.root` to a larger disk",
        )
    return f"{free_mb} MB free in {session.place.root}"


def linked_files_found(session: Session) -> str:
    session.run(stages.linked_files(session.settings, session.place), quiet=True).results()
    names = session.settings.build.linked_files
    return f"{', '.join(names)} in {session.place.shared}" if names else "the build needs none"


def repository_found(session: Session) -> str:
    results = session.run(stages.reach(session.settings, session.place), quiet=True).results()
    return f"it answers; its branches and tags: {stages.references(results)}"
