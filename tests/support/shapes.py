"""Values as they come over the line, of each class of `wire`."""

from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st


def of_kind(kind: Any) -> st.SearchStrategy[Any]:
    """Values of JSON that fit."""
    if hasattr(kind, "_fields"):
        return st.fixed_dictionaries({name: of_kind(each) for name, each in get_type_hints(kind).items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return st.lists(of_kind(arguments[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(st.text(max_size=3), of_kind(arguments[1]), max_size=2)
    if origin is Union:
        return st.one_of(*map(of_kind, arguments))
    if origin is Literal:
        return st.sampled_from(arguments)
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=5),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(-(2.0**63), 2.0**63, exclude_max=True) | st.integers(-(2**63), 2**63 - 1),
        bool: st.booleans(),
        type(None): st.none(),
        Any: st.booleans() | st.text(max_size=5),
    }
    return kinds[kind]
