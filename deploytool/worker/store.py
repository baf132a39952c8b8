"""What a deployment needs of a store: archives, manifests and records. Nothing in it is ever overwritten."""

from __future__ import annotations

from typing import IO, Callable, ContextManager, List, Optional, Protocol, Tuple

from . import multipart
from .failure import Failure
from .findings import Findings

#: Told what the store calls an upload, before anything of it is written: `give_up` takes that name.
Begun = Callable[[str], None]


class Store(Protocol):
    """Keys are paths, with `/` between their parts. What goes wrong is a Failure of the kind `store`."""

    def get(self, key: str) -> Optional[bytes]: ...

    def exists(self, key: str) -> bool: ...

    def put_new(self, key: str, content: bytes) -> bool:
        """Write the object unless there is one of that name; False if there is."""

    def upload(self, key: str, source: multipart.Source, begun: Begun, go_on: Callable[[], None]) -> None:
        """Write what the source gives under a new name; it appears only when it is whole. `go_on` raises to stop it."""

    def give_up(self, key: str, name: str) -> None:
        """Remove what a worker that is gone had written of the object."""

    def remove_unfinished(self, prefix: str, before: float) -> List[str]:
        """Remove what was left of uploads below `prefix` that began before that time; the names of what is gone."""

    def open(self, key: str) -> ContextManager[IO[bytes]]:
        """The object as a stream. What goes wrong with what is read is not the store's fault."""

    def first(self, prefix: str) -> Tuple[List[str], bool]:
        """The first keys below `prefix` that come at one go, and whether these are all."""

    def directories(self, prefix: str) -> List[str]:
        """The names of the directories right below `prefix`, in order."""

    def list(self, prefix: str, beyond: str = "") -> List[str]:
        """Keys that begin with `prefix` (a whole directory, ending with a slash) and come after `beyond`, in order."""

    def delete(self, key: str) -> None:
        """Delete the object. One that is gone already is no error."""

    def check(self, findings: Findings) -> None:
        """Try every right that a deploy needs."""


def already_there(key: str) -> Failure:
    return Failure("store", "{} is in the store already, and nothing in it is ever overwritten".format(key))
