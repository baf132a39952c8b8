"""The wheel in an environment of its own; `make package` does the same with locked dependencies and twine."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from deploytool import __version__

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From the files that git knows or would take, in a directory of their own."""
    made = tmp_path_factory.mktemp("package")
    tree = made / "tree"
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    assert listed.returncode == 0, listed.stderr
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    done = run(sys.executable, "-m", "hatchling", "build", "--directory", made / "dist", cwd=tree)
    assert done.returncode == 0, done.stderr
    return made / "dist"


@pytest.fixture(scope="module")
def programs(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel in it; dependencies are those of the environment of the tests."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    assert run(sys.executable, "-m", "venv", "--without-pip", environment).returncode == 0
    (wheel,) = dist.glob("*.whl")
    python = environment / "bin/python"
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stderr
    (site,) = environment.glob("lib/python3*/site-packages")
    (dependencies,) = (path for path in map(Path, sys.path) if path.name == "site-packages")
    # Behind the wheel's own directory, and without its .pth files, of which one names this checkout.
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    fab = environment / "bin/fab"
    fab.write_text(f"#!{python}\nimport sys\nfrom fabric.main import program\nsys.exit(program.run())\n")
    fab.chmod(0o755)
    where = run(python, "-c", "import deploytool; print(deploytool.__file__)", cwd=environment)
    assert where.stdout.startswith(str(site)), where
    return environment / "bin"


def test_sdist_has_license_and_tests_and_nothing_that_git_does_not_know(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/conftest.py", "templates/manifest.yml.j2"} <= names
    assert not [name for name in names if name.startswith((".venv", ".tools", "var/", "dist/"))]


def test_installed_wheel_lists_commands_in_a_directory_that_has_only_a_fabfile(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "fabfile.py").write_text("from deploytool.tasks import namespace\n")
    done = run(programs / "fab", "--list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "deploy" in done.stdout


def test_installed_wheel_has_templates_and_begins_a_project(programs: Path, tmp_path: Path) -> None:
    done = run(programs / "deploytool", "init", "--recipe", "static", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "config/deploy.yml").is_file()
    done = run(programs / "deploytool", "init", "--template", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "templates/manifest.yml.j2").read_text() == (ROOT / "templates/manifest.yml.j2").read_text()
    assert run(programs / "deploytool", "--version").stdout == f"deploytool {__version__}\n"


def test_installed_wheel_shows_every_page(programs: Path, tmp_path: Path) -> None:
    listed = run(programs / "deploytool", "help", cwd=tmp_path)
    topics = [line.split()[0] for line in listed.stdout.splitlines() if line.startswith("  ")]
    assert {f"{topic}.md" for topic in topics} == {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    shown = run(programs / "deploytool", "help", topics[0], cwd=tmp_path)
    assert shown.stdout == (ROOT / f"docs/{topics[0]}.md").read_text()
    unknown = run(programs / "deploytool", "help", "nothing", cwd=tmp_path)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "There is no page 'nothing'." in unknown.stderr
