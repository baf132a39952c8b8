"""docs/recipes.md shows what the recipes say."""

import re
from pathlib import Path

import pytest
import yaml

from deploytool.settings.recipes import RECIPES, Recipe, command_name

DOCS = Path(__file__).parents[2] / "docs/recipes.md"


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES.values() if recipe.name != "none"], ids=lambda r: r.name
)
def test_the_docs_show_the_defaults(recipe: Recipe) -> None:
    shown = re.search(rf"(?s)^## {recipe.name}\n\n```yaml\n(.*?)```", DOCS.read_text(), re.MULTILINE)
    assert shown, f"docs/recipes.md needs a section `## {recipe.name}` that begins with its defaults as YAML"
    defaults = {
        "linked_dirs": recipe.linked_dirs,
        "linked_files": recipe.linked_files,
        "build": {
            "env": dict(recipe.env),
            # A page of shell: the docs say it in words.
            "dependencies": () if recipe.name == "django" else recipe.dependencies,
            "assets": recipe.assets,
            "migrate": recipe.migrate,
            "linked_files": recipe.build_linked_files,
            "exclude": recipe.exclude,
        },
    }
    assert yaml.safe_load(shown[1]) == said(defaults)


def said(values: object) -> object:
    """What of it would be written down: nothing that is empty."""
    match values:
        case dict():
            return {name: said(value) for name, value in values.items() if value}
        case tuple():
            return list(values)
        case _:
            return values


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("npm ci", "npm ci"),
        (RECIPES["django"].dependencies[0], "pip install --requirement requirements.txt"),
        ("set -e\n# why\nmake one\nmake two", "make one …"),
        ("\n# only\nmake\n", "make"),
        ("# nothing", "# nothing"),
    ],
)
def test_command_is_shown_by_what_it_does_and_not_by_the_first_line_of_a_script(command: str, name: str) -> None:
    assert command_name(command) == name
