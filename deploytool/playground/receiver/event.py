"""What arrives on stdin: a line with the manifest's URL, or a list of Consul events whose last one carries it."""

import base64
import binascii
import json
from collections.abc import Callable, Iterator

from deploytool.playground.receiver import ReceiverError

_CHUNK_BYTES = 65536


def manifest_url(read: Callable[[int], bytes], *, is_watch: bool) -> str:
    """The URL that stdin names; `read` returns up to that many bytes, none at its end.

    Reads no further than needed: the other end may stay open. `is_watch` says that `consul watch` has started us.
    Raise ReceiverError if there is no event.
    """
    chunks = _chunks(read)
    text = next(chunks, b"")
    if not text:
        raise ReceiverError("stdin is empty: it must hold the manifest's URL or a list of Consul events.")
    if is_watch or text.startswith(b"["):
        return _last_payload(_first_json(text, chunks))
    while b"\n" not in text and (chunk := next(chunks, b"")):
        text += chunk
    return text.split(b"\n")[0].decode(errors="surrogateescape")


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(_CHUNK_BYTES):
        yield chunk


def _first_json(text: bytes, chunks: Iterator[bytes]) -> object:
    """The first JSON value; what follows it does not count."""
    while True:
        try:
            value: object = json.JSONDecoder().raw_decode(text.decode().lstrip())[0]
        except RecursionError as error:
            raise ReceiverError("stdin holds no list of Consul events: it is nested too deeply.") from error
        except ValueError as error:
            # Perhaps only a part has come so far.
            chunk = next(chunks, b"")
            if not chunk:
                raise ReceiverError(f"stdin holds no list of Consul events: {error}.") from error
            text += chunk
        else:
            return value


def _last_payload(events: object) -> str:
    if events is None or events == []:
        raise ReceiverError("The list of Consul events on stdin is empty.")
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise ReceiverError("stdin holds JSON, but no list of Consul events.")
    payload = {str(name).lower(): value for name, value in events[-1].items()}.get("payload") or ""
    try:
        if not isinstance(payload, str):
            raise TypeError("it is not text")
        return base64.b64decode(payload.replace("\r", "").replace("\n", ""), validate=True).decode(
            errors="surrogateescape"
        )
    except (TypeError, ValueError, binascii.Error) as error:
        raise ReceiverError(f"The payload of the last Consul event is not base64: {error}.") from error
