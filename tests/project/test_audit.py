"""What `make audit` makes of pip-audit's words."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
Verdict = Callable[[int, str, str], tuple[int, list[str]]]

GOOD = {"name": "rich", "version": "13.7", "vulns": []}
SKIPPED = {"name": "boto3", "skip_reason": "Dependency not found on PyPI and could not be audited: boto3 (1.35)"}
OURS = {"name": "deploytool", "skip_reason": "distribution marked as editable"}
BAD = {
    "name": "jinja2",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["3.1.4"], "description": "…"}],
}


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    spec = importlib.util.spec_from_file_location("audit", CHECKOUT / "tools/audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Verdict = module.verdict
    return found


def said(*dependencies: object) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


def test_a_vulnerability_fails_and_is_named(verdict: Verdict) -> None:
    code, lines = verdict(1, said(GOOD, OURS, BAD), "Found 1 known vulnerability in 1 package\n")
    assert code == 1
    assert lines[0] == "jinja2 2.0: PYSEC-1 CVE-2, mended in 3.1.4"


def test_none_found_says_how_many_were_looked_at(verdict: Verdict) -> None:
    assert verdict(0, said(GOOD, OURS), "No known vulnerabilities found\n") == (
        0,
        ["audit: 0 known vulnerabilities in 1 packages"],
    )


def test_an_index_that_tells_of_no_package_is_no_audit(verdict: Verdict) -> None:
    code, lines = verdict(0, said(SKIPPED, OURS), "No known vulnerabilities found\n")
    assert code == 0
    assert len(lines) == 1
    assert lines[0].startswith("NOT AUDITED: ")


def test_packages_that_were_left_out_are_named(verdict: Verdict) -> None:
    code, lines = verdict(0, said(GOOD, SKIPPED), "")
    assert (code, lines[0]) == (0, "NOT AUDITED, as the service does not know them: boto3")


@pytest.mark.parametrize(
    "last",
    [
        "requests.exceptions.ConnectionError: HTTPSConnectionPool: Max retries exceeded",
        "requests.exceptions.ReadTimeout: HTTPSConnectionPool: Read timed out.",
        "requests.exceptions.ProxyError: HTTPSConnectionPool: Unable to connect to proxy",
        "pip_audit._service.interface.ConnectionError: Could not connect to OSV's vulnerability feed",
        "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed",
    ],
)
def test_a_service_that_can_not_be_reached_is_told_in_one_line(verdict: Verdict, last: str) -> None:
    code, lines = verdict(1, "", f"Traceback (most recent call last):\n  …\n{last}\n")
    assert code == 0
    assert len(lines) == 1
    assert lines[0].startswith("NOT AUDITED: ")


@pytest.mark.parametrize(
    "last",
    [
        "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://index/pypi/rich/json",
        "requests.exceptions.SSLError: HTTPSConnectionPool: certificate verify failed",
        "requests.exceptions.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "pip_audit._service.interface.ServiceError",
    ],
)
def test_a_service_that_answers_and_refuses_fails(verdict: Verdict, last: str) -> None:
    code, lines = verdict(1, "", f"Traceback (most recent call last):\n  …\n{last}\n")
    assert code == 1
    assert lines[-1] == last


def test_whatever_else_goes_wrong_fails(verdict: Verdict) -> None:
    code, lines = verdict(1, "", "Traceback (most recent call last):\nKeyError: 'vulns'\n")
    assert code == 1
    assert lines[-1] == "KeyError: 'vulns'"
    assert verdict(1, "", "")[0] == 1
    assert verdict(2, said(GOOD), "")[0] == 1
