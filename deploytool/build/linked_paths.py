"""What hosts link over a release: `linked_dirs` and `linked_files` against what lies there in the archive.

A build asks about the paths of all environments, as these may get the same release later; its record says which ones
were looked at, and which hide something that the build made. linked_dirs do not decide the bytes, so they may change
while a release is used again.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from deploytool.build.stages import linked_paths
from deploytool.errors import StepError
from deploytool.model.build_outputs import made_by_the_build
from deploytool.model.fleet import named
from deploytool.worker.wire import Hidden

if TYPE_CHECKING:
    from deploytool.model.release import Release
    from deploytool.session import Session
    from deploytool.settings import Settings


def links_of(every: "Mapping[str, Settings]") -> dict[str, list[str]]:
    """The linked paths of each environment, as the worker wants them."""
    return {name: list(linked_paths(settings)) for name, settings in every.items()}


def links_recorded(every: "Mapping[str, Settings]", found: Mapping[str, Hidden]) -> dict[str, tuple[str, ...]]:
    """Fields of a release's record, from what the worker found while it packed."""
    looked_at = sorted({path for linked in links_of(every).values() for path in linked})
    covering = tuple(path for path in looked_at if path in found and found[path].made)
    return {"links_checked": tuple(looked_at), "links_covering": covering}


def notes(every: "Mapping[str, Settings]", own: str, found: Mapping[str, Hidden]) -> list[str]:
    """Sentences on what linked paths hide that does not stop this environment's build."""
    said = []
    for path, hidden in sorted(found.items()):
        if hidden.ours and path in linked_paths(every[own]):
            said.append(hides(path, hidden.ours_names, hidden.ours))
        others = [name for name, settings in every.items() if name != own and path in linked_paths(settings)]
        if hidden.made and others:
            said.append(
                f"{named(others)} links {path} over what this build made there: a deploy of this release there would "
                "be refused"
            )
    return said


def hides(path: str, names: Sequence[str], count: int) -> str:
    """The note on files of the revision that hosts replace by a link."""
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return f"the hosts link {path} from shared/, which hides what the revision has there: {', '.join(names)}{more}"


def unchecked(settings: "Settings", release: "Release") -> tuple[str, ...]:
    """The linked paths that nobody looked at when the release was built. A record of before says nothing: none then."""
    if release.links_checked is None:
        return ()
    return tuple(path for path in linked_paths(settings) if path not in release.links_checked)


def refuse_covered(session: "Session", release: "Release") -> None:
    """Raise StepError for a release of which this environment's hosts would hide what its build made."""
    settings = session.settings
    covered = [path for path in linked_paths(settings) if path in release.links_covering]
    if covered:
        paths = ", ".join(covered)
        raise StepError(
            f"the hosts of {settings.environment} would link {paths} from shared/ over what the build of {release.id} "
            "made there",
            hint=f"take {paths} out of `linked_dirs` or `linked_files`; or, if the hosts don't need it, add it to "
            "`build.exclude` and build again",
        )
    if unknown := unchecked(settings, release):
        session.console.note(
            f"{', '.join(unknown)} was not among the linked paths when {release.id} was built: the hosts may "
            "hide something that the build made"
        )


def doubtful(settings: "Settings") -> tuple[str, ...]:
    """Linked directories where builds usually put what the release needs, unless the archive is to be without them."""
    excluded = {pattern.strip("/") for pattern in settings.build.exclude}
    return tuple(
        path
        for path in settings.linked_dirs
        if made_by_the_build(path, settings.build.recipe, None) is not None
        and excluded.isdisjoint(map(str, (PurePosixPath(path), *PurePosixPath(path).parents)))
    )
