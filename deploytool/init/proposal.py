"""From what was found and what the flags say to the files that `deploytool init` writes. Pure.

Together the files have at most 15 lines that a person must understand, plus what Capistrano was told already.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import ValidationError

from deploytool.errors import UsageError
from deploytool.init.capistrano import Capistrano, read_capistrano
from deploytool.init.survey import Survey
from deploytool.model.build_outputs import made_by_the_build
from deploytool.settings.files import FILL_IN, NAME
from deploytool.settings.model import CHECKING_ONLY, Settings
from deploytool.settings.recipes import RECIPES

FABFILE = "fabfile.py"
FABFILE_LINE = "from deploytool.tasks import namespace"
ENVIRONMENTS = ("staging", "production")


@dataclass(frozen=True, slots=True)
class Given:
    """What the flags say; None where they say nothing."""

    application: str | None = None
    repository: str | None = None
    branch: str | None = None
    deploy_to: str | None = None
    recipe: str | None = None
    server: str | None = None
    store: str | None = None


@dataclass(frozen=True, slots=True)
class ProposedValue:
    """One value of the proposal, and why it is this one."""

    setting: str
    value: str
    because: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What `init` would write, and what it has to say of it."""

    chosen: tuple[ProposedValue, ...]
    #: path → text, in the order in which they are read
    files: Mapping[str, str]
    notes: tuple[str, ...]
    #: settings that nobody but a person knows
    to_fill_in: tuple[str, ...]


def propose(found: Survey, given: Given) -> Proposal:
    """What to write for that repository. Raises UsageError if a value can't be a setting's."""
    capistrano = read_capistrano("\n".join(found.texts.get(name, "") for name in ("Capfile", "config/deploy.rb")))
    recipe = _first("build.recipe", (given.recipe, "--recipe"), _recipe(found.texts))
    chosen = _chosen(found, given, capistrano)
    value = {each.setting: each.value for each in chosen}
    capistrano, left_out = _without_what_builds_make(capistrano, recipe.value, found.static_root)
    shared = _shared_text(found, capistrano, value, recipe)
    files = {
        **({FABFILE: f"{FABFILE_LINE}\n"} if found.fabfile is None else {}),
        f"{found.place}/deploy.yml": shared,
        **{f"{found.place}/{name}.yml": _environment_text(name) for name in ENVIRONMENTS},
    }
    _check(shared)
    carried = [name for name in ("keep_releases", "linked_dirs", "linked_files") if name in capistrano.values]
    lists = tuple(ProposedValue(name, _scalar(capistrano.values[name]), "from Capistrano") for name in carried)
    return Proposal(
        chosen=(recipe, *chosen, *lists),
        files=files,
        notes=(*_notes(found, given, capistrano, recipe.value), *left_out),
        to_fill_in=tuple(each.setting for each in chosen if FILL_IN in each.value),
    )


def _without_what_builds_make(
    capistrano: Capistrano, recipe: str, static_root: str | None
) -> tuple[Capistrano, tuple[str, ...]]:
    """What Capistrano was told without linked directories that a build makes, and a note on each that was left out."""
    linked = capistrano.values.get("linked_dirs", ())
    if not isinstance(linked, tuple):
        return capistrano, ()
    why = {name: reason for name in linked if (reason := made_by_the_build(name, recipe, static_root)) is not None}
    left = tuple(name for name in linked if name not in why)
    others = {name: value for name, value in capistrano.values.items() if name != "linked_dirs"}
    notes = tuple(f"linked_dirs: left out {name}: {reason}." for name, reason in why.items())
    # Without any, the recipe's own go.
    return replace(capistrano, values={**others, **({"linked_dirs": left} if left else {})}), notes


# --- what kind of application it is


def _recipe(texts: Mapping[str, str]) -> tuple[str, str]:
    """The first recipe that sees a sign, and that sign."""
    for recipe in RECIPES.values():
        if sign := recipe.sign(texts):
            return recipe.name, sign
    return "none", "the kind of application is unknown"


# --- single values


def _first(setting: str, *offers: tuple[str | None, str]) -> ProposedValue:
    """The first offer that there is: a value and why."""
    value, because = next((value, because) for value, because in offers if value is not None)
    return ProposedValue(setting, value, because)


def _chosen(found: Survey, given: Given, capistrano: Capistrano) -> tuple[ProposedValue, ...]:
    git = found.git

    def said(name: str) -> tuple[str | None, str]:
        value = capistrano.values.get(name)
        return (value if isinstance(value, str) else None), "from Capistrano"

    application = _first(
        "application",
        (given.application, "--application"),
        (_fitting(value) if (value := said("application")[0]) else None, said("application")[1]),
        (_fitting(_last_part(git.origin)) if git and git.origin else None, "the name of the repository"),
        (_fitting(found.name), "the name of this directory"),
        ("app", "the default"),
    )
    repository = _first(
        "repository",
        (given.repository, "--repository"),
        said("repository"),
        (git.origin if git else None, "git's origin"),
        (FILL_IN, "git has no remote here" if git else "not a git repository"),
    )
    branch = _first(
        "branch",
        (given.branch, "--branch"),
        said("branch"),
        (git.default_branch if git else None, "the remote's default"),
        (git.current_branch if git else None, "checked out now"),
        ("main", "the usual one"),
    )
    deploy_to = _first(
        "deploy_to",
        (given.deploy_to, "--deploy-to"),
        said("deploy_to"),
        (f"/var/www/{application.value}", "the usual place"),
    )
    server = _first("build.server", (given.server, "--server"), (FILL_IN, "user@host of the build server"))
    store = _first(
        "store.url",
        (given.store, "--store"),
        (f"s3://{FILL_IN}/{application.value}", "the bucket for releases"),
    )
    return application, repository, branch, deploy_to, server, store


def _last_part(url: str) -> str:
    return re.split(r"[/:]", url.rstrip("/").removesuffix(".git"))[-1]


def _fitting(text: str) -> str | None:
    """`text` as an application's name; None if nothing of it can be in one."""
    name = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")[:63]
    return name if NAME.fullmatch(name) else None


# --- the files


def _shared_text(found: Survey, capistrano: Capistrano, value: Mapping[str, str], recipe: ProposedValue) -> str:
    git, carried, kind = found.git, capistrano.values, RECIPES[recipe.value]
    restart = kind.restart.format(value["application"]) if kind.restart else None
    lines = [
        "# Shared by all environments; <environment>.yml overrides it. `fab staging settings` shows all settings.",
        f"application: {_scalar(value['application'])}",
        f"repository: {_scalar(value['repository'])}   # as the build server reaches it",
        *([f"branch: {_scalar(value['branch'])}"] if value["branch"] != "main" else []),
        *([f"subdirectory: {_scalar(git.subdirectory)}"] if git and git.subdirectory != "." else []),
        f"deploy_to: {_scalar(value['deploy_to'])}   # on app servers",
        *(
            f"{name}: {_scalar(carried[name])}"
            for name in ("keep_releases", "linked_dirs", "linked_files")
            if name in carried
        ),
        "build:",
        f"  server: {_scalar(value['build.server'])}   # user@host: where releases are built",
        f"  recipe: {recipe.value}   # {recipe.because}" if recipe.value != "none" else f"  recipe: {recipe.value}",
        f"store: {{url: {_scalar(value['store.url'])}}}",
        "roles:",
        "  web:",
        *([f"    restart: {_scalar(restart)}"] if restart else []),
        f"    verify: {kind.verify}   # how a host is verified on the new release",
    ]
    return "\n".join(lines) + "\n"


def _environment_text(name: str) -> str:
    return (
        f"# What is different in {name}: its hosts are the Consul nodes with this metadata.\n"
        f"roles: {{web: {{hosts: {{node_meta: {{role: web, environment: {name}}}}}}}}}\n"
    )


def _scalar(value: object) -> str:
    """The value in YAML, on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=100_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _check(shared: str) -> None:
    """Raise UsageError if a value can't be a setting's, with all such problems; `FILL_IN` may stand for any."""
    said = yaml.safe_load(shared)
    said["roles"]["web"]["hosts"] = {"nodes": ["any"]}
    try:
        Settings.model_validate(
            {**said, "environment": ENVIRONMENTS[0], "directory": Path()}, context={CHECKING_ONLY: True}
        )
    except ValidationError as invalid:
        problems = [
            f"{'.'.join(map(str, error['loc']))}: {error.get('ctx', {}).get('error', error['msg'])}"
            for error in invalid.errors(include_url=False, include_input=False)
        ]
        raise UsageError(
            "these values are not valid settings:",
            tail=problems,
            hint="pass another value; `deploytool init --help` lists the flags",
        ) from None


# --- what a person should know


def _notes(found: Survey, given: Given, capistrano: Capistrano, recipe: str) -> Iterator[str]:
    if found.place != "config":
        yield (
            f"config/ has files of the application itself ({_some(found.foreign)}), so the settings are in "
            f"{found.place}/, where no other file is taken for an environment."
        )
    elif found.foreign:
        yield (
            f"{_some(found.foreign)} would be taken for environments: move deploy.yml and the environments' files to "
            "config/deploy/ to prevent that."
        )
    if capistrano.values:
        yield f"taken over from Capistrano: {', '.join(capistrano.values)}."
    if capistrano.unclear:
        yield f"not taken over, because only Ruby can evaluate them: {', '.join(capistrano.unclear)}."
    if found.git is None:
        yield "this is not a git repository, and releases are built from one: run git init, commit and push."
    elif found.git.had_password and given.repository is None and "repository" not in capistrano.values:
        yield "origin's URL has a password, which was left out: the build server needs its own access."
    if recipe == "django":
        missing = [name for name in ("manage.py", "requirements.txt") if name not in found.texts]
        if missing:
            yield (
                f"the recipe django needs {' and '.join(missing)} in this directory: add what is missing, or set "
                "build.dependencies, build.assets and build.migrate."
            )


def _some(names: tuple[str, ...]) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
