"""What people have in their git configuration and environment: a build gives the same tree with each of them."""

import os
import subprocess
from pathlib import Path

import pytest

from deploytool.build.stages import checkout, compare, compared, fetch, fetched
from deploytool.build.stages.preview import preview
from deploytool.connection.step import Code, explain
from tests.support.stage_server import Repository, Server, ended, run

#: settings that change what git does, prints or asks, each seen in somebody's ~/.gitconfig or a distribution's /etc
SETTINGS = [
    "color.ui=always",
    "core.abbrev=4",
    "core.bigFileThreshold=1",
    "core.commentChar=auto",
    "core.fileMode=false",
    "core.fsmonitor=true",
    "core.hooksPath=/hooks",
    "core.ignoreCase=true",
    "core.ignoreStat=true",
    "core.precomposeUnicode=true",
    "core.preferSymlinkRefs=true",
    "core.protectNTFS=true",
    "core.quotePath=true",
    "core.safecrlf=true",
    "core.sharedRepository=group",
    "core.sparseCheckout=true",
    "core.splitIndex=true",
    "core.symlinks=false",
    "core.trustctime=false",
    "core.untrackedCache=true",
    "core.warnAmbiguousRefs=true",
    "clone.defaultRemoteName=upstream",
    "checkout.defaultRemote=upstream",
    "diff.ignoreSubmodules=all",
    "diff.mnemonicPrefix=true",
    "diff.noprefix=true",
    "diff.relative=true",
    "diff.renames=copies",
    "feature.manyFiles=true",
    "fetch.all=true",
    "fetch.fsckObjects=true",
    "fetch.output=compact",
    "fetch.prune=false",
    "fetch.pruneTags=true",
    "fetch.recurseSubmodules=true",
    "fetch.writeCommitGraph=true",
    "gc.auto=1",
    "grep.fullName=true",
    "grep.lineNumber=true",
    "i18n.logOutputEncoding=ISO-8859-1",
    "index.sparse=true",
    "index.version=4",
    "init.defaultBranch=trunk",
    "init.templateDir=/templates",
    "log.date=relative",
    "log.decorate=full",
    "log.follow=true",
    "log.mailmap=true",
    "log.showSignature=true",
    "ls-refs.unborn=ignore",
    "protocol.version=0",
    "push.recurseSubmodules=check",
    "remote.pushDefault=upstream",
    "safe.bareRepository=explicit",
    "status.relativePaths=false",
    "status.showUntrackedFiles=no",
    "status.submoduleSummary=true",
    "submodule.active=nothing",
    "submodule.fetchJobs=4",
    "submodule.propagateBranches=true",
    "submodule.recurse=true",
    "submodule.alternateLocation=superproject",
    "tag.forceSignAnnotated=true",
    "transfer.hideRefs=refs/pull",
]
#: what a hook, a CI runner or a login shell leaves in the environment
ENVIRONMENT = [
    "GIT_DIR=/elsewhere/.git",
    "GIT_WORK_TREE=/elsewhere",
    "GIT_INDEX_FILE=/elsewhere/index",
    "GIT_OBJECT_DIRECTORY=/elsewhere/objects",
    "GIT_COMMON_DIR=/elsewhere/.git",
    "GIT_NAMESPACE=elsewhere",
    "GIT_CEILING_DIRECTORIES=/",
    "GIT_CONFIG_COUNT=1",
    "GIT_CONFIG_PARAMETERS='core.bare=true'",
    "GIT_DEFAULT_HASH=sha256",
    "GIT_LITERAL_PATHSPECS=1",
    "GIT_GLOB_PATHSPECS=1",
    "GIT_NOGLOB_PATHSPECS=1",
    "GIT_ICASE_PATHSPECS=1",
    "GIT_QUARANTINE_PATH=/elsewhere/incoming",
    "GIT_PAGER=false",
    "GIT_EXTERNAL_DIFF=false",
    "GIT_DIFF_OPTS=-U0",
    "GIT_OPTIONAL_LOCKS=0",
    "GIT_ATTR_NOSYSTEM=1",
    "GIT_ATTR_SOURCE=main",
    "GIT_EDITOR=false",
    "GIT_INDEX_VERSION=4",
    "GIT_REDIRECT_STDOUT=/elsewhere/out",
    "LC_ALL=tr_TR.UTF-8",
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """With whatever such settings touch: links, modes, odd names, submodules, a file that is gone, tags."""
    top = tmp_path_factory.mktemp("git")
    lib = Repository(top / "lib")
    lib.commit({"lib.txt": "lib\n"})
    made = Repository(top / "shop")
    made.commit({"gone.txt": "gone\n", "app.txt": "1\n", "run.sh": "#!/bin/sh\n", "Readme": "same\n"})
    made.git("tag", "--annotate", "v1", "--message", "1")
    made.git("submodule", "--quiet", "add", "../lib", "lib")
    made.git("rm", "--quiet", "gone.txt")
    made.git("mv", "Readme", "README")
    (made.path / "link").symlink_to("app.txt")
    files = {
        "app.txt": "2\n",
        'ünïcode/名前 "x"': "odd\n",
        "A.txt": "upper\n",
        "a.txt": "lower\n",
        ".gitignore": "*.log\n",
        ".gitattributes": "crlf.txt eol=crlf\n",
    }
    made.commit({**files, "x.log": "1\n", "crlf.txt": "a\r\nb\r\n"}, "Zürich €")
    made.git("add", "--force", "x.log")
    made.git("update-index", "--chmod=+x", "run.sh")
    made.git("commit", "--quiet", "--amend", "--no-edit")
    made.git("checkout", "--quiet", "--force", "main")
    return made


def tree_of(server: Server) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(server.tree.rglob("*")):
        name = str(path.relative_to(server.tree))
        if ".git" in Path(name).parts:
            continue
        mode = path.lstat().st_mode & 0o777
        found[name] = (
            (str(path.readlink()) if path.is_symlink() else mode)
            if path.is_symlink() or path.is_dir()
            else (
                mode,
                path.read_bytes(),
            )
        )
    return found


def built(repository: Repository, root: Path, environ: dict[str, str]) -> tuple[object, ...]:
    """Two builds one after the other, as a build server has them, and what is told before them."""
    server = Server(root, str(repository.path), env={})
    first = repository.git("rev-parse", "v1^{commit}")
    looked = fetched(run(preview(server.settings, server.place, "main", first), **environ).results)
    trees = []
    for reference in ("v1", "main", "main"):
        outcome = run(fetch(server.settings, server.place, reference), **environ)
        assert outcome.exit_code == 0, outcome.output
        found = fetched(outcome.results)
        outcome = run(checkout(server.settings, server.place, found), **environ)
        assert outcome.exit_code == 0, (outcome.message, outcome.output)
        trees.append(tree_of(server))
    between = compared(run(compare(server.settings, server.place, first, found.revision), **environ).results)
    return looked, found, between, trees


@pytest.fixture(scope="module")
def plain(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    return built(repository, tmp_path_factory.mktemp("plain"), {})


@pytest.mark.parametrize("first", range(0, len(SETTINGS), 9))
def test_settings_in_somebodys_git_configuration_change_nothing(
    tmp_path: Path, repository: Repository, plain: tuple[object, ...], first: int
) -> None:
    config = tmp_path / "config"
    for setting in SETTINGS[first : first + 9]:
        name, _, value = setting.partition("=")
        subprocess.run(["git", "config", "--file", str(config), name, value], check=True)
    assert built(repository, tmp_path / "build", {"GIT_CONFIG_GLOBAL": str(config)}) == plain


@pytest.mark.parametrize("first", range(0, len(ENVIRONMENT), 7))
def test_variables_of_a_hook_or_a_ci_runner_change_nothing(
    tmp_path: Path, repository: Repository, plain: tuple[object, ...], first: int
) -> None:
    elsewhere = tmp_path / "elsewhere"
    some = [each.replace("/elsewhere", str(elsewhere)) for each in ENVIRONMENT[first : first + 7]]
    environ = dict(each.split("=", 1) for each in some)
    if "GIT_CONFIG_COUNT" in environ:
        environ |= {"GIT_CONFIG_KEY_0": "core.bare", "GIT_CONFIG_VALUE_0": "true"}
    assert built(repository, tmp_path / "build", environ) == plain
    assert not elsewhere.exists()


def test_repository_whose_objects_are_not_clean_says_which_check_refuses_it(tmp_path: Path) -> None:
    """Trees of an old tool with `040000` as the mode, and `transfer.fsckObjects` on the build server."""
    repository = Repository(tmp_path / "git")
    repository.commit({"dir/a": "1"})
    inner = bytes.fromhex(repository.git("rev-parse", "HEAD:dir"))
    made = (
        subprocess.run(
            ["git", "-C", str(repository.path), "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
            input=b"040000 dir\0" + inner,
            capture_output=True,
            check=True,
        )
        .stdout.decode()
        .strip()
    )
    repository.git("update-ref", "refs/heads/main", repository.git("commit-tree", "-m", "odd", made))
    server = Server(tmp_path / "build", str(repository.path))
    config = tmp_path / "config"
    config.write_text("[transfer]\nfsckObjects = true\n")
    outcome = run(fetch(server.settings, server.place, "main"), GIT_CONFIG_GLOBAL=str(config))
    assert outcome.exit_code == Code.MIRROR_UNUSABLE
    said = explain(outcome.step, ended(outcome.exit_code, outcome.results, outcome.output.splitlines()))
    assert "git config --global fetch.fsck.zeroPaddedFilemode ignore" in (said.hint or "")
    subprocess.run(["git", "config", "--file", str(config), "fetch.fsck.zeroPaddedFilemode", "ignore"], check=True)
    assert run(fetch(server.settings, server.place, "main"), GIT_CONFIG_GLOBAL=str(config)).exit_code == 0
    assert os.path.isdir(server.place.mirror)
