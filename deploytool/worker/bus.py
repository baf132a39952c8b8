"""What a deployment needs of a bus: keys with compare-and-set, hosts, and an event. Consul is one."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Protocol, Sequence, Tuple

from .findings import Findings
from .wire import Selector

#: of the names that `keys` tells: those of fifty thousand hosts have half of it
KEYS_BYTES = 16 << 20


class Entry(NamedTuple):
    """A key with its value and the number by which compare-and-set knows whether it has changed."""

    key: str
    value: str
    modified: int


class Value(NamedTuple):
    """What was read of a key."""

    key: str
    #: None: it is longer than was asked for
    value: Optional[str]
    #: greater for what was written later, whichever key; equal where that is unknown
    written: int


def is_below_something(prefix: str) -> bool:
    """Whether `prefix` names a place of its own: deleting below it can't mean all keys, nor those of a neighbour."""
    return prefix.endswith("/") and all(part not in ("", ".", "..") for part in prefix[:-1].split("/"))


class Bus(Protocol):
    """See `Consul`, whose methods these are."""

    def get(self, key: str) -> Optional[Entry]: ...

    def list(self, prefix: str) -> List[Entry]: ...

    def wait(self, prefix: str, *, index: int, wait_seconds: float) -> int:
        """Wait until something below `prefix` is another than at `index` (0: for nothing); returns the index of now.

        It costs the same however much is there.
        """

    def keys(self, prefix: str) -> Optional[Tuple[List[str], int]]:
        """All keys below `prefix`, without values, and their index; None if the names have more than KEYS_BYTES."""

    def read(self, keys: Sequence[str], *, most_bytes: int) -> List[Value]:
        """Those of the keys that are there, in order, with values of so many bytes at most."""

    def put(self, key: str, value: str, *, expected_index: Optional[int] = None) -> bool: ...

    def put_all(self, writes: List[Tuple[str, str, int]]) -> bool:
        """Write each (key, value, expected_index), all or none."""

    def delete(self, key: str, *, expected_index: Optional[int] = None) -> bool: ...

    def names(self, prefix: str) -> List[str]:
        """The names directly below `prefix`, which ends with a slash, in order."""

    def delete_all(self, prefix: str) -> None:
        """Delete every key below `prefix`, which ends with a slash."""

    def delete_places(self, prefixes: List[str]) -> None:
        """The same for each of these."""

    def delete_keys(self, keys: Sequence[str]) -> None:
        """Delete exactly these keys, whatever is in their names."""

    def fire(self, name: str, payload: str, hosts: List[str]) -> str: ...

    def hosts(self, selector: Selector) -> Tuple[List[str], List[str]]: ...

    def check(self, findings: Findings, prefix: str, probe: str, events: List[str], services: List[str]) -> None:
        """Try every right that a deploy needs: keys below `prefix`, hosts, these events and services.

        `probe` is an id that no deployment has; nothing is left of it.
        """
