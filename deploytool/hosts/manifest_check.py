"""What stretcher would stumble over in a manifest, or pass over in silence. Pure."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from deploytool.errors import SettingsError
from deploytool.hosts.role_manifest import TEMPLATE_NAME, Phase
from deploytool.hosts.yaml_text import OPENING_BRACES

if TYPE_CHECKING:
    import yaml


#: Linux takes no single argument of this size or more (MAX_ARG_STRLEN), and a command is one argument of `sh -c`.
LONGEST_COMMAND_BYTES = 128 * 1024
#: Consul takes no value of more.
LONGEST_MANIFEST_BYTES = 512 * 1024
_FIELDS = ("src", "checksum", "dest", "dest_mode", "commands", "excludes", "exclude_from", "sync_strategy")
_CHECKSUM_DIGITS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


def check_manifest(text: str, *, kept: bool = False) -> None:
    """Raises SettingsError with all that stretcher would stumble over, or, worse, pass over in silence.

    With `kept` it must have no `src`, or an empty one, which is the same to stretcher. With a manifest that stretcher
    can't read no hook runs, so no host would ever report.
    """
    problems = list(_manifest_problems(text, kept=kept))
    if problems:
        raise SettingsError(
            [f"manifest: {problem}" for problem in problems], hint=f"check templates/{TEMPLATE_NAME} and the hooks"
        )


def _manifest_problems(text: str, *, kept: bool) -> Iterator[str]:
    import yaml

    if (size_bytes := len(text.encode(errors="replace"))) > LONGEST_MANIFEST_BYTES:
        yield (
            f"has {size_bytes} bytes, and Consul holds no more than {LONGEST_MANIFEST_BYTES}; move long hooks into "
            "files of the release, and call those"
        )
    if OPENING_BRACES in text:
        line = text[: text.index(OPENING_BRACES)].count("\n") + 1
        yield f"line {line} has {OPENING_BRACES}, a template to newer stretchers; put it through the yaml filter"
    try:
        # In C it takes a tenth of the time, and every command checks every manifest.
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        yield f"is not YAML: {' '.join(str(error).split())}"
        return
    if not isinstance(root, yaml.MappingNode):
        yield "is not a map; stretcher would do nothing and call it a success"
        return
    problems: list[str] = []
    fields = dict(_map_items(root, "", _FIELDS, problems))
    yield from problems
    for name in ("src", "checksum", "dest", "exclude_from", "sync_strategy"):
        if name in fields and not _is_text(fields[name]):
            yield f"{name} is not a text; put it in quotes"
    words = {name: node.value for name, node in fields.items() if _is_text(node)}
    if kept:
        if "src" in fields and words.get("src") != "":
            yield "src names an archive, though hosts are to use the release that they have; write src | yaml(2) there"
    else:
        yield from _archive_problems(fields, words)
    if words.get("sync_strategy", "rsync") not in ("rsync", "mv"):
        yield "sync_strategy is neither rsync nor mv"
    if "dest_mode" in fields and not (
        isinstance(mode := fields["dest_mode"], yaml.ScalarNode)
        and not mode.style
        and re.fullmatch(r"0[0-7]{3,4}", mode.value)
    ):
        yield "dest_mode is not an octal number such as 0755, without quotes"
    if "excludes" in fields:
        yield from _text_list_problems("excludes", fields["excludes"])
    if "commands" in fields:
        yield from _command_problems(fields["commands"])


def _archive_problems(fields: Mapping[str, "yaml.Node"], words: Mapping[str, str]) -> Iterator[str]:
    if "src" not in fields or words.get("src") == "":
        yield "src is missing"
    dest = words.get("dest", "")
    # rsync would sync into a directory that others may have made.
    if not dest.startswith("/") and not (dest.startswith("../") and words.get("sync_strategy") == "mv"):
        yield "dest is missing or not an absolute path; with sync_strategy: mv it may be what templates know as beside"
    checksum = words.get("checksum", "")
    if len(checksum) not in _CHECKSUM_DIGITS or not re.fullmatch(r"[0-9a-fA-F]*", checksum):
        yield f"checksum is missing or not {', '.join(_CHECKSUM_DIGITS.values())} in hexadecimal digits"


def _command_problems(commands: "yaml.Node") -> Iterator[str]:
    import yaml

    if not isinstance(commands, yaml.MappingNode):
        yield "commands is not a map"
        return
    problems: list[str] = []
    phases = dict(_map_items(commands, "commands.", get_args(Phase), problems))
    yield from problems
    for phase, node in phases.items():
        yield from _text_list_problems(f"commands.{phase}", node)


def _text_list_problems(name: str, node: "yaml.Node") -> Iterator[str]:
    import yaml

    if not isinstance(node, yaml.SequenceNode):
        yield f"{name} is not a list"
        return
    for number, item in enumerate(node.value):
        if not _is_text(item):
            yield f"{name}[{number}] is not a text; put it in quotes"
        elif "\0" in item.value:
            yield f"{name}[{number}] has a NUL character, which no shell takes"
        elif (size_bytes := len(item.value.encode())) >= LONGEST_COMMAND_BYTES:
            yield f"{name}[{number}] has {size_bytes} bytes; Linux takes less than {LONGEST_COMMAND_BYTES}"


def _map_items(
    node: "yaml.MappingNode", prefix: str, known: Sequence[str], problems: list[str]
) -> Iterator[tuple[str, "yaml.Node"]]:
    """The known fields of a map. stretcher passes over unknown ones, and may fail on a second of the same name."""
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            problems.append(f"{prefix}{name} is unknown to stretcher{f'; did you mean {close[0]}?' if close else ''}")
        elif name in seen:
            problems.append(f"{prefix}{name} is there twice")
        else:
            seen.add(name)
            yield name, value


def _is_text(node: "yaml.Node") -> bool:
    import yaml

    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"
