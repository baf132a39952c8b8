"""What `--json` prints, its schema, and its page."""

from pathlib import Path

import pytest

from deploytool import tasks
from deploytool.cli.documents import DOCUMENTS, schema
from deploytool.cli.json_page import page
from deploytool.errors import UsageError, refusal
from tests.support.documents import check_document
from tests.support.local import Local

PAGE = Path(__file__).parents[2] / "docs" / "json.md"


def test_page_is_not_stale() -> None:
    assert PAGE.read_text() == page() + "\n", "make docs"


def test_every_command_has_its_documents() -> None:
    assert set(DOCUMENTS) == {each.name for each in tasks.COMMANDS}


def test_every_field_of_every_document_has_a_meaning() -> None:
    for name, definition in schema()["$defs"].items():
        missing = [field for field, each in definition["properties"].items() if not each.get("description")]
        assert not missing, name


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": "1"},
        {"environment": 1},
        {"error": None},
        {"error": {"kind": "usage", "message": "", "tail": ""}},
        {"unknown": 1},
    ],
)
def test_document_that_differs_from_its_type_is_noticed(change: dict[str, object]) -> None:
    document = {**refusal(UsageError("no"))}
    check_document(document, ("status",))
    with pytest.raises(AssertionError):
        check_document({**document, **change}, ("status",))


def test_documents_of_real_commands_are_what_the_page_says(tmp_path: Path) -> None:
    local = Local(tmp_path)
    release = local.fab("local", "deploy", "--json").json["release"]
    commands: tuple[tuple[str, ...], ...] = (
        ("status",),
        ("releases",),
        ("releases", "--deployments"),
        ("releases", "--verify"),
        ("plan",),
        ("settings",),
        ("build",),
        ("mark", "--release", release, "--bad", "--why", "slow"),
        ("freeze", "--why", "holidays"),
        ("status",),
        ("plan",),
        ("deploy",),
        ("thaw",),
        ("rollback",),
        ("promote",),
        ("migrate",),
        ("check",),
        ("app-server",),
        ("cleanup",),
        ("unlock",),
        ("deploy", "--branch", "nowhere"),
        ("status", "--nonsense"),
    )
    for command in commands:
        document = local.fab("local", *command, "--json").json
        assert document["schema_version"] == 1
        assert document["environment"] == (None if "--nonsense" in command else "local")
    assert local.fab("--dry", "local", "deploy", "--json").json["reference"] == "main"
    assert {command[0] for command in commands} == set(DOCUMENTS)
