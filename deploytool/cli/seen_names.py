"""The releases and branches that commands have seen, kept on the operator's machine for the shell's completion.

A convenience and no more: what can't be read or written is as good as not there.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool.text.untrusted import read_json

#: As many as anybody would choose from.
_MOST = 100


@dataclass(frozen=True, slots=True)
class Seen:
    """What a project's commands have seen."""

    #: newest first
    releases: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()


def recall(project: Path, environ: Mapping[str, str]) -> Seen:
    """What was seen in any of the project's environments."""
    place = _place(project, environ)
    seen = [_read(file) for file in sorted(place.glob("*.json"))] if place else []
    return Seen(
        tuple(sorted({release for each in seen for release in each.releases}, reverse=True)),
        tuple(sorted({branch for each in seen for branch in each.branches})),
    )


def remember(project: Path, environment: str, environ: Mapping[str, str], release: str) -> None:
    """Add one release to what was seen in an environment."""
    if file := _file(project, environment, environ):
        before = _read(file)
        _write(file, Seen((release, *before.releases), before.branches))


def remember_all(
    project: Path, environment: str, environ: Mapping[str, str], releases: Iterable[str], branches: Iterable[str]
) -> None:
    """Put these in place of what was seen in an environment: others are no longer in its store."""
    if file := _file(project, environment, environ):
        _write(file, Seen(tuple(releases), tuple(branches)))


def _place(project: Path, environ: Mapping[str, str]) -> Path | None:
    """A directory of the project's own in the user's cache; None if the user has no home."""
    given = environ.get("XDG_CACHE_HOME", "")
    home = environ.get("HOME", "")
    # As the XDG specification says: a relative path is to be ignored.
    cache = Path(given) if given.startswith("/") else Path(home) / ".cache" if home.startswith("/") else None
    return cache / "deploytool" / hashlib.sha256(os.fsencode(project)).hexdigest()[:16] if cache else None


def _file(project: Path, environment: str, environ: Mapping[str, str]) -> Path | None:
    place = _place(project, environ)
    return place / f"{environment}.json" if place else None


def _read(file: Path) -> Seen:
    try:
        said = read_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Seen()
    return Seen(_texts(said, "releases"), _texts(said, "branches"))


def _texts(said: Any, key: str) -> tuple[str, ...]:
    found = said.get(key) if isinstance(said, dict) else None
    return tuple(each for each in found if isinstance(each, str) and each) if isinstance(found, list) else ()


def _write(file: Path, seen: Seen) -> None:
    releases = sorted(set(seen.releases), reverse=True)[:_MOST]
    branches = sorted(set(seen.branches))[:_MOST]
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Beside, then moved: two commands may end at the same moment.
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as beside:
            json.dump({"releases": releases, "branches": branches}, beside)
        os.replace(beside.name, file)
