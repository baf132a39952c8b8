"""`--verbose`: what a command does, on stderr, without secrets."""

import logging
from pathlib import Path
from typing import Any

import pytest

from deploytool import trace
from tests.support.local import Local

SECRET = 'correct horse "battery" staple'


@pytest.fixture
def local(tmp_path: Path) -> Local:
    made = Local(tmp_path)
    made.settings["build"]["env"] = {"API_TOKEN": SECRET, "PLAIN": "${GIVEN}"}
    made.write()
    return made


def test_trace_names_requests_steps_decisions_and_statuses(local: Local) -> None:
    given = {"GIVEN": "unguessable"}
    result = local.fab("local", "deploy", "-v", "--json", env=given)
    assert result.code == 0, result.err
    for words in (
        "settings: config/local.yml",
        "store_built: ",
        " ms, ",
        "step checkout ended with exit code 0",
        "no release in the store matches these inputs: build key ",
        "brings " + result.json["release"],
        "status: rolling, then verify: verified",
    ):
        assert words in result.err
    assert "sends" not in result.err
    again = local.fab("local", "deploy", "--json", env={"DEPLOYTOOL_DEBUG": "1", **given})
    assert f"{result.json['release']} matches these inputs: build key " in again.err


def test_trace_of_a_failing_deploy_shows_what_requests_carry_and_no_secret(local: Local) -> None:
    local.settings["build"]["assets"] = ['echo "it is $API_TOKEN, and $PLAIN" && false']
    local.write()
    result = local.fab("local", "deploy", "--verbose", "-v", env={"GIVEN": "unguessable"})
    assert result.code == 4
    assert "run sends {" in result.err
    assert "step assets ended with exit code 70" in result.err
    assert "run receives {" in result.err
    assert "unguessable" not in result.err
    traced = "".join(line for line in result.err.splitlines() if line.startswith("[trace "))
    assert "***" in traced
    # Its name tells that it is one, though the settings have it as it is.
    for part in ("horse", "battery", "staple"):
        assert part not in traced


@pytest.mark.parametrize(
    ("verbose", "environ", "level"),
    [
        (0, {}, logging.CRITICAL),
        (0, {"DEPLOYTOOL_DEBUG": "0"}, logging.CRITICAL),
        (0, {"DEPLOYTOOL_DEBUG": "yes"}, logging.INFO),
        (1, {"DEPLOYTOOL_DEBUG": "2"}, logging.DEBUG),
        (3, {}, logging.DEBUG),
    ],
)
def test_trace_is_as_loud_as_the_louder_of_flag_and_variable(verbose: int, environ: dict[str, str], level: int) -> None:
    try:
        trace.begin(verbose, environ)
        assert trace.log.level == level
    finally:
        trace.begin(0, {})


def test_line_of_the_trace_commands_no_runner_and_has_an_end(capsys: Any) -> None:
    try:
        trace.begin(1, {})
        trace.log.info("%s", "one\n::error::two ##[group]" + "x" * 5000)
    finally:
        trace.begin(0, {})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("[trace ")
    assert "##[" not in line
    assert line.endswith("more characters")
