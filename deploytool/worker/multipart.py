"""One large object on its way to S3: parts go up while the next ones are still being made. Keeps few in memory.

The object appears whole or not at all: whatever goes wrong, the upload is given up, and S3 forgets its parts. Parts are
repeated by botocore's own retries.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Callable, Dict, List, Protocol, Set, Tuple

from .s3_faults import Digests

#: S3 takes parts of 5 MiB and more, 10,000 of them.
PART_BYTES = 8 << 20
#: Every thousand parts they become larger by `PART_BYTES`, so that 400 GiB fit; all are equal in whatever is usual, as
#: some servers want them.
PARTS_OF_ONE_SIZE = 1000
#: So many parts are under way at once; one more is being filled.
THREADS = 4

#: How long a failed upload waits for its parts under way before S3 is told to forget it.
PARTS_END_SECONDS = 2.0

#: In the object's metadata: whose it is, if the answer to the last request gets lost. A name, and no secret.
TOKEN = "deploytool-upload"  # noqa: S105

#: S3's words for a name that exists, or just now comes to exist
TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict")


class Source(Protocol):
    """What is uploaded."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of the buffer; 0 only at its end, if it is whole. Raises if it isn't, or is not wanted any more."""


class Taken(Exception):
    """The name exists, and is another's."""


def part_bytes(number: int) -> int:
    """How large the part of that number is, the first being 1."""
    return PART_BYTES * (1 + (number - 1) // PARTS_OF_ONE_SIZE)


def fill(source: Source, buffer: bytearray) -> int:
    """Read until the buffer is full or the source at its end; how many bytes there are now."""
    length = 0
    with memoryview(buffer) as view:
        while length < len(buffer):
            more = source.readinto(view[length:])
            if more == 0:
                break
            length += more
    return length


def send(
    client: Any,
    where: Dict[str, str],
    first: bytearray,
    source: Source,
    *,
    new: Dict[str, Any],
    digests: Digests,
    begun: Callable[[str], None],
    go_on: Callable[[], None],
) -> None:
    """Upload `first`, a whole part, and all that follows it in the source.

    `where` names bucket and key, `new` is what the object is to have, by boto3's names. `begun` is told the upload's id
    before any part is sent; `go_on` raises to stop it. Raises Taken, botocore's exceptions and the source's.
    """
    token = os.urandom(16).hex()
    upload_id = client.create_multipart_upload(Metadata={TOKEN: token}, **where, **new)["UploadId"]
    try:
        begun(upload_id)
        parts = _send_parts(client, {**where, "UploadId": upload_id}, first, source, digests, go_on)
        _complete(client, where, upload_id, parts, token)
    except BaseException:
        give_up(client, where, upload_id)
        raise


def give_up(client: Any, where: Dict[str, str], upload_id: str) -> None:
    """Have S3 forget the upload and its parts, if it can be reached; one that it doesn't know is forgotten already."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    # Whatever made it necessary is the news.
    with contextlib.suppress(BotoCoreError, ClientError, ResponseParserError):
        client.abort_multipart_upload(UploadId=upload_id, **where)


def _send_parts(
    client: Any,
    named: Dict[str, str],
    first: bytearray,
    source: Source,
    digests: Digests,
    go_on: Callable[[], None],
) -> List[Dict[str, Any]]:
    """What S3 answered for each part, in order."""
    parts: List[Dict[str, Any]] = []
    spare: List[bytearray] = []
    pending: "Set[Future[Tuple[Dict[str, Any], bytearray]]]" = set()

    def send_one(number: int, content: bytearray) -> Tuple[Dict[str, Any], bytearray]:
        # A bytearray goes to the socket as it is, and can be sent again. botocore wraps `bytes` in a file, which is
        # read 16 KB at a time.
        answer = digests.send(client.upload_part, content, PartNumber=number, **named)
        return {"PartNumber": number, "ETag": answer["ETag"]}, content

    def collect(at_most: int) -> None:
        """Wait until no more than so many are under way. Raises what one of them ended with."""
        nonlocal pending
        while len(pending) > at_most:
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            for each in done:
                part, content = each.result()
                parts.append(part)
                spare.append(content)
            go_on()

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            number, content, length = 1, first, len(first)
            while length > 0:
                if length < len(content):
                    del content[length:]
                whole = len(content) == part_bytes(number)
                pending.add(pool.submit(send_one, number, content))
                if not whole:
                    break
                number += 1
                collect(THREADS)
                content = spare.pop() if spare else bytearray()
                if len(content) != part_bytes(number):
                    content = bytearray(part_bytes(number))
                length = fill(source, content)
            collect(0)
        except BaseException:
            for each in pending:
                each.cancel()
            # Parts under way would make some of it come back: S3 is told now, so that they end, and again afterwards.
            wait(pending, timeout=PARTS_END_SECONDS)
            give_up(client, {"Bucket": named["Bucket"], "Key": named["Key"]}, named["UploadId"])
            raise
    return sorted(parts, key=lambda part: int(part["PartNumber"]))


def _complete(client: Any, where: Dict[str, str], upload_id: str, parts: List[Dict[str, Any]], token: str) -> None:
    from botocore.exceptions import ClientError, ParamValidationError

    request = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}, **where}
    try:
        try:
            client.complete_multipart_upload(IfNoneMatch="*", **request)
        except ParamValidationError:
            # boto3 before 1.35 has no conditional completion.
            client.complete_multipart_upload(**request)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NotImplemented":
                raise
            client.complete_multipart_upload(**request)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        if code not in (*TAKEN, "NoSuchUpload", "404"):
            raise
        # A request that botocore repeated, as its answer got lost, finds the work done.
        if client.head_object(**where).get("Metadata", {}).get(TOKEN) == token:
            return
        if code in TAKEN:
            raise Taken from error
        raise
