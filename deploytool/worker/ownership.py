"""Whose a store is: one application's, for good.

Two applications below one URL would take each other's deployments for their own: a rollback would look for its release
in the other's history, and retention would count the other's releases. So the first one that writes leaves its name,
and any other is refused before it reads or writes anything there.
"""

from __future__ import annotations

import json
import re
from typing import Optional

from deploytool.text.untrusted import read_json

from .failure import Failure
from .store import Store

#: Relative to the store's URL.
OWNER = "application.json"


def is_owned(store: Store, url: str, application: str) -> bool:
    """Whether the store is this application's; False if it is nobody's yet. Raises Failure if it is another's."""
    content = store.get(OWNER)
    if content is None:
        return False
    owner = _named(content)
    if owner is None:
        raise Failure(
            "store",
            "{}/{} does not say which application the store belongs to".format(url, OWNER),
            hint="look at what it holds, and delete it: the next deploy writes it anew",
        )
    if owner != application:
        raise Failure(
            "usage",
            "the store {} belongs to the application {}, and this is {}: applications can't share one".format(
                url, owner, application
            ),
            hint="give each its own `store.url`, for instance {}/{}; if {} was renamed, delete {} there".format(
                url.rstrip("/"), application, owner, OWNER
            ),
        )
    return True


def claim(store: Store, url: str, application: str) -> None:
    """Make a store that is nobody's this application's. Raises Failure if another one was quicker."""
    content = json.dumps({"application": application}) + "\n"
    if not store.put_new(OWNER, content.encode()):
        is_owned(store, url, application)


def _named(content: bytes) -> Optional[str]:
    try:
        name = read_json(content)["application"]
    except (ValueError, LookupError, TypeError):
        return None
    # The form of every application's name; it is shown to people.
    return name if isinstance(name, str) and re.fullmatch("[a-z0-9][a-z0-9_-]{0,62}", name) else None
