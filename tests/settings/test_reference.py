"""docs/settings.md says what the model says."""

from pathlib import Path

from pydantic import BaseModel

from deploytool.settings.model import Build, Canary, Hooks, Hosts, Role, Rollout, Settings, Store, Verify, Wait
from deploytool.settings.reference import page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_page_is_not_stale() -> None:
    assert PAGE.read_text() == page() + "\n", "make docs"


def test_every_setting_of_every_model_has_a_row() -> None:
    rows = {line.split("|")[1].strip(" *`").rpartition(".")[2] for line in page().splitlines() if line.startswith("| ")}
    models: tuple[type[BaseModel], ...] = (Build, Store, Hosts, Verify, Hooks, Canary, Rollout, Role, Wait)
    assert {name for model in models for name in model.model_fields} <= rows


def test_what_no_file_may_set_is_not_told() -> None:
    assert "`environment`" not in page().partition("## Top level")[2]
    assert "secrets" in Settings.model_fields
    assert "| `secrets`" not in page()


def test_row_tells_form_default_and_whether_it_must_be_given() -> None:
    lines = page().splitlines()
    assert "| **`store.url`** | text |  | s3://bucket/prefix or file:///directory |" in lines
    assert "| `build.compression` | `gzip`, `zstd`, `none` | `gzip` | gzip, zstd or none |" in lines
    assert "| `roles.<name>.restart` | command, or a list | none | commands run after the switch; templates |" in lines
    assert (
        '| `rollout.waves` | list | `["100%"]` | numbers of hosts or shares of them, cumulative, ending with 100% |'
        in lines
    )
