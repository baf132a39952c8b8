"""Whatever references, addresses and paths are called: a shell reads what was given, or they are refused.

The scripts are those that run on the build server and on hosts, up to the place where they begin to do something.
"""

import posixpath
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deploytool.build.build import literal_pattern
from deploytool.build.stages import (
    Fetched,
    assets,
    cache,
    checkout,
    compare,
    dependencies,
    fetch,
    git,
    linked_files,
    migrate,
    reach,
    space,
)
from deploytool.build.stages.preview import preview
from deploytool.connection.paths import Place
from deploytool.connection.step import Step
from deploytool.errors import UsageError
from deploytool.hosts.manifest import role_manifest
from deploytool.hosts.scripts import host_script
from deploytool.model.release import Revision
from deploytool.settings import Settings
from deploytool.tasks import _reference
from deploytool.text.untrusted import printable
from deploytool.worker.archive import tar_command
from tests.support.hostile import NASTY, is_sound
from tests.support.manifests import DEPLOYMENT, RELEASE, given_settings
from tests.support.stage_settings import settings as settings_of_stages

REVISION = Revision("1234567890" * 4)
FETCHED = Fetched(REVISION, "heads", 1, "subject", (), {})
#: what a shell, git or tar would take for something else than a letter
WORDS = st.sampled_from(
    [
        *(
            "$(touch x)",
            "`touch x`",
            "${HOME}",
            "$HOME",
            "$'\\n'",
            "'",
            '"',
            "'\"'",
            "\\",
            "\\\\",
            " ",
            "  ",
            "\t",
            "\n",
        ),
        *(
            ";",
            "&",
            "|",
            "<",
            ">",
            "(",
            ")",
            "{a,b}",
            "{1..9}",
            "*",
            "?",
            "[a]",
            "!",
            "!!",
            "#",
            "~",
            "~/",
            "~root",
            "=",
        ),
        *(
            "-",
            "--",
            "-rf",
            "--upload-pack=x",
            "--help",
            "..",
            ".",
            "/",
            "//",
            ":",
            "::",
            ":(top)",
            "@",
            "@{0}",
            "^",
            "%p",
        ),
        *("+", ",", "EOF", "main", "a", "é", "漢", "\U0001f600", "\N{NO-BREAK SPACE}", "\ufeff", "{{", "}}", "%s"),
        *NASTY,
    ]
)
TEXTS = st.lists(WORDS, max_size=4).map("".join) | st.text(max_size=8)
#: what may have lines: files that hold NUL or half a surrogate pair are refused where they are read
COMMANDS = TEXTS.filter(lambda text: "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text))
PATHS = st.builds("{}{}".format, st.sampled_from(["", "", "a/", "/", "~/", "/srv/"]), TEXTS)
REPOSITORIES = st.builds(
    "{}{}".format,
    st.sampled_from(
        ["", "/srv/", "~/", "git@host:", "https://host/", "https://user:p%27w@host/", "ssh://u@h/", "ext::"]
    ),
    TEXTS,
)
few = settings(max_examples=40, deadline=None)


def taken(path: str, value: object) -> Any:
    """The setting as it is taken; None where it is refused, which must be with a sentence."""
    said: dict[str, Any] = {
        "environment": "staging",
        "directory": Path(),
        "application": "shop",
        "repository": "x",
        "deploy_to": "/srv/shop",
        "store": {"url": "s3://bucket"},
        "build": {"server": "local"},
        "roles": {"web": {"hosts": {"nodes": ["app1"]}}},
    }
    *within, name = path.split(".")
    (said[within[0]] if within else said)[name] = value
    try:
        found: Any = Settings.model_validate(said)
    except ValidationError as refused:
        # Ours are ValueErrors; other kinds would be pydantic's own words.
        assert {error["type"] for error in refused.errors()} == {"value_error"}  # noqa: PT017
        assert all(is_sound(error["msg"]) and error["msg"].endswith(".") for error in refused.errors())  # noqa: PT017
        return None
    for part in path.split("."):
        found = getattr(found, part)
    return found


def those_taken(path: str, values: Sequence[str]) -> tuple[str, ...]:
    """The items of a list that are taken, in their normal form."""
    return tuple(item for value in values for item in taken(path, [value]) or ())


#: a script's beginning, and what it must have made of each name: a text, or several
Told = tuple[str, Mapping[str, str | Sequence[str]]]
HOME = "/home/it's $me"


def head_of(script: str, begin: str) -> str:
    """The script up to the line where it begins to do something."""
    head, found, _ = script.partition("\n" + begin)
    assert found, script
    return head


def words(shell: str, script: str) -> list[str]:
    """What the script says, ended by NUL each. It is run where nobody can make a file: one that tries says so."""
    done = subprocess.run(
        [shell], input=script.encode(), cwd="/proc", capture_output=True, env={"HOME": HOME, "PATH": "/bin"}
    )
    assert (done.returncode, done.stderr) == (0, b""), script
    *told, rest = done.stdout.decode().split("\0")
    assert rest == ""
    return told


def hear(told: Sequence[Told]) -> None:
    """Ask one bash what the scripts' variables are, and compare."""
    script, expected = [], []
    for head, values in told:
        # In a subshell each: they set the same variables.
        script += ["(", head, *(f'printf "%s\\0" {name} "${{{name}[@]}}"' for name in values), ")"]
        for name, value in values.items():
            expected += [name, *([value] if isinstance(value, str) else value)]
    assert words("bash", "\n".join(script)) == expected


LISTS = st.lists(PATHS, max_size=3)
GIT_BEGINS, RUN_BEGINS = "export GIT_TERMINAL_PROMPT=0", 'if [ ! -d "$d_directory" ]'


@few
@given(
    REPOSITORIES,
    TEXTS,
    st.tuples(PATHS, PATHS),
    LISTS,
    LISTS,
    LISTS,
    st.lists(COMMANDS, min_size=1, max_size=2),
    COMMANDS,
)
def test_bash_reads_each_name_as_it_was_given(
    repository: str,
    reference: str,
    places: tuple[str, str],
    links: list[str],
    inputs: list[str],
    path: list[str],
    commands: list[str],
    variable: str,
) -> None:
    repository = taken("repository", repository) or "x"
    reference = taken("branch", reference) or "main"
    # Migrations link what is named twice once.
    links = list(dict.fromkeys(those_taken("build.linked_files", links)))
    inputs = list(those_taken("build.assets_inputs", inputs))
    path, commands = list(those_taken("build.path", path)), list(those_taken("build.assets", commands)) or ["true"]
    place = Place(taken("build.root", places[0]) or "/", "shop", "it", taken("subdirectory", places[1]) or ".")
    told = settings_of_stages(
        repository=repository,
        linked_files=links,
        linked_dirs=links,
        env={"VARIABLE": variable},
        path=path,
        dependencies=commands,
        assets=commands,
        migrate=commands,
        dependencies_inputs=inputs,
        assets_inputs=inputs,
    )
    told.build.linked_files = links
    remote = git.remote(repository)
    origin = {
        "d_repository": remote.url,
        "d_site": remote.site or "",
        "d_username": remote.username or "",
        "d_password": remote.password or "",
    }
    where = {"d_shared": place.shared, "d_linked_files": links}
    entries = [HOME + entry[1:] if entry == "~" or entry.startswith("~/") else entry for entry in path]
    built = {"VARIABLE": variable, "PATH": ":".join([*entries, "/bin"])}

    def head(step: Step | None, begin: str) -> str:
        assert step is not None
        return head_of(step.script, begin)

    hear(
        [
            (
                head(fetch(told, place, reference), GIT_BEGINS),
                {**origin, **where, **built, "d_mirror": place.mirror, "d_reference": reference},
            ),
            (head(preview(told, place, reference, reference), GIT_BEGINS), {**origin, "d_live_revision": reference}),
            (head(checkout(told, place, FETCHED), GIT_BEGINS), {**origin, **where, "d_work_tree": place.work_tree}),
            (head_of(cache.aside(place, reuse=True), "d_ours() {"), {"d_aside": f"{place.kept}/aside"}),
            (
                head_of(cache.take(told, place, FETCHED), "if [ ! -s"),
                {"d_dependencies_inputs": inputs, "d_assets_inputs": inputs},
            ),
            (head_of(cache.keep(told, place, "assets", "k", REVISION), GIT_BEGINS), {**where, "d_kept": place.kept}),
            (head(compare(told, place, reference, reference), GIT_BEGINS), {"d_subdirectory": place.subdirectory}),
            (head(reach(told, place), GIT_BEGINS), origin),
            (head(linked_files(told, place), "d_missing="), where),
            (head(space(place), "printf"), {"d_root": place.root}),
            (head(dependencies(told, place), RUN_BEGINS), {"d_commands": commands, **built}),
            (head(assets(told, place), RUN_BEGINS), {"d_commands": commands, "d_directory": place.work_tree}),
            (
                head(migrate(told, place, f"/unpacked/{reference}"), RUN_BEGINS),
                {**where, "d_linked_dirs": links, "d_commands": commands, "d_directory": f"/unpacked/{reference}"},
            ),
        ]
    )


#: In git's place: it tells what it was given, and knows every branch.
_GIT = r"""
git() {
  printf '%s\0' "$#" "$@" >&9
  case " $* " in
    " --version ") echo 'git version 2.39.5' ;;
    *" rev-parse --verify "*) echo 1234567890123456789012345678901234567890 ;;
    *" show "*) echo 7 ;;
  esac
}
"""


@settings(few, max_examples=20)
@given(REPOSITORIES, TEXTS)
@example("https://user:p%27w@host/$(touch x)", "--upload-pack=touch x")
@example("~/it's here", "main:refs/heads/evil")
def test_git_is_given_each_name_as_one_word_that_is_no_option(repository: str, reference: str) -> None:
    repository, reference = taken("repository", repository) or "x", taken("branch", reference) or "main"
    told = settings_of_stages(repository=repository)
    with tempfile.TemporaryDirectory() as directory:
        place = Place(directory, "shop", "it")
        steps = (fetch(told, place, reference), reach(told, place))
        script = "".join(f"(\n{step.script}\n) 3>/dev/null 9>&1 >/dev/null\n" for step in steps)
        told_words = words("bash", f"set -euo pipefail\n{_GIT}{script}")
    calls = []
    while told_words:
        count, *rest = told_words
        calls.append(tuple(rest[: int(count)]))
        told_words = rest[int(count) :]
    url = git.remote(repository).url
    url = HOME + url[1:] if url.startswith("~/") else url
    named = reference if reference.startswith("refs/") else f"refs/heads/{reference}"
    ends = [
        ("config", "remote.origin.url", url),
        ("show-ref", "--verify", "--quiet", named),
        ("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}"),
        ("ls-remote", "--quiet", "--heads", "--tags", "--", url),
    ]
    for end in ends:
        assert [call for call in calls if call[-len(end) :] == end], (end, calls)


@few
@given(TEXTS)
@example("-x")
@example("a\u202eb")
def test_reference_is_taken_as_it_is_or_refused_with_a_sentence(text: str) -> None:
    command: Any = SimpleNamespace(settings=SimpleNamespace(branch="main"))
    try:
        reference = _reference(command, text)
    except UsageError as error:
        assert is_sound(str(error))  # noqa: PT017
        return
    assert reference == text
    assert printable(text) == text
    # What may be typed may stand in the settings as well.
    assert taken("branch", text) == text


@few
@given(LISTS, PATHS)
@example(["../x", "a/../../b", "a//b/.", ".", "..", "a/"], "/srv/../x")
@example([], "//")
def test_paths_stay_where_they_are_meant_to_be(paths: list[str], absolute: str) -> None:
    for path in (*those_taken("build.exclude", paths), *those_taken("linked_files", paths)):
        assert posixpath.normpath(f"/release/{path}") == f"/release/{path}"
    deploy_to = taken("deploy_to", absolute)
    assert deploy_to is None or (deploy_to.startswith("/") and posixpath.normpath(deploy_to) == deploy_to != "/")


@few
@given(
    st.sets(
        TEXTS.filter(lambda text: "/" not in text and len(text.encode(errors="replace")) < 200), min_size=1, max_size=6
    )
)
@example({"*", "a", "[a]", "\\a", "?", "a*"})
def test_linked_file_is_left_out_of_the_archive_and_nothing_else_is(names: set[str]) -> None:
    files = {name for each in names for name in those_taken("build.linked_files", [each]) if name != ".git"}
    if not files:
        return
    with tempfile.TemporaryDirectory() as directory:
        for name in files:
            (Path(directory) / name).write_text("")
        out = min(files)
        argv = tar_command(directory, [literal_pattern(out)], 0)
        packed = subprocess.run(argv, capture_output=True, check=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        assert {name.removeprefix("./") for name in archive.getnames()} == {".", *files} - {out}


@few
@given(PATHS, LISTS)
@example("/srv/{{ it's }}", ["a'b {{ c", "-rf"])
def test_dash_on_a_host_reads_each_path_as_it_was_given(deploy_to: str, links: list[str]) -> None:
    deploy_to = taken("deploy_to", deploy_to) or "/srv/shop"
    files = those_taken("linked_files", links)
    told = given_settings(deploy_to=deploy_to, linked_files=files, linked_dirs=files)
    script = host_script(role_manifest(told, "web", RELEASE, DEPLOYMENT), "pre")
    asked = (
        'show() { printf "%s\\0" "$@"; }\n'
        'show "$deploy_to" "$shared_path" "$current_path"\n'
        "linked_files show && linked_dirs show\n"
    )
    said = words("dash", head_of(script, "silence_seconds=") + "\n" + asked)
    assert said == [deploy_to, f"{deploy_to}/shared", f"{deploy_to}/current", *files, *files]
