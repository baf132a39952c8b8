"""`relocate_virtualenv`, as the file that it is: on a virtual environment made by hand, with no pip."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "templates/build/relocate_virtualenv.py"


@pytest.fixture
def application(tmp_path: Path) -> Path:
    """An application with a virtual environment `env`, one console script and one package."""
    application = tmp_path / "a place"
    packages = application / "env/lib/python3/site-packages"
    put(application / "env/bin/hello", f"#!{application}/env/bin/python\nprint('hello')\n")
    put(application / "env/bin/activate.fish", "")
    (application / "env/bin/python").symlink_to(sys.executable)
    put(application / "env/pyvenv.cfg", f"home = /usr/bin\ncommand = /usr/bin/python3 -m venv {application}/env\n")
    put(packages / "hello/__pycache__/hello.pyc", "")
    put(packages / "hello-1.dist-info/RECORD", "hello/__pycache__/hello.pyc,,\n../../../bin/hello,sha256=x,1\n")
    (application / "env/bin/hello").chmod(0o755)
    return application


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def relocate(application: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), "env"]
    return subprocess.run(command, cwd=application, capture_output=True, text=True, check=False, timeout=60)


def test_console_script_runs_wherever_the_environment_comes_to_lie(application: Path, tmp_path: Path) -> None:
    done = relocate(application)
    assert (done.returncode, done.stderr) == (0, "")
    moved = application.rename(tmp_path / "another place")
    said = subprocess.run([moved / "env/bin/hello"], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout == "hello\n"
    assert str(application) not in "".join(
        path.read_text() for path in moved.rglob("*") if path.is_file() and not path.is_symlink()
    )
    assert sorted(path.name for path in (moved / "env/bin").iterdir()) == ["activate", "hello", "python"]


def test_activate_finds_the_environment_that_it_lies_in(application: Path, tmp_path: Path) -> None:
    relocate(application)
    moved = application.rename(tmp_path / "another place")
    script = '. "$0/env/bin/activate"; echo "$VIRTUAL_ENV"; deactivate; echo "${VIRTUAL_ENV-none}"'
    said = subprocess.run(["bash", "-c", script, moved], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.splitlines() == [f"{moved}/env", "none"]


def test_list_of_installed_files_says_what_is_there(application: Path) -> None:
    relocate(application)
    (row,) = next(application.rglob("RECORD")).read_text().splitlines()
    name, digest, size_bytes = row.split(",")
    assert (name, int(size_bytes)) == ("../../../bin/hello", (application / "env/bin/hello").stat().st_size)
    assert digest.startswith("sha256=")
    assert digest != "sha256=x"


def test_path_of_the_application_itself_becomes_relative(application: Path) -> None:
    packages = application / "env/lib/python3/site-packages"
    put(packages / "own.pth", f"{application}/src\n/elsewhere\n")
    assert relocate(application).returncode == 0
    first, second = (packages / "own.pth").read_text().splitlines()
    assert (packages / first).resolve() == application / "src"
    assert second == "/elsewhere"


def test_file_that_still_names_the_place_is_refused(application: Path) -> None:
    put(application / "env/lib/python3/site-packages/__editable___own.py", f"SRC = '{application}/src'\n")
    done = relocate(application)
    assert done.returncode == 1
    assert "env/lib/python3/site-packages/__editable___own.py: holds the build's path" in done.stderr
    assert "--editable" in done.stderr
