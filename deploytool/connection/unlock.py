"""`fab ENV unlock`: ends what holds an environment's locks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypedDict

from deploytool.connection.build_server import BuildServer


class LockJson(TypedDict):
    """A lock and who held it."""

    lock: Annotated[str, "the environment's name, or `workspace`"]
    holder: Annotated[
        Mapping[str, object] | None, "the lock's file: `operator`, `environment`, `purpose`, `since`, `pid` and others"
    ]


@dataclass(frozen=True, slots=True)
class Unlocking:
    """What became of the holders of the locks."""

    ended: list[LockJson]
    #: of the workspace, at work for another environment
    left: list[LockJson]
    sentence: str


def free_locks(build_server: BuildServer, environment: str, tell: Callable[[str], None]) -> Unlocking:
    """End the holder of the environment's lock, and that of the workspace's if it is of this environment."""
    ended: list[LockJson] = []
    left: list[LockJson] = []
    sentences: list[str] = []
    for name in (environment, "workspace"):
        found = build_server.lock_holder(name).answer()
        if found.sentence is None:
            tell(f"the {name} lock is free")
            continue
        shown: LockJson = {"lock": name, "holder": found.holder}
        its_own = (found.holder or {}).get("environment")
        if name == "workspace" and its_own != environment:
            left.append(shown)
            sentences.append(
                f"; the workspace is in use by {found.sentence}, which was left running"
                + (f": `fab {its_own} unlock` would end it" if its_own else "")
            )
            continue
        tell(f"the {name} lock is held by {found.sentence}; ending it")
        build_server.break_lock(name).answer()
        ended.append(shown)
    free = "the locks are free" if not left else f"the lock of {environment} is free"
    sentences.insert(0, f"ended {len(ended)} holder{'s' if len(ended) != 1 else ''}; {free}")
    return Unlocking(ended, left, "".join(sentences))
