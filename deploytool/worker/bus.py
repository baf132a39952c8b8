"""What a deployment needs of a bus: keys with compare-and-set, hosts, and an event. Consul is one."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Tuple


class Entry(NamedTuple):
    """A key with its value and the number by which compare-and-set knows whether it has changed."""

    key: str
    value: str
    modified: int


class Bus(Protocol):
    """See `Consul`, whose methods these are."""

    def get(self, key: str) -> Optional[Entry]: ...

    def list(self, prefix: str, *, index: int = 0, wait_seconds: float = 0) -> Tuple[List[Entry], int]: ...

    def put(self, key: str, value: str, *, expected_index: Optional[int] = None) -> bool: ...

    def put_all(self, writes: List[Tuple[str, str, int]]) -> bool:
        """Write each (key, value, expected_index), all or none."""

    def delete(self, key: str, *, expected_index: Optional[int] = None) -> bool: ...

    def fire(self, name: str, payload: str, hosts: List[str]) -> str: ...

    def hosts(self, selector: Dict[str, Any]) -> Tuple[List[str], List[str]]: ...

    def check(self) -> str: ...
