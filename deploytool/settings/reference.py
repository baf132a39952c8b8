"""The page docs/settings.md: every setting, its form, default and meaning, made from the model. Pure.

python -m deploytool.settings.reference >docs/settings.md
"""

import json
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deploytool.settings.model import NOT_IN_FILES, Choice, Settings, takes_one_or_list
from deploytool.settings.templates import TEMPLATE_NAMES

_HEAD = """\
# Settings

<!-- Made by `make docs` from deploytool/settings/model.py; a test fails when it is stale. -->

`config/deploy.yml` has the settings that all environments share. `config/<environment>.yml` overrides them for one
environment: maps key by key, lists and single values as a whole. The names of these files are the environments.
`fab ENV settings` shows the settings in effect, and the file or recipe that each comes from; `--all` shows the defaults
as well. Every command reports all mistakes at once, each with its file and line.

`${NAME}` in a value is an environment variable of the machine that runs `fab`. It must be set. Its value is a secret:
it is masked in all output, and refused where it would end up in the store, in Consul or in hosts' logs. `$${NAME}` is
the text `${NAME}` itself, and `${DEPLOYTOOL_PROJECT}` is the directory that contains `config/`; it is not a secret.

Paths stay inside the directories they belong to: `..` is refused everywhere. Settings in **bold type** are required. A
*template* is Jinja text with these names: %(names)s.
"""


def page() -> str:
    """The whole page, in Markdown."""
    text = [_HEAD % {"names": ", ".join(f"`{name}`" for name in TEMPLATE_NAMES)}]
    text += _section("", "Top level", Settings)
    return "\n".join(text)


def _section(prefix: str, title: str, model: type[BaseModel]) -> Iterator[str]:
    """A table of a model's settings, then one for each model below it."""
    fields = {name: each for name, each in model.model_fields.items() if name not in NOT_IN_FILES}
    sections = {name: below for name, each in fields.items() if (below := _model_of(each.annotation)) is not None}
    yield f"## {title}\n"
    if prefix:
        yield f"{_meaning(model)}\n"
    yield "| setting | form | default | meaning |\n|---|---|---|---|"
    for name, each in fields.items():
        key = f"`{prefix}{name}`"
        yield " | ".join(
            (
                f"| **{key}**" if each.is_required() else f"| {key}",
                _form(each.annotation, each.metadata),
                "" if each.is_required() or name in sections else _default(each),
                f"{each.description} |",
            )
        )
    yield ""
    for name, (section, named) in sections.items():
        path = f"{prefix}{name}." + ("<name>." if named else "")
        yield from _section(path, f"`{path.rstrip('.')}`", section)


def _meaning(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _model_of(annotation: Any) -> tuple[type[BaseModel], bool] | None:
    """The model that a setting's value is, and whether there is one for each name of a map."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is Mapping and (below := _model_of(get_args(annotation)[1])) is not None:
        return below[0], True
    if get_origin(annotation) in (Union, types.UnionType):
        return next((below for each in get_args(annotation) if (below := _model_of(each)) is not None), None)
    return None


def _form(annotation: Any, metadata: list[Any]) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _form(inner, [*metadata, *more])
    if get_origin(annotation) in (Union, types.UnionType):
        return next(_form(each, metadata) for each in get_args(annotation) if each is not types.NoneType)
    if choice := next((each for each in metadata if isinstance(each, Choice)), None):
        return ", ".join(f"`{word}`" for word in choice.words)
    if get_origin(annotation) is tuple:
        return "command, or a list" if takes_one_or_list(metadata) else "list"
    below = _model_of(annotation)
    if below is not None or get_origin(annotation) is Mapping:
        return "map"
    return {str: "text", int: "number", bool: "`true`, `false`"}[annotation]


def _default(each: FieldInfo) -> str:
    value = each.get_default(call_default_factory=True)
    assert value is not PydanticUndefined
    if value is None or value in ((), {}):
        return "none"
    shown = json.dumps(list(value) if isinstance(value, tuple) else value)
    return f"`{value if isinstance(value, str) else shown}`"


if __name__ == "__main__":
    print(page())
