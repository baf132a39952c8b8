"""A user event as somebody fires it who has a seat in the gossip and no token of Consul's: a packet to each agent.

Consul checks the right to fire events in its servers' RPC alone; what serf spreads comes from anybody who has the key
of the gossip. The formats are those of hashicorp/memberlist (security.go, net.go), hashicorp/serf (messages.go) and
Consul's agent (user_event.go).
"""

import base64
import os
import socket
import struct
from collections.abc import Iterable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_USER_MESSAGE = 8
_USER_EVENT = 3
_ENCRYPTED_WITHOUT_PADDING = 1


def fire(ports: Iterable[int], key: str, name: str, payload: str, *, time: int) -> None:
    """Hand the event to the agents at these ports of loopback. `time` is later than that of any event before."""
    event = {"ID": "11111111-2222-3333-4444-555555555555", "n": name, "p": payload.encode(), "v": 1}
    told = {"LTime": time, "Name": f"consul:event:{name}", "Payload": packed(event), "CC": False}
    message = bytes([_USER_MESSAGE, _USER_EVENT]) + packed(told)
    nonce = os.urandom(12)
    sealed = AESGCM(base64.b64decode(key)).encrypt(nonce, message, None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in ports:
            sender.sendto(bytes([_ENCRYPTED_WITHOUT_PADDING]) + nonce + sealed, ("127.0.0.1", port))


def packed(value: object) -> bytes:
    """MessagePack of before it knew the difference of texts and bytes, as Consul reads it."""
    match value:
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return b"\xcf" + struct.pack(">Q", value)
        case str():
            return packed(value.encode())
        case bytes():
            return b"\xdb" + struct.pack(">I", len(value)) + value
        case dict():
            return b"\xdf" + struct.pack(">I", len(value)) + b"".join(packed(x) for each in value.items() for x in each)
    raise TypeError(value)
