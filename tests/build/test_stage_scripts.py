"""What the stages compose, in memory; that bash accepts it, and what the sentences say."""

import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.build.stages import (
    assets,
    checkout,
    compare,
    dependencies,
    fetch,
    fetched,
    git,
    migrate,
    migrate_after,
    migrate_pending,
    shell,
)
from deploytool.build.stages.preview import preview
from deploytool.connection.step import Code, Step, explain
from deploytool.errors import StepError
from deploytool.settings.recipes import RECIPES
from tests.support.stage_server import ended
from tests.support.stage_settings import FETCHED, ODD, REVISION, place, settings

SHELLCHECK = sysconfig.get_path("scripts") + "/shellcheck"


def scripts() -> Iterator[Step]:
    plain, odd_place = settings(), place(root="/var/" + ODD, subdirectory=ODD)
    odd = settings(
        repository="https://us%20er:p%27w@git.example.com/" + ODD,
        env={"PLAIN": "1", "ODD": ODD},
        path=("~/bin", "~", "/opt/" + ODD),
        dependencies=(ODD, "one\ntwo"),
        linked_files=(ODD,),
        linked_dirs=(ODD,),
    )
    for wanted, where in ((plain, place()), (odd, odd_place)):
        yield fetch(wanted, where, ODD)
        yield preview(wanted, where, ODD, REVISION)
        yield compare(wanted, where, REVISION, REVISION)
        yield checkout(wanted, where, FETCHED)
        for step in (
            dependencies(wanted, where, "0" * 64, REVISION),
            assets(wanted, where),
            migrate(wanted, where, f"/unpacked/{ODD}"),
            migrate_pending(wanted, where, f"/unpacked/{ODD}"),
        ):
            assert step is not None
            yield step


@pytest.mark.parametrize("step", list(scripts()), ids=lambda step: step.name)
def test_bash_accepts_every_script(step: Step) -> None:
    checked = subprocess.run(["bash", "-n"], input=step.script, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("step", list(scripts())[:8], ids=lambda step: step.name)
def test_shellcheck_finds_nothing(step: Step) -> None:
    # Variables are set in the head, some for one of several bodies; a quoted tilde is meant.
    checked = subprocess.run(
        [SHELLCHECK, "--shell=bash", "--severity=warning", "--exclude=SC2034,SC2154,SC2088", "-"],
        input=step.script,
        text=True,
        capture_output=True,
        check=False,
    )
    assert checked.stdout == ""


@pytest.mark.parametrize("recipe", list(RECIPES.values()), ids=list(RECIPES))
def test_bash_accepts_every_command_of_every_recipe(recipe: Any) -> None:
    for command in (*recipe.dependencies, *recipe.assets, *recipe.migrate, *recipe.migrate_pending):
        checked = subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_a_value_reaches_the_shell_as_it_is(value: str) -> None:
    script = shell.script(shell.assignments({"d_x": value, "d_y": (value, "next")}))
    assert shlex.split(script)[0] == "d_x=" + value
    assert shlex.split(script)[1:] == ["d_y=(" + value, "next)"]


def test_a_home_directory_is_the_build_servers_and_nothing_else_is_expanded() -> None:
    assert shell.environment({}, ("~/.rbenv/shims", "~", "/opt/$X")) == (
        """export PATH="$HOME"/.rbenv/shims:"$HOME":'/opt/$X'"${PATH:+:$PATH}\""""
    )


def test_a_variable_with_an_impossible_name_is_refused() -> None:
    with pytest.raises(ValueError, match="A;id"):
        shell.environment({"A;id": "x"})


def test_nothing_to_do_is_no_step() -> None:
    idle = settings(dependencies=(), assets=(), migrate=(), migrate_pending=(), migrate_after=())
    assert dependencies(idle, place()) is None
    assert assets(idle, place()) is None
    for stage in (migrate, migrate_pending, migrate_after):
        assert stage(idle, place(), "/x") is None


def test_the_environment_of_a_recipe_gives_way_to_the_users() -> None:
    step = assets(settings(recipe="django", env={"PIP_NO_INPUT": "0"}), place())
    assert step is not None
    assert "export PIP_NO_INPUT=0" in step.script
    assert "export PIP_NO_COMPILE=1" in step.script


def test_the_interpreter_that_the_user_names_is_the_one_whose_version_counts() -> None:
    assert RECIPES["django"].programs({"PYTHON": "/opt/python3.12"}) == ("/opt/python3.12",)
    assert RECIPES["django"].programs({}) == ("python3",)


@pytest.mark.parametrize(
    ("repository", "url", "username", "password"),
    [
        ("https://user:p%40ss@git.example.com:8443/a.git", "https://git.example.com:8443/a.git", "user", "p@ss"),
        ("https://user:p@ss@git.example.com/a.git", "https://git.example.com/a.git", "user", "p@ss"),
        ("https://token@git.example.com/a", "https://git.example.com/a", "token", None),
        ("https://token:@git.example.com", "https://git.example.com", "token", ""),
        ("ssh://git:pw@git.example.com:22/a", "ssh://git@git.example.com:22/a", None, None),
        ("git@git.example.com:acme/shop.git", "git@git.example.com:acme/shop.git", None, None),
        ("/srv/a@b/shop", "/srv/a@b/shop", None, None),
        ("https://git.example.com/a@b", "https://git.example.com/a@b", None, None),
    ],
)
def test_credentials_are_taken_out_of_a_url(repository: str, url: str, username: str, password: str) -> None:
    found = git.remote(repository)
    assert (found.url, found.username, found.password) == (url, username, password)
    assert not found.password or found.password not in repr(found)


@pytest.mark.parametrize("code", list(Code))
def test_every_exit_code_of_ours_has_a_sentence_of_its_own(code: Code) -> None:
    step = Step("fetch", "", 1800)
    said = explain(step, ended(code, ["problem\tthe/thing\t7\t8"], log="/logs/x.log"))
    assert isinstance(said, StepError)
    assert "the/thing" in said.message
    assert said.hint
    assert said.message != explain(step, ended(1)).message


def test_an_unknown_branch_is_named() -> None:
    said = explain(Step("fetch", "", 1800), ended(Code.UNKNOWN_REVISION, ["problem\t--upload-pack=x"]))
    assert said.message == "--upload-pack=x is not a branch, tag or commit of the repository"


def test_a_time_out_says_how_long_it_was() -> None:
    said = explain(Step("assets", "", 5), ended(143, timed_out=True))
    assert "took longer than 5 s" in said.message
    assert "build.timeout_seconds" in (said.hint or "")


def test_failure_that_names_nothing_is_a_sentence_all_the_same() -> None:
    said = explain(Step("checkout", "", 5), ended(Code.WORK_TREE_NOT_CLEAN))
    assert said.message == "the work tree on the build server could not be brought to the revision"


def test_a_surprising_exit_code_is_reported_as_it_is() -> None:
    assert explain(Step("assets", "", 5), ended(127)).message == (
        "the step assets failed on the build server with exit code 127"
    )


def test_an_empty_answer_of_fetch_is_an_error() -> None:
    with pytest.raises(StepError, match="printed no revision"):
        fetched([])


def test_the_answer_of_fetch_is_read() -> None:
    found = fetched(
        [
            "revision\t" + REVISION,
            "kind\ttags",
            "committed_at\t1700000000",
            "subject\tA\ttab",
            f"linked_file\t{'ab' * 32}\tconfig/a b",
            "tool\tpython3\tPython 3.11.7",
        ]
    )
    assert found.revision == REVISION
    assert (found.kind, found.committed_at, found.subject) == ("tags", 1700000000, "A\ttab")
    assert [(file.name, file.sha256) for file in found.linked_files] == [("config/a b", "ab" * 32)]
    assert found.tools == {"python3": "Python 3.11.7"}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("fatal: detected dubious ownership in repository at '/srv/a b'", "safe.directory '/srv/a b'`"),
        # git before 2.35.3 says it so
        ("fatal: unsafe repository ('/srv/shop' is owned by someone else)", "safe.directory /srv/shop`"),
        ("fatal: transport 'file' not allowed", "protocol.file.allow always"),
        (
            "fatal: could not read Username for 'https://git.example.com': terminal prompts disabled",
            "credential helper",
        ),
        ("Host key verification failed.", "~/.ssh/known_hosts of the build user"),
        ("git@git.example.com: Permission denied (publickey).", "build.forward_agent: true"),
        ("error: object 1a2b: zeroPaddedFilemode: contains zero-padded file modes", "fetch.fsck.zeroPaddedFilemode"),
        ("\tobjectformat", "git 2.29 or newer"),
        ("error: file write error: No space left on device", "set `build.root` to a larger disk"),
    ],
)
def test_what_git_says_has_a_hint_of_its_own(line: str, hint: str) -> None:
    for code in (Code.REPOSITORY_UNREACHABLE, Code.MIRROR_UNUSABLE, Code.SUBMODULE_FAILED):
        assert hint in (
            explain(Step("fetch", "", 1800), ended(code, ["problem\tx"], ["before", line, "after"])).hint or ""
        )
    # What a server says comes with `remote: ` before it, and is nobody's advice.
    remote = explain(
        Step("fetch", "", 1800), ended(Code.MIRROR_UNUSABLE, [], ["remote: fatal: transport 'x' not allowed"])
    )
    assert "protocol." not in (remote.hint or "")
