"""What a worker answers, as both ends know it: a class for each kind of answer, whose fields are those of the JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Type, TypeVar, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """One of these."""


# --- the store


@dataclass(frozen=True)
class Content(Answer):
    """The text of a key; None if there is none."""

    content: Optional[str]


@dataclass(frozen=True)
class Contents(Answer):
    contents: Dict[str, Optional[str]]


@dataclass(frozen=True)
class Exists(Answer):
    exists: bool


@dataclass(frozen=True)
class Existed(Answer):
    """Those keys of what was to be written that were there already, and stay as they are."""

    existed: List[str]


@dataclass(frozen=True)
class Keys(Answer):
    keys: List[str]


@dataclass(frozen=True)
class Names(Answer):
    names: List[str]


@dataclass(frozen=True)
class Newest(Answer):
    """Keys, whether these are all that there are, and the texts of the newest of them."""

    keys: List[str]
    whole: bool
    contents: Dict[str, Optional[str]]


@dataclass(frozen=True)
class BuiltRecord(Answer):
    """The release that a record for reuse names, the text of that one's own record, and its keys."""

    release: Optional[str]
    record: Optional[str]
    keys: List[str]


@dataclass(frozen=True)
class Deleted(Answer):
    deleted: int


@dataclass(frozen=True)
class RemovedUploads(Answer):
    removed: List[str]
    #: a right that is missing for it
    trouble: Optional[str]


# --- the bus


@dataclass(frozen=True)
class Role(Answer):
    """The hosts of a role, by name, and what Consul has of them: values as they stand there."""

    up: List[str]
    down: List[str]
    #: of the role as a whole: `<deployment> <manifest URL>`
    wanted: Optional[str]
    #: the same of single hosts
    exceptions: Dict[str, str]
    #: each host's last word
    serving: Dict[str, str]
    #: deployment → the word at its barrier
    go: Dict[str, str]


@dataclass(frozen=True)
class Roles(Answer):
    roles: Dict[str, Role]


@dataclass(frozen=True)
class Freeze(Answer):
    why: str
    operator: str
    at: str

    @property
    def words(self) -> str:
        """Who froze it, since when and why, as the rest of a sentence."""
        return "frozen by {} since {}: {}".format(self.operator, self.at, self.why)


@dataclass(frozen=True)
class Frozen(Answer):
    """None if the environment is not frozen."""

    frozen: Optional[Freeze]


@dataclass(frozen=True)
class Thawed(Answer):
    """What it was; None if it was not frozen."""

    was: Optional[Freeze]


@dataclass(frozen=True)
class Removed(Answer):
    removed: List[str]


@dataclass(frozen=True)
class LetGo(Answer):
    """Whether hosts had been let go before; None if that is unknown."""

    let_go: Optional[bool]


@dataclass(frozen=True)
class Done(Answer):
    pass


#: request → the class of its answer
ANSWERS: Mapping[str, Any] = {
    "store_get": Content,
    "store_read": Contents,
    "store_exists": Exists,
    "store_put": Existed,
    "store_list": Keys,
    "store_directories": Names,
    "store_newest": Newest,
    "store_built": BuiltRecord,
    "store_delete": Deleted,
    "prune_uploads": RemovedUploads,
    "status": Roles,
    "frozen": Frozen,
    "freeze": Frozen,
    "thaw": Thawed,
    "prune_keys": Removed,
    "announce": Frozen,
    "watch": Done,
    "end_watch": Done,
    "go": Done,
    "halt": Done,
    "settle": Done,
    "abort": LetGo,
}


def read(kind: Type[T], answer: Mapping[str, Any]) -> T:
    """The answer as a value of its class. Its shape was looked at when it came; what it has beyond that is left out."""
    value: T = _read(kind, answer)
    return value


def _read(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Answer):
        return kind(**{name: _read(each, value[name]) for name, each in _types(kind).items()})
    origin: Any = getattr(kind, "__origin__", None)
    arguments: Any = getattr(kind, "__args__", None)
    if value is None or origin is None:
        return value
    if origin is dict:
        return {name: _read(arguments[1], each) for name, each in value.items()}
    if origin is list:
        return [_read(arguments[0], each) for each in value]
    # Optional.
    return _read(arguments[0], value)


def _types(kind: Any) -> Dict[str, Any]:
    if kind not in _TYPES:
        _TYPES[kind] = get_type_hints(kind)
    return _TYPES[kind]


#: class → the types of its fields
_TYPES: Dict[Any, Dict[str, Any]] = {}
