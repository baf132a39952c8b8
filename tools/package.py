"""`make package`: builds sdist and wheel into dist/, has twine check them, and tries the wheel as a user would.

For each Python, the wheel is installed into a clean environment with the locked dependencies. There `fab --list` lists
the commands in a directory that has a fabfile of one line, `deploytool init` writes settings, and `deploytool help`
shows a page.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
FABFILE = "from deploytool.tasks import namespace\n"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What it printed; exits if it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build() -> Path:
    """The wheel, which was made from the sdist."""
    shutil.rmtree(DIST, ignore_errors=True)
    # hatchling is locked, and installed beside `build`: no environment of its own that takes the newest one.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST)
    files = sorted(DIST.iterdir())
    print(run(sys.executable, "-m", "twine", "check", "--strict", *files).rstrip())
    (wheel,) = DIST.glob("*.whl")
    return wheel


def install(wheel: Path, python: str, environment: Path) -> Path:
    """Where the programs are."""
    run(python, "-m", "venv", environment)
    pip = (environment / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--require-hashes", "--requirement", ROOT / "requirements/run.txt")
    run(*pip, "--no-deps", wheel)
    run(environment / "bin/python", "-m", "pip", "check")
    return environment / "bin"


def try_out(programs: Path, directory: Path) -> str:
    """What `deploytool --version` prints; ends if something is missing from the wheel."""
    directory.mkdir()
    (directory / "fabfile.py").write_text(FABFILE)
    listed = run(programs / "fab", "--list", cwd=directory)
    (directory / "fabfile.py").unlink()
    run(programs / "deploytool", "init", "--recipe", "static", cwd=directory)
    written = {path.name for path in directory.rglob("*") if path.is_file()}
    topics = run(programs / "deploytool", "help", cwd=directory)
    page = run(programs / "deploytool", "help", "concepts", cwd=directory)
    checks = {
        "fab --list": "deploy" in listed,
        "deploytool init": {"fabfile.py", "deploy.yml"} <= written,
        "deploytool help": "concepts" in topics and page.startswith("# Concepts"),
    }
    if failed := [name for name, good in checks.items() if not good]:
        sys.exit(f"in a clean environment these don't do what they should: {', '.join(failed)}")
    # The manifest's template comes with the wheel.
    run(programs / "deploytool", "init", "--template", cwd=directory)
    return run(programs / "deploytool", "--version").strip()


def main() -> int:
    parser = argparse.ArgumentParser(description="build, check and try the packages")
    parser.add_argument("--python", action="append", help="a Python to try the wheel with; may be repeated")
    pythons = parser.parse_args().python or [sys.executable]
    wheel = build()
    for python in pythons:
        version = run(python, "-c", "import platform; print(platform.python_version())").strip()
        with tempfile.TemporaryDirectory() as name:
            said = try_out(install(wheel, python, Path(name) / "environment"), Path(name) / "shop")
        print(f"Python {version}: installed and tried: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
