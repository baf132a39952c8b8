"""The version before this one, from the repository's history."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from deploytool.playground.parts import CHECKOUT

#: What the last round ended with.
COMMIT = "51f413c"


def version_before(directory: Path) -> dict[str, str]:
    """Put it below the directory; returns the environment in which `fab` runs it."""
    command = ["git", "archive", COMMIT, "deploytool", "templates"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, f"this needs the repository's history: {done.stderr.decode()}"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(directory, filter="data")
    environment = {"PYTHONPATH": str(directory)}
    asked = [sys.executable, "-c", "import deploytool; print(deploytool.__file__)"]
    known = {**os.environ, **environment}
    found = subprocess.run(asked, env=known, cwd="/", capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(directory / "deploytool/__init__.py")
    return environment
