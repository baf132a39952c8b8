"""A store in a bucket, `s3://bucket/prefix`, of S3 or of any server that speaks its protocol."""

from __future__ import annotations

import contextlib
import io
import os
import time
from typing import IO, Any, Callable, ContextManager, Dict, Iterator, List, Optional, Tuple, Union, cast
from urllib.parse import urlsplit

from . import multipart
from .failure import Failure
from .findings import Findings
from .packages import import_boto3
from .processes import Groups
from .s3_faults import Digests, Refused, told
from .store import Begun, already_there
from .wire import StoreSettings

#: boto3 gets these to decide that a server does not answer; the retries are botocore's own.
CONNECT_SECONDS = 10
READ_SECONDS = 30
ATTEMPTS = 3
#: Of what may be very long so many keys are listed first: the processor time of a listing is that of its keys.
FIRST_KEYS = 300


class S3Store:
    """See `Store`, whose methods these are."""

    def __init__(
        self,
        settings: StoreSettings,
        python_directory: str,
        groups: Groups,
        *,
        read_only: bool,
    ) -> None:
        """With `read_only` boto3 is not installed where it is missing."""
        parts = urlsplit(settings.url)
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
        self._where = settings.endpoint_url or "Amazon S3"
        import_boto3(python_directory, groups, read_only=read_only)
        import boto3
        from botocore.config import Config

        style = settings.addressing or ("path" if settings.endpoint_url else "auto")
        options: Dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"mode": "standard", "max_attempts": ATTEMPTS},
            "signature_version": "s3v4",
            "s3": {"addressing_style": style},
        }
        try:
            # Servers other than Amazon's do not know the checksums that newer boto3 sends unasked.
            config = Config(request_checksum_calculation="when_required", **options)
        except TypeError:
            config = Config(**options)
        keys = {}
        if settings.credentials:
            keys = {
                "aws_access_key_id": settings.credentials.access_key,
                "aws_secret_access_key": settings.credentials.secret_key,
                "aws_session_token": settings.credentials.token,
            }
        #: what every new object is written with
        self._new = dict(settings.written_with or {})
        self._digests = Digests()
        with self._faults("preparing"):
            self._client = boto3.session.Session(profile_name=settings.profile).client(
                "s3", endpoint_url=settings.endpoint_url, region_name=settings.region, config=config, **keys
            )
            if settings.requester_pays:
                self._client.meta.events.register("before-call.s3", _requester_pays)

    def _faults(self, doing: str) -> ContextManager[None]:
        return told(doing, self._bucket, self._where)

    def get(self, key: str) -> Optional[bytes]:
        from botocore.exceptions import ClientError

        with self._faults("reading {}".format(key)):
            try:
                body = self._client.get_object(**self._where_is(key))["Body"]
                return bytes(body.read())
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                    return None
                raise

    def exists(self, key: str) -> bool:
        from botocore.exceptions import ClientError

        with self._faults("looking for {}".format(key)):
            try:
                self._client.head_object(**self._where_is(key))
                return True
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                    return False
                raise

    def put_new(self, key: str, content: "Union[bytes, bytearray]") -> bool:
        from botocore.exceptions import ClientError, ParamValidationError

        where = self._where_is(key)
        with self._faults("writing {}".format(key)):
            try:
                self._digests.send(self._client.put_object, content, IfNoneMatch="*", **where, **self._new)
                return True
            except ParamValidationError:
                # boto3 before 1.35 has no conditional put.
                pass
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code in multipart.TAKEN:
                    return False
                if code != "NotImplemented":
                    raise
        if self.exists(key):
            return False
        with self._faults("writing {}".format(key)):
            self._digests.send(self._client.put_object, content, **where, **self._new)
        return True

    def upload(self, key: str, source: multipart.Source, begun: Begun, go_on: Callable[[], None]) -> None:
        """Upload what the source gives under a new name; it appears only when it is whole."""
        if self.exists(key):
            raise already_there(key)
        first = bytearray(multipart.part_bytes(1))
        length = multipart.fill(source, first)
        if length < len(first):
            # One request, and nothing that could be left unfinished.
            del first[length:]
            # A request that botocore repeated, as its answer got lost, finds what it wrote itself.
            if not self.put_new(key, first) and self.get(key) != bytes(first):
                raise already_there(key)
            return
        with self._faults("uploading {}".format(key)):
            try:
                multipart.send(
                    self._client,
                    self._where_is(key),
                    first,
                    source,
                    new=self._new,
                    digests=self._digests,
                    begun=begun,
                    go_on=go_on,
                )
            except multipart.Taken:
                raise already_there(key) from None

    def _where_is(self, key: str) -> Dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def give_up(self, key: str, upload_id: str) -> None:
        """Remove what a worker that is gone had uploaded of the object."""
        from botocore.exceptions import ClientError

        with self._faults("removing what was left of {}".format(key)):
            try:
                self._client.abort_multipart_upload(UploadId=upload_id, **self._where_is(key))
            except ClientError as error:
                # Its own worker gave it up, or its last request came through.
                if error.response.get("Error", {}).get("Code") not in ("NoSuchUpload", "404"):
                    raise

    def remove_unfinished(self, prefix: str, before: float) -> List[str]:
        """Remove uploads below `prefix` that began before that time and never ended; their keys."""
        removed = []
        with self._faults("removing unfinished uploads"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for found in [upload for page in pages for upload in page.get("Uploads", [])]:
                key = found["Key"][len(self._prefix) :]
                if found["Initiated"].timestamp() < before:
                    self.give_up(key, found["UploadId"])
                    removed.append(key)
        return removed

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        with self._faults("reading {}".format(key)):
            body = self._client.get_object(**self._where_is(key))["Body"]
        with contextlib.closing(body):
            yield cast("IO[bytes]", _Body(body, lambda: self._faults("reading {}".format(key))))

    def first(self, prefix: str) -> Tuple[List[str], bool]:
        with self._faults("listing {}".format(prefix)):
            where = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
            page = self._client.list_objects_v2(MaxKeys=FIRST_KEYS, **where)
            return sorted(self._keys(page, prefix)), not page["IsTruncated"]

    def directories(self, prefix: str) -> List[str]:
        top = self._prefix + prefix
        with self._faults("listing {}".format(prefix)):
            pages = self._pages(Prefix=top, Delimiter="/")
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        names = (name[len(top) :].rstrip("/") for name in found if name.startswith(top))
        return sorted(filter(None, names))

    def list(self, prefix: str, beyond: str = "") -> List[str]:
        start = {"StartAfter": self._prefix + beyond} if beyond else {}
        with self._faults("listing {}".format(prefix)):
            pages = self._pages(Prefix=self._prefix + prefix, **start)
            return sorted(key for page in pages for key in self._keys(page, prefix))

    def _pages(self, **which: str) -> Any:
        return self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **which)

    def _keys(self, page: Dict[str, Any], prefix: str) -> List[str]:
        # Whatever a server answers: what was not asked for is no key of ours.
        keys = (entry["Key"] for entry in page.get("Contents", []))
        return [key[len(self._prefix) :] for key in keys if key.startswith(self._prefix + prefix)]

    def delete(self, key: str) -> None:
        with self._faults("deleting {}".format(key)):
            self._client.delete_object(**self._where_is(key))

    def check(self, findings: Findings) -> None:
        """Try every right that a deploy needs, on an object of its own, which it removes again."""
        probe = "check/{}-{}".format(int(time.time()), os.getpid())
        place = "s3://{}/{}".format(self._bucket, self._prefix)

        def listing() -> str:
            with self._faults("listing"):
                self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            return "{} at {}".format(place, self._where)

        def putting() -> str:
            with self._faults("writing {}".format(probe)):
                self._digests.send(self._client.put_object, b"deploytool", **self._where_is(probe), **self._new)
            return "below {}".format(place)

        def getting() -> str:
            if self.get(probe) != b"deploytool":
                raise Failure("store", "an object written to {}{} can't be read back".format(place, probe))
            return "below {}".format(place)

        def deleting() -> str:
            try:
                self.delete(probe)
            except Failure as failure:
                raise Failure(
                    failure.kind,
                    "{}; it stays there, and so will old releases".format(failure.message),
                    tail=failure.tail,
                    hint=failure.hint,
                ) from failure
            return "below {}".format(place)

        def beginning_and_giving_up() -> str:
            where = self._where_is(probe)
            with self._faults("uploading {} in parts".format(probe)):
                upload_id = self._client.create_multipart_upload(**where, **self._new)["UploadId"]
                self._client.abort_multipart_upload(UploadId=upload_id, **where)
            return "can be begun and given up"

        def listing_uploads() -> str:
            with self._faults("listing unfinished uploads"):
                self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix + probe)
            return "can be found, and removed"

        refused = findings.attempt("store: list", listing)
        if refused is not None and not isinstance(refused, Refused):
            # No such bucket, or nobody answers: the same would be said of all that follows.
            return
        if findings.attempt("store: put", putting) is None:
            findings.attempt("store: get", getting)
            findings.attempt("store: delete", deleting)
        findings.attempt("store: uploads in parts", beginning_and_giving_up)
        findings.attempt("store: unfinished uploads", listing_uploads)


class _Body(io.RawIOBase):
    """What S3 sends, with its faults in our words."""

    def __init__(self, body: Any, faults: Callable[[], ContextManager[None]]) -> None:
        self._body = body
        self._faults = faults

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self._faults():
            return bytes(self._body.read(None if size < 0 else size))


def _requester_pays(params: Dict[str, Any], **_: Any) -> None:
    params["headers"]["x-amz-request-payer"] = "requester"
