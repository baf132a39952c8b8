"""`make lock`: every package that the tool, its tests and its worker get from an index, with the hashes of its files.

Writes `requirements/*.txt` from `pyproject.toml`, and `deploytool/worker/pinned.py`. Versions that still fit stay; with
`--upgrade` the newest ones are taken. uv resolves for every platform and Python version at once, which pip can't; what
it writes pip reads.
"""

import argparse
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from deploytool.playground.parts import GO, NODE, SEAWEEDFS, ZIG
from deploytool.worker import pinned
from deploytool.worker.own_isal import VERSION, VERSION_FOR_LATER

ROOT = Path(__file__).parents[1]
REQUIREMENTS, PINNED = ROOT / "requirements", ROOT / "deploytool/worker/pinned.py"
HEAD = "# Written by `make lock`, which is also how to change it.\n"
#: pip and setuptools are those of `python -m venv`, renewed; an editable installation needs the last one.
BUILD = ("pip", "setuptools", "editables")
#: What the worker installs on build servers, for each Python that it runs under.
WORKER = {
    "BOTO3": ["boto3"],
    "ISAL": [f"isal=={VERSION}; python_version < '3.14'", f"isal=={VERSION_FOR_LATER}; python_version >= '3.14'"],
}
PINNED_HEAD = '''\
"""What the worker installs on a build server: exact versions, for each Python from 3.8 on, with the hashes of all their
files. Written by `make lock`.
"""
'''


def wanted() -> dict[str, list[str]]:
    """What each file of `requirements/` is made from, the larger ones first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    run = [*project["project"]["dependencies"], *project["build-system"]["requires"], *BUILD]
    dev = [*run, *extras["dev"]]
    return {
        "bench": [*dev, *extras["bench"]],
        "dev": dev,
        "run": run,
        "lock": ["uv"],
        "site": extras["site"],
        "package": extras["package"],
        "playground": [SEAWEEDFS, GO, NODE, ZIG],
    }


def resolved(requirements: Sequence[str], python: str, known: Path, *, upgrade: bool, constraint: Path | None) -> str:
    """Pins for all platforms, with hashes. `known` has the versions that stay if they fit."""
    command = ["uv", "pip", "compile", "-", "--universal", "--python-version", python, "--generate-hashes", "--quiet"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--output-file", str(known)]
    command += ["--upgrade"] if upgrade else []
    command += ["--constraints", str(constraint)] if constraint is not None else []
    subprocess.run(command, input="\n".join(requirements), text=True, check=True)
    return known.read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description="renew the lock files")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = parser.parse_args().upgrade
    REQUIREMENTS.mkdir(exist_ok=True)
    larger = None
    for name, requirements in wanted().items():
        file = REQUIREMENTS / f"{name}.txt"
        text = resolved(requirements, "3.11", file, upgrade=upgrade, constraint=larger)
        file.write_text(HEAD + text)
        larger = file if name in ("bench", "dev") else None
    parts = [PINNED_HEAD]
    for name, requirements in WORKER.items():
        scratch = REQUIREMENTS / f".{name.lower()}.txt"
        scratch.write_text(str(getattr(pinned, name)))
        text = resolved(requirements, "3.8", scratch, upgrade=upgrade, constraint=None)
        scratch.unlink()
        parts.append(f'{name} = r"""\n{text}"""\n')
    PINNED.write_text("\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
