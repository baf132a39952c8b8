"""The key files of a host, as far as they are there."""

import os
from dataclasses import dataclass, field

from deploytool.connection.ssh_config import Host


@dataclass(slots=True)
class Identities:
    """The identity files of a host that there are."""

    #: private keys that can be used as they are
    usable: list[str] = field(default_factory=list)
    #: with a passphrase
    locked: list[str] = field(default_factory=list)
    #: public halves, whose key an agent has, and kinds that need hardware
    foreign: list[str] = field(default_factory=list)
    #: with a certificate beside
    certified: list[str] = field(default_factory=list)


def identities(host: Host) -> Identities:
    """Raises LookupError for a token that is not known here."""
    import paramiko

    found = Identities()
    for path in host.paths("identityfile"):
        if os.path.isfile(f"{path}-cert.pub"):
            found.certified.append(path)
        if not os.path.isfile(path):
            if os.path.isfile(f"{path}.pub"):
                found.foreign.append(path)
            continue
        try:
            paramiko.PKey.from_path(path)
            found.usable.append(path)
        except (paramiko.PasswordRequiredException, TypeError):
            # TypeError is what cryptography raises for a passphrase that it lacks.
            found.locked.append(path)
        except Exception:
            found.foreign.append(path)
    return found
