"""The `fab` command: Fabric's own, which names deploytool's version and outlasts whoever reads its output."""

import sys
from collections.abc import Callable
from contextlib import suppress

from deploytool.streams import outlast_readers


def main() -> None:
    """Run Fabric's program. Never returns: it ends with `SystemExit`."""
    outlast_readers()
    from fabric.main import program

    as_fabric_does: tuple[Callable[[], None], Callable[[], None]] = (program.print_version, program.parse_collection)
    program.print_version = lambda: _print_version(as_fabric_does[0])
    program.parse_collection = lambda: _parse_collection(as_fabric_does[1])
    program.run()
    sys.exit()


def _print_version(as_fabric_does: Callable[[], None]) -> None:
    from importlib.metadata import version

    print(f"deploytool {version('deploytool')}")
    as_fabric_does()


def _parse_collection(as_fabric_does: Callable[[], None]) -> None:
    from fabric.main import program

    if program.args.help.value is True:
        # Fabric prints its help without a look at the fabfile. One of ours adds how its commands use the flags; what
        # is wrong with a fabfile, any other command shows.
        with suppress(Exception):
            program.load_collection()
    as_fabric_does()
