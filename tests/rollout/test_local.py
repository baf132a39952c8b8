"""The embedded default: no sshd, no S3, no Consul; pretend hosts and a directory for everything."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from deploytool.worker.own_isal import VERSION
from tests.support.fab import Result
from tests.support.local import HOSTS, Local


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def test_local_deploy_needs_no_server(local: Local) -> None:
    result = local.fab("local", "deploy", "--json")
    assert result.code == 0, result.err
    assert {host["verdict"] for host in result.json["hosts"]} == {"verified"}
    assert local.served() == dict.fromkeys(HOSTS, "1")
    local.repository.commit({"VERSION": "2"})
    assert local.fab("local", "deploy").code == 0
    assert local.served() == dict.fromkeys(HOSTS, "2")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_mirror_that_another_user_has_made_first_runs_nothing(local: Local, tmp_path: Path) -> None:
    mirror = local.directory / "var/build/tiny/repository.git"
    subprocess.run(["git", "clone", "--quiet", "--mirror", local.repository.directory, mirror], check=True)
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch '{tmp_path}/sprung'\nexec git-upload-pack \"$@\"\n")
    trap.chmod(0o755)
    subprocess.run(["git", "-C", mirror, "config", "remote.origin.uploadpack", trap], check=True)
    for path in (mirror, *mirror.rglob("*")):
        os.chown(path, 42424, 42424)
    before = sorted((local.directory / "var/build").rglob("*"))
    result = local.fab("local", "build")
    assert not (tmp_path / "sprung").exists()
    assert result.code == 5
    assert f"{mirror} belongs to 42424, not to root: its owner can have commands run as root" in result.err
    assert f"chown -hR root '{mirror}'" in result.err
    assert result.err == local.fab("local", "build").err
    left = [path for path in sorted((local.directory / "var/build").rglob("*")) if ".worker" not in path.parts]
    assert left == before, "nothing was made but the worker"
    checked = local.fab("local", "check")
    assert (checked.code, "belongs to 42424" in checked.out + checked.err) == (5, True)


def test_tampered_archive_is_not_migrated_with_and_leaves_nothing(local: Local, tmp_path: Path) -> None:
    local.settings["build"]["migrate"] = [f"sh ./migrate '{tmp_path}/migrated'"]
    local.write()
    local.repository.commit({"migrate": 'echo ours >>"$1"\n'})
    assert local.fab("local", "deploy").code == 0
    (archive,) = (local.directory / "var/store").rglob("*.tar.gz")
    with tarfile.open(archive, "w:gz") as forged:
        evil = tarfile.TarInfo("./migrate")
        evil.size, evil.mode = 17, 0o6755
        forged.addfile(evil, io.BytesIO(b'echo evil >>"$1"\n'))
    before = {path: path.lstat().st_mtime_ns for path in (local.directory / "var/store").rglob("*")}
    result = local.fab("local", "migrate")
    assert result.code == 4
    assert "the archive in the store is not the one that was built: " in result.err
    assert "nothing of it was unpacked" in result.err
    assert (tmp_path / "migrated").read_text() == "ours\n"
    assert list((local.directory / "var/build/tiny/unpacked").rglob("*/*")) == []
    assert {path: path.lstat().st_mtime_ns for path in (local.directory / "var/store").rglob("*")} == before
    assert local.served() == dict.fromkeys(HOSTS, "1")


def test_local_deploy_needs_neither_rsync_nor_curl_nor_consul(local: Local, tmp_path: Path) -> None:
    needed = ["sh", "bash", "dash", "git", "tar", "gzip", "sed", "grep", "find", "cmp", "id", "tail", "env", "python3"]
    coreutils = [
        "cat",
        "chmod",
        "cp",
        "cut",
        "date",
        "dd",
        "df",
        "dirname",
        "basename",
        "expr",
        "false",
        "head",
        "ln",
        "ls",
        "mkdir",
        "mktemp",
        "mv",
        "printf",
        "readlink",
        "realpath",
        "rm",
        "rmdir",
        "sha256sum",
        "sleep",
        "sort",
        "stat",
        "sync",
        "tee",
        "test",
        "timeout",
        "touch",
        "tr",
        "true",
        "uname",
        "wc",
        "base64",
        "nproc",
        "uniq",
        "comm",
        "xargs",
    ]
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in (*needed, *coreutils):
        found = shutil.which(name)
        if found and not (programs / name).exists():
            (programs / name).symlink_to(found)
    result = local.fab("local", "deploy", "--json", env={"PATH": str(programs)})
    assert result.code == 0, result.err
    assert local.served() == dict.fromkeys(HOSTS, "1")


def test_local_failing_host_is_undone_and_the_printed_command_puts_it_right(local: Local) -> None:
    assert local.fab("local", "deploy").code == 0
    local.repository.commit({"VERSION": "2"})
    broken = local.host("app2") / "shared/broken"
    broken.write_text("")
    local.settings["roles"]["web"]["hooks"] = {"post": ["test ! -e '{{ shared_path }}/broken'"]}
    local.write()
    result = local.fab("local", "deploy")
    assert result.code == 8
    assert local.served() == {"app1": "2", "app2": "1", "app3": "2"}
    line = next(line for line in result.out.splitlines() if line.endswith("  try these hosts again"))
    broken.unlink()
    assert local.fab(*line.partition("fab ")[2].partition("  ")[0].split()).code == 0
    assert local.served() == dict.fromkeys(HOSTS, "2")


def test_local_migration_failure_changes_no_host_and_puts_wanted_back(local: Local) -> None:
    assert local.fab("local", "deploy").code == 0
    wanted = (local.directory / "var/consul/deploytool/tiny/local/wanted/web.value").read_text()
    local.repository.commit({"VERSION": "2"})
    local.settings["build"]["migrate"] = ["exit 3"]
    local.write()
    result = local.fab("local", "deploy", "--json")
    assert result.code == 4
    assert {host["verdict"] for host in result.json["hosts"]} == {"aborted"}
    assert local.served() == dict.fromkeys(HOSTS, "1")
    assert (local.directory / "var/consul/deploytool/tiny/local/wanted/web.value").read_text() == wanted


def test_reason_for_an_unsigned_release_says_something(local: Local) -> None:
    for command in ("deploy", "rollback", "promote", "migrate"):
        refused = local.fab("local", command, "--force", " ")
        assert (refused.code, "--force needs a reason" in refused.err) == (2, True), refused.err


def test_local_check_is_all_well(local: Local) -> None:
    result = local.fab("local", "check")
    assert result.code == 0, result.out
    assert "BAD" not in result.out


def test_pretend_hosts_must_be_named(local: Local) -> None:
    local.settings["roles"]["web"]["hosts"] = {"node_meta": {"role": "web"}}
    local.write()
    result = local.fab("local", "deploy")
    assert result.code == 7
    assert "pretend hosts have names and nothing else" in result.err


def test_quote_in_the_projects_path_has_a_sentence(tmp_path: Path) -> None:
    odd = Local(tmp_path / "it's")
    odd.settings["wait"]["fetch_seconds"] = 2
    odd.write()
    result = odd.fab("local", "deploy", "--json")
    assert result.code != 0
    assert json.loads(result.out)["error"]["message"]


# --- the compressor

NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


def compressor_line(result: Result) -> str:
    (text,) = [check["text"] for check in result.json["checks"] if check["name"] == "compressor"]
    assert isinstance(text, str)
    return text


def test_deploy_says_what_compresses_in_place_of_the_tools_own(local: Local) -> None:
    own = f"python-isal {VERSION}"
    plan = local.fab("local", "plan")
    assert f"the build installs {own} on the build server first" in plan.out
    assert not (local.directory / "var/build").exists()
    result = local.fab("local", "build", env=NO_INDEX)
    assert result.code == 0, result.err
    assert f"install {own} …" in result.err
    sentence = f"compresses the archives, because {own} can't be installed for "
    assert sentence in result.err
    # It is said each time, and not tried again each time.
    again = local.fab("local", "build", "--rebuild")
    assert sentence in again.err
    assert f"install {own}" not in again.err
    assert sentence in local.fab("local", "plan", "--branch", local.repository.commit({"VERSION": "2"})).out
    # `check` tries at once, and says the same where it fails.
    assert sentence in compressor_line(local.fab("local", "check", "--json", env=NO_INDEX))
    assert compressor_line(local.fab("local", "check", "--json")) == own
    # The compressor is an input of the build.
    built = local.fab("local", "build")
    assert "built release" in built.err
    assert "compresses" not in built.err
    planned = local.fab("local", "plan", "--json").json
    assert planned["compressor"] == {"name": own, "ready": True, "warning": None}


def test_commands_that_build_nothing_install_no_compressor(local: Local) -> None:
    assert local.fab("local", "deploy").code == 0
    (own,) = (local.directory / "var/build/.worker").glob("isal-*-*[0-9]")
    shutil.rmtree(own)
    for command in (("status",), ("releases",), ("settings",), ("cleanup",), ("freeze", "--why", "x"), ("thaw",)):
        assert local.fab("local", *command).code == 0
    # No build is needed for these bytes, but a deploy has to know what would compress.
    assert not own.exists()
    assert local.fab("local", "deploy").code == 0
    assert own.exists()
