"""The manifests of a deployment, or of a probe, in the bus: what hosts run comes from here, whatever an event says.

They are put there before `wanted` names their statement; `templates/app-server/receive.sh` reads them.
"""

from __future__ import annotations

from typing import Dict

from .bus import Bus
from .wire import Signed


def place(prefix: str, deployment: str) -> str:
    """Below this key they are. No role's name has a dot, so none is in the way of a role's own keys."""
    return "{}/deployments/{}/.manifests/".format(prefix, deployment)


def publish(bus: Bus, prefix: str, deployment: str, manifests: Dict[str, str], signed: Signed) -> None:
    """`manifests`: name → text, as the statement names them."""
    at = place(prefix, deployment)
    texts = {**manifests, "statement": signed.statement}
    if signed.signature is not None:
        texts["signature"] = signed.signature
    for name, text in texts.items():
        # `consul kv get` prints a value and ends its line: so a host has the very bytes.
        bus.put(at + name, text[: -len("\n")])
