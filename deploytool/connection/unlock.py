"""`fab ENV unlock`: ends what holds an environment's locks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploytool.connection.client import Worker


@dataclass(frozen=True, slots=True)
class Unlocking:
    """What became of the holders of the locks: each as `{"lock", "holder"}`."""

    ended: list[Mapping[str, Any]]
    #: of the workspace, at work for another environment
    left: list[Mapping[str, Any]]
    sentence: str


def free_locks(worker: Worker, environment: str, tell: Callable[[str], None]) -> Unlocking:
    """End the holder of the environment's lock, and that of the workspace's if it is of this environment."""
    ended: list[Mapping[str, Any]] = []
    left: list[Mapping[str, Any]] = []
    sentences: list[str] = []
    for name in (environment, "workspace"):
        answer = worker.ask("lock_holder", name=name)
        if answer["sentence"] is None:
            tell(f"the {name} lock is free")
            continue
        found = {"lock": name, "holder": answer["holder"]}
        its_own = (answer["holder"] or {}).get("environment")
        if name == "workspace" and its_own != environment:
            left.append(found)
            sentences.append(
                f"; the workspace is in use by {answer['sentence']} and was left alone"
                + (f": `fab {its_own} unlock` would end that" if its_own else "")
            )
            continue
        tell(f"the {name} lock is held by {answer['sentence']}; ending it")
        worker.ask("break_lock", name=name)
        ended.append(found)
    free = "the locks are free" if not left else f"the lock of {environment} is free"
    sentences.insert(0, f"ended {len(ended)} holder{'s' if len(ended) != 1 else ''}; {free}")
    return Unlocking(ended, left, "".join(sentences))
