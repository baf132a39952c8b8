"""The `deploytool` command: what is needed before there is a fabfile, and the documentation. All else is `fab`."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from deploytool.cli.completion import SCRIPTS
from deploytool.cli.manual import show
from deploytool.errors import DeployError
from deploytool.settings.recipes import RECIPES
from deploytool.streams import outlast_readers


class _Parser(argparse.ArgumentParser):
    """A command line may have been put together of what others wrote, and a mistake in it is quoted."""

    def error(self, message: str) -> NoReturn:
        # A shell that starts needs only its script, and makes no mistake.
        from deploytool.text.untrusted import one_line

        super().error(one_line(message))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, which means what `fab`'s do."""
    outlast_readers()
    parser = _Parser(
        prog="deploytool", description="Build once on one server, publish to S3, and let every app server pull."
    )
    parser.add_argument("--version", action="version", version=f"deploytool {version('deploytool')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="init|completion|help")

    starting = commands.add_parser(
        "init",
        help="write fabfile.py and settings for the application in this directory; overwrites nothing",
        description="Looks at the application in this directory and writes fabfile.py and its settings, with a "
        "proposal for each value that no flag gives. Existing files stay as they are.",
    )
    starting.add_argument("--application", metavar="NAME", help="its name")
    starting.add_argument("--repository", metavar="URL", help="its git repository, as the build server reaches it")
    starting.add_argument("--branch", metavar="REF", help="the branch to deploy by default")
    starting.add_argument("--deploy-to", metavar="PATH", help="the directory on app servers")
    starting.add_argument("--recipe", choices=RECIPES, help="how it is built")
    starting.add_argument("--server", metavar="USER@HOST", help="the build server, or local")
    starting.add_argument("--store", metavar="URL", help="the store of releases: s3://bucket/prefix")
    starting.add_argument(
        "--template", action="store_true", help="only copy the manifest's template to templates/, to change it there"
    )

    completing = commands.add_parser(
        "completion", help="print a script with which a shell completes fab's command lines"
    )
    completing.add_argument("shell", choices=SCRIPTS)

    helping = commands.add_parser("help", help="list the pages of the documentation, or show one of them")
    helping.add_argument(
        "topic", nargs="?", default="", metavar="TOPIC", help="the name of a page: concepts, settings, …"
    )

    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "completion":
                print(SCRIPTS[options.shell], end="")
            case "init":
                _init(options)
            case "help":
                show(options.topic)
    except DeployError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _init(options: argparse.Namespace) -> None:
    # These need pydantic; a shell that starts needs only its script.
    from deploytool.init.init import copy_template, init
    from deploytool.init.proposal import Given
    from deploytool.screen.console import tell

    def say(line: str) -> None:
        tell(sys.stdout, line)

    if options.template:
        copy_template(Path.cwd(), say)
        return
    given = Given(
        application=options.application,
        repository=options.repository,
        branch=options.branch,
        deploy_to=options.deploy_to,
        recipe=options.recipe,
        server=options.server,
        store=options.store,
    )
    init(Path.cwd(), given, say)


if __name__ == "__main__":
    sys.exit(main())
