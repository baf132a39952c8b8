"""What Tab offers in a `fab` command line, what commands remember for that, and what `fab --list` shows."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext

from deploytool.cli.completion import Vocabulary, candidates, values_in, words_of
from deploytool.cli.listing import listing
from deploytool.cli.seen_names import Seen, recall, remember, remember_all


def values(flag: str, environment: str | None) -> Sequence[str]:
    return {"--release": ["R2", "R1"], "--from": [f"not {environment}"]}.get(flag, [])


CONTEXTS = {
    "my-env": ParserContext("my-env"),
    "my_env": ParserContext("my_env"),
    "deploy": ParserContext(
        "deploy", args=[Argument("release", optional=False), Argument("from"), Argument("json", kind=bool)]
    ),
    "status": ParserContext("status"),
    "hit": ParserContext("hit", args=[Argument("name")]),
}
CORE = ParserContext(args=[Argument(names=("help", "h"), optional=True), Argument("list", kind=bool)])
KNOWN = Vocabulary(CORE, CONTEXTS, ("my-env",), ("deploy", "status"), values)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fab ", ["my-env", "hit"]),
        ("fab my", ["my-env", "hit"]),
        ("fab", ["my-env", "hit"]),
        ("fab my-env ", ["deploy", "status", "hit"]),
        ("/opt/bin/fab my_env de", ["deploy", "status", "hit"]),
        ("fab my-env deploy --", ["--release", "--from", "--json"]),
        ("fab my-env deploy --release ", ["R2", "R1"]),
        ("fab my-env deploy --release=", ["R2", "R1"]),
        ("fab my-env deploy --release = R", ["R2", "R1"]),
        ("fab my_env deploy --from ", ["not my-env"]),
        ("fab my-env deploy --release R1 ", ["deploy", "status", "hit"]),
        ("fab my-env deploy --json ", ["deploy", "status", "hit"]),
        ("fab hit --name ", []),
        ("fab --help ", ["my-env", "deploy", "status", "hit"]),
        ("fab --l", ["--help", "-h", "--list"]),
    ],
)
def test_what_may_come_next_is_offered(typed: str, offered: list[str]) -> None:
    found = candidates(words_of(typed), KNOWN)
    assert set(found) == set(offered)
    if not typed.endswith(("--", "--l")):
        assert found == offered


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True)


def test_branches_are_gits_and_what_releases_were_built_from(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(origin))
    git(origin, "commit", "--quiet", "--allow-empty", "--message=x")
    git(origin, "branch", "feature/x")
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    git(clone, "tag", "v1")
    environ = {"HOME": str(tmp_path)}
    remember_all(clone, "staging", environ, [], ["elsewhere"])
    assert list(values_in(clone, (), environ)("--branch", "staging")) == ["main", "feature/x", "v1", "elsewhere"]
    assert list(values_in(tmp_path, (), {})("--branch", "staging")) == []


def test_what_commands_have_seen_is_remembered_per_project(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    remember_all(tmp_path, "staging", environ, ["20260102", "20260101"], ["main"])
    remember(tmp_path, "staging", environ, "20260103")
    remember(tmp_path, "production", environ, "20260101")
    assert recall(tmp_path, environ) == Seen(("20260103", "20260102", "20260101"), ("main",))
    assert recall(tmp_path / "other", environ) == Seen()
    remember_all(tmp_path, "staging", environ, ["20260103"], [])
    assert recall(tmp_path, environ) == Seen(("20260103", "20260101"))


@pytest.mark.parametrize("text", ["", "[]", '{"releases": "x", "branches": [1, "", "main"]}', "[" * 100_000])
def test_damaged_memory_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    environ = {"HOME": str(tmp_path)}
    remember(tmp_path, "staging", environ, "20260103")
    (file,) = (tmp_path / ".cache/deploytool").rglob("staging.json")
    file.write_text(text)
    assert recall(tmp_path, environ).releases == ()
    remember(tmp_path, "staging", environ, "20260104")
    assert recall(tmp_path, environ).releases == ("20260104",)


def test_home_that_can_not_be_written_to_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file")
    for environ in ({"HOME": str(tmp_path)}, {"HOME": ""}, {"XDG_CACHE_HOME": "relative"}, {}):
        remember(tmp_path, "staging", environ, "20260103")
        assert recall(tmp_path, environ) == Seen()


def test_list_begins_with_the_environments() -> None:
    assert listing({"staging": "config/staging.yml"}, {"Deploy": {"deploy": "Do it"}}, {"own": ""}) == [
        "Type an environment, then a command: fab staging deploy",
        "",
        "Environments:",
        "  staging   config/staging.yml",
        "",
        "Deploy:",
        "  deploy    Do it",
        "",
        "Defined in this fabfile:",
        "  own",
        "",
        "Help on a command: fab --help deploy. Help on fab's own flags: fab --help",
    ]


def test_list_without_an_environment_says_how_to_get_one() -> None:
    assert "  none yet: `deploytool init` creates staging and production" in listing({}, {}, {})
