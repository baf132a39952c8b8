"""The templates in the settings: hooks, restarts and proofs are rendered once with made-up values. Pure.

Like `checks` they look at plain data that may be wrong in any other way. Apart from those, because these need jinja2:
the connection to the build server is begun before it is imported.
"""

import pathlib
from collections.abc import Iterator, Mapping

import jinja2
import jinja2.meta

from deploytool.settings.checks import Finding, Path, as_map, texts
from deploytool.settings.model import Verify, did_you_mean

#: What templates may name.
TEMPLATE_NAMES = (
    "application",
    "environment",
    "role",
    "release",
    "revision",
    "deployment",
    "deploy_to",
    "release_path",
    "current_path",
    "shared_path",
)

_HOOKS = ("pre", "post", "success", "failure", "drain", "undrain")


def check_templates(settings: Mapping[str, object], environment: str) -> Iterator[Finding]:
    """All templates that can't be rendered, each with the reason."""
    for name, role in as_map(settings.get("roles")).items():
        yield from _check_role(environment, name, as_map(role))


def _check_role(environment: str, role: str, said: Mapping[str, object]) -> Iterator[Finding]:
    at = ("roles", role)
    hooks, verify = as_map(said.get("hooks")), as_map(said.get("verify"))
    templates: list[tuple[Path, str]] = []
    commands: list[tuple[Path, object]] = [((*at, "restart"), said.get("restart"))]
    commands += [((*at, "hooks", kind), hooks.get(kind)) for kind in _HOOKS]
    for path, value in commands:
        templates += [((*path, number) if isinstance(value, list) else path, text) for number, text in texts(value)]
    templates += [
        ((*at, "verify", key), text) for key in Verify.templates() if isinstance(text := verify.get(key), str)
    ]
    values = dict.fromkeys(TEMPLATE_NAMES, "x") | {"environment": environment, "role": role}
    for path, text in templates:
        for sentence in template_problems(text, values):
            yield path, sentence


def jinja_environment(directory: pathlib.Path | None = None) -> jinja2.Environment:
    """What renders our templates and the users', by Jinja's own rules but one: an unknown name is an error.

    Shell, YAML, units and policies come out of it, and never HTML. Templates may name others in the directory.
    """
    return jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
        loader=jinja2.FileSystemLoader(directory) if directory is not None else None,
    )


def template_problems(text: str, values: Mapping[str, str]) -> tuple[str, ...]:
    """What keeps the Jinja template `text` from being rendered with the names in `values`; nothing if all is well."""
    jinja = jinja_environment()
    try:
        names = jinja2.meta.find_undeclared_variables(jinja.parse(text))
    except Exception as error:  # besides TemplateError: RecursionError, ValueError for endless numbers
        what = (error.message if isinstance(error, jinja2.TemplateError) else None) or type(error).__name__
        return (
            f"is not a Jinja template: {what.rstrip('.')}. Write a literal {{{{ as {{{{ '{{{{' }}}}, "
            "or put the text between {% raw %} and {% endraw %}.",
        )
    unknown = sorted(names - set(values) - set(jinja.globals))
    if unknown:
        return tuple(
            f"uses `{name}`, which is not defined.{did_you_mean(name, values) or _known(values)}" for name in unknown
        )
    try:
        rendered = jinja.from_string(text).render(values)
    except Exception as error:  # a template may raise whatever Python can
        return (f"can't be rendered: {error or type(error).__name__}.",)
    return ("renders to text with a NUL character. Remove it: no shell accepts it.",) if "\0" in rendered else ()


def _known(values: Mapping[str, str]) -> str:
    return f" Defined are {', '.join(values)}."
