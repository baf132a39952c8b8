"""Whole commands on releases that hosts would hide, or that hold nothing: refused before anybody hears of them."""

import json
from pathlib import Path

import pytest

from tests.support.local import HOSTS, Local

COMPILES = "mkdir -p public/assets && echo made >public/assets/app.js"


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def releases(local: Local) -> list[str]:
    return sorted(path.parent.name for path in (local.directory / "var/store/releases").glob("*/*.tar.gz"))


def test_compiled_assets_that_hosts_would_hide_are_never_announced(local: Local) -> None:
    local.settings["build"]["assets"] = [COMPILES]
    local.settings["linked_dirs"] = ["public/assets"]
    local.write()
    done = local.fab("local", "deploy")
    assert done.code == 4
    assert "link a path of shared/ over what the build made: public/assets hides public/assets/app.js" in done.err
    assert "take public/assets out of `linked_dirs`" in done.err
    assert releases(local) == []
    assert set(local.served().values()) == {None}
    local.settings["build"]["exclude"] = ["public/assets"]
    local.write()
    done = local.fab("local", "deploy")
    assert done.code == 0, done.err


def test_release_that_is_used_again_is_judged_by_the_linked_paths_of_now(local: Local) -> None:
    local.settings["build"]["assets"] = [COMPILES]
    local.write()
    assert local.fab("local", "deploy").code == 0
    assert local.fab("local", "deploy", "--json").code == 0
    assert len(releases(local)) == 1
    local.settings["linked_dirs"] = ["public/assets"]
    local.write()
    done = local.fab("local", "deploy")
    assert done.code == 4
    assert "building again: public/assets is linked now" in done.err
    assert "public/assets hides public/assets/app.js" in done.err
    # Where it hides nothing, the same is built once more, and used again from then on.
    local.settings["linked_dirs"] = ["public/uploads"]
    local.write()
    assert local.fab("local", "deploy").code == 0
    assert len(releases(local)) == 2
    done = local.fab("local", "deploy")
    assert done.code == 0
    assert "reusing release" in done.err


def test_release_of_another_environment_is_refused_where_hosts_would_hide_its_files(local: Local) -> None:
    local.settings["build"]["assets"] = [COMPILES]
    local.write()
    (local.directory / "config/other.yml").write_text("linked_dirs: [public/assets]\ndeploy_to: /pretend/host/other\n")
    done = local.fab("local", "deploy")
    assert done.code == 0, done.err
    assert "other links public/assets over what this build made there" in done.err
    done = local.fab("other", "deploy", "--from", "local")
    assert done.code == 4
    assert "the hosts of other would link public/assets from shared/ over what the build of" in done.err
    done = local.fab("other", "plan")
    assert done.code == 4
    assert "the hosts of other would link public/assets" in done.out


def test_files_of_the_revision_that_hosts_hide_get_a_note(local: Local) -> None:
    local.settings["linked_dirs"] = ["public/system", "log"]
    local.write()
    local.repository.commit({"public/system/logo.png": "x", "log/.keep": ""})
    note = "the hosts link public/system from shared/, which hides what the revision has there: public/system/logo.png"
    done = local.fab("local", "plan")
    assert done.code == 0, done.err
    assert note in done.out
    planned = json.loads(local.fab("local", "plan", "--json").out)
    assert planned["hidden"] == {"public/system": ["public/system/logo.png"]}
    done = local.fab("local", "deploy")
    assert done.code == 0, done.err
    assert note in done.err
    assert all((local.host(name) / "current/public/system").is_symlink() for name in HOSTS)


def test_workspace_that_installs_elsewhere_is_no_release_of_zero_bytes(local: Local) -> None:
    local.repository.commit({"package.json": "{}", "web/package.json": '{"dependencies": {"a": "1"}}'})
    local.settings["subdirectory"] = "web"
    local.settings["build"]["dependencies"] = ["mkdir -p ../node_modules/a && touch ../node_modules/a/index.js"]
    local.write()
    done = local.fab("local", "deploy")
    assert done.code == 4
    assert "the build put node_modules outside of the application's directory" in done.err
    assert releases(local) == []


def test_virtual_environment_that_is_tied_to_the_work_tree_is_never_announced(local: Local) -> None:
    script = "mkdir -p bin && printf '#!%s/venv/bin/python\\n' \"$PWD\" >bin/serve && chmod +x bin/serve"
    local.settings["build"]["assets"] = [script]
    local.write()
    done = local.fab("local", "deploy")
    assert done.code == 4
    assert "1 file of the release names the place where it was built: bin/serve" in done.err
    assert "uv venv --relocatable" in done.err
    local.settings["build"]["allow_paths"] = ["bin/*"]
    local.write()
    assert local.fab("local", "deploy").code == 0


def test_check_doubts_a_linked_directory_that_builds_make(local: Local) -> None:
    local.settings["linked_dirs"] = ["vendor"]
    local.write()
    done = local.fab("local", "check")
    assert "linked_dirs has vendor, where builds put what a release needs" in done.out
