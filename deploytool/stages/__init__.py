"""What would be typed on the build server, stage by stage. Pure: functions compose scripts, nothing here runs them."""

from deploytool.stages.checkout import checkout
from deploytool.stages.commands import assets, dependencies, migrate
from deploytool.stages.fetch import Fetched, LinkedFileDigest, fetch, fetched
from deploytool.stages.place import Place
from deploytool.stages.prerequisites import linked_files, programs, reach
from deploytool.stages.step import Code, Step, explain, values

__all__ = [
    "Code",
    "Fetched",
    "LinkedFileDigest",
    "Place",
    "Step",
    "assets",
    "checkout",
    "dependencies",
    "explain",
    "fetch",
    "fetched",
    "linked_files",
    "migrate",
    "programs",
    "reach",
    "values",
]
