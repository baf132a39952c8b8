"""From the settings' files to frozen `Settings`: read → merge → put `${NAME}` in → recipe's defaults → validate.

Each stage notes its problems and goes on, so that one run shows all mistakes. Reads those files and nothing else; the
operator's environment is passed in.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deploytool.errors import SettingsError, UsageError
from deploytool.settings import checks
from deploytool.settings.files import (
    FILL_IN,
    NAME,
    Items,
    Map,
    Node,
    Problem,
    Scalar,
    dotted,
    environments,
    file_of,
    find,
    is_shared,
    merge,
    odd_files,
    read,
    settings_directory,
    shared_file,
)
from deploytool.settings.model import CHECKING_ONLY, NOT_IN_FILES, Settings, did_you_mean
from deploytool.settings.recipes import RECIPES
from deploytool.text.masking import MASK, Masking, secrets_in_urls

Loc = tuple[str | int, ...]

#: `${NAME}`, and `$${NAME}` for the literal text `${NAME}`. `$NAME`, `$(command)` and `${NAME:-x}` are left alone.
_VARIABLE = re.compile(r"(?P<literal>\$?)\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}")
_STILL_OPEN = re.compile(rf"\b{FILL_IN}\b")
#: The directory that holds `config/`.
PROJECT = "DEPLOYTOOL_PROJECT"
#: `${NAME:-x}` and its like: the shell's in a command, a misunderstanding elsewhere.
_SHELL_EXPANSION = re.compile(r"(?<!\$)\$\{[^}]*\}?")

#: What the hosts run: it ends up in the store and in hosts' logs.
_RUN_ON_HOSTS = frozenset({"restart", "hooks", "verify"})
#: What else ends up in manifests, in records, or in the names of keys and events, for every host and reader to see.
_PUBLISHED = (
    *((name,) for name in ("application", "branch", "subdirectory", "deploy_to", "keep_releases")),
    *((name,) for name in ("linked_dirs", "linked_files", "roles")),
    ("store", "url"),
)
#: Whoever knows this URL may write into the channel.
_WEBHOOK = ("notify", "webhook")
#: A shorter path is no secret of a webhook's.
_SHORTEST_ADDRESS = 16

#: A shorter text stands in so much of what is shown that masking it would hide the rest, and itself not at all.
_SHORTEST_SECRET = 6
#: Text for a shell, in which `${NAME:-x}` means what it means there.
_FOR_A_SHELL = (
    *(("build", name) for name in ("dependencies", "assets", "migrate", "migrate_pending", "migrate_after")),
    ("hooks",),
    ("notify", "command"),
)

#: Fields of a recipe that are defaults of settings, and where those stand.
_FROM_RECIPE: Mapping[str, Loc] = MappingProxyType(
    {
        "dependencies": ("build", "dependencies"),
        "assets": ("build", "assets"),
        "migrate": ("build", "migrate"),
        "migrate_pending": ("build", "migrate_pending"),
        "exclude": ("build", "exclude"),
        "dependencies_inputs": ("build", "dependencies_inputs"),
        "assets_inputs": ("build", "assets_inputs"),
        "linked_dirs": ("linked_dirs",),
        "linked_files": ("linked_files",),
        "build_linked_files": ("build", "linked_files"),
    }
)
#: what says something of certain commands only, and of which
_SPEAKS_OF: Mapping[str, str] = MappingProxyType(
    {"dependencies_inputs": "dependencies", "assets_inputs": "assets", "migrate_pending": "migrate"}
)


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """One setting, as `fab ENV settings` shows it."""

    path: str
    #: as JSON has it; `***` replaces every secret
    value: Any
    #: `config/deploy.yml`, `config/<environment>.yml` (or where these are), `recipe <name>` or `default`.
    source: str


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One environment: its settings, or the problems that it has."""

    environment: str
    tree: Map
    #: plain data, with the operator's environment and the recipe's defaults put in
    said: Mapping[str, object]
    problems: tuple[Problem, ...]
    settings: Settings | None
    recipe: str
    recipe_paths: frozenset[Loc]


class _File(NamedTuple):
    tree: Map | None
    problems: tuple[Problem, ...]


def load_settings(directory: Path, environment: str, environ: Mapping[str, str]) -> Settings:
    """The settings of one environment of the project in `directory` (what holds `config/`).

    Raises SettingsError with all problems, UsageError if there is no such environment.
    """
    return _settings_of(_load(directory, environment, environ))


def load_every_environment(
    directory: Path, chosen: str, environ: Mapping[str, str], begin: Callable[[Settings], None] | None = None
) -> Mapping[str, Settings]:
    """The settings of all environments, by name: `chosen` as `load_settings` does it, the others only for checking.

    In the others an unset `${NAME}`, or a `FILL_IN`, is no mistake: the text stays, and is not held to any form (where
    only certain words are allowed, the default takes its place). Raises SettingsError with all problems of all files,
    UsageError if there is no such environment.

    `begin` gets the chosen environment's settings as soon as they are known to be good, but for the templates in them:
    for what may be set going while the rest is checked, and must be harmless if that turns out to be wrong.
    """
    _demand(directory, chosen)
    shared = _read_shared(directory)
    odd = odd_files(directory)
    first = _load_one(directory, shared, chosen, environ, checking_only=False)
    if begin is not None and first.settings is not None and not first.problems and not odd:
        begin(first.settings)
    loaded = [
        _with_templates_checked(
            first if environment == chosen else _load_one(directory, shared, environment, environ, checking_only=True)
        )
        for environment in environments(directory)
    ]
    problems = [*odd, *(problem for one in loaded for problem in _told_apart(one, loaded))]
    if problems:
        raise _error(problems, hint=_foreign_files(directory))
    return MappingProxyType({one.environment: _settings_of(one) for one in loaded})


def effective_settings(directory: Path, environment: str, environ: Mapping[str, str]) -> list[EffectiveSetting]:
    """Every setting of one environment, secrets masked, with where it came from. Raises as `load_settings` does."""
    loaded = _load(directory, environment, environ)
    settings = _settings_of(loaded)
    masking = Masking(settings.secrets)
    own = _own_names(directory)
    return [
        EffectiveSetting(
            dotted(path), masking.value(_shown(value, find(loaded.tree, path), own)), _source(loaded, path)
        )
        for path, value in _leaves(settings, ())
    ]


def _load(directory: Path, environment: str, environ: Mapping[str, str]) -> _Loaded:
    _demand(directory, environment)
    return _with_templates_checked(
        _load_one(directory, _read_shared(directory), environment, environ, checking_only=False)
    )


def _settings_of(loaded: _Loaded) -> Settings:
    if loaded.problems or loaded.settings is None:
        raise _error(loaded.problems)
    return loaded.settings


def _error(problems: Iterable[Problem], hint: str | None = None) -> SettingsError:
    """All problems in the order of the files' lines, each once."""
    unique = dict.fromkeys(problems)
    ordered = sorted(unique, key=lambda problem: (not is_shared(problem.file), problem.file, problem.line or 0))
    return SettingsError([str(problem) for problem in ordered], hint=hint)


def looks_like_settings(text: str) -> bool:
    """Whether a file can be one of ours: it says nothing, or has at least one key at its left that is a setting's.

    Also said of what can't be parsed: a mistake makes no other program's file of it.
    """
    keys = set(re.findall(r"^([A-Za-z0-9_:-]+)\s*:(?:\s|$)", text, re.MULTILINE))
    says_something = re.search(r"^(?!---)\s*[^\s#]", text, re.MULTILINE) is not None
    return not says_something or not keys.isdisjoint(Settings.model_fields.keys() - NOT_IN_FILES)


def _foreign_files(directory: Path) -> str | None:
    """What to do about environments whose files are another program's, as config/database.yml; None if none are."""
    foreign = []
    for name in environments(directory):
        # What can't be read is a problem of its own.
        with suppress(OSError):
            file = file_of(directory, name)
            if not looks_like_settings((directory / file).read_text("utf-8", "replace")):
                foreign.append(file)
    if not foreign or settings_directory(directory) != "config":
        return None
    return (
        f"{', '.join(foreign)}: if config/ has files of other programs, move deploy.yml and the environments' files "
        "to config/deploy/; then no other file in config/ is read as an environment"
    )


def _told_apart(one: _Loaded, loaded: list[_Loaded]) -> Iterator[Problem]:
    """The problems of one environment; what is missing only there says so, since its place may be the shared file."""
    for problem in one.problems:
        everywhere = all(problem in other.problems for other in loaded)
        if problem.kind == "missing" and not everywhere:
            yield replace(
                problem, sentence=problem.sentence.replace("is missing", f"is missing for {one.environment}", 1)
            )
        else:
            yield problem


def _demand(directory: Path, environment: str) -> None:
    """Raise UsageError unless the environment exists."""
    known = environments(directory)
    if environment in known:
        return
    place = settings_directory(directory)
    if not (directory / place).is_dir():
        raise SettingsError(
            ["config: this directory does not exist."],
            hint="run `fab` in the directory that contains config/, with deploy.yml and one <environment>.yml for each "
            "environment; `deploytool init` writes them",
        )
    exist = (
        f"environments: {', '.join(known)}" if known else f"{place}/ has no environment yet: add {place}/staging.yml"
    )
    if environment == "deploy":
        message = (
            f"deploy is not an environment: {shared_file(directory)} has the settings that all environments share."
        )
    elif NAME.fullmatch(environment) and (directory / place / f"{environment}.yaml").is_file():
        message = f"There is no {place}/{environment}.yml. Rename {place}/{environment}.yaml: files must end in .yml."
    elif odd := [problem for problem in odd_files(directory) if problem.file == file_of(directory, environment)]:
        message = f"{odd[0].file} {odd[0].sentence}"
    else:
        message = f"There is no environment {environment!r}.{did_you_mean(environment, known)}"
    raise UsageError(message, hint=exist)


def _read_shared(directory: Path) -> _File:
    file = shared_file(directory)
    if (directory / file).exists():
        return _File(*read(directory, file))
    other = directory / "config" / "deploy.yaml"
    cure = "Rename config/deploy.yaml." if other.is_file() else "Add it, even if it is empty."
    sentence = f"does not exist; it has the settings that all environments share. {cure}"
    return _File(None, (Problem(file, None, "", sentence),))


def _load_one(
    directory: Path, shared: _File, environment: str, environ: Mapping[str, str], *, checking_only: bool
) -> _Loaded:
    """One environment, with everything checked but the templates."""
    own = _File(*read(directory, file_of(directory, environment)))
    problems = [*shared.problems, *own.problems]
    # What an unreadable file says is unknown; what is missing then is no news.
    complete = shared.tree is not None and own.tree is not None
    nothing = Map(shared_file(directory), 1, {})
    tree = merge(shared.tree or nothing, own.tree or nothing)

    reading = _Reading(environ, checking_only, _own_names(directory), _open_names(tree, environment))
    said = reading.plain(tree, ())
    problems += reading.problems
    assert isinstance(said, dict)
    for name in NOT_IN_FILES & set(said):
        problems.append(_problem(tree, (name,), "is not a setting. Remove it."))
        del said[name]
    recipe, recipe_paths = _put_recipe_in(said)

    for path, sentence in checks.check(said, reading.shown):
        # A default of the recipe's has no line of its own.
        problems.append(_problem(tree, path, sentence))
    settings = None
    injected = {"environment": environment, "directory": directory, "secrets": tuple(dict.fromkeys(reading.secrets))}
    try:
        settings = Settings.model_validate(said | injected, context={CHECKING_ONLY: checking_only})
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False, include_input=False):
            problem = _sentence(tree, error)
            if problem.kind != "missing" or complete:
                problems.append(problem)
    return _Loaded(environment, tree, said, _settled(problems), settings, recipe, recipe_paths)


def _with_templates_checked(loaded: _Loaded) -> _Loaded:
    # It needs jinja2, which takes as long to import as all that comes before it takes to run.
    from deploytool.settings.templates import check_templates

    found = [_problem(loaded.tree, *finding) for finding in check_templates(loaded.said, loaded.environment)]
    return replace(loaded, problems=_settled([*loaded.problems, *found]))


def _settled(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Each problem once; of a value that can't be read, nothing but that."""
    unique = dict.fromkeys(problems)
    spoilt = {problem.path for problem in unique if problem.kind == "unreadable"}
    return tuple(problem for problem in unique if problem.kind == "unreadable" or problem.path not in spoilt)


@dataclass(slots=True)
class _Reading:
    """Plain data out of the merged tree, with the operator's environment put in."""

    environ: Mapping[str, str]
    checking_only: bool
    #: names with values that are no secrets
    own: Mapping[str, str]
    #: names that are shown everywhere
    open_names: tuple[str, ...]
    problems: list[Problem] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def plain(self, node: Node, path: Loc) -> object:
        match node:
            case Map(entries=entries):
                return {name: self.plain(below, (*path, name)) for name, below in entries.items()}
            case Items(items=items):
                return [self.plain(below, (*path, number)) for number, below in enumerate(items)]
            case Scalar(kind="text"):
                return self._text(node, path)
            case Scalar(value=value):
                return value

    def shown(self, text: str) -> str:
        """`text` as a sentence may quote it."""
        return "***" if any(secret in text for secret in self.secrets) else text

    def _unfit(self, value: str) -> str | None:
        """Why a value can't be kept secret; None if it can."""
        if len(value) < _SHORTEST_SECRET:
            return f"has fewer than {_SHORTEST_SECRET} characters"
        if any(value in name for name in self.open_names):
            return "is in the name of the environment, the application or a role"
        return None

    def _text(self, node: Scalar, path: Loc) -> str:
        def problem(sentence: str) -> None:
            self.problems.append(Problem(node.file, node.line, dotted(path), sentence, "unreadable"))

        if _STILL_OPEN.search(node.text):
            if not self.checking_only:
                what = _description(path)
                problem(f"is still to be filled in: {what}." if what else "is still to be filled in.")
            return node.text
        on_hosts = len(path) > 2 and path[0] == "roles" and path[2] in _RUN_ON_HOSTS
        in_shell = any(path[: len(place)] == place for place in _FOR_A_SHELL)
        if not on_hosts and not in_shell:
            for expansion in _SHELL_EXPANSION.findall(_VARIABLE.sub("", node.text)):
                problem(f"contains {expansion}, but only ${{NAME}} is supported, without a default or anything else.")
        refusal = None
        if on_hosts:
            refusal = _ON_HOSTS
        elif any(path[: len(place)] == place for place in _PUBLISHED):
            refusal = _IN_PUBLIC

        def put_in(match: re.Match[str]) -> str:
            name = match["name"]
            if match["literal"]:
                return f"${{{name}}}"
            if name in self.own:
                return self.own[name]
            if refusal is not None:
                problem(refusal.format(name=name))
                return ""
            if name in self.environ:
                return self._secret(name, problem)
            if not self.checking_only:
                problem(
                    f"needs the environment variable {name}, which is not set. Set it where you run fab, or write "
                    f"$${{{name}}} for the text ${{{name}}} itself."
                )
            return match[0]

        whole = _VARIABLE.sub(put_in, node.text)
        if not self.checking_only:
            # Who writes a secret into the file has it shown no more than that.
            written = [*secrets_in_urls(whole), *(_addresses(whole) if path == _WEBHOOK else ())]
            self.secrets += [secret for secret in written if self._unfit(secret) is None]
        return whole

    def _secret(self, name: str, problem: Callable[[str], None]) -> str:
        """The value of a variable of the environment, which is a secret from now on."""
        value = self.environ[name]
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            problem(f"needs the environment variable {name}, whose value is not UTF-8 text.")
            return ""
        if value:
            self.secrets.append(value)
            if not self.checking_only and (trouble := self._unfit(value)):
                problem(
                    f"uses ${{{name}}}, whose value {trouble}: as a secret, it would be masked wherever that text "
                    "appears. Write the value into the file if it is not a secret, or use a longer one."
                )
        return value


_ON_HOSTS = (
    "must not use ${{{name}}}: it is a secret from your environment, and this text ends up in the store and in hosts' "
    "logs. For the host's own variable, write $${{{name}}} or ${name}."
)
_IN_PUBLIC = (
    "must not use ${{{name}}}: it is a secret from your environment, and this value ends up in manifests, records and "
    "names of keys. Write the value itself, or $${{{name}}} for the text ${{{name}}}."
)


def _addresses(webhook: str) -> tuple[str, ...]:
    """The secrets of a webhook's URL: all of it, and what comes after the host, which servers quote."""
    _, _, after_scheme = webhook.partition("://")
    _, _, rest = after_scheme.partition("/")
    return (webhook, f"/{rest}") if len(rest) >= _SHORTEST_ADDRESS else (webhook,)


def _open_names(tree: Map, environment: str) -> tuple[str, ...]:
    """The names of the environment, the application and the roles, as far as they are given."""
    application, roles = tree.entries.get("application"), tree.entries.get("roles")
    return (
        environment,
        *((application.text,) if isinstance(application, Scalar) else ()),
        *(roles.entries if isinstance(roles, Map) else ()),
    )


def _put_recipe_in(said: dict[str, Any]) -> tuple[str, frozenset[Loc]]:
    """Add the defaults of the chosen recipe to `said`; return its name and the paths that came from it.

    What is not given, or null, is the recipe's; what is given replaces it, `build.env` variable by variable.
    """
    build = said.get("build")
    name = build.get("recipe", "none") if isinstance(build, dict) else "none"
    recipe = RECIPES.get(name) if isinstance(name, str) else None
    paths: set[Loc] = set()
    for default, path in _FROM_RECIPE.items():
        section = said if len(path) == 1 else build
        key = str(path[-1])
        if isinstance(section, dict) and section.get(key) is None:
            section.pop(key, None)
            # What the recipe says of its own commands is nothing about other ones.
            foreign = default in _SPEAKS_OF and ("build", _SPEAKS_OF[default]) not in paths
            if recipe is not None and not foreign and (values := getattr(recipe, default)):
                section[key] = list(values)
                paths.add(path)
    if recipe is not None and isinstance(build, dict) and isinstance(env := build.get("env", {}), dict):
        paths |= {("build", "env", variable) for variable in recipe.env if variable not in env}
        build["env"] = {**recipe.env, **env}
    return recipe.name if recipe else "none", frozenset(paths)


def _problem(tree: Map, path: Loc, sentence: str) -> Problem:
    """A problem with the place of the node at `path`, or of the nearest above it; else of the file for all."""
    for length in range(len(path), 0, -1):
        if node := find(tree, path[:length]):
            return Problem(node.file, node.line, dotted(path), sentence)
    return Problem(tree.file, None, dotted(path), sentence)


def _sentence(tree: Map, error: ErrorDetails) -> Problem:
    """Pydantic's error as one of our sentences."""
    path: Loc = error["loc"]
    if path[-1:] == ("[key]",) and find(tree, path) is None:
        path = path[:-1]
    # A bare command stands where a list of one is meant: its place is the list's.
    node = find(tree, path)
    if node is None and path and path[-1] == 0 and isinstance(find(tree, path[:-1]), Scalar):
        path = path[:-1]
        node = find(tree, path)
    kind = error["type"]
    if kind == "value_error":
        sentence = str(error["ctx"]["error"])
    elif kind == "missing":
        sentence = f"is missing: {_description(path) or 'it is required'}."
    elif kind == "extra_forbidden":
        sentence = _unknown(path)
    elif isinstance(node, Scalar) and node.kind == "nothing":
        sentence = f"has no value, but {_wanted(kind)} For the default, remove the line."
    elif kind.startswith("string"):
        sentence = _not_text(path, node)
    else:
        sentence = _wanted(kind)
    return replace(_problem(tree, path, sentence), kind="missing" if kind == "missing" else "rule")


def _wanted(kind: str) -> str:
    match kind.partition("_")[0]:
        case "string":
            return "must be text."
        case "int" | "finite":
            return "must be a whole number, written without quotes."
        case "bool":
            return "must be true or false, without quotes."
        case "tuple" | "list":
            return "must be a list: [one, two], or one `- item` per line; [] for none."
        case "model" | "mapping" | "dict":
            return "must be a map: {key: value}, or one `key: value` per line."
        case _:
            return "can't be used here."


def _not_text(path: Loc, node: Node | None) -> str:
    match node:
        case Scalar(text=text, kind=kind) if path[:2] != ("build", "env"):
            return f'must be text, but YAML reads {text} as a {kind}. Put it in quotes: "{text}".'
        case Scalar(kind=kind):
            # The value of a variable may be a password that somebody wrote out.
            return f"must be text, but YAML reads it as a {kind}. Put it in quotes."
        case Map():
            return (
                "must be text, but YAML reads it as a map, because of a `: ` or of braces. Put it in 'single quotes', "
                "or in a block that starts with `|`."
            )
        case _:
            return "must be text, not a list. If the brackets are part of the text, put it in 'single quotes'."


def _unknown(path: Loc) -> str:
    name = str(path[-1])
    model = _model_at(path[:-1])
    names = [] if model is None else [name for name in model.model_fields if name not in NOT_IN_FILES]
    if close := difflib.get_close_matches(name.lower().replace("-", "_"), names, n=1, cutoff=0.6):
        return f"is not a setting. Did you mean {close[0]}?"
    elsewhere = [known for known in _known_paths(Settings, ()) if known[-1] == name]
    if elsewhere:
        return f"is not a setting here. Did you mean {' or '.join(map(dotted, elsewhere))}?"
    return f"is not a setting. Known here: {', '.join(names)}."


def _description(path: Loc) -> str | None:
    """What the model says of a setting, or of the list that the path leads into."""
    while isinstance(path[-1], int):
        path = path[:-1]
    model = _model_at(path[:-1])
    field_info = model.model_fields.get(str(path[-1])) if model else None
    return field_info.description if field_info else None


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_within(part))), None)


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is Mapping or any(_is_mapping(part) for part in get_args(annotation))


def _model_at(path: Loc) -> type[BaseModel] | None:
    """The model whose fields stand under `path`."""
    model: type[BaseModel] | None = Settings
    rest = list(path)
    while rest and model is not None:
        field_info = model.model_fields.get(str(rest.pop(0)))
        if field_info is None:
            return None
        if _is_mapping(field_info.annotation) and rest:
            rest.pop(0)
        model = _model_within(field_info.annotation)
    return model


def _known_paths(model: type[BaseModel], above: Loc) -> Iterator[Loc]:
    for name, field_info in model.model_fields.items():
        if above or name not in NOT_IN_FILES:
            yield (*above, name)
            if below := _model_within(field_info.annotation):
                named = ("<role>",) if _is_mapping(field_info.annotation) else ()
                yield from _known_paths(below, (*above, name, *named))


def _leaves(value: object, path: Loc) -> Iterator[tuple[Loc, object]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if path or name not in NOT_IN_FILES:
                yield from _leaves(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping) and value:
        for name, below in value.items():
            yield from _leaves(below, (*path, name))
    else:
        yield path, value


def _own_names(directory: Path) -> Mapping[str, str]:
    """The `${NAME}`s that are not from the operator's environment, and no secrets."""
    return {PROJECT: str(directory.absolute())}


def _shown(value: object, node: Node | None, own: Mapping[str, str]) -> object:
    """A setting's value as JSON has it, without what came from the operator's environment."""
    if isinstance(value, tuple):
        nodes = node.items if isinstance(node, Items) else (node,) if node else ()
        return [_masked(item, nodes[number] if number < len(nodes) else None, own) for number, item in enumerate(value)]
    return dict(value) if isinstance(value, Mapping) else _masked(value, node, own)


def _masked(value: object, node: Node | None, own: Mapping[str, str]) -> object:
    """`value`; where it has a secret, the file's text with `***` for each `${NAME}` that is one."""

    def put_in(match: re.Match[str]) -> str:
        return match[0][1:] if match["literal"] else own.get(match["name"], MASK)

    names = _VARIABLE.finditer(node.text) if isinstance(node, Scalar) else ()
    if all(match["literal"] or match["name"] in own for match in names):
        return value
    assert isinstance(node, Scalar)
    return _VARIABLE.sub(put_in, node.text)


def _source(loaded: _Loaded, path: Loc) -> str:
    if path in loaded.recipe_paths:
        return f"recipe {loaded.recipe}"
    node = find(loaded.tree, path)
    # Null asks for the default where a recipe could give one; elsewhere it is a value.
    asked_for = isinstance(node, Scalar) and node.kind == "nothing" and path in _FROM_RECIPE.values()
    return "default" if node is None or asked_for else node.file
