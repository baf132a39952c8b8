"""`python -m deploytool.playground.receiver`: stretcher's place on a pretend host, for one event from stdin.

Exit status: 0, also when it failed but `consul watch` has started it (CONSUL_INDEX is set), since the watch would end
otherwise; 1 when it failed; 2 when it was called wrongly.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from deploytool import __version__
from deploytool.playground.receiver import ReceiverError
from deploytool.playground.receiver.commands import Cancellation, Shell, environment_as_given
from deploytool.playground.receiver.journal import Journal
from deploytool.playground.receiver.placeholders import parse as parse_placeholder
from deploytool.playground.receiver.run import Receiver


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m deploytool.playground.receiver", description="Execute the stretcher manifest that stdin names."
    )
    parser.add_argument(
        "--map",
        metavar="FROM=TO",
        action="append",
        default=[],
        help="a placeholder path in the manifest, and the path that takes its place; may be given several times",
    )
    parser.add_argument(
        "--no-template", action="store_true", help="take the manifest as it is, as stretcher 1.1.0 and older do"
    )
    parser.add_argument("--version", action="version", version=f"deploytool-receiver {__version__}")
    said = parser.parse_args(arguments)
    try:
        placeholders = [parse_placeholder(each) for each in said.map]
    except ReceiverError as error:
        parser.error(str(error))

    cancellation = Cancellation()
    cancellation.listen()
    journal = Journal()
    environment = environment_as_given()
    receiver = Receiver(
        journal=journal,
        cancellation=cancellation,
        shell=Shell(journal, cancellation, environment),
        environment=environment,
        placeholders=placeholders,
        expands_templates=not said.no_template,
    )
    try:
        receiver.receive(lambda size: os.read(0, size))
    except ReceiverError as error:
        journal.say(str(error))
        return 0 if environment.get("CONSUL_INDEX") else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
