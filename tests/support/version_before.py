"""The version before this one, from the repository's history."""

import os
import subprocess
import sys
from pathlib import Path

from deploytool.playground.parts import CHECKOUT

#: What the last round ended with.
COMMIT = "51f413c"


def version_before(directory: Path) -> dict[str, str]:
    """Put it below the directory; returns the environment in which `fab` runs it."""
    command = ["git", "archive", COMMIT, "deploytool", "templates"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, f"this needs the repository's history: {done.stderr.decode()}"
    directory.mkdir()
    subprocess.run(["tar", "-x"], input=done.stdout, cwd=directory, check=True, timeout=60)
    environment = {"PYTHONPATH": str(directory)}
    asked = [sys.executable, "-c", "import deploytool; print(deploytool.__file__)"]
    known = {**os.environ, **environment}
    found = subprocess.run(asked, env=known, cwd="/", capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(directory / "deploytool/__init__.py")
    return environment
