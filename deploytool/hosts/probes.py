"""Manifests that change nothing and only ask a host: what it is (`check`), what it serves (`status --probe`). Pure."""

from typing import TYPE_CHECKING

from deploytool.hosts.manifest import hosts_url, made_up_release, role_manifest
from deploytool.hosts.scripts import (
    BUS,
    PROBE_PARTS,
    PROVE_PARTS,
    each_item,
    host_part,
    lists_of,
    marked,
    shell_quote,
    values_of,
)
from deploytool.hosts.yaml_text import yaml_scalar
from deploytool.model.release import DeploymentId, consul_prefix, probe_archive_key, sha256
from deploytool.text.compressions import COMPRESSIONS

if TYPE_CHECKING:
    from deploytool.settings import Settings

_NEWER = "newer-than-1.1.0-is-known-by-its-templates"


def unpacking_programs(settings: "Settings") -> tuple[str, ...]:
    """What a host needs to unpack an archive."""
    return ("tar", *COMPRESSIONS[settings.build.compression].programs)


def render_probe(settings: "Settings", role: str, probe: DeploymentId) -> str:
    """A manifest for `fab ENV check`: the host says what it is and what it lacks, and nothing is changed.

    stretcher gets `probe_archive` from the store, as it would an archive. `pre` answers and fails, so that nothing is
    unpacked; where stretcher does not come so far, the failure hook answers.

    This one does hold braces: a stretcher that takes them for a template is newer than 1.1.0, which is all that one
    tells of itself that was built without its own Makefile. The user's template has no part in it.
    """
    deploy_to = settings.deploy_to_of(role)
    bus_directory = (settings.consul.address or "").partition("file://")[2]
    values = {
        "application": settings.application,
        "environment": settings.environment,
        "role": role,
        "deployment": probe,
        "deploy_to": deploy_to,
        "shared_path": f"{deploy_to}/shared",
        "consul_prefix": consul_prefix(settings.application, settings.environment),
        "bus_directory": bus_directory,
        "newer": _NEWER,
    }
    bus = "directory" if bus_directory else "consul"
    lines = [
        *(f"{name}={shell_quote(value)}" for name, value in values.items()),
        each_item("linked_files", ((path,) for path in settings.linked_files)),
        each_item("unpacking_programs", ((name,) for name in unpacking_programs(settings))),
        *(host_part(bus if part == BUS else part) for part in PROBE_PARTS),
    ]

    def script(phase: str) -> str:
        return yaml_scalar(marked([f"probe_phase={phase}", *lines], probe), 6).replace(_NEWER, "{{`yes`}}")

    src = hosts_url(settings, probe_archive_key(settings.environment, probe, role))
    head = f"src: {yaml_scalar(src, 2)}\nchecksum: {sha256(probe_archive(probe))}\ndest: ../.deploytool.probe\n"
    return _PROBE.format(f"{head}sync_strategy: mv\n", script("pre")) + f"  failure:\n    - {script('failure')}\n"


def probe_archive(probe: DeploymentId) -> str:
    """It is fetched and compared, and never unpacked."""
    return f"deploytool asks, {probe}\n"


def render_proof(settings: "Settings", role: str, probe: DeploymentId) -> str:
    """A manifest for `fab ENV status --probe`: the host proves anew what it serves, and nothing else changes.

    It does so by what the deployment said that brought it; by these settings only where that has left nothing behind.
    """
    manifest = role_manifest(settings, role, made_up_release(settings), probe)
    bus = "directory" if manifest.bus_directory else "consul"
    parts = (host_part(bus if part == BUS else part) for part in PROVE_PARTS)
    script = [*values_of(manifest), *lists_of(manifest, "failure"), *parts]
    return _PROBE.format("", yaml_scalar(marked(script, probe), 6))


_PROBE = "# A probe by deploytool: it changes nothing.\n{}commands:\n  pre:\n    - {}\n"
