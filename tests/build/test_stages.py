"""The stages' scripts on the real git and bash: what ends up in the work tree, and what is said when it can't."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploytool.build.stages import (
    Comparison,
    checkout,
    compare,
    compared,
    dependencies,
    fetch,
    fetched,
    migrate,
    migrate_pending,
    pending,
    programs,
    unfit,
)
from deploytool.build.stages.preview import preview
from deploytool.connection.step import Code, explain, values
from deploytool.errors import StepError
from deploytool.settings.recipes import RECIPES
from tests.support import product_parts
from tests.support.git_site import git_site
from tests.support.project import as_root
from tests.support.stage_server import GIT, Outcome, Repository, Server, ended, run

ODD = 'it\'s $(id) "x" `id`'
ROOT = Path(__file__).parents[2]


# Which revision is meant


def test_a_branch_is_found_and_described(repository: Repository, server: Server) -> None:
    revision = repository.commit({"app.txt": "two\n"}, "Sell\tmore", GIT_COMMITTER_DATE="1700000000 +0900")
    found = server.found("main")
    assert (found.revision, found.kind, found.committed_at, found.subject) == (
        revision,
        "heads",
        1700000000,
        "Sell\tmore",
    )


def test_an_annotated_tag_gives_its_commit(repository: Repository, server: Server) -> None:
    revision = repository.git("rev-parse", "HEAD")
    repository.git("tag", "-a", "-m", "first", "v1")
    assert (server.found("v1").revision, server.found("v1").kind) == (revision, "tags")


def test_a_branch_wins_over_a_tag_of_the_same_name(repository: Repository, server: Server) -> None:
    repository.git("tag", "next")
    repository.git("checkout", "--quiet", "-b", "next")
    revision = repository.commit({"app.txt": "two\n"})
    assert server.found("next").revision == revision


def test_short_and_full_shas_are_found_also_off_every_branch(repository: Repository, server: Server) -> None:
    lost = repository.commit({"app.txt": "lost\n"})
    server.found("main")
    repository.git("reset", "--hard", "--quiet", "HEAD~1")
    repository.commit({"app.txt": "instead\n"})
    assert server.found(lost).revision == lost
    assert server.found(lost[:7].upper()).revision == lost
    assert server.files(lost)["app.txt"] == "lost\n"


@pytest.mark.parametrize(
    "reference", ["nowhere", "main~1", "main^{tree}", "HEAD~1", "@", "0" * 40, "abcd", "-", ODD, "a b"]
)
def test_an_unknown_reference_is_refused_by_name(repository: Repository, server: Server, reference: str) -> None:
    repository.commit({"app.txt": "two\n"})
    outcome = server.fetch(reference)
    assert outcome.exit_code == Code.UNKNOWN_REVISION
    assert outcome.message == f"{reference} is not a branch, tag or commit of the repository"


def test_a_branch_that_looks_like_an_option_is_only_a_branch(repository: Repository, server: Server) -> None:
    assert server.fetch("--upload-pack=x").exit_code == Code.UNKNOWN_REVISION
    revision = repository.git("rev-parse", "HEAD")
    repository.git("update-ref", "refs/heads/--upload-pack=x", revision)
    assert server.found("--upload-pack=x").revision == revision


def test_the_beginning_of_two_shas_is_ambiguous(repository: Repository, server: Server) -> None:
    # 2,000 commits in one import: two of them share their first 4 digits, as good as certainly.
    commits = "".join(
        f"commit refs/heads/many\ncommitter a <a@example.com> {1700000000 + number} +0000\ndata 0\n\n"
        for number in range(2000)
    )
    subprocess.run(["git", "-C", str(repository.path), "fast-import", "--quiet"], input=commits.encode(), check=True)
    shas = repository.git("rev-list", "many").split()
    beginnings = [sha[:4] for sha in shas]
    twice = next(beginning for beginning in beginnings if beginnings.count(beginning) > 1)
    outcome = server.fetch(twice)
    assert outcome.exit_code == Code.AMBIGUOUS_REVISION
    assert twice in outcome.message


# The mirror


def test_a_changed_repository_is_a_new_mirror(tmp_path: Path, repository: Repository, server: Server) -> None:
    server.files()
    other = Repository(tmp_path / "git" / "other")
    revision = other.commit({"app.txt": "the other\n"})
    server.values["repository"] = str(other.path)
    assert server.found().revision == revision
    assert server.files()["app.txt"] == "the other\n"


def test_an_unreachable_repository_is_named_and_the_mirror_stays(repository: Repository, server: Server) -> None:
    before = server.found().revision
    repository.path.rename(repository.path.with_name("away"))
    outcome = server.fetch()
    assert outcome.exit_code == Code.REPOSITORY_UNREACHABLE
    assert str(repository.path) in outcome.message
    repository.path.with_name("away").rename(repository.path)
    assert server.found().revision == before


def test_an_unreachable_first_clone_leaves_nothing(tmp_path: Path, server: Server) -> None:
    server.values["repository"] = str(tmp_path / "nowhere")
    assert server.fetch().exit_code == Code.REPOSITORY_UNREACHABLE
    assert list(Path(server.place.application_root).iterdir()) == []


@pytest.mark.parametrize("damage", ["config", "HEAD", "objects", "refs"])
def test_a_damaged_mirror_is_made_anew(repository: Repository, server: Server, damage: str) -> None:
    server.files()
    target = Path(server.place.mirror, damage)
    subprocess.run(["rm", "-rf", str(target)], check=True)
    repository.commit({"app.txt": "two\n"})
    assert server.files()["app.txt"] == "two\n"


def test_locks_and_halves_of_a_killed_run_do_not_stop_the_next(repository: Repository, server: Server) -> None:
    server.files()
    mirror = Path(server.place.mirror)
    for lock in ("packed-refs.lock", "refs/heads/main.lock", "config.lock", "HEAD.lock"):
        (mirror / lock).touch()
    (mirror.with_name("repository.git.new.abc")).mkdir()
    (server.tree / ".git" / "index.lock").touch()
    repository.commit({"app.txt": "two\n"})
    assert server.files()["app.txt"] == "two\n"
    assert [path.name for path in mirror.parent.iterdir() if ".new" in path.name] == []


def test_a_rewritten_and_a_removed_branch_are_followed(repository: Repository, server: Server) -> None:
    repository.git("branch", "gone")
    server.found("gone")
    repository.git("branch", "-D", "gone")
    repository.git("commit", "--amend", "--quiet", "-m", "rewritten")
    assert server.fetch("gone").exit_code == Code.UNKNOWN_REVISION
    assert server.found("main").subject == "rewritten"


def test_fab_inside_a_git_hook_does_not_touch_the_enclosing_repository(repository: Repository, server: Server) -> None:
    step = fetch(server.settings, server.place, "main")
    outcome = run(step, GIT_DIR="/nowhere", GIT_INDEX_FILE="/nowhere/index", GIT_WORK_TREE="/nowhere")
    assert outcome.exit_code == 0, outcome.output


# The work tree


def test_revision_is_written_and_replaces_a_tracked_file(repository: Repository, server: Server) -> None:
    (repository.path / "REVISION").symlink_to("app.txt")
    revision = repository.commit({})
    assert server.files() == {"app.txt": "one\n", "REVISION": revision + "\n"}
    assert server.files()["app.txt"] == "one\n"


def test_what_the_last_build_left_is_gone(repository: Repository, server: Server) -> None:
    repository.commit({".gitignore": "*.o\n", "dir/file": "x", "turns": "file"})
    server.files()
    (server.tree / "stale.o").write_text("x")
    (server.tree / "new" / "deep").mkdir(parents=True)
    (server.tree / "new" / "deep" / "file").write_text("x")
    subprocess.run(["git", "init", "-q", str(server.tree / "nested")], check=True)
    (server.tree / "app.txt").unlink()
    (server.tree / "dir" / "file").unlink()
    (server.tree / "dir" / "file").mkdir()
    (server.tree / "dir" / "file" / "below").touch()
    os.chmod(server.tree / ".gitignore", 0o600)
    (repository.path / "turns").unlink()
    repository.commit({"turns/into/directory": "y"})
    assert sorted(server.files()) == [".gitignore", "REVISION", "app.txt", "dir/file", "turns/into/directory"]
    assert not (server.tree / "new").exists()
    assert not (server.tree / "nested").exists()
    assert (server.tree / ".gitignore").stat().st_mode & 0o777 == 0o644


def test_git_directory_of_the_work_tree_does_not_grow_with_builds(repository: Repository, server: Server) -> None:
    def sizes() -> dict[str, int]:
        git = server.tree / ".git"
        return {str(path.relative_to(git)): path.stat().st_size for path in git.rglob("*") if path.is_file()}

    server.files()
    repository.commit({"app.txt": "one more\n"})
    server.files()
    second = sizes()
    # As older versions left it.
    (server.tree / ".git/logs").mkdir()
    (server.tree / ".git/logs/HEAD").write_text("a line\n")
    for word in ("two", "three"):
        repository.commit({"app.txt": f"{word}\n"})
        server.files()
    assert sizes() == second


def test_two_commits_in_one_second_of_the_same_size_ship_their_own_files(
    repository: Repository, server: Server
) -> None:
    for number in range(6):
        repository.commit({"app.txt": f"{number}\n"}, GIT_COMMITTER_DATE="1700000000 +0000")
        assert server.files()["app.txt"] == f"{number}\n"


def test_a_tracked_file_that_a_build_edited_behind_its_time_stamp_is_put_back(
    repository: Repository, server: Server
) -> None:
    server.files()
    path = server.tree / "app.txt"
    before = path.stat()
    with path.open("r+") as file:
        file.write("bad\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    # An index that trusts neither ctime nor inode would be deceived.
    subprocess.run(["git", "-C", str(server.tree), "config", "core.checkStat", "minimal"], check=True)
    assert server.files()["app.txt"] == "one\n"


def test_an_immutable_file_fails_the_checkout_with_its_name(repository: Repository, server: Server) -> None:
    """A mount point stands for whatever can't be replaced: it works on every file system, and for root as well."""
    server.files()
    repository.commit({"app.txt": "two\n"})
    script = f'mount --bind "{server.tree}/app.txt" "{server.tree}/app.txt"; exec "$@"'
    outcome = server.checkout(wrapper=("unshare", *as_root(), "--mount", "sh", "-ec", script, "sh"))
    assert outcome.exit_code == Code.WORK_TREE_NOT_CLEAN, outcome.output
    assert outcome.message == "the work tree on the build server could not be brought to the revision: app.txt"
    assert server.files()["app.txt"] == "two\n"


def test_a_left_over_that_cannot_be_removed_fails_the_checkout(repository: Repository, server: Server) -> None:
    server.files()
    (server.tree / "stale").mkdir()
    script = f'mount -t tmpfs none "{server.tree}/stale"; touch "{server.tree}/stale/x"; exec "$@"'
    outcome = server.checkout(wrapper=("unshare", *as_root(), "--mount", "sh", "-ec", script, "sh"))
    assert outcome.exit_code == Code.WORK_TREE_NOT_CLEAN, outcome.output
    assert "stale" in outcome.message


@pytest.mark.parametrize("damage", [".git/HEAD", ".git/config", ".git/objects", ".git"])
def test_a_damaged_workspace_is_made_anew(repository: Repository, server: Server, damage: str) -> None:
    server.files()
    subprocess.run(["rm", "-rf", str(server.tree / damage)], check=True)
    (server.tree / damage).write_text("nonsense")
    # Were git to look further up for a repository, it would find this one and clean it.
    subprocess.run(["git", "init", "-q", server.place.application_root], check=True)
    assert sorted(server.files()) == ["REVISION", "app.txt"]
    assert Path(server.place.mirror).is_dir()


def test_line_endings_that_git_itself_disagrees_about_do_not_fail(repository: Repository, server: Server) -> None:
    (repository.path / "dos.txt").write_bytes(b"a\r\nb\r\n")
    repository.git("-c", "core.autocrlf=false", "add", "dos.txt")
    repository.commit({})
    repository.commit({".gitattributes": "*.txt text=auto\n*.md text eol=crlf\n", "unix.md": "a\n"})
    for _ in range(2):
        server.files()
        assert (server.tree / "dos.txt").read_bytes() == b"a\r\nb\r\n"
        assert (server.tree / "unix.md").read_bytes() == b"a\r\n"


def test_hooks_and_templates_of_the_build_user_do_not_run(
    tmp_path: Path, repository: Repository, server: Server
) -> None:
    hook = tmp_path / "template" / "hooks" / "post-checkout"
    hook.parent.mkdir(parents=True)
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    server.build["env"] = {"GIT_TEMPLATE_DIR": str(tmp_path / "template")}
    assert "hooked" not in server.files()


def test_odd_names_survive_everywhere(tmp_path: Path) -> None:
    repository = Repository(tmp_path / ODD / "git")
    repository.commit({f"{ODD}/{ODD}.txt": "odd", "new\nline/é": "x"})
    repository.git("branch", "it's-$(id)-`x`")
    server = Server(
        tmp_path / f"build {ODD}",
        str(repository.path),
        subdirectory=ODD,
        linked_files=(f"secret {ODD}",),
        env={"ODD": ODD, "GIT_ALLOW_PROTOCOL": "file"},
        dependencies=(f'printf %s "$ODD" >"{"made"}"', "pwd"),
        path=(str(tmp_path / ODD),),
    )
    shared = Path(server.place.shared)
    shared.mkdir(parents=True)
    (shared / f"secret {ODD}").write_text("key")
    found = server.found("it's-$(id)-`x`")
    assert [file.name for file in found.linked_files] == [f"secret {ODD}"]
    assert sorted(server.files("it's-$(id)-`x`")) == sorted([f"{ODD}.txt", "REVISION", f"secret {ODD}"])
    outcome = run(dependencies(server.settings, server.place))
    assert outcome.exit_code == 0, outcome.output
    assert (server.tree / "made").read_text() == ODD


# Subdirectories and submodules


def test_a_subdirectory_is_the_work_tree(repository: Repository, server: Server) -> None:
    revision = repository.commit({"services/shop/app.txt": "sub\n"})
    inner = Server(server.root, str(repository.path), subdirectory="services/shop")
    assert inner.files() == {"app.txt": "sub\n", "REVISION": revision + "\n"}


@pytest.mark.parametrize("subdirectory", ["missing", "app.txt", "outside", "../shared"])
def test_a_subdirectory_that_is_none_is_refused(repository: Repository, server: Server, subdirectory: str) -> None:
    (repository.path / "outside").symlink_to("/etc")
    repository.commit({})
    Path(server.place.shared).mkdir(parents=True)
    inner = Server(server.root, str(repository.path), subdirectory=subdirectory)
    outcome = inner.checkout()
    leads_out = subdirectory == "outside"
    assert outcome.exit_code == (Code.PATH_LEADS_OUT if leads_out else Code.SUBDIRECTORY_MISSING), outcome.output
    assert subdirectory in outcome.message


@pytest.fixture
def with_submodule(tmp_path: Path, repository: Repository) -> Repository:
    """The repository has the submodule `lib`, which has the submodule `deep`, both by relative URLs."""
    deep = Repository(tmp_path / "git" / "deep")
    deep.commit({"deep.txt": "deep 1\n"})
    lib = Repository(tmp_path / "git" / "lib")
    lib.commit({"lib.txt": "lib 1\n"})
    lib.git("submodule", "--quiet", "add", "../deep", "deep")
    lib.commit({})
    repository.git("submodule", "--quiet", "add", "../lib", "lib")
    repository.git("submodule", "--quiet", "update", "--init", "--recursive")
    repository.commit({})
    return repository


SUBMODULES = [".gitmodules", "REVISION", "app.txt", "lib/.gitmodules", "lib/deep/deep.txt", "lib/lib.txt"]


def test_submodules_of_submodules_come_along(with_submodule: Repository, server: Server) -> None:
    assert sorted(server.files()) == SUBMODULES
    (server.tree / "lib" / "lib.txt").write_text("bad 1\n")
    (server.tree / "lib" / "deep" / "stale").touch()
    files = server.files()
    assert sorted(files) == SUBMODULES
    assert files["lib/lib.txt"] == "lib 1\n"


def test_a_moved_submodule_commit_is_followed(tmp_path: Path, with_submodule: Repository, server: Server) -> None:
    server.files()
    lib = tmp_path / "git" / "lib"
    (lib / "lib.txt").write_text("lib 2\n")
    subprocess.run(["git", "-C", str(lib), "commit", "-qam", "2"], env={**os.environ, **GIT}, check=True)
    with_submodule.git("submodule", "--quiet", "update", "--remote", "lib")
    with_submodule.commit({})
    assert server.files()["lib/lib.txt"] == "lib 2\n"


def test_a_removed_submodule_leaves_nothing_and_may_come_back(with_submodule: Repository, server: Server) -> None:
    before = with_submodule.git("rev-parse", "HEAD")
    server.files()
    with_submodule.git("rm", "--quiet", "-f", "lib")
    removed = with_submodule.commit({})
    assert sorted(server.files(removed)) == [".gitmodules", "REVISION", "app.txt"]
    assert not (server.tree / "lib").exists()
    replaced = with_submodule.commit({"lib/own.txt": "own\n"})
    assert sorted(server.files(replaced)) == [".gitmodules", "REVISION", "app.txt", "lib/own.txt"]
    assert not (server.tree / "lib" / ".git").exists()
    assert sorted(server.files(before)) == SUBMODULES


def test_a_submodule_that_is_out_of_reach_is_named(tmp_path: Path, with_submodule: Repository, server: Server) -> None:
    (tmp_path / "git" / "lib").rename(tmp_path / "git" / "away")
    outcome = server.checkout()
    assert outcome.exit_code == Code.SUBMODULE_FAILED
    assert outcome.message == "the submodule lib could not be checked out on the build server"


# Linked files and tools


def test_a_linked_file_is_linked_and_its_content_counts(repository: Repository, server: Server) -> None:
    repository.commit({"config/master.key": "tracked\n"})
    server.build["linked_files"] = ("config/master.key",)
    secret = Path(server.place.shared, "config", "master.key")
    secret.parent.mkdir(parents=True)
    secret.write_text("one")
    first = server.found().linked_files
    assert server.files()["config/master.key"] == "one"
    assert (server.tree / "config" / "master.key").is_symlink()
    secret.write_text("two")
    assert server.found().linked_files != first
    server.files()
    assert secret.read_text() == "two"


def test_a_missing_linked_file_is_named_with_its_path(repository: Repository, server: Server) -> None:
    known = server.found()
    server.build["linked_files"] = ("config/master.key", ".env")
    expected = f"{server.place.shared}/config/master.key, {server.place.shared}/.env"
    for outcome in (server.fetch(), run(checkout(server.settings, server.place, known))):
        assert outcome.exit_code == Code.LINKED_FILE_MISSING
        assert outcome.message == f"files of `build.linked_files` are missing on the build server: {expected}"


def test_a_tools_version_is_told_and_a_missing_tool_named(repository: Repository, server: Server) -> None:
    server.build["recipe"] = "django"
    server.build["env"] = {"PYTHON": sys.executable}
    version = ".".join(map(str, sys.version_info[:3]))
    assert server.found().tools == {sys.executable: f"Python {version}"}
    server.build["env"] = {"PYTHON": "python9"}
    outcome = server.fetch()
    assert outcome.exit_code == Code.TOOL_MISSING
    assert outcome.message.startswith("the build needs python9")


# The user's commands


def commands(server: Server, *dependencies_: str) -> Outcome:
    server.build["dependencies"] = dependencies_
    return run(dependencies(server.settings, server.place))


def test_a_command_gets_environment_and_path_and_no_input(tmp_path: Path, server: Server) -> None:
    server.files()
    tool = tmp_path / "home" / "my bin" / "tool"
    tool.parent.mkdir(parents=True)
    tool.write_text('#!/bin/sh\necho "tool $WHO"; cat\n')
    tool.chmod(0o755)
    server.build.update(path=("~/my bin",), env={"WHO": "me $(id) 'x'"}, dependencies=("tool",))
    outcome = run(dependencies(server.settings, server.place), HOME=str(tmp_path / "home"))
    assert outcome.output == "$ tool\ntool me $(id) 'x'\n"


def test_the_failing_command_is_told_by_number_and_exit_code(server: Server) -> None:
    server.files()
    outcome = commands(server, "true", "false | cat; echo not reached", "echo nor this")
    assert outcome.exit_code == Code.COMMAND_FAILED
    assert outcome.message == "dependencies: command 2 failed on the build server with exit code 1"
    assert "reached\n" not in outcome.output.replace("echo not reached\n", "")
    # A command cannot pass for one of our own failures.
    assert commands(server, "echo problem >&3; exit 65").exit_code == Code.COMMAND_FAILED
    assert commands(server, "if broken").exit_code == Code.COMMAND_FAILED


def test_commands_do_not_disturb_each_other(server: Server) -> None:
    server.files()
    outcome = commands(server, "cd /; X=1; set +e; false; true", 'pwd; echo "${X-unset}"', "cat <<'END'\n$(id)\nEND")
    assert outcome.output.splitlines()[2:4] == [str(server.tree), "unset"]
    assert outcome.output.endswith("$(id)\n")


def test_migrations_run_in_the_unpacked_release_with_shared_files(tmp_path: Path, server: Server) -> None:
    release = tmp_path / f"unpacked {ODD}"
    (release / "config").mkdir(parents=True)
    (release / "config" / "database.yml").write_text("packed")
    (release / "log").mkdir()
    shared = Path(server.place.shared)
    (shared / "config").mkdir(parents=True)
    (shared / "config" / "database.yml").write_text("shared")
    server.values.update(linked_files=("config/database.yml", ".env"), linked_dirs=("log", "public/uploads"))
    server.build.update(
        migrate=("cat config/database.yml; touch log/x public/uploads/y; pwd",), linked_files=("config/database.yml",)
    )
    for _ in range(2):
        outcome = run(migrate(server.settings, server.place, str(release)))
        assert outcome.exit_code == 0, outcome.output
        assert outcome.output.endswith(f"shared{release}\n")
    assert (shared / "log" / "x").exists()
    assert (shared / "public" / "uploads" / "y").exists()
    assert not (release / ".env").exists()
    assert f"{shared}/.env is not there: not linked" in outcome.output


def test_a_linked_file_below_a_linked_directory_is_not_deleted(tmp_path: Path, server: Server) -> None:
    release, shared = tmp_path / "release", Path(server.place.shared)
    release.mkdir()
    (shared / "config").mkdir(parents=True)
    (shared / "config" / "key").write_text("key")
    server.values.update(linked_files=("config/key",), linked_dirs=("config",))
    server.build.update(migrate=("cat config/key",))
    assert run(migrate(server.settings, server.place, str(release))).output.endswith("key")
    assert (shared / "config" / "key").read_text() == "key"


def ask(server: Server, release: Path, *commands: str) -> tuple[str, ...]:
    """What is pending in a release, by these commands."""
    server.build.update(migrate_pending=commands)
    outcome = run(migrate_pending(server.settings, server.place, str(release)))
    assert outcome.exit_code == 0, outcome.output
    return pending(outcome.results)


def test_commands_tell_what_is_pending_by_0_and_1_and_name_it(tmp_path: Path, server: Server) -> None:
    assert ask(server, tmp_path, "exit 1") == ()
    assert ask(server, tmp_path, "echo nobody heeds this; false") == ()
    assert ask(server, tmp_path, "echo '  0002 price'; echo; echo 0003") == ("0002 price", "0003")
    assert ask(server, tmp_path, "exit 1", "echo of the other database", "exit 1") == ("of the other database",)
    assert ask(server, tmp_path, "true\ntrue") == ("true …",)


def test_other_exit_codes_of_a_command_that_tells_what_is_pending_are_failures(tmp_path: Path, server: Server) -> None:
    server.build.update(migrate_pending=("true", "echo no route to host >&2; exit 7"))
    outcome = run(migrate_pending(server.settings, server.place, str(tmp_path)))
    assert outcome.message == "migrate_pending: command 2 failed on the build server with exit code 7"
    assert "no route to host" in outcome.output


RAILS = r"""#!/bin/sh
# As `bin/rails db:abort_if_pending_migrations` of Rails 5 to 8 ends.
cat "$STATE"
[ ! -s "$STATE" ] || { echo 'Run `bin/rails db:migrate` to update your database then try again.' >&2; exit 1; }
"""


def test_the_recipe_rails_knows_what_is_pending(tmp_path: Path, server: Server) -> None:
    release, state = tmp_path / "release", tmp_path / "state"
    (release / "bin").mkdir(parents=True)
    (release / "bin/rails").write_text(RAILS)
    (release / "bin/rails").chmod(0o755)
    server.build.update(env={"STATE": str(state)})
    state.write_text("")
    assert ask(server, release, *RECIPES["rails"].migrate_pending) == ()
    state.write_text("You have 2 pending migrations:\n  20260101000000 AddPrice\n     7 DropName\n")
    assert ask(server, release, *RECIPES["rails"].migrate_pending) == ("20260101000000 AddPrice", "7 DropName")
    state.write_text("rails aborted!\nActiveRecord::ConnectionNotEstablished: refused\n")
    outcome = run(migrate_pending(server.settings, server.place, str(release)))
    assert outcome.exit_code == Code.COMMAND_FAILED


def test_the_recipe_django_knows_what_is_pending(tmp_path: Path, server: Server) -> None:
    """With the real Django, and the sample shop."""
    release = tmp_path / "release"
    shutil.copytree(ROOT / "examples/shop", release)
    recipe, database = RECIPES["django"], tmp_path / "shop.sqlite"
    subprocess.run([sys.executable, "-m", "venv", release / "venv"], check=True)
    wanted = [line for line in (release / "requirements.txt").read_text().splitlines() if "gunicorn" not in line]
    install = [
        str(release / "venv/bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *wanted,
    ]
    subprocess.run(install, check=True)
    server.build.update(recipe="django", env={"SECRET_KEY": "x" * 50, "DATABASE": str(database)})
    assert ask(server, release, *recipe.migrate_pending) == ("catalog.0001_visit", "catalog.0002_heartbeat")
    server.build.update(migrate=(*recipe.migrate, "venv/bin/python manage.py migrate --noinput catalog 0001"))
    assert run(migrate(server.settings, server.place, str(release))).exit_code == 0
    assert ask(server, release, *recipe.migrate_pending) == ("catalog.0002_heartbeat",)
    server.build.update(migrate=recipe.migrate)
    assert run(migrate(server.settings, server.place, str(release))).exit_code == 0
    assert ask(server, release, *recipe.migrate_pending) == ()
    # A database that can't be asked is not one where nothing is pending.
    server.build["env"]["DATABASE"] = str(tmp_path)
    outcome = run(migrate_pending(server.settings, server.place, str(release)))
    assert outcome.exit_code == Code.COMMAND_FAILED
    assert "unable to open database file" in outcome.output


def test_a_migration_without_its_release_is_refused(tmp_path: Path, server: Server) -> None:
    server.build.update(migrate=("true",))
    outcome = run(migrate(server.settings, server.place, str(tmp_path / "none")))
    assert outcome.exit_code == Code.DIRECTORY_MISSING
    assert str(tmp_path / "none") in outcome.message


# Credentials


@pytest.fixture
def guarded(tmp_path: Path, with_submodule: Repository) -> Iterator[str]:
    """host:port of a server that has the repositories under /git, for `us er` and `p@ss'w` only."""
    with git_site(*(tmp_path / "git" / name for name in ("shop", "lib", "deep"))) as site:
        yield site


@pytest.fixture
def watched(tmp_path: Path) -> Callable[[], str]:
    """A `git` first in PATH that notes every argument it is given."""
    directory = tmp_path / "watched"
    directory.mkdir()
    real = subprocess.run(["sh", "-c", "command -v git"], capture_output=True, text=True, check=True).stdout.strip()
    (directory / "git").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>"{directory}/argv"\nexec {real} "$@"\n')
    (directory / "git").chmod(0o755)
    return lambda: (directory / "argv").read_text()


def test_credentials_open_the_repository_and_are_seen_nowhere(
    tmp_path: Path, server: Server, guarded: str, watched: Callable[[], str]
) -> None:
    server.values["repository"] = f"http://us%20er:p%40ss%27w@{guarded}/shop"
    server.build["path"] = (str(tmp_path / "watched"),)
    fetching = server.fetch()
    assert fetching.exit_code == 0, fetching.output
    step = checkout(server.settings, server.place, fetched(fetching.results))
    checking_out = run(step)
    assert checking_out.exit_code == 0, checking_out.output
    assert (server.tree / "lib" / "deep" / "deep.txt").exists()
    configs = "".join(path.read_text() for path in server.root.rglob("config") if path.is_file())
    for seen in (fetching.output, checking_out.output, *fetching.results, watched(), configs):
        assert "ss'w" not in seen
        assert "ss%27w" not in seen
    assert f"http://{guarded}/shop" in configs


def test_a_wrong_password_asks_nobody_and_is_not_shown(server: Server, guarded: str) -> None:
    server.values["repository"] = f"http://us%20er:wrong-one@{guarded}/shop"
    outcome = server.fetch()
    assert outcome.exit_code == Code.REPOSITORY_UNREACHABLE
    assert outcome.message == f"the build server could not fetch from the repository http://{guarded}/shop"
    assert "wrong-one" not in outcome.output


# The recipe django's virtual environment


def test_a_virtual_environment_works_where_it_is_moved_to(tmp_path: Path, server: Server) -> None:
    """With pip's own console scripts as the application's, so that nothing is downloaded."""
    server.files()
    (server.tree / "requirements.txt").write_text("")
    server.build["dependencies"] = RECIPES["django"].dependencies
    server.build["recipe"] = "django"
    outcome = run(dependencies(server.settings, server.place))
    assert outcome.exit_code == 0, outcome.output
    release = tmp_path / "var" / f"rel {ODD}"
    release.parent.mkdir()
    server.tree.rename(release)
    assert list((release / "venv").rglob("*.pyc")) == []
    current = tmp_path / "var" / "current"
    current.symlink_to(release)
    for pip in (release / "venv" / "bin" / "pip", current / "venv" / "bin" / "pip"):
        said = subprocess.run([str(pip), "--version"], capture_output=True, text=True, check=True).stdout
        assert str(release) in said
    sourced = '. "$0"/venv/bin/activate; command -v pip; deactivate; command -v pip || true'
    found = subprocess.run(["bash", "-c", sourced, str(current)], capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[0] == f"{release}/venv/bin/pip"
    holding = subprocess.run(["grep", "-rlF", str(server.root), str(release / "venv")], capture_output=True, text=True)
    assert holding.stdout == ""


def test_a_virtual_environment_is_the_same_wherever_it_is_built(tmp_path: Path, repository: Repository) -> None:
    repository.commit({"requirements.txt": ""})
    trees = []
    for root in (tmp_path / "one", tmp_path / f"two {ODD}"):
        server = Server(root, str(repository.path), recipe="django", dependencies=RECIPES["django"].dependencies)
        server.files()
        outcome = run(dependencies(server.settings, server.place))
        assert outcome.exit_code == 0, outcome.output
        trees.append(str(server.tree / "venv"))
    compared = subprocess.run(["diff", "-r", "--no-dereference", *trees], capture_output=True, text=True)
    assert compared.stdout == ""


# Version managers: real ones, which know stand-ins for rubies and nodes


def managed(home: Path, manager: str, program: str, version: str) -> None:
    """Let the manager in this home directory have a version of the program, where an installation would put it."""
    source = product_parts.version_manager(manager)
    root = home / f".{manager}"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / manager).symlink_to(source)
    for name in (program, "bundle", "npm"):
        put_program(root / "versions" / version / "bin" / name, f"{program} {version}p20")
    subprocess.run([root / "bin" / manager, "rehash"], env=at_home(home), check=True)


def put_program(path: Path, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)


def at_home(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": "/usr/bin:/bin"}


MANAGERS = [("rbenv", "rails", ".ruby-version", "ruby"), ("nodenv", "node", ".node-version", "node")]


@pytest.mark.parametrize(("manager", "recipe", "file", "program"), MANAGERS)
@pytest.mark.parametrize("subdirectory", [".", f"apps/{ODD}"])
def test_version_manager_runs_the_version_that_the_file_asks_for(
    tmp_path: Path, repository: Repository, manager: str, recipe: str, file: str, program: str, subdirectory: str
) -> None:
    managed(tmp_path, manager, program, "93.1.2")
    repository.commit({f"{subdirectory}/{file}": "93.1.2\r\n"})
    server = Server(tmp_path / "build", str(repository.path), subdirectory=subdirectory, recipe=recipe)
    server.build["dependencies"] = (f"{program} --version >dependencies.txt",)
    server.build["migrate"] = (f"{program} --version >migrate.txt",)
    fetch_step = fetch(server.settings, server.place, "main")
    found = fetched(run(fetch_step, **at_home(tmp_path)).results)
    assert found.tools[program] == f"{program} 93.1.2p20"
    assert found.unmanaged == ()
    for step in (
        checkout(server.settings, server.place, found),
        dependencies(server.settings, server.place),
        migrate(server.settings, server.place, str(server.tree)),
    ):
        outcome = run(step, **at_home(tmp_path))
        assert outcome.exit_code == 0, outcome.output
    for stage in ("dependencies", "migrate"):
        assert (server.tree / f"{stage}.txt").read_text() == f"{program} 93.1.2p20\n"


@pytest.mark.parametrize(("manager", "recipe", "file", "program"), MANAGERS)
def test_version_that_is_not_installed_is_told_with_the_command_that_installs_it(
    tmp_path: Path, repository: Repository, manager: str, recipe: str, file: str, program: str
) -> None:
    managed(tmp_path, manager, program, "93.1.2")
    repository.commit({file: "93.9.9\n"})
    server = Server(tmp_path / "build", str(repository.path), recipe=recipe)
    outcome = run(fetch(server.settings, server.place, "main"), **at_home(tmp_path))
    told = explain(outcome.step, ended(outcome.exit_code, outcome.results))
    assert told.message == f"{file} asks for 93.9.9, which {manager} has not installed on the build server"
    assert told.hint == f"run there, as the build user: {manager} install 93.9.9"


def test_programs_that_only_a_version_manager_has_are_found(tmp_path: Path, server: Server) -> None:
    managed(tmp_path, "rbenv", "ruby", "93.1.2")
    server.build |= {"recipe": "rails", "compression": "gzip"}
    server.root.mkdir()
    outcome = run(programs(server.settings, server.place), **at_home(tmp_path))
    found = {line.split(" ")[0] for line in values(outcome.results, "found")}
    assert {"rbenv", "ruby", "bundle"} <= found


@pytest.mark.parametrize(
    ("wanted", "sentences"),
    [
        ("ruby-93.1.2", []),
        ("93.1", []),
        ("jruby-head", []),
        ("93.1.20", [".ruby-version asks for 93.1.20, but ruby on the build server is ruby 93.1.2p20"]),
        ("93.2", [".ruby-version asks for 93.2, but ruby on the build server is ruby 93.1.2p20"]),
    ],
)
def test_without_a_version_manager_another_version_is_told(
    tmp_path: Path, repository: Repository, server: Server, wanted: str, sentences: list[str]
) -> None:
    for name in ("ruby", "bundle"):
        put_program(tmp_path / "own" / name, "ruby 93.1.2p20")
    repository.commit({".ruby-version": f"{wanted}  # ours\n"})
    server.build |= {"recipe": "rails", "path": (str(tmp_path / "own"),)}
    for step in (fetch(server.settings, server.place, "main"), preview(server.settings, server.place, "main")):
        found = fetched(run(step, **at_home(tmp_path)).results)
        assert list(unfit(found.unmanaged, found.tools)) == sentences


@pytest.mark.parametrize("recipe", ["none", "node", "rails"])
@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        (".nvmrc", "18\r\n", ".nvmrc asks for 18"),
        (".nvmrc", "v93.1\n", None),
        (".nvmrc", "lts/hydrogen # ours\n", ".nvmrc asks for lts/hydrogen"),
        (".nvmrc", "lts/*\n", None),
        (".node-version", "\n18.2.0\n", ".node-version asks for 18.2.0"),
        (".tool-versions", "ruby 93.1.2\n# nodejs 17\nnodejs 18.2.0 17.1\n", ".tool-versions asks for 18.2.0"),
        (".tool-versions", "node 93.1\ntypescript 5\n", None),
    ],
)
def test_version_of_a_file_that_no_manager_reads_is_compared_with_what_runs(
    tmp_path: Path, repository: Repository, server: Server, recipe: str, file: str, content: str, sentence: str | None
) -> None:
    for name in ("ruby", "bundle", "node", "npm"):
        put_program(tmp_path / "own" / name, "v93.1.2")
    repository.commit({file: content})
    server.build |= {"recipe": recipe, "path": (str(tmp_path / "own"),)}
    found = fetched(run(fetch(server.settings, server.place, "main"), **at_home(tmp_path)).results)
    expected = [f"{sentence}, but node on the build server is v93.1.2"] if sentence else []
    assert list(unfit(found.unmanaged, found.tools)) == expected


def test_shim_that_decides_by_the_directory_is_left_to_it(
    tmp_path: Path, repository: Repository, server: Server
) -> None:
    put_program(tmp_path / ".asdf" / "shims" / "node", "v93.1.2")
    repository.commit({".tool-versions": "nodejs 18.2.0\n"})
    server.build["path"] = (str(tmp_path / ".asdf" / "shims"),)
    assert server.found().unmanaged == ()


# Looking ahead: what lies between two revisions, and what fetch would find


def compare_in(server: Server, old: str, new: str, mirror: Path | None = None) -> Comparison:
    """`mirror`, a git directory, stands in for the mirror of the build server."""
    if mirror is not None:
        place = Path(server.place.mirror)
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(mirror)
    outcome = run(compare(server.settings, server.place, old, new))
    assert outcome.exit_code == 0, outcome.output
    return compared(outcome.results)


def look_ahead(server: Server, reference: str = "main", live: str | None = None, **environ: str) -> Outcome:
    return run(preview(server.settings, server.place, reference, live), **environ)


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Every path with its size, mode, time of change and content."""
    return {
        str(path.relative_to(directory)): (
            found.st_size,
            found.st_mode,
            found.st_mtime_ns,
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in sorted(directory.rglob("*"))
        for found in (path.lstat(),)
    }


def test_commits_between_two_revisions_are_told_newest_first(repository: Repository, server: Server) -> None:
    old = repository.commit({"app.txt": "old\n"})
    first = repository.commit({"app.txt": "1\n"}, "Sell\tmore")
    second = repository.commit({"app.txt": "2\n"}, "Sell \x1b[2Jeverything")
    server.found()
    forward = compare_in(server, old, second)
    assert forward.known
    assert [commit.revision for commit in forward.brings] == [second, first]
    assert [commit.subject for commit in forward.brings] == [
        "Sell \N{REPLACEMENT CHARACTER}[2Jeverything",
        "Sell    more",
    ]
    assert (forward.brings_count, forward.takes_away, forward.takes_away_count) == (2, (), 0)
    back = compare_in(server, second, old)
    assert (back.takes_away, back.takes_away_count, back.brings) == (forward.brings, 2, ())
    assert compare_in(server, old, old) == Comparison(known=True)


def test_another_branch_brings_commits_and_takes_others_away(repository: Repository, server: Server) -> None:
    repository.git("checkout", "--quiet", "-b", "other")
    there = repository.commit({"there.txt": "1\n"}, "there")
    repository.git("checkout", "--quiet", "main")
    here = repository.commit({"here.txt": "1\n"}, "here")
    server.found()
    found = compare_in(server, there, here)
    assert [commit.subject for commit in found.brings] == ["here"]
    assert [commit.subject for commit in found.takes_away] == ["there"]


def test_of_many_commits_the_newest_fifty_are_named_and_all_are_counted(repository: Repository, server: Server) -> None:
    old = repository.git("rev-parse", "HEAD")
    for number in range(53):
        new = repository.commit({}, f"commit {number}")
    server.found()
    found = compare_in(server, old, new)
    assert (found.brings_count, len(found.brings)) == (53, 50)
    assert (found.brings[0].subject, found.brings[-1].subject) == ("commit 52", "commit 3")


@pytest.mark.parametrize("unknown", ["1234567890" * 4, "main", "HEAD", "--all", ""])
def test_a_revision_that_the_mirror_lacks_can_not_be_compared(
    repository: Repository, server: Server, unknown: str
) -> None:
    revision = server.found().revision
    assert not compare_in(server, unknown, revision).known
    assert not compare_in(server, revision, unknown).known


def test_without_a_mirror_nothing_can_be_told(server: Server, repository: Repository) -> None:
    revision = repository.git("rev-parse", "HEAD")
    assert compare_in(server, revision, revision) == Comparison(known=False)
    assert not server.root.exists()
    # Another git directory does as well.
    assert compare_in(server, revision, revision, repository.path / ".git").known


def test_migrations_are_told_by_the_recipe(tmp_path: Path, repository: Repository) -> None:
    old = repository.commit({"shop/migrations/__init__.py": "", "shop/migrations/0001_first.py": ""})
    (repository.path / "shop/migrations/0001_first.py").unlink()
    new = repository.commit(
        {
            "shop/migrations/0002 naïve.py": "",
            "deep/er/migrations/0001_x.py": "",
            "deep/er/migrations/__init__.py": "",
            "shop/migrations/notes.txt": "",
            "shop/models.py": "",
        }
    )
    server = Server(tmp_path / "build", str(repository.path), recipe="django")
    server.build["recipe"] = "django"
    git_directory = repository.path / ".git"
    found = compare_in(server, old, new, git_directory)
    assert found.migrations_told
    assert found.migrations_added == ("deep/er/migrations/0001_x.py", "shop/migrations/0002 naïve.py")
    assert found.migrations_taken_away == ("shop/migrations/0001_first.py",)
    assert compare_in(server, new, new, git_directory).migrations_told
    server.build["recipe"] = "none"
    untold = compare_in(server, old, new, git_directory)
    assert (untold.known, untold.migrations_told, untold.migrations_added) == (True, False, ())


def test_migrations_of_rails_in_a_subdirectory_with_odd_characters(tmp_path: Path, repository: Repository) -> None:
    server = Server(tmp_path / "build", str(repository.path), subdirectory=f"apps/[a-z]*{ODD}", recipe="rails")
    before = repository.commit({"apps/b/db/migrate/1_elsewhere.rb": ""})
    new = repository.commit(
        {
            f"apps/[a-z]*{ODD}/db/migrate/2_here.rb": "",
            f"apps/[a-z]*{ODD}/db/animals_migrate/3_there.rb": "",
            f"apps/[a-z]*{ODD}/db/schema.rb": "",
            "apps/b/db/migrate/4_elsewhere.rb": "",
        }
    )
    found = compare_in(server, before, new, repository.path / ".git")
    # The directory was not there before: all of it is new.
    assert found.migrations_told
    assert found.migrations_added == ("db/animals_migrate/3_there.rb", "db/migrate/2_here.rb")


def test_a_subdirectory_that_is_a_link_leaves_migrations_untold(tmp_path: Path, repository: Repository) -> None:
    server = Server(tmp_path / "build", str(repository.path), subdirectory="link", recipe="rails")
    old = repository.git("rev-parse", "HEAD")
    (repository.path / "link").symlink_to("apps")
    new = repository.commit({"apps/db/migrate/1_a.rb": ""})
    found = compare_in(server, old, new, repository.path / ".git")
    assert (found.known, found.migrations_told, found.brings_count) == (True, False, 1)


def test_a_comparison_that_says_nothing_is_an_error() -> None:
    for results in ([], ["known\tperhaps"], ["known\tyes", "brings_count\t1"]):
        with pytest.raises(StepError, match="but printed no "):
            compared(results)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    made = tmp_path / f"tmp {ODD}"
    made.mkdir()
    return made


@pytest.mark.parametrize("prepared", [False, True], ids=["no mirror", "a mirror that is behind"])
def test_a_survey_finds_what_fetch_would_and_leaves_no_trace(
    repository: Repository, server: Server, temporary: Path, prepared: bool
) -> None:
    old = repository.git("rev-parse", "HEAD")
    server.build["linked_files"] = ("key",)
    shared = Path(server.place.shared)
    shared.mkdir(parents=True)
    (shared / "key").write_text("secret")
    repository.commit({"app.txt": "between\n"})
    if prepared:
        server.files()
    # Content that the mirror has from long ago is sent again: git must not mark it there.
    repository.commit({"app.txt": "one\n", "more.txt": "more\n"})
    new = repository.commit({"app.txt": "two\n"}, "two")
    repository.git("tag", "-a", "-m", "first", "v1", old)
    before = snapshot(server.root), snapshot(repository.path)
    surveys = [
        look_ahead(server, reference, old, TMPDIR=str(temporary)) for reference in ("main", "v1", new[:8].upper())
    ]
    assert (snapshot(server.root), snapshot(repository.path)) == before
    assert list(temporary.iterdir()) == []
    for outcome, reference in zip(surveys, ("main", "v1", new[:8].upper()), strict=True):
        assert outcome.exit_code == 0, outcome.output
        assert fetched(outcome.results) == server.found(reference)
    assert compared(surveys[0].results).brings_count == 3
    assert compared(surveys[1].results).brings_count == 0


def test_a_survey_borrows_what_the_mirror_has(repository: Repository, server: Server, temporary: Path) -> None:
    lost = repository.commit({"app.txt": "lost\n"})
    server.found("main")
    repository.git("reset", "--hard", "--quiet", "HEAD~1")
    # Only the mirror has it still.
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "--quiet", "--prune=now")
    outcome = look_ahead(server, lost[:9], TMPDIR=str(temporary))
    assert fetched(outcome.results) == server.found(lost[:9])


def test_a_survey_takes_nothing_from_the_mirror_of_another_repository(
    tmp_path: Path, repository: Repository, server: Server
) -> None:
    lost = repository.git("rev-parse", "HEAD")
    server.found()
    other = Repository(tmp_path / "git" / "other")
    other.commit({"other.txt": "1\n"})
    server.values["repository"] = str(other.path)
    assert look_ahead(server, lost).exit_code == Code.UNKNOWN_REVISION


def test_a_survey_does_without_a_damaged_mirror_and_leaves_it_as_it_is(
    repository: Repository, server: Server, temporary: Path
) -> None:
    server.found()
    repository.commit({"app.txt": "two\n"})
    for path in (Path(server.place.mirror) / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"rubbish")
    before = snapshot(server.root)
    outcome = look_ahead(server, TMPDIR=str(temporary))
    assert outcome.exit_code == 0, outcome.output
    assert fetched(outcome.results).revision == repository.git("rev-parse", "HEAD")
    assert snapshot(server.root) == before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("reference", ["nowhere", "main~1", "HEAD~1", "0" * 40, "-", ODD])
def test_a_survey_refuses_what_fetch_refuses_in_the_same_words(server: Server, temporary: Path, reference: str) -> None:
    looked = look_ahead(server, reference, TMPDIR=str(temporary))
    assert list(temporary.iterdir()) == []
    assert not server.root.exists()
    outcome = server.fetch(reference)
    assert (looked.exit_code, looked.message) == (outcome.exit_code, outcome.message)


def test_a_survey_of_an_unreachable_repository_says_so(tmp_path: Path, server: Server, temporary: Path) -> None:
    server.values["repository"] = str(tmp_path / "gone")
    looked = look_ahead(server, TMPDIR=str(temporary))
    assert looked.exit_code == Code.REPOSITORY_UNREACHABLE
    assert looked.message == f"the build server could not fetch from the repository {tmp_path}/gone"
    assert list(temporary.iterdir()) == []


def test_a_survey_names_linked_files_and_tools_that_are_missing(server: Server) -> None:
    server.build["linked_files"] = ("key",)
    assert look_ahead(server).message == server.fetch().message
    assert f"are missing on the build server: {server.place.shared}/key" in look_ahead(server).message
    server.build |= {"linked_files": (), "recipe": "django", "env": {**server.build["env"], "PYTHON": "no-such-python"}}
    assert look_ahead(server).exit_code == Code.TOOL_MISSING


def test_a_survey_without_room_for_its_copy_says_where(tmp_path: Path, server: Server) -> None:
    looked = look_ahead(server, TMPDIR=str(tmp_path / "nowhere"))
    assert looked.exit_code == Code.MIRROR_UNUSABLE
    assert f"{tmp_path}/nowhere/deploytool-plan." in looked.message


def test_credentials_of_a_survey_are_seen_nowhere(
    tmp_path: Path, server: Server, guarded: str, watched: Callable[[], str]
) -> None:
    server.values["repository"] = f"http://us%20er:p%40ss%27w@{guarded}/shop"
    server.build["path"] = (str(tmp_path / "watched"),)
    looked = look_ahead(server)
    assert looked.exit_code == 0, looked.output
    for seen in (looked.output, *looked.results, watched()):
        assert "ss'w" not in seen
        assert "ss%27w" not in seen


def test_a_survey_that_is_ended_leaves_nothing_behind(tmp_path: Path, server: Server, temporary: Path) -> None:
    """In the midst of the fetch: a git that hangs once it has begun."""
    programs = tmp_path / "programs"
    programs.mkdir()
    real = subprocess.run(["sh", "-c", "command -v git"], capture_output=True, text=True, check=True).stdout.strip()
    hang = f'case " $* " in *" fetch "*) touch "{tmp_path}/begun"; sleep 60 ;; esac'
    (programs / "git").write_text(f'#!/bin/sh\n{hang}\nexec {real} "$@"\n')
    (programs / "git").chmod(0o755)
    server.build["path"] = (str(programs),)
    step = preview(server.settings, server.place, "main")
    (tmp_path / "script").write_text(step.script)
    # As the worker starts and ends it: a group of its own, and the signal to all of it.
    process = subprocess.Popen(
        ["bash", "-c", 'exec 3>/dev/null; exec bash -euo pipefail "$1"', "bash", str(tmp_path / "script")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    assert list(temporary.iterdir()) != []
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) != 0
    assert list(temporary.iterdir()) == []
