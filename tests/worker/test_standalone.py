"""Patterns, names and demands by which an archive is judged: in memory only. The rest is in test_standalone_trees."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.build.demands import demands
from deploytool.build.linked_paths import doubtful, links_recorded, notes, refuse_covered, unchecked
from deploytool.errors import StepError
from deploytool.model.release import Release, read_record, release_record
from deploytool.settings.recipes import RECIPES, Recipe
from deploytool.worker.standalone import LEFTOVERS, expression, unescaped
from deploytool.worker.wire import Hidden
from tests.support.manifests import RELEASE


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("tmp", "tmp", True),
        ("tmp", "tmp/a/b", True),
        ("tmp", "app/tmp", False),
        ("/tmp/", "tmp/x", True),
        ("tmp", "tmpx", False),
        ("vendor/*/cache", "vendor/ruby/cache/x", True),
        ("vendor/*/cache", "vendor/a/b/cache", False),
        ("*.log", "x.log", True),
        ("*.log", "log/x.log", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab]c", "bc", True),
        ("[!ab]c", "cc", True),
        ("[!ab]c", "ac", False),
        ("a[!x]c", "a/c", False),
        ("[]]x", "]x", True),
        ("[x", "[x", True),
        (r"\*", "*", True),
        (r"\*", "x", False),
        ("a+b", "a+b", True),
        ("ä", "ä/x", True),
    ],
)
def test_pattern_means_what_it_means_in_exclude(pattern: str, name: str, matches: bool) -> None:
    compiled = expression([pattern])
    assert compiled is not None
    assert bool(compiled.fullmatch(name.encode())) is matches


def test_no_pattern_allows_nothing() -> None:
    assert expression([]) is None
    assert expression(["/"]) is None


def test_names_of_tar_are_read_back() -> None:
    assert unescaped(rb"a\nb\\n\303\244 c") == b"a\nb\\n\xc3\xa4 c"


@given(st.lists(st.text("ab*?[]!\\/.^-", min_size=1, max_size=8), max_size=4))
def test_no_pattern_is_one_that_python_refuses(patterns: list[str]) -> None:
    expression(patterns)


@pytest.mark.parametrize(
    "name",
    [
        "vendor/bundle/ruby/3.1.0/extensions/x86_64-linux/3.1.0/msgpack-1.7/gem_make.out",
        "vendor/bundle/ruby/3.1.0/gems/msgpack-1.7/ext/msgpack/Makefile",
        "vendor/bundle/ruby/3.1.0/gems/msgpack-1.7/ext/msgpack/mkmf.log",
        "node_modules/better-sqlite3/build/config.gypi",
        "node_modules/bcrypt/build/Release/.deps/Release/obj.target/bcrypt_lib/src/blowfish.o.d",
        "node_modules/bcrypt/build/bcrypt_lib.target.mk",
        "node_modules/.bin/tsc",
        "node_modules/.pnpm/vite@5.4.21/node_modules/vite/node_modules/.bin/esbuild",
        "node_modules/.modules.yaml",
        "node_modules/.yarn-state.yml",
        ".next/server/app/page.js",
        ".next/required-server-files.json",
        ".next/standalone/server.js",
        "web/.next/trace",
        "dist/server/entry.mjs",
        ".nuxt/dist/server/server.mjs",
        "node_modules/.astro/data-store.json",
        "webpack-stats.json",
        "vendor/bundle/ruby/3.1.0/gems/nokogiri-1.15/ports/x86_64/libxml2/bin/xml2-config",
        "target/release/build/ring-0a/root-output",
        "target/maven-status/maven-compiler-plugin/compile/default-compile/inputFiles.lst",
        "src/App/obj/project.assets.json",
        "storage/framework/views/0a.php",
        "dist/app.js.map",
        "venv/lib/python3.11/site-packages/app-1.dist-info/direct_url.json",
        "venv/lib/python3.11/site-packages/app-1.dist-info/RECORD",
        "venv/bin/activate.csh",
    ],
)
def test_harmless_leftovers_of_real_builds_are_known(name: str) -> None:
    assert LEFTOVERS.fullmatch(name.encode())


@pytest.mark.parametrize(
    "name",
    [
        "bootstrap/cache/config.php",
        "node_modules/.pnpm/a/x.conf",
        "target/x.conf",
        "venv/bin/activate",
        "bin/start",
        "app.json",
        "d",
    ],
)
def test_what_an_application_may_read_is_no_leftover(name: str) -> None:
    assert not LEFTOVERS.fullmatch(name.encode())


# --- what is sure to be inside


def build(recipe: str, **changes: Any) -> Any:
    given_by = RECIPES[recipe]
    values = {"dependencies": given_by.dependencies, "assets": given_by.assets, "env": given_by.env, **changes}
    return SimpleNamespace(recipe=recipe, **values)


@pytest.mark.parametrize(
    ("asked", "directories"),
    [
        (build("none"), []),
        (build("static"), []),
        (build("static", dependencies=("npm ci",)), []),
        (build("none", dependencies=("npm ci",)), []),
        (build("node"), ["node_modules"]),
        (build("node", dependencies=("pnpm install --frozen-lockfile",)), ["node_modules"]),
        (build("node", dependencies=()), []),
        (build("node", assets=("npm run build && rm -rf node_modules",)), []),
        (build("node", assets=("rm -rf node_modules/.cache",)), ["node_modules"]),
        (build("rails"), ["vendor/bundle"]),
        (build("rails", env={"BUNDLE_PATH": "/opt/gems"}), []),
        (build("rails", env={}), []),
        (build("none", dependencies=("bundle",), env={"BUNDLE_PATH": "gems"}), ["gems"]),
        (build("none", dependencies=("bundle exec rake",), env={"BUNDLE_PATH": "gems"}), []),
        (build("django"), ["venv"]),
        (build("django", dependencies=("true",)), []),
    ],
)
def test_only_what_the_commands_are_sure_to_install_is_asked_for(asked: Any, directories: list[str]) -> None:
    assert [demand.directory for demand in demands(asked)] == directories


# --- linked paths


def linking(*paths: str, name: str = "production", exclude: tuple[str, ...] = (), recipe: str = "none") -> Any:
    build = SimpleNamespace(exclude=exclude, recipe=recipe)
    return SimpleNamespace(environment=name, linked_dirs=paths, linked_files=(".env",), build=build)


def hidden(*, made: int = 0, ours: int = 0) -> Hidden:
    return Hidden(made, ["x"] * made, ours, ["y"] * min(ours, 3))


def test_record_tells_which_links_were_looked_at_and_reads_back() -> None:
    every = {"production": linking("log"), "staging": linking("log", "public/assets", name="staging")}
    fields = links_recorded(every, {"public/assets": hidden(made=2), "log": hidden(ours=1)})
    assert fields == {"links_checked": (".env", "log", "public/assets"), "links_covering": ("public/assets",)}
    release = Release(**{**{name: getattr(RELEASE, name) for name in RELEASE.__dataclass_fields__}, **fields})
    assert read_record(release_record(release), release.id) == release
    assert unchecked(every["staging"], release) == ()
    assert unchecked(linking("log", "storage"), release) == ("storage",)


def test_record_of_before_is_neither_refused_nor_built_again() -> None:
    text = re.sub(r' *"links_\w+": .*\n', "", release_record(RELEASE))
    assert "links_" not in text
    old = read_record(text, RELEASE.id)
    assert unchecked(linking("public/assets"), old) == ()
    session = SimpleNamespace(settings=linking("public/assets"), console=SimpleNamespace(note=pytest.fail))
    refuse_covered(session, old)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["log", ["a\nb"], [1], {}])
def test_record_with_anything_else_for_a_list_of_links_is_refused(value: object) -> None:
    import json

    text = json.dumps({**json.loads(release_record(RELEASE)), "links_covering": value})
    with pytest.raises(ValueError, match="links_covering is no list of paths"):
        read_record(text, RELEASE.id)


def test_release_whose_files_the_hosts_would_hide_is_not_deployed() -> None:
    covered = Release(
        **{
            **{name: getattr(RELEASE, name) for name in RELEASE.__dataclass_fields__},
            "links_checked": ("public/assets",),
            "links_covering": ("public/assets",),
        }
    )
    session = SimpleNamespace(settings=linking("public/assets"), console=None)
    with pytest.raises(StepError, match="production would link public/assets from shared/ over what the build"):
        refuse_covered(session, covered)  # type: ignore[arg-type]


def test_notes_name_files_of_the_revision_and_other_environments() -> None:
    every = {"production": linking("public/system"), "staging": linking("public/assets", name="staging")}
    said = notes(every, "production", {"public/system": hidden(ours=5), "public/assets": hidden(made=1)})
    assert said == [
        "staging links public/assets over what this build made there: a deploy of this release there would be refused",
        "the hosts link public/system from shared/, which hides what the revision has there: y, y, y and 2 more",
    ]


def test_check_doubts_linked_directories_that_builds_make() -> None:
    assert doubtful(linking("log", "vendor", "node_modules", exclude=("node_modules",))) == ("vendor",)
    assert doubtful(linking("tmp/cache", "public/uploads", exclude=("tmp",))) == ()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_check_does_not_doubt_what_a_recipe_links(recipe: Recipe) -> None:
    assert doubtful(linking(*recipe.linked_dirs, exclude=recipe.exclude, recipe=recipe.name)) == ()
