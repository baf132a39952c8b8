"""Directories that a build makes, and that Capistrano's users link from `shared/` all the same. Pure.

There each host builds, and a linked `vendor/bundle` saves time. Here a release comes with all of it, and a link to
`shared/` would cover that on every host: the host would serve an empty directory, or an old one.
"""

import posixpath
from collections.abc import Mapping

from deploytool.settings.recipes import ASSETS, PACKAGES, RECIPES

_COVERED = "and a link to shared/{} would hide them on every host"

#: path → what builds do there, whatever the recipe; see also `Recipe.builds`
BUILT: Mapping[str, str] = {
    **dict.fromkeys(("public/assets", "public/packs", "public/packs-test", "public/vite", "public/vite-test"), ASSETS),
    **dict.fromkeys(("public/build", "public/dist", "app/assets/builds"), ASSETS),
    **dict.fromkeys(("vendor/bundle", "vendor/javascript", "node_modules"), PACKAGES),
    ".bundle": "the build writes Bundler's configuration into it",
    "tmp/cache": "the build writes caches of this one release into it",
}
#: A directory above one of those: a link would cover it as well. `tmp` is none: no release comes with it.
ABOVE: Mapping[str, str] = {
    "public": "link those that users write to, such as public/uploads",
    "vendor": "the repository has what else is in it",
    "app": "the repository has what is in it",
    "app/assets": "the repository has what is in it",
}
#: Nothing below these is anybody's but the build's.
WHOLLY = ("vendor/bundle", "node_modules", ".bundle")


def made_by_the_build(name: str, recipe: str, static_root: str | None) -> str | None:
    """Why a linked directory is the build's, with what a link would do, as the rest of a sentence; None if it is not.

    `static_root`: where Django collects static files, if that is known.
    """
    path = posixpath.normpath(name)
    built = {**BUILT, **RECIPES[recipe].builds}
    if static_root is not None and recipe == "django":
        built[posixpath.normpath(static_root)] = "the build collects static files into it"
    whole = next((each for each in WHOLLY if path == each or path.startswith(f"{each}/")), path)
    if whole in built:
        return f"{built[whole]}, {_COVERED.format(path)}"
    inside = sorted(each for each in built if each.startswith(f"{path}/"))
    if inside and path != "tmp":
        above = f"; {ABOVE[path]}" if path in ABOVE else ""
        return f"the build makes {inside[0]} in it, {_COVERED.format(path)}{above}"
    return None
