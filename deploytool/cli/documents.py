"""What each command prints with `--json`, as JSON Schema made from the types that the documents are built with.

docs/json.md is made from it, and tests hold real documents against it. A command itself has no use for it.
"""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Required,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from deploytool.connection.unlock import LockJson
from deploytool.errors import ErrorJson, HeadJson
from deploytool.model.status import FreezeJson, StatusJson
from deploytool.queries.checks.finding import CheckJson
from deploytool.queries.plan import PlanJson
from deploytool.queries.releases import DeploymentsJson, ReleasesJson
from deploytool.queries.verify import VerificationJson
from deploytool.screen.summary import OutcomeJson
from deploytool.state.cleanup import CleanupJson


class BuildJson(OutcomeJson):
    """The release that was built or used again. There is no deployment, and there are no hosts."""

    checksum: NotRequired[Annotated[str, "the archive's sha256"]]
    size_bytes: NotRequired[Annotated[int, "the archive's size"]]


class MarkJson(TypedDict):
    """What a person says about a release."""

    release: Annotated[str, "the release"]
    good: Annotated[bool, "whether it is marked good; if not, it is marked bad"]
    why: Annotated[str, "the reason that was given"]


class FrozenJson(TypedDict):
    """The environment takes no deploys from now on."""

    frozen: Annotated[Literal[True], "whether the environment is frozen"]
    why: Annotated[str, "the reason that was given"]
    under_way: Annotated[str | None, "who holds the environment's lock, in words; null if it is free"]


class ThawedJson(TypedDict):
    """The environment takes deploys again."""

    frozen: Annotated[Literal[False], "whether the environment is frozen"]
    was: Annotated[FreezeJson | None, "the freeze that ended; null if there was none"]


class SettingJson(TypedDict):
    """A setting in effect."""

    path: Annotated[str, "its name, with dots, as in settings.md"]
    value: Annotated[str | int | bool | list[str] | Mapping[str, str] | None, "its value"]
    source: Annotated[str, "the file that it is from, `recipe <name>` or `default`"]


class SettingsJson(TypedDict):
    """The settings in effect."""

    settings: Annotated[list[SettingJson], "all settings, defaults included"]


class AppServerJson(TypedDict):
    """What makes a machine an app server."""

    role: Annotated[str, "the role"]
    files: Annotated[Mapping[str, str], "by path below the directory of `--output`: the file's text"]


class ChecksJson(TypedDict):
    """What was checked."""

    checks: Annotated[list[CheckJson], "every check, in order"]
    error: NotRequired[Annotated[ErrorJson, "the first check that failed"]]


class UnlockJson(TypedDict):
    """The locks that were released."""

    ended: Annotated[list[LockJson], "locks whose holders were ended"]
    left: Annotated[list[LockJson], "the workspace's lock, if another environment works there"]


class Printed(NamedTuple):
    """A document, and with which flags a command prints it; without them where nothing is said."""

    kind: type
    when: str = ""


#: by command
DOCUMENTS: Mapping[str, tuple[Printed, ...]] = MappingProxyType(
    {
        "app-server": (Printed(AppServerJson),),
        "check": (Printed(ChecksJson),),
        "settings": (Printed(SettingsJson),),
        "plan": (Printed(PlanJson),),
        "deploy": (Printed(OutcomeJson), Printed(PlanJson, "fab --dry")),
        "status": (Printed(StatusJson),),
        "promote": (Printed(OutcomeJson),),
        "rollback": (Printed(OutcomeJson),),
        "releases": (
            Printed(ReleasesJson),
            Printed(DeploymentsJson, "--deployments"),
            Printed(VerificationJson, "--verify"),
        ),
        "build": (Printed(BuildJson),),
        "migrate": (Printed(OutcomeJson),),
        "mark": (Printed(MarkJson),),
        "cleanup": (Printed(CleanupJson),),
        "freeze": (Printed(FrozenJson),),
        "thaw": (Printed(ThawedJson),),
        "unlock": (Printed(UnlockJson),),
    }
)

Schema = dict[str, Any]
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def schema() -> Schema:
    """One definition for each type, by its name, and the document of each command."""
    definitions: dict[str, Schema] = {}
    for kind in (HeadJson, *(printed.kind for several in DOCUMENTS.values() for printed in several)):
        _of(kind, definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": definitions}


def documents_of(command: str) -> Schema:
    """What the command prints: one of its documents, or that of a command that failed before there was more."""
    whole = schema()
    head = whole["$defs"]["HeadJson"]
    failed = {**head, "required": [*head["required"], "error"]}
    several = (whole["$defs"][printed.kind.__name__] for printed in DOCUMENTS[command])
    return {**whole, "anyOf": [failed, *(_joined(head, fields) for fields in several)]}


def _joined(head: Schema, fields: Schema) -> Schema:
    return {
        **fields,
        "properties": {**fields["properties"], **head["properties"]},
        "required": sorted({*head["required"], *fields["required"]}),
    }


def _of(hint: Any, definitions: dict[str, Schema]) -> Schema:
    origin, arguments = get_origin(hint), get_args(hint)

    def below(number: int = 0) -> Schema:
        return _of(arguments[number], definitions)

    if origin is Annotated:
        return {**below(), "description": arguments[1]}
    if origin in (Required, NotRequired):
        return below()
    if origin in (Union, UnionType):
        return {"anyOf": [_of(each, definitions) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": below()}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": below(1)}
    if is_typeddict(hint):
        return _reference(hint, definitions)
    if hint is object:
        return {}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [each.value for each in hint]}
    # A NewType is what it is made of.
    return {"type": _SIMPLE[getattr(hint, "__supertype__", hint)]}


def _reference(kind: Any, definitions: dict[str, Schema]) -> Schema:
    if kind.__name__ not in definitions:
        # Known before its fields are: it may hold itself.
        definition = definitions[kind.__name__] = {"type": "object", "description": " ".join(kind.__doc__.split())}
        hints = get_type_hints(kind, include_extras=True)
        definition["properties"] = {name: _of(hint, definitions) for name, hint in hints.items()}
        definition["required"] = sorted(kind.__required_keys__)
        definition["additionalProperties"] = False
    return {"$ref": f"#/$defs/{kind.__name__}"}
