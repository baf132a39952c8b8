"""The settings' files: where they are, which environments they name, and what their YAML says, with file and line.

Reads files; knows no setting. Imports neither pydantic nor jinja2, because `fab --list` waits for it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from yaml.constructor import SafeConstructor

#: The usual place, and the one for applications whose own YAML files are in the first, as those of Rails are.
_USUAL, _APART = "config", "config/deploy"
_SHARED_NAME = "deploy.yml"

#: Stands where `deploytool init` can't know the value: no setting may hold this word.
FILL_IN = "FILL_IN"

#: Names of applications, roles and environments. They become parts of Consul event names and keys, of keys in the
#: store and of paths on two kinds of machines; the narrowest of these decides.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NAME_RULE = (
    "starts with a lower-case letter or digit and contains only lower-case letters, digits, `_` and `-`, at most 63, "
    "because it becomes part of event names, store keys and paths"
)

#: Words of the command line, present and to come, and the name of the lock that all environments share: an environment
#: of such a name could not be told from them.
RESERVED = frozenset(
    {
        *("build", "check", "deploy", "migrate", "settings", "unlock"),
        *("status", "releases", "rollback", "plan", "cleanup", "mark", "freeze", "thaw", "promote", "app-server"),
        "workspace",
    }
)

#: No sane settings file comes near these; what does is an alias bomb or a generator gone wrong.
_MOST_NODES = 20_000
_DEEPEST = 50

_YAML = "tag:yaml.org,2002:"

#: libyaml's takes a fifth of the time, and is there unless somebody built PyYAML without it.
_FAST_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def settings_directory(directory: Path) -> str:
    """Where the settings of the project in `directory` are, relative to it.

    `config/deploy`, if that has a deploy.yml; then whatever else is in `config` is none of ours. Else `config`.
    """
    return _APART if (directory / _APART / _SHARED_NAME).is_file() else _USUAL


def shared_file(directory: Path) -> str:
    """Path of the file for all environments, relative to the project."""
    return f"{settings_directory(directory)}/{_SHARED_NAME}"


def is_shared(file: str) -> bool:
    """Whether `file`, as a problem names it, is the one for all environments."""
    return file.endswith(f"/{_SHARED_NAME}")


def file_of(directory: Path, environment: str) -> str:
    """Path of the environment's file, relative to the project."""
    return f"{settings_directory(directory)}/{environment}.yml"


def environments(directory: Path) -> tuple[str, ...]:
    """Names of the environments of the project in `directory`, sorted; none if it has no settings.

    A file whose name can't be an environment's is left out here; loading reports it.
    """
    return tuple(name for name, trouble in _named(directory) if trouble is None)


def odd_files(directory: Path) -> "tuple[Problem, ...]":
    """Files that look like an environment's, but whose names can't be: each with the reason."""
    return tuple(
        # A name that is not UTF-8 must still be printable.
        Problem(file_of(directory, name.encode("utf-8", "backslashreplace").decode()), None, "", trouble)
        for name, trouble in _named(directory)
        if trouble is not None
    )


def _named(directory: Path) -> Iterator[tuple[str, str | None]]:
    """Names of the environments' files, sorted, each with why it can't be an environment's; None if it can."""
    typed: dict[str, str] = {}
    for name in _stems(directory):
        # What is typed: invoke writes `_` as `-`.
        word = name.replace("_", "-")
        if not NAME.fullmatch(name):
            yield name, f"can't be an environment: its name {NAME_RULE}."
        elif word in RESERVED:
            what = "the name of a lock" if word == "workspace" else "a deploytool command"
            yield name, f"can't be an environment: `{word}` is {what}. Rename the file."
        elif word in typed:
            other = file_of(directory, typed[word])
            yield name, f"conflicts with {other}: the command line treats `_` and `-` as the same. Rename one of them."
        else:
            typed[word] = name
            yield name, None


def _stems(directory: Path) -> tuple[str, ...]:
    try:
        place = directory / settings_directory(directory)
        found = [path for path in place.iterdir() if path.suffix == ".yml" and path.is_file()]
    except OSError:
        return ()
    # Hidden files are an editor's.
    return tuple(sorted(path.stem for path in found if path.stem != "deploy" and not path.name.startswith(".")))


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the settings. `path` is the setting's dotted path, empty for the file as a whole."""

    file: str
    line: int | None
    path: str
    sentence: str
    #: "unreadable": the value is unknown, so that nothing else can be said about it. "missing": it is in neither file.
    kind: Literal["unreadable", "missing", "rule"] = "rule"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.path, self.sentence) if part)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value. `kind` is what YAML took it for; `text` is what stands in the file."""

    file: str
    line: int
    text: str
    kind: Literal["text", "number", "truth value", "date", "nothing"]
    #: The value as read; for a date the bare object `A_DATE`, which no setting accepts.
    value: object


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    file: str
    line: int
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Map:
    """A map from texts, in the order of the file."""

    file: str
    line: int
    entries: Mapping[str, "Node"]


Node = Scalar | Items | Map

A_DATE = object()


def dotted(path: tuple[str | int, ...]) -> str:
    """`("roles", "web", "restart", 0)` as people write it: `roles.web.restart[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def merge(base: Map, over: Map) -> Map:
    """`base` with `over` on top: maps deeply, everything else replaced."""
    entries = dict(base.entries)
    for name, node in over.entries.items():
        below = entries.get(name)
        entries[name] = merge(below, node) if isinstance(below, Map) and isinstance(node, Map) else node
    return replace(base, entries=entries)


def find(node: Node, path: tuple[str | int, ...]) -> Node | None:
    """The node at `path`; None if there is none."""
    found: Node | None = node
    for part in path:
        match found, part:
            case Map(entries=entries), str():
                found = entries.get(part)
            case Items(items=items), int() if part < len(items):
                found = items[part]
            case _:
                return None
    return found


def read(directory: Path, file: str) -> tuple[Map | None, tuple[Problem, ...]]:
    """What `file` (relative to `directory`) says, and all that is wrong with it as YAML.

    The map is None if the file can't be read at all; an empty file is an empty map.
    """
    try:
        raw = (directory / file).read_bytes()
    except OSError as error:
        return None, (Problem(file, None, "", f"can't be read: {error.strerror}."),)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return None, (Problem(file, line, "", "is not UTF-8 from this line on. Save the file as UTF-8."),)
    try:
        top = _compose(text)
        reader = _Reader(file)
        node = reader.node(top, 1, (), 0) if top is not None else Map(file, 1, {})
    except yaml.YAMLError as error:
        return None, (_syntax_problem(file, text, error),)
    except RecursionError:
        return None, (Problem(file, None, "", "is nested too deeply."),)
    except (ValueError, OverflowError):
        # PyYAML lets escapes beyond Unicode ("\U99999999") through to chr().
        return None, (Problem(file, None, "", 'is not YAML: it contains an invalid escape inside "…".'),)
    except _TooMuch:
        return None, (Problem(file, None, "", "contains too many values. Check for an alias that repeats others."),)
    if isinstance(node, Scalar) and node.kind == "nothing":
        node = Map(file, 1, {})
    if not isinstance(node, Map):
        reader.problems.append(Problem(file, 1, "", "must contain settings, one `key: value` per line."))
        return None, tuple(reader.problems)
    return node, tuple(reader.problems)


def _compose(text: str) -> yaml.Node | None:
    try:
        return _compose_with(_FAST_LOADER, text)
    except yaml.YAMLError:
        # Its words are fewer, and other ones.
        return _compose_with(yaml.SafeLoader, text)


def _compose_with(make_loader: Any, text: str) -> yaml.Node | None:
    loader = make_loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


def _syntax_problem(file: str, text: str, error: yaml.YAMLError) -> Problem:
    line = None
    what = "it can't be parsed"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        what = error.problem or what
    elif isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        what = f"it contains the control character U+{ord(text[error.position]):04X}"
    lines = text.splitlines()
    if line is not None and line <= len(lines) and "\t" in lines[line - 1][: 1 + len(lines[line - 1]) // 2]:
        cure = "Indent with spaces: YAML does not allow tabs there."
    else:
        cure = (
            "A value that starts with one of [ ] { } * & ! % @ ` \" ' | > or contains `: ` or ` #` needs "
            "'single quotes', or a block that starts with `|`."
        )
    return Problem(file, line, "", f"is not YAML: {what}. {cure}")


class _TooMuch(Exception):
    pass


class _Reader:
    """Turns PyYAML's nodes into ours, noting problems on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._nodes_left = _MOST_NODES

    def problem(
        self, line: int, path: tuple[str | int, ...], sentence: str, kind: Literal["unreadable", "rule"] = "unreadable"
    ) -> None:
        self.problems.append(Problem(self.file, line, dotted(path), sentence, kind))

    def node(self, node: yaml.Node, line: int, path: tuple[str | int, ...], depth: int) -> Node:
        self._nodes_left -= 1
        if self._nodes_left < 0 or depth > _DEEPEST:
            raise RecursionError if depth > _DEEPEST else _TooMuch
        if isinstance(node, yaml.MappingNode) and node.tag == _YAML + "map":
            return Map(self.file, line, self._entries(node, path, depth))
        if isinstance(node, yaml.SequenceNode) and node.tag == _YAML + "seq":
            return Items(
                self.file,
                line,
                tuple(
                    self.node(item, item.start_mark.line + 1, (*path, number), depth + 1)
                    for number, item in enumerate(node.value)
                ),
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line, path)
        self.problem(line, path, f"has the YAML tag {_tag(node)}, which is not supported. Remove it.")
        return Map(self.file, line, {}) if isinstance(node, yaml.MappingNode) else Items(self.file, line, ())

    def _entries(self, node: yaml.MappingNode, path: tuple[str | int, ...], depth: int) -> Mapping[str, Node]:
        inherited: dict[str, Node] = {}
        own: dict[str, Node] = {}
        first_line: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == _YAML + "merge":
                # Of several maps the first wins, as YAML says.
                for map_node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    merged = self.node(map_node, line, path, depth + 1)
                    if isinstance(merged, Map):
                        inherited = {**merged.entries, **inherited}
                    else:
                        self.problem(line, path, "`<<` must refer to a map.")
                continue
            if not isinstance(key, yaml.ScalarNode):
                self.problem(line, path, "has a list or a map as a key; a key must be text.")
                continue
            scalar = self._scalar(key, line, (*path, str(key.value)))
            name = scalar.text
            if scalar.kind != "text":
                self.problem(line, (*path, name), f'is a key that YAML reads as a {scalar.kind}: write "{name}".')
            if name in own:
                self.problem(
                    line, (*path, name), f"is defined twice; the first one is in line {first_line[name]}.", "rule"
                )
                continue
            first_line[name] = line
            own[name] = self.node(value, line, (*path, name), depth + 1)
        return {**inherited, **own}

    def _scalar(self, node: yaml.ScalarNode, line: int, path: tuple[str | int, ...]) -> Scalar:
        text = str(node.value)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            self.problem(
                line, path, "contains a NUL character or half a surrogate pair. Remove it: no program accepts it."
            )
            return Scalar(self.file, line, "", "nothing", None)
        constructor = SafeConstructor()
        try:
            match node.tag.removeprefix(_YAML):
                case "str" | "value" | "merge":
                    return Scalar(self.file, line, text, "text", text)
                case "int":
                    return Scalar(self.file, line, text, "number", constructor.construct_yaml_int(node))
                case "float":
                    return Scalar(self.file, line, text, "number", constructor.construct_yaml_float(node))
                case "bool":
                    return Scalar(self.file, line, text, "truth value", constructor.construct_yaml_bool(node))
                case "null":
                    return Scalar(self.file, line, text, "nothing", None)
                case "timestamp":
                    return Scalar(self.file, line, text, "date", A_DATE)
                case _:
                    self.problem(line, path, f"has the YAML tag {_tag(node)}, which is not supported. Remove it.")
        except (ValueError, KeyError, OverflowError, IndexError):
            self.problem(line, path, f"has the YAML tag {_tag(node)}, but its value does not match. Put it in quotes.")
        return Scalar(self.file, line, text, "text", text)


def _tag(node: yaml.Node) -> str:
    return str(node.tag).replace(_YAML, "!!")
