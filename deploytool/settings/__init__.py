"""What the user said: `config/*.yml` (or `config/deploy/*.yml`), loaded, merged and validated into frozen `Settings`.

`files` reads, `model` says what a setting is, `checks` holds the rules between settings, `templates` tries the
templates in them, `load` tells the story. Only `files` is imported with the package: `fab --list` asks for the
environments' names and must not wait for pydantic.
"""

import importlib
from typing import TYPE_CHECKING

from deploytool.settings.files import environments

if TYPE_CHECKING:
    from deploytool.settings.load import EffectiveSetting, effective_settings, load_every_environment, load_settings
    from deploytool.settings.model import Build, Consul, Hooks, Hosts, Role, Settings, Store, Verify, Wait
    from deploytool.settings.templates import TEMPLATE_NAMES

__all__ = [
    "TEMPLATE_NAMES",
    "Build",
    "Consul",
    "EffectiveSetting",
    "Hooks",
    "Hosts",
    "Role",
    "Settings",
    "Store",
    "Verify",
    "Wait",
    "effective_settings",
    "environments",
    "load_every_environment",
    "load_settings",
]

_MODULE_OF = {
    "TEMPLATE_NAMES": "templates",
    **dict.fromkeys(("EffectiveSetting", "effective_settings", "load_every_environment", "load_settings"), "load"),
    **dict.fromkeys(("Build", "Consul", "Hooks", "Hosts", "Role", "Settings", "Store", "Verify", "Wait"), "model"),
}


def __getattr__(name: str) -> object:
    """The slow half of the package, imported when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
