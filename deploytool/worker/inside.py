"""No path leaves its tree, on the worker's side: what it unpacks, replaces and removes lies below `build.root`.

Scripts have the same in bash, see `stages/inside.py`.
"""

from __future__ import annotations

import os
from typing import Optional, Tuple

from .failure import Failure


def leads_out(tree: str, path: str) -> Optional[Tuple[str, str]]:
    """The first link among the parents of `path`, which begins with `tree`, that leads out of it, and where it leads.

    The tree itself may be reached by links. None if there is no such link. `x/.` is to look at `x` as well.
    """
    top = os.path.realpath(tree)
    at = tree
    if os.pardir in path.split(os.sep):
        return path, os.pardir
    for name in path[len(tree.rstrip(os.sep)) :].strip(os.sep).split(os.sep)[:-1]:
        at = os.path.join(at, name)
        if os.path.islink(at):
            real = os.path.realpath(at)
            # A link to nowhere, or to itself, leads to no place inside.
            if not os.path.exists(at) or not (real + os.sep).startswith(top + os.sep):
                return at, os.readlink(at)
    return None


def refuse_outside(tree: str, path: str) -> None:
    """Raise Failure unless the path lies inside of the tree, links followed."""
    found = leads_out(tree, path)
    if found is not None:
        raise Failure(
            "step",
            "{} on the build server is a link that leads to {}, out of {}".format(found[0], found[1], tree),
            hint="nothing was removed and the link was not followed: make it a directory; to move the whole work area, "
            "set `build.root`",
        )
