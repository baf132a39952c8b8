"""Opens what a manifest's URL names: file, http, https and s3. The only module here that touches the network."""

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote_to_bytes

from deploytool import __version__
from deploytool.playground.receiver import ReceiverError


class Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Url:
    """A URL as stretcher reads it."""

    text: str
    scheme: str
    host: str
    #: Decoded.
    path: str
    query: str


def parse_url(text: str) -> Url:
    """Raise ReceiverError if it is none. Not `urlsplit`, which silently drops spaces and control characters."""
    parts = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", text, re.DOTALL)
    is_wrong = parts is None or re.search(r"[\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})", text)
    if parts is None or is_wrong or " " in (parts[2] or ""):
        raise ReceiverError(f"{text!r} is not a URL.")
    path = os.fsdecode(unquote_to_bytes(parts[3].encode(errors="surrogateescape")))
    return Url(text, parts[1].lower(), parts[2] or "", path, parts[4] or "")


@contextmanager
def opened(url: Url, environment: Mapping[str, str]) -> Iterator[Readable]:
    """The content that `url` names. Raise ReceiverError if it can't be opened or breaks off.

    The status of an HTTP answer does not count, as with stretcher: the text of a 404 is content like any other.
    """
    try:
        match url.scheme:
            case "file":
                with Path(url.path).open("rb") as file:
                    yield file
            case "http" | "https":
                with _http(url) as answer:
                    yield answer
            case "s3":
                with _s3(url, environment) as body:
                    yield body
            case _:
                raise ReceiverError(f"{url.text}: the scheme must be file, http, https or s3.")
    except (OSError, http.client.HTTPException) as error:
        # urllib's own errors are OSErrors.
        raise ReceiverError(f"{url.text} can't be downloaded: {error}.") from error


@contextmanager
def _http(url: Url) -> Iterator[Readable]:
    question = f"?{url.query}" if url.query else ""
    # Only what can't stand in a request line; what was encoded stays as it was.
    path = re.sub(r"[^!-~]", lambda found: quote(found[0], errors="surrogateescape"), _encoded_path(url))
    # http or https: whoever calls has looked.
    request = urllib.request.Request(  # noqa: S310
        f"{url.scheme}://{url.host}{path}{question}", headers={"User-Agent": f"deploytool-receiver/{__version__}"}
    )
    try:
        answer = urllib.request.urlopen(request)  # noqa: S310
    except urllib.error.HTTPError as refusal:
        answer = refusal
    with answer:
        yield answer


def _encoded_path(url: Url) -> str:
    after_host = url.text[len(url.scheme) + 3 + len(url.host) :]
    return re.split(r"[?#]", after_host, maxsplit=1)[0]


@contextmanager
def _s3(url: Url, environment: Mapping[str, str]) -> Iterator[Readable]:
    # Takes a fifth of a second, and boto3 may be missing where no s3 URL is used.
    try:
        import boto3
        import botocore.exceptions
    except ImportError as error:
        raise ReceiverError(f"{url.text}: reading from S3 needs boto3, which is not installed.") from error
    try:
        # boto3 does not look at AWS_REGION, stretcher's SDK does so first. An endpoint that is an IP address gets path
        # style by itself.
        client = boto3.session.Session(region_name=environment.get("AWS_REGION") or None).client("s3")
        answer = client.get_object(Bucket=url.host, Key=url.path.lstrip("/"))
        with answer["Body"] as body:
            yield body
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, ValueError) as error:
        raise ReceiverError(f"{url.text} can't be downloaded: {error}.") from error
