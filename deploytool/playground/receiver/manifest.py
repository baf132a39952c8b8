"""The manifest: text in, frozen value out, with the types that stretcher's YAML parser gives to its fields. Pure.

As there: unknown keys are passed over, a missing list is an empty one, the last of two equal keys counts, and a
number, a date or a `yes` where a text is wanted is the text as written.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Literal

import yaml

from deploytool.playground.receiver import ReceiverError

_NULL = "tag:yaml.org,2002:null"
_BINARY = "tag:yaml.org,2002:binary"
_DEFAULT_DEST_MODE = 0o755
#: stretcher's parser descends from libyaml, too. PyYAML's own, where there is no other, takes no tabs in plain scalars.
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Phase = Literal["pre", "post", "success", "failure"]


@dataclass(frozen=True, slots=True)
class Commands:
    """The hooks of each phase, each text one `sh -c`."""

    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    success: tuple[str, ...] = ()
    failure: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says. With no `src` only the commands count."""

    src: str = ""
    checksum: str = ""
    dest: str = ""
    #: Permission bits.
    dest_mode: int = _DEFAULT_DEST_MODE
    commands: Commands = field(default_factory=Commands)
    excludes: tuple[str, ...] = ()
    #: The path, inside the archive, of a file with more patterns.
    exclude_from: str = ""
    #: Unchecked, as stretcher reads it: a wrong one is a failed deployment, not an unreadable manifest.
    sync_strategy: str = ""


def parse(text: str) -> Manifest:
    """The manifest in `text`; of several YAML documents the first. Raise ReceiverError if it can't be read."""
    try:
        loader = _LOADER(text)
        try:
            node = loader.get_node() if loader.check_node() else None
            if isinstance(node, yaml.MappingNode):
                manifest = _manifest(node, loader)
            elif node is None or node.tag == _NULL:
                manifest = Manifest()
            else:
                raise _wrong(node, "the manifest", "a map")
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # PyYAML lets halves of surrogate pairs, and escapes beyond Unicode, through to Python's own functions.
        raise ReceiverError(f"The manifest is not YAML: {' '.join(str(error).split())}.") from error
    if manifest.src and not manifest.dest:
        raise ReceiverError("The manifest has src but no dest.")
    return manifest


def _manifest(node: yaml.MappingNode, loader: yaml.SafeLoader | yaml.CSafeLoader) -> Manifest:
    texts: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    mode = _DEFAULT_DEST_MODE
    phases: dict[str, tuple[str, ...]] = {}
    for name, value in _items(node, loader):
        match name:
            case "src" | "checksum" | "dest" | "exclude_from" | "sync_strategy":
                texts[name] = _text(value, name)
            case "dest_mode":
                mode = _mode(value)
            case "excludes":
                lists[name] = _texts(value, name)
            case "commands":
                if isinstance(value, yaml.MappingNode):
                    for phase, hooks in _items(value, loader):
                        if phase in ("pre", "post", "success", "failure"):
                            phases[phase] = _texts(hooks, f"commands.{phase}")
                elif value.tag == _NULL:
                    phases = {}
                else:
                    raise _wrong(value, name, "a map")
    return Manifest(
        src=texts.get("src", ""),
        checksum=texts.get("checksum", ""),
        dest=texts.get("dest", ""),
        dest_mode=mode,
        commands=Commands(
            pre=phases.get("pre", ()),
            post=phases.get("post", ()),
            success=phases.get("success", ()),
            failure=phases.get("failure", ()),
        ),
        excludes=lists.get("excludes", ()),
        exclude_from=texts.get("exclude_from", ""),
        sync_strategy=texts.get("sync_strategy", ""),
    )


def _items(node: yaml.MappingNode, loader: yaml.SafeLoader | yaml.CSafeLoader) -> list[tuple[str, yaml.Node]]:
    loader.flatten_mapping(node)
    return [(key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]


def _text(node: yaml.Node, name: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _wrong(node, name, "a text")
    if node.tag == _NULL:
        return ""
    if node.tag == _BINARY:
        try:
            return base64.b64decode("".join(node.value.split()), validate=True).decode(errors="surrogateescape")
        except binascii.Error as error:
            raise _wrong(node, name, "base64") from error
    return str(node.value)


def _texts(node: yaml.Node, name: str) -> tuple[str, ...]:
    if node.tag == _NULL:
        return ()
    if not isinstance(node, yaml.SequenceNode):
        raise _wrong(node, name, "a list")
    return tuple(_text(item, f"{name}[{number}]") for number, item in enumerate(node.value))


def _mode(node: yaml.Node) -> int:
    if node.tag == _NULL:
        return _DEFAULT_DEST_MODE
    # Not PyYAML's own reading: it does not know 0o755.
    if isinstance(node, yaml.ScalarNode) and not node.style:
        digits = node.value.replace("_", "")
        for pattern, base in (
            (r"0[oO]?([0-7]+)", 8),
            (r"0[xX]([0-9a-fA-F]+)", 16),
            (r"0[bB]([01]+)", 2),
            (r"([0-9]{1,20})", 10),
        ):
            if found := re.fullmatch(pattern, digits):
                # stretcher hands the permission bits on and nothing above them.
                return int(found[1], base) & 0o777
    raise _wrong(node, "dest_mode", "a number such as 0755, without quotes")


def _wrong(node: yaml.Node, name: str, wanted: str) -> ReceiverError:
    return ReceiverError(f"Line {node.start_mark.line + 1} of the manifest: {name} is not {wanted}.")
