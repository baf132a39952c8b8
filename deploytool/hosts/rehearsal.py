"""Manifests of every environment and role at once: of a release, or with made-up facts before there is one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deploytool.hosts.manifest import made_up_release, render_manifest
from deploytool.model.release import (
    NO_DEPLOYMENT,
    Release,
    built_manifest_key,
)
from deploytool.trust.signing import find_key

if TYPE_CHECKING:
    from deploytool.settings import Settings

#: a `manifest.yml.j2` here, in the user's own project, is used in place of ours
TEMPLATES = "templates"


def rehearse_manifests(every: "Mapping[str, Settings]") -> None:
    """Render every manifest with made-up facts, so that a mistake in a hook or a template shows at once.

    Raises SettingsError.
    """
    settings = next(iter(every.values()))
    render_all(every, made_up_release(settings))


def rehearse_deployment(settings: "Settings", every: "Mapping[str, Settings]") -> None:
    """The same, and whether this machine has a key that may sign for the environment. Raises SettingsError."""
    rehearse_manifests(every)
    find_key(settings)


def render_all(every: "Mapping[str, Settings]", release: Release) -> list[tuple[str, str]]:
    """Every environment's and role's manifest of a release, with its key in the store. Each is checked."""
    entries = []
    for environment, settings in every.items():
        for role in settings.roles:
            text = render_manifest(settings, role, release, NO_DEPLOYMENT, settings.directory / TEMPLATES)
            entries.append((built_manifest_key(release.id, environment, role), text))
    return entries
