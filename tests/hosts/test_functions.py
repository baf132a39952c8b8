"""Functions of the host scripts, each alone, in the shells that hosts have."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.shell import call

ANY, ANY6, LOCAL = "00000000", "0" * 32, "0100007F"
#: 8000 and 8001
PORT, OTHER = "1F40", "1F41"


@pytest.fixture(params=["dash", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    ("endpoint", "lines", "holds"),
    [
        (f"tcp {LOCAL}:{PORT}", f"tcp {LOCAL}:{PORT}", True),
        (f"tcp {LOCAL}:{PORT}", f"unix current/a\ntcp {ANY}:{PORT}", True),
        (f"tcp {LOCAL}:{PORT}", f"tcp6 {ANY6}:{PORT}", True),
        (f"tcp {LOCAL}:{PORT}", f"tcp {ANY}:{OTHER}", False),
        (f"tcp {ANY}:{PORT}", f"tcp {LOCAL}:{PORT}", False),
        (f"tcp6 {ANY6}:{PORT}", f"tcp {ANY}:{PORT}", False),
        ("unix current/a", "unix current/ab", False),
        ("unix current/a", "", False),
    ],
)
def test_endpoint_is_covered_by_itself_or_by_all_addresses(shell: str, endpoint: str, lines: str, holds: bool) -> None:
    assert (call("covered", endpoint, lines, shell=shell)[0] == 0) is holds


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", ""),
        (f"tcp {ANY}:{PORT}", "port 8000"),
        (f"tcp6 {ANY6}:{PORT}\nunix current/tmp/a.sock", "port 8000, current/tmp/a.sock"),
        (f"tcp {LOCAL}:{PORT}", "127.0.0.1:8000"),
        (f"tcp6 {'0' * 24}01000000:{PORT}", "[::1]:8000"),
        (f"tcp6 B80D0120{'0' * 16}01000000:{PORT}", "[2001:0DB8:0000:0000:0000:0000:0000:0001]:8000"),
    ],
)
def test_endpoints_are_shown_as_people_know_them(shell: str, lines: str, words: str) -> None:
    status, shown = call("all_words", lines, shell=shell)
    assert (status, shown.rstrip("\n")) == (0, words)


@pytest.mark.parametrize(
    ("seen", "holds"),
    [
        (f"1 tcp {ANY}:{PORT}", True),
        # 40000, which Linux gives away by itself
        (f"1 tcp {ANY}:9C40", False),
        (f"2 tcp {ANY}:9C40", True),
        ("1 unix current/tmp/a.sock", True),
        ("1 unix /srv/shop/shared/a.sock", True),
        ("1 unix /tmp/chrome.123", False),
        ("2 unix /tmp/a.sock", True),
    ],
)
def test_endpoint_is_fixed_if_somebody_chose_it(shell: str, seen: str, holds: bool) -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert first <= 40000 <= last
    assert (call("is_fixed", seen, shell=shell, deploy_to="/srv/shop")[0] == 0) is holds


def test_endpoint_that_two_releases_had_is_marked(shell: str) -> None:
    for numbers, marked in (("12", "2 tcp A:1\n2 tcp B:2\n1 tcp C:3\n"), ("2", "1 tcp A:1\n2 tcp B:2\n1 tcp C:3\n")):
        found = call(
            "heard_with",
            numbers,
            shell=shell,
            listening="tcp A:1\ntcp B:2\ntcp C:3",
            heard_before="1 tcp A:1\n2 tcp B:2",
        )
        assert found == (0, marked)


@pytest.mark.parametrize(
    ("old", "new", "now", "holds"),
    [
        (" 7:100 8:100", " 8:100 7:100", "1000", True),
        (" 7:100", " 9:990", "1000", False),
        # It had lived for longer than a proof is held: workers end after so many requests.
        (" 7:100", " 9:1190", "1200", True),
        ("", " 9:990", "1000", True),
    ],
)
def test_worker_that_is_replaced_has_lived_for_a_while_or_proves_nothing(
    shell: str, old: str, new: str, now: str, holds: bool
) -> None:
    status, _ = call("still_there", old, new, shell=shell, clock_hundredths=now, stable_seconds="10")
    assert (status == 0) is holds


@pytest.mark.parametrize(
    ("name", "fitted"),
    [
        ("20261123T061500Z-1a2b3c4", "20261123T061500Z-1a2b3c4"),
        (r'a "b" \c', r"a \"b\" \\c"),
        ("one\ttwo\033[31m", "one two"),
        ("x." * 300, "x." * 150),
        ("", ""),
    ],
)
def test_name_is_fit_for_json(shell: str, name: str, fitted: str) -> None:
    assert call("fit_name", name, shell=shell, shows=("fitted",)) == (0, f"{fitted}\n")


def test_lines_of_a_log_are_one_text_of_json(shell: str) -> None:
    assert call("json_text", shell=shell, stdin='one "1"\ntwo\\\n') == (0, r"one \"1\"\ntwo\\" + "\n")


@pytest.mark.parametrize(("one", "other", "holds"), [("a1", "a2", True), ("a2", "a1", False), ("a1", "a1", False)])
def test_older_id_is_before(shell: str, one: str, other: str, holds: bool) -> None:
    assert (call("is_before", one, other, shell=shell)[0] == 0) is holds


def test_process_is_read_whatever_it_is_called(shell: str, tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1\nb"
    odd.write_text("#!/bin/sh\nread -r line\n")
    odd.chmod(0o755)
    shows = ("process_parent", "process_state", "process_start")
    with subprocess.Popen([odd], stdin=subprocess.PIPE) as process:
        status, shown = call("read_process", str(process.pid), shell=shell, shows=shows)
        parent, state, start = shown.split()
    assert (status, parent) == (0, str(os.getpid()))
    assert state in "SRD"
    assert int(start) > 0
    assert call("read_process", str(process.pid), shell=shell)[0] == 1


@pytest.mark.parametrize(
    ("link", "path", "out"),
    [
        (None, "public/uploads", ""),
        ("shared", "public/uploads", "in the release public is a link that leads out of it, to {}/shared"),
        ("nowhere", "public/uploads", "in the release public is a link to ../nowhere, which is no directory"),
        ("release/inside", "public/uploads", ""),
        ("shared", "public", ""),
    ],
)
def test_path_stays_in_its_tree(shell: str, tmp_path: Path, link: str | None, path: str, out: str) -> None:
    (tmp_path / "release/inside").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    if link is not None:
        (tmp_path / "release/public").symlink_to(f"../{link}")
    status, shown = call("lies_inside", str(tmp_path / "release"), path, shell=shell, shows=("way_out",))
    assert (status == 0) is (out == "")
    assert shown.strip() == out.format(tmp_path)


@pytest.mark.parametrize("encoded", ["ab/12+cd==", "ab%2F12%2Bcd%3D%3D", "ab%2f12%2bcd%3d%3d"])
def test_secret_of_a_host_is_masked_in_a_url_of_either_case(shell: str, encoded: str) -> None:
    said = f"GET https://x/?key={encoded}&more\n"
    masked = call("clean_lines", shell=shell, stdin=said, AWS_SECRET_ACCESS_KEY="ab/12+cd==")
    assert masked == (0, "GET https://x/?key=***&more\n")
