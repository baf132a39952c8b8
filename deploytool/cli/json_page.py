"""The page docs/json.md: every document that `--json` prints, field by field.

python -m deploytool.cli.json_page >docs/json.md
"""

import re
from collections.abc import Iterator

from deploytool import errors
from deploytool.cli.documents import DOCUMENTS, Schema, schema
from deploytool.errors import SCHEMA_VERSION, DeployError

_HEAD = f"""\
# JSON

<!-- Made by `make docs` from deploytool/cli/documents.py and the types named there; a test fails when it is stale. -->

With `--json` a command prints one JSON document on stdout, whatever its exit code. Progress and messages go to stderr.
`***` replaces secrets. Times are in UTC, as in 2026-11-23T06:22:33Z.

`schema_version` is {SCHEMA_VERSION}. It goes up when a field is removed or its type or meaning changes. New fields
can be added without that, so ignore fields that you don't know.

A command that fails before it has a result prints only the fields of [every document](#every-document). All fields in a
table are always in the document, with null where there is no value, except those marked *optional*.
"""


def page() -> str:
    """The whole page, in Markdown."""
    definitions: dict[str, Schema] = schema()["$defs"]
    text = [_HEAD, "## Commands\n", "| command | document |\n|---|---|"]
    for command, several in DOCUMENTS.items():
        text += [
            f"| `fab ENV {command}`{f' with `{when}`' if when else ''} | {_link(kind.__name__)} |"
            for kind, when in several
        ]
    text += ["", "## Exit codes\n", "| exit code | `error.kind` | meaning |\n|---|---|---|"]
    text += [
        f"| {each.exit_code} | `{each.kind}` | {_one_line(each.__doc__ or '')} |"
        for each in sorted(_errors(), key=lambda each: (each.exit_code, each.kind))
    ]
    for name in definitions:
        text += _section(name, definitions[name])
    return "\n".join(text)


def _errors() -> list[type[DeployError]]:
    everything = vars(errors).values()
    return [each for each in everything if isinstance(each, type) and issubclass(each, DeployError)]


def _section(name: str, definition: Schema) -> Iterator[str]:
    yield f"\n## {_title(name)}\n\n{definition['description']}\n"
    yield "| field | type | meaning |\n|---|---|---|"
    for field, described in definition["properties"].items():
        optional = "" if field in definition["required"] else "; *optional*"
        yield f"| `{field}` | {_form(described)} | {described['description']}{optional} |"


def _form(described: Schema) -> str:
    if "$ref" in described:
        return _link(described["$ref"].rpartition("/")[2])
    if "anyOf" in described:
        return " or ".join(map(_form, described["anyOf"]))
    if "enum" in described:
        return ", ".join(f"`{str(value).lower()}`" for value in described["enum"])
    if described.get("type") == "array":
        return f"list of {_form(described['items'])}"
    if described.get("type") == "object":
        return f"map to {_form(described['additionalProperties'])}"
    return str(described.get("type", "any"))


def _title(name: str) -> str:
    """`HostResultJson` as people say it."""
    if name == "HeadJson":
        return "Every document"
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Json")).capitalize()


def _link(name: str) -> str:
    title = _title(name)
    return f"[{title.lower()}](#{title.lower().replace(' ', '-')})"


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    print(page())
