"""What `deploytool init` finds, proposes and writes."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploytool.__main__ import main
from deploytool.errors import SettingsError, UsageError
from deploytool.init.capistrano import read_capistrano
from deploytool.init.init import copy_template, init
from deploytool.init.proposal import Given, propose
from deploytool.init.survey import survey
from deploytool.model.build_outputs import made_by_the_build
from deploytool.settings import environments, load_every_environment, load_settings
from deploytool.settings.recipes import RECIPES
from tests.support.hostile import NASTY, is_sound

RAILS_CONFIG = {
    "config/database.yml": "default: &default\n  adapter: postgresql\n\nproduction:\n  <<: *default\n",
    "config/cable.yml": "development:\n  adapter: async\n",
    "config/storage.yml": "local:\n  service: Disk\n  root: <%= Rails.root.join('storage') %>\n",
    "config/locales/en.yml": "en:\n  hello: Hello\n",
    # Kamal's, which comes with Rails 8.
    "config/deploy.yml": "# Your application.\nservice: shop\nimage: me/shop\nservers:\n  web:\n    - 192.168.0.1\n",
}
RAILS = {"Gemfile": 'source "https://example.com"\n\ngem "rails", "~> 8.0"\n', "package.json": "{}", **RAILS_CONFIG}

#: kind of application → its files, and the recipe that is proposed
TREES: dict[str, tuple[dict[str, str], str]] = {
    "rails": (RAILS, "rails"),
    "django": ({"manage.py": "import django\n", "requirements.txt": "Django\n", "package.json": "{}"}, "django"),
    "django by its requirements": ({"requirements.txt": "gunicorn\ndjango[argon2]>=5\n"}, "django"),
    "django by pyproject": ({"pyproject.toml": '[project]\ndependencies = ["Django>=5"]\n'}, "django"),
    "node": ({"package.json": '{"name": "x"}', "index.html": "<p>"}, "node"),
    "static": ({"index.html": "<p>", "style.css": ""}, "static"),
    "none": ({"main.go": "package main\n"}, "none"),
    "a Python program that only extends Django": ({"requirements.txt": "django-stubs\n"}, "none"),
    "a gem that only works beside rails": ({"Gemfile": 'gem "rails-i18n"\n# gem "rails"\n'}, "none"),
}


def tree(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(directory), *arguments], check=True, capture_output=True)


def run(directory: Path, given: Given | None = None) -> str:
    lines: list[str] = []
    init(directory, given or Given(), lines.append)
    return "\n".join(lines)


def snapshot(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and ".git/" not in str(path)
    }


# --- what it is, and what is written for it


@pytest.mark.parametrize("name", TREES)
def test_recipe_is_proposed_by_what_is_there(tmp_path: Path, name: str) -> None:
    files, recipe = TREES[name]
    proposal = propose(survey(tree(tmp_path, files)), Given())
    assert {each.setting: each.value for each in proposal.chosen}["build.recipe"] == recipe


@pytest.mark.parametrize("name", TREES)
def test_what_is_written_needs_nothing_but_what_is_marked(tmp_path: Path, name: str) -> None:
    tree(tmp_path, TREES[name][0])
    said = run(tmp_path)
    assert environments(tmp_path) == ("production", "staging")
    with pytest.raises(SettingsError) as caught:
        load_every_environment(tmp_path, "staging", {})
    assert len(caught.value.problems) == said.count("FILL_IN") - 1
    assert all("is still to be filled in: " in problem for problem in caught.value.problems)


@pytest.mark.parametrize("name", TREES)
def test_at_most_fifteen_lines_are_to_be_understood(tmp_path: Path, name: str) -> None:
    tree(tmp_path, TREES[name][0])
    git(tmp_path, "init", "--quiet", "--initial-branch=develop")
    proposal = propose(survey(tmp_path), Given())
    lines = [line for text in proposal.files.values() for line in text.splitlines() if not line.startswith("#")]
    assert "branch: develop" in lines
    assert len(lines) <= 15


def test_with_everything_given_the_settings_are_whole(tmp_path: Path) -> None:
    given = Given(
        application="blog",
        repository="git@git.example.com:acme/blog.git",
        branch="1.10",
        deploy_to="/srv/blog",
        recipe="node",
        server="deploy@build.example.com:2222",
        store="s3://acme/blog",
    )
    run(tmp_path, given)
    settings = load_settings(tmp_path, "production", {})
    assert (settings.application, settings.branch, settings.deploy_to) == ("blog", "1.10", "/srv/blog")
    assert (settings.build.recipe, settings.build.server) == ("node", "deploy@build.example.com:2222")
    assert settings.store.url == "s3://acme/blog"
    assert settings.roles["web"].hosts.node_meta == {"role": "web", "environment": "production"}


def test_value_that_can_not_be_a_setting_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run(tmp_path, Given(store="http://acme", application="A b"))
    assert [line.partition(":")[0] for line in caught.value.tail] == ["application", "store.url"]
    assert snapshot(tmp_path) == {}


# --- git


def test_repository_branch_and_name_are_gits(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=trunk")
    git(tmp_path, "remote", "add", "origin", "git@git.example.com:acme/My.Blog.git")
    run(tmp_path)
    said = yaml.safe_load((tmp_path / "config/deploy.yml").read_text())
    assert said["application"] == "my-blog"
    assert said["repository"] == "git@git.example.com:acme/My.Blog.git"
    assert said["branch"] == "trunk"


def test_default_branch_of_the_remote_wins_over_the_one_that_is_checked_out(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(origin))
    git(origin, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--allow-empty", "--message=x")
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    git(clone, "switch", "--quiet", "--create", "try-deploytool")
    run(clone)
    said = yaml.safe_load((clone / "config/deploy.yml").read_text())
    assert said["repository"] == str(origin)
    assert "branch" not in said


def test_path_of_a_remote_counts_from_nowhere(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", str(tmp_path / "app"))
    git(tmp_path / "app", "remote", "add", "origin", "../origin.git")
    run(tmp_path / "app")
    assert f"repository: {tmp_path}/origin.git " in (tmp_path / "app/config/deploy.yml").read_text()


def test_password_in_the_remotes_url_is_not_written_down(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "remote", "add", "origin", "https://oauth2:s3cr3t-token@git.example.com/acme/blog.git")
    said = run(tmp_path)
    assert "has a password, which was left out" in said
    assert "repository: https://git.example.com/acme/blog.git " in (tmp_path / "config/deploy.yml").read_text()
    assert "s3cr3t" not in said + "".join(snapshot(tmp_path).values())


def test_folder_inside_a_repository_is_its_subdirectory(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "apps/blog").mkdir(parents=True)
    run(tmp_path / "apps/blog")
    assert "\nsubdirectory: apps/blog\n" in (tmp_path / "apps/blog/config/deploy.yml").read_text()


def test_folder_that_is_no_repository_gets_its_files_and_is_told(tmp_path: Path) -> None:
    said = run(tmp_path)
    assert "this is not a git repository" in said
    assert "\nrepository: FILL_IN " in (tmp_path / "config/deploy.yml").read_text()


# --- what is there already


def test_second_time_changes_nothing_and_says_so(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert "Written: fabfile.py, config/deploy.yml, config/staging.yml, config/production.yml" in first
    before = snapshot(tmp_path)
    second = run(tmp_path, Given(application="other"))
    assert second.startswith("Nothing was changed.\n")
    assert snapshot(tmp_path) == before
    assert second.count("    fab staging") == 3


def test_second_time_in_a_rails_app_changes_nothing_either(tmp_path: Path) -> None:
    run(tree(tmp_path, RAILS))
    before = snapshot(tmp_path)
    assert run(tmp_path).startswith("Nothing was changed.\n")
    assert snapshot(tmp_path) == before


def test_fabfile_of_ones_own_is_left_and_the_line_to_add_is_shown(tmp_path: Path) -> None:
    tree(tmp_path, {"fabfile.py": "from fabric import task\n"})
    said = run(tmp_path)
    assert "    from deploytool.tasks import namespace\n" in said
    assert (tmp_path / "fabfile.py").read_text() == "from fabric import task\n"


def test_fabfile_that_is_a_package_is_not_hidden_by_a_file(tmp_path: Path) -> None:
    tree(tmp_path, {"fabfile/__init__.py": ""})
    run(tmp_path)
    assert not (tmp_path / "fabfile.py").exists()


def test_only_what_is_missing_is_written(tmp_path: Path) -> None:
    tree(tmp_path, {"config/deploy.yml": "application: mine\n", "config/production.yml": "branch: stable\n"})
    said = run(tmp_path)
    assert "Written: fabfile.py, config/staging.yml\n" in said
    assert "unchanged: config/deploy.yml, config/production.yml" in said
    assert (tmp_path / "config/deploy.yml").read_text() == "application: mine\n"


def test_broken_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "fabfile.py").symlink_to(tmp_path / "elsewhere.py")
    run(tmp_path)
    assert not (tmp_path / "elsewhere.py").exists()


def test_config_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    tree(tmp_path, {"config": ""})
    with pytest.raises(UsageError, match=r"config/deploy.yml can't be written"):
        run(tmp_path)


# --- a config/ of the application's own


def test_settings_of_a_rails_app_are_apart_from_its_own_files(tmp_path: Path) -> None:
    run(tree(tmp_path, RAILS))
    assert environments(tmp_path) == ("production", "staging")
    assert (tmp_path / "config/deploy.yml").read_text() == RAILS["config/deploy.yml"]
    said = yaml.safe_load((tmp_path / "config/deploy/deploy.yml").read_text())
    assert said["build"]["recipe"] == "rails"
    text = (tmp_path / "config/deploy/deploy.yml").read_text()
    text = text.replace("repository: FILL_IN", "repository: x").replace("server: FILL_IN", "server: local")
    (tmp_path / "config/deploy/deploy.yml").write_text(text.replace("s3://FILL_IN/", "s3://bucket/"))
    settings = load_every_environment(tmp_path, "staging", {})
    assert set(settings) == {"production", "staging"}


def test_files_of_other_programs_among_the_settings_are_told_where_to_go(tmp_path: Path) -> None:
    tree(tmp_path, {"config/deploy.yml": "application: shop\n", "config/production.yml": ""})
    tree(tmp_path, {name: RAILS[name] for name in ("config/database.yml", "config/cable.yml")})
    with pytest.raises(SettingsError) as caught:
        load_every_environment(tmp_path, "production", {})
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("config/cable.yml, config/database.yml: ")
    assert "config/deploy/" in caught.value.hint
    assert "config/cable.yml and" not in run(tmp_path)
    assert not (tmp_path / "config/deploy").exists()


def test_environment_with_a_slip_of_the_hand_is_still_an_environment(tmp_path: Path) -> None:
    tree(tmp_path, {"config/deploy.yml": "application: shop\n", "config/staging.yml": "banch: x\n"})
    with pytest.raises(SettingsError, match=r"banch: is not a setting. Did you mean branch"):
        load_settings(tmp_path, "staging", {})


# --- Capistrano


def test_literals_of_capistrano_are_taken_over() -> None:
    said = read_capistrano(
        """
        lock "~> 3.18"
        """
        "\nset :application, 'shop'\n"
        'set(:repo_url, "git@git.example.com:acme/shop.git")  # the mirror\n'
        "set :branch, :stable\n"
        "set :deploy_to, '/srv/shop'\n"
        "set :keep_releases, 7\n"
        "set :linked_dirs, %w{log tmp/pids}\n"
        "append :linked_dirs, 'public/uploads',\n  \"log\"\n"
        "set :linked_files, fetch(:linked_files, []).push('config/database.yml', '.env')\n"
        "# set :keep_releases, 3\n"
        "set :rbenv_ruby, '3.3.0'\n"
    )
    assert said.values == {
        "application": "shop",
        "repository": "git@git.example.com:acme/shop.git",
        "branch": "stable",
        "deploy_to": "/srv/shop",
        "keep_releases": 7,
        "linked_dirs": ("log", "tmp/pids", "public/uploads"),
        "linked_files": ("config/database.yml", ".env"),
    }
    assert said.unclear == ()


@pytest.mark.parametrize(
    "line",
    [
        'set :deploy_to, "/var/www/#{fetch(:application)}"',
        "set :deploy_to, '/srv/' + name",
        "set :deploy_to, '/srv/x' if ENV['X']",
        "  set :deploy_to, '/srv/x'",
        "set :deploy_to, -> { '/srv/x' }",
        "ask :deploy_to, '/srv/x'",
        "set :deploy_to, ENV.fetch('TO', '/srv/x')",
        "set :deploy_to, 7",
        "set :deploy_to, '/a'\nset :deploy_to, ENV['TO']",
    ],
)
def test_what_only_ruby_could_tell_is_not_guessed(line: str) -> None:
    said = read_capistrano(f"{line}\n")
    assert (said.values, said.unclear) == ({}, ("deploy_to",))


def test_capistranos_settings_are_in_the_proposal(tmp_path: Path) -> None:
    deploy = "set :application, 'shop'\nset :repo_url, '/srv/shop.git'\nset :linked_files, %w[.env]\nset :branch, x\n"
    tree(tmp_path, {**RAILS, "Capfile": "require 'capistrano/setup'\n", "config/deploy.rb": deploy})
    tree(tmp_path, {"config/deploy/production.rb": "server 'a'\n"})
    said = run(tmp_path)
    assert "taken over from Capistrano: application, repository, linked_files." in said
    assert "only Ruby can evaluate them: branch." in said
    settings = yaml.safe_load((tmp_path / "config/deploy/deploy.yml").read_text())
    assert (settings["application"], settings["repository"]) == ("shop", "/srv/shop.git")
    assert settings["linked_files"] == [".env"]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("append :linked_dirs, 'log', \"storage\"\n", ("log", "storage")),
        ("append(:linked_dirs, *%w[log storage])\n", ("log", "storage")),
        ("set :linked_dirs, %w{\n  log\n  storage\n}\n", ("log", "storage")),
        ("set :linked_dirs, %w(log)\nset :linked_dirs, fetch(:linked_dirs, []).push('storage')\n", ("log", "storage")),
        ("set :linked_dirs, fetch(:linked_dirs, []).push('log', 'storage')\n", ("log", "storage")),
        ("append :linked_dirs, 'log'\nset :linked_dirs, fetch(:linked_dirs) + %w{storage}\n", ("log", "storage")),
        ("set :linked_dirs, fetch(:linked_dirs, []).concat(%w{log storage})\n", ("log", "storage")),
        ("set :linked_dirs, fetch(:linked_dirs, []) | ['log', 'storage']\n", ("log", "storage")),
        ("append :linked_dirs, 'log', 'tmp', 'storage'\nremove :linked_dirs, 'tmp'\n", ("log", "storage")),
    ],
)
def test_linked_directories_are_read_in_all_the_ways_that_people_write_them(lines: str, found: tuple[str, ...]) -> None:
    assert read_capistrano(lines).values == {"linked_dirs": found}


def test_list_that_begins_with_another_one_is_unclear() -> None:
    assert read_capistrano("set :linked_dirs, fetch(:mine, []).push('log')\n").unclear == ("linked_dirs",)


def test_linked_directories_that_the_build_makes_are_left_out_and_named(tmp_path: Path) -> None:
    # As Capistrano's own template has it, and what people add.
    deploy = (
        'append :linked_dirs, "log", "tmp/pids", "tmp/cache", "tmp/sockets", "public/system", "vendor", "storage"\n'
        'append :linked_dirs, "public/assets/", ".bundle", "node_modules", "vendor/bundle", "public/uploads", "tmp"\n'
    )
    tree(tmp_path, {**RAILS, "config/deploy.rb": deploy})
    said = run(tmp_path)
    settings = yaml.safe_load((tmp_path / "config/deploy/deploy.yml").read_text())
    kept = ["log", "tmp/pids", "tmp/sockets", "public/system", "storage", "public/uploads", "tmp"]
    assert settings["linked_dirs"] == kept
    for name in ("tmp/cache", "vendor", "public/assets/", ".bundle", "node_modules", "vendor/bundle"):
        assert f"Note: linked_dirs: left out {name}: the build " in said
    assert "a link to shared/public/assets would hide them on every host" in said
    assert said.count("left out") == 6


def test_no_recipe_links_what_its_build_makes() -> None:
    for recipe in RECIPES.values():
        assert [name for name in recipe.linked_dirs if made_by_the_build(name, recipe.name, None)] == [], recipe.name


def test_recipes_own_directories_go_where_all_of_capistranos_are_the_builds(tmp_path: Path) -> None:
    tree(tmp_path, {**RAILS, "config/deploy.rb": "set :linked_dirs, %w{vendor/bundle public}\n"})
    said = run(tmp_path)
    assert "left out public: the build makes public/assets in it" in said
    assert "such as public/uploads" in said
    assert "linked_dirs" not in yaml.safe_load((tmp_path / "config/deploy/deploy.yml").read_text())


@pytest.mark.parametrize(
    "line",
    [
        'STATIC_ROOT = BASE_DIR / "var/collected"',
        "STATIC_ROOT = os.path.join(BASE_DIR, 'var/collected')",
        'STATIC_ROOT = str(BASE_DIR / "var/collected")',
    ],
)
def test_where_django_collects_static_files_is_not_linked(tmp_path: Path, line: str) -> None:
    manage = 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site.settings")  # django\n'
    files = {"manage.py": manage, "requirements.txt": "django\n", "site/settings.py": f"DEBUG = False\n{line}\n"}
    deploy = "set :linked_dirs, %w{media var/collected var venv log}\n"
    tree(tmp_path, {**files, "config/deploy.rb": deploy})
    said = run(tmp_path)
    assert yaml.safe_load((tmp_path / "config/deploy.yml").read_text())["linked_dirs"] == ["media", "log"]
    assert "left out var: the build makes var/collected in it" in said


# --- a repository that means no good


@pytest.mark.parametrize("nasty", [each for each in NASTY if not set(each) & {"\0", "/"}])
def test_name_of_a_file_moves_no_cursor_and_forges_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nasty: str
) -> None:
    tree(tmp_path, {"config/ev.yml": "x: 1\n"})
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    plain = capsys.readouterr().out
    (tmp_path / "config/ev.yml").rename(tmp_path / f"config/ev{nasty}.yml")
    for name in ("deploy.yml", "staging.yml", "production.yml"):
        (tmp_path / "config/deploy" / name).unlink()
    (tmp_path / "fabfile.py").unlink()
    assert main(["init"]) == 0
    said = capsys.readouterr().out
    assert is_sound(said)
    assert "files of the application itself (config/ev" in said
    assert said.count("\n") == plain.count("\n")


def test_terminal_without_the_characters_gets_them_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    tree(tmp_path, {"config/\N{SNOWMAN}.yml": "x: 1\n"})
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert b"(config/\\u2603.yml)" in written.getvalue()


@pytest.mark.parametrize("more", ["", "${X}", "FILL_IN"])
def test_control_character_is_no_part_of_a_value_that_is_taken_over(tmp_path: Path, more: str) -> None:
    tree(tmp_path, {"config/deploy.rb": f"set :linked_files, ['con\u202efig{more}']\nset :branch, 'a\x9b{more}'\n"})
    with pytest.raises(UsageError) as caught:
        run(tmp_path)
    assert caught.value.tail == (
        "branch: must not contain line breaks or other control characters.",
        "linked_files.0: must not contain line breaks or other control characters.",
    )
    assert not (tmp_path / "config/deploy.yml").exists()


def test_mistake_in_a_command_line_is_quoted_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["init", "\x1b[2J\nFORGED"], ["completion", "bash", "\x1b[2J"], ["\x1b[2J"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        said = capsys.readouterr().err
        assert caught.value.code == 2
        assert is_sound(said)
        assert "\nFORGED" not in said


# --- the template


def test_template_is_copied_once(tmp_path: Path) -> None:
    lines: list[str] = []
    copy_template(tmp_path, lines.append)
    ours = Path(__file__).parents[2] / "templates/manifest.yml.j2"
    assert (tmp_path / "templates/manifest.yml.j2").read_text() == ours.read_text()
    (tmp_path / "templates/manifest.yml.j2").write_text("mine")
    copy_template(tmp_path, lines.append)
    assert (tmp_path / "templates/manifest.yml.j2").read_text() == "mine"
    assert lines[-1].startswith("Nothing was changed: templates/manifest.yml.j2 already exists")
