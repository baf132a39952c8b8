"""The statement of a deployment: whose it is, and the sha256 of each of its manifests. Pure.

A host runs a manifest only if this names it; `wanted` holds the statement's own sha256, and with `trust.signers` it is
signed. `templates/app-server/receive.sh` reads it.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from deploytool.errors import ConsulError
from deploytool.model.release import DeploymentId, sha256
from deploytool.text import ids


def statement(
    application: str,
    environment: str,
    deployment: DeploymentId,
    manifests: Iterable[tuple[str, str]],
    hosts: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """`manifests`: names, as in `name_of`, and texts. A probe's id stands in a deployment's place.

    `hosts`, by role: it is for these alone; of a role that is not there, it is for all. Raises ConsulError for a name
    that would be read as something else.
    """
    for name in (name for names in hosts.values() for name in names):
        if not ids.NODE.fullmatch(name):
            raise ConsulError(f"{name!r} can't be the name of a host: nothing is signed for it")
    return "".join(
        [
            "deploytool statement 1\n",
            f"application {application}\n",
            f"environment {environment}\n",
            f"deployment {deployment}\n",
            *(f"hosts {role} {' '.join(names)}\n" for role, names in sorted(hosts.items())),
            *(f"manifest {name} {sha256(text)}\n" for name, text in sorted(manifests)),
        ]
    )


def name_of(role: str, *, kept: bool = False) -> str:
    """A manifest's name in the statement and in Consul; no role's name has a dot."""
    return f"{role}.kept" if kept else role
