"""Whether what came over the line is an answer of our worker's. Pure."""

from collections.abc import Mapping
from typing import Any

from deploytool.worker import wire
from deploytool.worker.shapes import fits


def is_answer(do: str, message: Mapping[str, Any]) -> bool:
    """Whether a message may be one to the request `do`: it tells an event, or answers, or fails."""
    if "event" in message:
        return do in wire.EVENTS and fits(message["event"], wire.EVENTS[do])
    if "error" in message:
        return fits(message["error"], wire.Trouble)
    return fits(message.get("ok"), wire.ANSWERS[do])
