"""`deploytool` as pip installs it, away from this checkout; and its completion in a real bash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploytool.playground.playground import Application, Playground, PlaygroundRole
from tests.support.project import Project

CHECKOUT = Path(__file__).parents[2]
#: what stands beside Python: fab
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has put the package; what it needs besides is this environment's."""
    place = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(place), str(CHECKOUT)], check=True)
    return place


def start(installed: Path, directory: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a program on the installed package, to its end."""
    path = f"{installed / 'bin'}:{PROGRAMS}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def run(installed: Path, directory: Path, *command: str) -> str:
    """The same, for what must go well; returns what it printed."""
    done = start(installed, directory, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_installed_package_has_all_that_a_new_project_needs(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "python", "-c", "import deploytool; print(deploytool.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    (tmp_path / "package.json").write_text("{}")
    assert "(there is a package.json)" in run(installed, tmp_path, "deploytool", "init")
    listed = run(installed, tmp_path, "fab", "--list").splitlines()
    assert listed[:6] == [
        "Type an environment, then a command: fab production deploy",
        "",
        "Environments:",
        "  production   config/production.yml",
        "  staging      config/staging.yml",
        "",
    ]
    assert all(len(line) < 80 for line in listed), "a line of help would wrap"
    run(installed, tmp_path, "deploytool", "init", "--template")
    assert (tmp_path / "templates/manifest.yml.j2").read_text() == (CHECKOUT / "templates/manifest.yml.j2").read_text()
    # What the manifests carry to the hosts is there, too.
    script = "from deploytool.hosts.scripts import own_templates as t; print(len(list((t() / 'host').glob('*.sh'))))"
    assert int(run(installed, tmp_path, "python", "-c", script)) == len(
        list((CHECKOUT / "templates/host").glob("*.sh"))
    )


def test_module_and_command_are_the_same(installed: Path, tmp_path: Path) -> None:
    by_module = run(installed, tmp_path, "python", "-m", "deploytool", "completion", "fish")
    assert by_module == run(installed, tmp_path, "deploytool", "completion", "fish")


def test_wrong_flag_is_exit_code_2_and_writes_nothing(installed: Path, tmp_path: Path) -> None:
    done = start(installed, tmp_path, "deploytool", "init", "--server", "a b")
    assert (done.returncode, done.stdout) == (2, "")
    assert "build.server: must look like user@host" in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- completion

#: Does what bash does when Tab is pressed at the end of a line: splits it, calls the function that is registered for
#: its first word, and shows what that function leaves in COMPREPLY.
TAB = r"""
eval "$(deploytool completion bash)"
registered=$(complete -p fab)
[[ $registered =~ -F\ ([^ ]+) ]] && function=${BASH_REMATCH[1]}
COMP_LINE=$1 COMP_POINT=${#1}
read -ra COMP_WORDS <<<"${1//=/ = }"
[[ $1 == *[\ =] ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"$function" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def tab(project: Project, typed: str) -> list[str]:
    environment = {**project.environment(), "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", typed],
        cwd=project.directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_environments_commands_flags_releases_and_branches(
    playground: Playground, tmp_path: Path
) -> None:
    # Whose store holds no other test's releases.
    application = Application("tab", (PlaygroundRole("web", ("app1",)),))
    playground.add_application(application)
    project = Project(playground, tmp_path, application)
    project.write("staging")
    assert tab(project, "fab ") == ["playground", "staging"]
    assert tab(project, "fab st") == ["staging"]
    assert tab(project, "fab playground ro") == ["rollback"]
    assert tab(project, f"{PROGRAMS}/fab playground deploy --no-") == ["--no-migrate", "--no-wait"]
    assert tab(project, "fab playground deploy --from ") == ["staging"]
    assert tab(project, "fab playground deploy --release ") == []

    first = project.fab("playground", "build", "--json").json["release"]
    assert tab(project, "fab playground rollback --release ") == [first]
    project.repository.git("switch", "--quiet", "--create", "feature/x")
    project.repository.commit({"README": "hello again\n"})
    second = project.fab("playground", "build", "--branch", "feature/x", "--json").json["release"]
    assert project.fab("playground", "releases").code == 0
    # Nothing is asked of the build server, which is not there any more.
    project.change(lambda settings: settings["build"].update(server="nobody@127.0.0.1:1"))
    assert tab(project, "fab staging deploy --release ") == [second, first]
    assert tab(project, f"fab staging deploy --release={second[:-2]}") == [second]
    assert tab(project, "fab playground plan --branch fea") == ["feature/x"]
    assert tab(project, f"fab playground deploy --release {first} --bra") == ["--branch"]
