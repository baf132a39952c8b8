"""What the commands of a build are sure to put into a release, because a lock file asks for it. Pure."""

import re
from typing import TYPE_CHECKING

from deploytool.settings.recipes import RECIPES
from deploytool.worker.wire import Demand

if TYPE_CHECKING:
    from deploytool.settings.model import Build

# Commands that put what a lock file names into the application's directory.
_BUNDLES = re.compile(r"(?m)(?:^|[\s;&|])bundle(?:\s+(?:_\S+_\s+)?install\b|\s*$)")
_NODE_INSTALLS = re.compile(
    r"(?m)(?:^|[\s;&|])(?:npm (?:ci|install|i)|pnpm (?:install|i)|yarn(?: install)?|bun install)\b"
)
_REMOVES_MODULES = re.compile(r"\brm\b.*node_modules(?!/)|rimraf.*node_modules(?!/)")


def demands(build: "Build") -> list[Demand]:
    """What the commands of a build are sure to put into the release, with the lock files that ask for it.

    One of `unless` in the application's directory says that it is done in another way. Nothing is asked where commands
    are not known: a static site may have a package.json for its developers alone.
    """
    installing, all_commands = "\n".join(build.dependencies), "\n".join((*build.dependencies, *build.assets))
    found: list[Demand] = []
    gems = build.env.get("BUNDLE_PATH", "")
    if gems and not gems.startswith(("/", "~", "$", "..")) and _BUNDLES.search(installing):
        found.append(Demand(gems, locks=["Gemfile.lock"], unless=[]))
    if build.recipe == "node" and _NODE_INSTALLS.search(installing) and not _REMOVES_MODULES.search(all_commands):
        locks = ["package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock", "bun.lockb"]
        found.append(Demand("node_modules", locks=locks, unless=[".pnp.cjs", ".pnp.js"]))
    if build.recipe == "django" and RECIPES["django"].dependencies[0] in build.dependencies:
        found.append(Demand("venv", locks=["requirements.txt"], unless=[]))
    return found
