"""What would be typed on the build server, stage by stage. Pure: functions compose scripts, nothing here runs them."""

from deploytool.build.stages.cache import CheckedOut, checked_out
from deploytool.build.stages.checkout import checkout
from deploytool.build.stages.commands import assets, dependencies, migrate, migrate_after, migrate_pending, pending
from deploytool.build.stages.compare import Commit, Comparison, compare, compared
from deploytool.build.stages.fetch import Fetched, LinkedFileDigest, fetch, fetched, remarks
from deploytool.build.stages.prerequisites import free_kib, linked_files, programs, reach, references, space
from deploytool.build.stages.preview import hidden, linked_paths, preview
from deploytool.build.stages.version_managers import unfit

__all__ = [
    "CheckedOut",
    "Commit",
    "Comparison",
    "Fetched",
    "LinkedFileDigest",
    "assets",
    "checked_out",
    "checkout",
    "compare",
    "compared",
    "dependencies",
    "fetch",
    "fetched",
    "free_kib",
    "hidden",
    "linked_files",
    "linked_paths",
    "migrate",
    "migrate_after",
    "migrate_pending",
    "pending",
    "preview",
    "programs",
    "reach",
    "references",
    "remarks",
    "space",
    "unfit",
]
