"""What the worker answers to each request: the shapes of it, and whether an answer has its shape. Pure.

The line comes from another machine. What has its shape is taken as it is; what has not is no answer of our worker's,
and ends the line (`client.py`), so that nothing above has to look twice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from deploytool.errors import BY_KIND
from deploytool.worker import wire

#: A type; a tuple: any of these; a frozenset: one of these texts; a list with one shape: a list of such; a dict: an
#: object that has these at least, or, with `...` for its key, one of any names with such values.
Shape = Any

_MAYBE_TEXT = (str, None)
_TEXTS = [str]
_BY_HOST = {...: str}
ERROR: Shape = {"kind": frozenset(BY_KIND), "message": str, "tail": _TEXTS, "hint": _MAYBE_TEXT}
_FINDINGS = {"findings": [({"name": str, "found": str}, {"name": str, "failure": ERROR})]}
_HIDDEN = {"made": int, "made_names": _TEXTS, "ours": int, "ours_names": _TEXTS}
_COMPRESSOR = {"name": str, "ready": bool, "warning": _MAYBE_TEXT}


def shape_of(kind: Any) -> Shape:
    """The shape of a class of `wire`, and of the types of its fields."""
    if dataclasses.is_dataclass(kind):
        return {name: shape_of(each) for name, each in get_type_hints(kind).items()}
    match get_origin(kind), get_args(kind):
        case origin, (each,) if origin is list:
            return [shape_of(each)]
        case origin, (_, each) if origin is dict:
            return {...: shape_of(each)}
        case origin, choices if origin is Union:
            return tuple(None if each is type(None) else shape_of(each) for each in choices)
        case _:
            return kind


#: request → its answer
ANSWERS: Mapping[str, Shape] = {
    "hello": {
        **dict.fromkeys(("root", "python", "executable", "host", "user"), str),
        "compressor": _COMPRESSOR,
        "pid": int,
        "time": float,
    },
    "lock": {},
    "release_lock": {},
    "lock_holder": {"holder": ({}, None), "sentence": _MAYBE_TEXT},
    "break_lock": {"ended": _MAYBE_TEXT},
    "run": {"exit_code": int, "results": _TEXTS, "tail": _TEXTS, "timed_out": bool, "log": _MAYBE_TEXT},
    "name_log": {"log": str},
    "cancel": {},
    "install_compressor": {"compressor": _COMPRESSOR},
    "publish_archive": {"checksum": str, "size_bytes": int, "unpacked_bytes": int, "links": {...: _HIDDEN}},
    "unpack_release": {"directory": str},
    "remove_unpacked": {},
    **{do: shape_of(kind) for do, kind in wire.ANSWERS.items()},
    "check_store": _FINDINGS,
    "check_consul": _FINDINGS,
    "probe_hosts": {"answers": {...: _BY_HOST}, "failures": {...: ERROR}},
    "prune_build_server": {"removed": _TEXTS, "freed_bytes": int},
}

#: request → what is told meanwhile
EVENTS: Mapping[str, Shape] = {
    "run": {"line": str},
    "lock": {"waiting": str},
    "watch": {"reports": [({"trouble": str}, {"role": str, "host": str, "state": str, "value": str})]},
}


def fits(value: object, shape: Shape) -> bool:
    """Whether a value of JSON has the shape. A whole number does for a `float`, and no truth value for a number.

    A number has 64 bits, as those of all that a worker counts: JSON's and Python's have no end, and floats have one.
    """
    match shape:
        case tuple():
            return any(fits(value, each) for each in shape)
        case frozenset():
            return isinstance(value, str) and value in shape
        case list():
            return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
        case dict():
            if not isinstance(value, dict):
                return False
            every = shape.get(...)
            named = all(name in value and fits(value[name], inner) for name, inner in shape.items() if name is not ...)
            return named and (every is None or all(fits(each, every) for each in value.values()))
        case None:
            return value is None
        case _ if shape in (int, float):
            types = (int, float) if shape is float else int
            return isinstance(value, types) and not isinstance(value, bool) and -(2**63) <= value < 2**63
        case _:
            return isinstance(value, shape)


def is_answer(do: str, message: Mapping[str, Any]) -> bool:
    """Whether a message may be one to the request `do`: it tells an event, or answers, or fails."""
    if "event" in message:
        return do in EVENTS and fits(message["event"], EVENTS[do])
    if "error" in message:
        return fits(message["error"], ERROR)
    return fits(message.get("ok"), ANSWERS[do])
