"""What Fabric's connection can do of that which a host's configuration asks for."""

import os
from collections.abc import Mapping

from deploytool.connection import openssh
from deploytool.connection.identities import identities
from deploytool.connection.known_hosts import known_keys
from deploytool.connection.ssh_config import Host

#: What only OpenSSH's client knows.
OPENSSH_ONLY = (
    "CertificateFile",
    "PKCS11Provider",
    "KnownHostsCommand",
    "RevokedHostKeys",
    "BindAddress",
    "BindInterface",
)


def uses_agent(host: Host) -> bool:
    """Whether all of the agent's keys may be tried."""
    return host.options.get("identityagent") != ("none",) and not host.has("identitiesonly")


def asks_for_openssh(host: Host, answers: Mapping[str, str | None]) -> str | None:
    """Why it takes OpenSSH's client; None if Fabric's connection does. What neither a file nor this shows (GSSAPI, a
    code that is asked for), shows when Fabric is refused."""
    known = known_keys(host)
    if known.has_authority:
        return "known_hosts has a certificate authority for it"
    chosen = openssh.strictness(host)
    if chosen != "yes" and not known.keys:
        return f"its host key is not known yet, and StrictHostKeyChecking is {chosen}"
    for option in OPENSSH_ONLY:
        if host.one(option.lower()):
            return f"{option} is set"
    if host.has("proxyusefdpass") and host.one("proxycommand"):
        return "ProxyUseFdpass is set"
    if host.one("verifyhostkeydns") in ("yes", "true", "ask"):
        return "VerifyHostKeyDNS is set"
    if host.one("pubkeyauthentication") in ("no", "false"):
        return "PubkeyAuthentication is switched off"
    agent = host.one("identityagent")
    agent = os.environ.get(agent[1:], "") if agent.startswith("$") else agent
    if agent and os.path.expanduser(agent) not in ("SSH_AUTH_SOCK", os.environ.get("SSH_AUTH_SOCK")):
        return "IdentityAgent is set"
    if (shared := host.one("controlpath")) and os.path.exists(os.path.expanduser(shared)):
        return "a connection is shared (ControlPath)"
    try:
        keys = identities(host)
        if not host.jumps and (line := host.one("proxycommand")):
            host.expand(line)
    except LookupError as token:
        return f"a token or variable that only ssh knows: {token}"
    if keys.certified:
        return f"there is a certificate for {keys.certified[0]}"
    only = host.has("identitiesonly")
    for path in keys.foreign:
        # ssh looks for its usual names anyway.
        if only or not os.path.basename(path).startswith("id_"):
            return f"the private half of {path} is not a file that Fabric can use"
    if only and keys.locked and not answers.get("passphrase"):
        return f"{keys.locked[0]} has a passphrase, and IdentitiesOnly is set: an agent may have that key"
    return None
