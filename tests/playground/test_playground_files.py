"""What the playground writes where a person may have written before."""

from pathlib import Path

import pytest

from deploytool.playground.configs import dotenv, is_unedited, settings
from deploytool.playground.playground import complete_dotenv, write_settings

OURS = {"PORT": 4001, "BIND": "127.0.0.1:4001"}
DATABASE = {"DATABASE": "/var/x.sqlite3"}
TEXT = settings({"application": "blog"}, head="Written by the playground.")


def test_new_dotenv_has_the_values_only() -> None:
    assert dotenv("", OURS, DATABASE) == "PORT=4001\nBIND=127.0.0.1:4001\nDATABASE=/var/x.sqlite3\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # Comments, blank lines and the order stay; so does what a person made of a default.
        (
            "# mine\nSECRET='a b'\n\nPORT=1\n#PORT=2\nDATABASE=mysql://db\nBIND=127.0.0.1:1\nLAST=x\n",
            "# mine\nSECRET='a b'\n\nPORT=4001\n#PORT=2\nDATABASE=mysql://db\nBIND=127.0.0.1:4001\nLAST=x\n",
        ),
        ("SECRET=x", "SECRET=x\nPORT=4001\nBIND=127.0.0.1:4001\nDATABASE=/var/x.sqlite3\n"),
        (
            'export PORT=1\n  BIND = "127.0.0.1:4001" \nDATABASE=\n',
            'export PORT=4001\n  BIND = "127.0.0.1:4001" \nDATABASE=\n',
        ),
        (
            "SUPPORT=1\r\nPORT_OF_SMTP=25\r\n",
            "SUPPORT=1\r\nPORT_OF_SMTP=25\r\nPORT=4001\nBIND=127.0.0.1:4001\nDATABASE=/var/x.sqlite3\n",
        ),
    ],
)
def test_what_a_person_wrote_into_a_dotenv_stays_where_it_is(before: str, after: str) -> None:
    assert dotenv(before, OURS, DATABASE) == after
    assert dotenv(after, OURS, DATABASE) == after


def test_dotenv_keeps_a_users_port_bytes_of_any_encoding_its_mode_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"NAME=M\xfcller\r\nPORT=1\n")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / ".env").symlink_to("real")
    complete_dotenv(tmp_path / ".env", OURS)
    assert (tmp_path / ".env").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"NAME=M\xfcller\r\nPORT=1\nBIND=127.0.0.1:4001\n"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600


def test_settings_that_nobody_edited_are_known_as_such() -> None:
    assert is_unedited(TEXT)
    assert is_unedited(TEXT.replace("# Unedited as long", "# Nobody has edited this file as long"))
    for edited in (
        TEXT + "branch: main\n",
        TEXT.replace("blog", "shop"),
        f"branch: x\n{TEXT}",
        "application: blog\n",
        "",
    ):
        assert not is_unedited(edited)


def test_settings_that_a_person_edited_are_kept_beside_the_new_ones(tmp_path: Path) -> None:
    file = tmp_path / "staging.yml"
    file.write_text("mine: 1\n")
    assert write_settings(file, TEXT) == tmp_path / "staging.yml.before"
    assert write_settings(file, settings({"application": "shop"}, head="Other ports.")) is None
    file.write_text(file.read_text() + "branch: main\n")
    assert write_settings(file, TEXT) == tmp_path / "staging.yml.before2"
    assert (tmp_path / "staging.yml.before").read_text() == "mine: 1\n"
    assert (tmp_path / "staging.yml.before2").read_text().endswith("branch: main\n")
    assert file.read_text() == TEXT
    assert write_settings(file, TEXT) is None
