"""What would be typed on the build server, stage by stage. Pure: functions compose scripts, nothing here runs them."""

from deploytool.connection.paths import Place
from deploytool.connection.step import Code, Step, explain, values
from deploytool.stages.checkout import checkout
from deploytool.stages.commands import assets, dependencies, migrate, migrate_after, migrate_pending, pending
from deploytool.stages.compare import Commit, Comparison, compare, compared
from deploytool.stages.fetch import Fetched, LinkedFileDigest, fetch, fetched
from deploytool.stages.keeping import CheckedOut, checked_out
from deploytool.stages.prerequisites import free_kib, linked_files, programs, reach, references, space
from deploytool.stages.survey import hidden, linked_paths, survey
from deploytool.stages.versions import unfit

__all__ = [
    "CheckedOut",
    "Code",
    "Commit",
    "Comparison",
    "Fetched",
    "LinkedFileDigest",
    "Place",
    "Step",
    "assets",
    "checked_out",
    "checkout",
    "compare",
    "compared",
    "dependencies",
    "explain",
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
    "programs",
    "reach",
    "references",
    "space",
    "survey",
    "unfit",
    "values",
]
