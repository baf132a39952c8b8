"""What `fab ENV settings` shows to people."""

import pytest

from deploytool.queries.settings import lines
from deploytool.settings import EffectiveSetting

SCRIPT = 'if [ ! -f requirements.txt ]; then\n  exit 1\nfi\n"${PYTHON:-python3}" -m venv venv'
INPUTS = [":(glob)**/package.json", ":(glob)**/package-lock.json", ".node-version"]
ROWS = [
    EffectiveSetting("application", "shop", "config/deploy.yml"),
    EffectiveSetting("branch", "next", "config/local.yml"),
    EffectiveSetting("build.recipe", "django", "config/deploy.yml"),
    EffectiveSetting("build.dependencies", [SCRIPT, "relocate_virtualenv venv"], "recipe django"),
    EffectiveSetting("build.dependencies_inputs", INPUTS, "recipe django"),
    EffectiveSetting("build.forward_agent", False, "config/local.yml"),
    EffectiveSetting("store.region", None, "default"),
    EffectiveSetting("wait.fetch_seconds", 600, "default"),
]


def test_what_was_set_and_what_the_recipe_adds_is_shown_and_scripts_are_blocks() -> None:
    assert lines(ROWS, "local", every=False, width=None) == [
        "config/deploy.yml",
        "  application                shop",
        "  build.recipe               django",
        "config/local.yml",
        "  branch                     next",
        "  build.forward_agent        false",
        "recipe django",
        "  build.dependencies",
        "    - if [ ! -f requirements.txt ]; then",
        "        exit 1",
        "      fi",
        '      "${PYTHON:-python3}" -m venv venv',
        "    - relocate_virtualenv venv",
        '  build.dependencies_inputs  [":(glob)**/package.json", ":(glob)**/package-lock.json", ".node-version"]',
        "2 more settings at the default; show all: fab local settings --all",
    ]


def test_defaults_come_last_and_on_request() -> None:
    shown = lines(ROWS, "local", every=True, width=None)
    assert shown[-3:] == [
        "default",
        "  store.region               null",
        "  wait.fetch_seconds         600",
    ]


@pytest.mark.parametrize("width", [44, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(width: int) -> None:
    shown = lines(ROWS, "local", every=True, width=width)
    assert max(map(len, [*shown, *lines(ROWS, "local", every=False, width=width)])) <= width
    words = {word for line in lines(ROWS, "local", every=True, width=None) for word in line.split()}
    assert {word for line in shown for word in line.split()} - words <= {
        "-",
        *(item.strip() for item in INPUTS),
    }


def test_list_that_does_not_fit_has_an_item_a_line() -> None:
    shown = lines(ROWS[4:5], "local", every=False, width=60)
    assert shown == [
        "recipe django",
        "  build.dependencies_inputs",
        "    - :(glob)**/package.json",
        "    - :(glob)**/package-lock.json",
        "    - .node-version",
    ]
