"""Settings and places for the scripts of a build."""

from types import SimpleNamespace
from typing import Any

from deploytool.build.stages import (
    Fetched,
    LinkedFileDigest,
)
from deploytool.connection.paths import Place
from deploytool.model.release import Revision
from deploytool.settings.model import Build

REVISION = Revision("1234567890" * 4)
FETCHED = Fetched(REVISION, "heads", 1, "subject", (LinkedFileDigest("key", "0" * 64),), {"python3": "Python 3.11"})
ODD = 'it\'s $(id) "x" `id`'


def build_defaults() -> dict[str, Any]:
    """Every setting of `build`; None where there is no default."""
    defaults = Build.model_construct()
    return {name: getattr(defaults, name, None) for name in Build.model_fields}


def settings(**changes: Any) -> Any:
    build = {
        **build_defaults(),
        "dependencies": ("make deps",),
        "assets": ("make assets",),
        "dependencies_inputs": ("lock",),
        "assets_inputs": (":(glob)app/**",),
        "migrate": ("make migrate",),
        "migrate_pending": ("make pending",),
        "migrate_after": ("make drops",),
        "timeout_seconds": 1800,
    }
    build.update({name: changes.pop(name) for name in list(changes) if name in build})
    values = {"repository": "/srv/git/shop", "subdirectory": ".", "linked_dirs": (), "linked_files": (), **changes}
    return SimpleNamespace(build=SimpleNamespace(**build), **values)


def place(**changes: str) -> Place:
    return Place(**{"root": "/var/tmp/deploytool", "application": "shop", "environment": "production", **changes})
