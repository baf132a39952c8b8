"""The shape of a class of `wire`, whether what came over the line has it, and the value that it is then. Pure.

The line comes from another machine. What has its shape is taken as it is; what has not is nothing that our other end
says, so that nobody above has to look twice.
"""

from __future__ import annotations

import inspect
from typing import (
    Any,
    Callable,
    Dict,
    Literal,
    Mapping,
    Tuple,
    Type,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

T = TypeVar("T")


def fits(value: object, kind: Any) -> bool:
    """Whether a value of JSON is one of this class or type. What an object has beyond its fields does no harm.

    A whole number does for a `float`, and no truth value for a number. A number has 64 bits, as those of all that a
    worker counts: JSON's and Python's have no end, and floats have one.
    """
    if kind is Any:
        return True
    if _is_record(kind):
        if not isinstance(value, dict):
            return False
        return all(name in value and fits(value[name], each) for name, each in _fields(kind).items())
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return isinstance(value, list) and all(fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, arguments[1]) for each in value.values())
    if origin is Union:
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if kind in (int, float):
        types = (int, float) if kind is float else int
        return isinstance(value, types) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, kind)


def read(kind: Type[T], value: Any) -> T:
    """What fits, as a value of its class. What it has beyond that is left out."""
    result: T = _read(kind, value)
    return result


def _read(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if _is_record(kind):
        return kind(**{name: _read(each, value[name]) for name, each in _fields(kind).items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return [_read(arguments[0], each) for each in value]
    if origin is dict:
        return {name: _read(arguments[1], each) for name, each in value.items()}
    # Of the unions there is only Optional.
    return _read(arguments[0], value) if origin is Union else value


def read_parameters(action: Callable[..., Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    """What the action is asked, as its own parameters have it. Raises TypeError for what they can't take."""
    if action not in _PARAMETERS:
        kinds = get_type_hints(action)
        parameters = inspect.signature(action).parameters
        _PARAMETERS[action] = kinds, [name for name, each in parameters.items() if each.default is each.empty]
    kinds, needed = _PARAMETERS[action]
    wrong = [name for name, value in given.items() if name not in kinds or not fits(value, kinds[name])]
    missing = [name for name in needed if name not in given and name != "tell"]
    if wrong or missing:
        raise TypeError("it is not asked so: {}".format(", ".join([*wrong, *missing])))
    return {name: _read(kinds[name], value) for name, value in given.items()}


def plain(value: Any) -> Any:
    """A value of `wire`, and whatever holds some, as JSON has it."""
    if _is_record(type(value)):
        return {name: plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "_fields")


def _fields(kind: Any) -> Dict[str, Any]:
    if kind not in _FIELDS:
        _FIELDS[kind] = get_type_hints(kind)
    return _FIELDS[kind]


#: class → the types of its fields
_FIELDS: Dict[Any, Dict[str, Any]] = {}
#: action → the types of its parameters, and those that it needs
_PARAMETERS: Dict[Callable[..., Any], Tuple[Dict[str, Any], Any]] = {}
