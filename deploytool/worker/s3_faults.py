"""What S3 refuses, in a sentence each, and what to do about it.

The codes are Amazon's (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html); other servers use them, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from base64 import b64encode
from typing import Any, Callable, Dict, Iterator, Optional

from .failure import Failure

RIGHTS = (
    "the build server needs s3:GetObject, s3:PutObject, s3:ListBucket, s3:AbortMultipartUpload and, for retention and "
    "`check`, s3:DeleteObject and s3:ListBucketMultipartUploads on the bucket; `fab ENV app-server --output DIR` "
    "writes the policy. If the bucket's policy demands encryption, an ACL or a storage class, `store.encryption`, "
    "`store.acl` and `store.storage_class` send them"
)
KMS = (
    "it needs kms:GenerateDataKey and kms:Decrypt on the KMS key, and hosts need kms:Decrypt; "
    "`store.encryption.kms_key` names it, and it must be enabled, in the bucket's region"
)
EXPIRED = (
    "get new ones (`aws sso login`, say) and run the command again. With `store.credentials: operator` they are read "
    "once, when the command starts: let them last longer than a build"
)
WRONG_KEYS = "mend the access key and its secret, where `store.credentials` says that they are"
ACL = "take `store.acl` out, or set bucket-owner-full-control: the bucket has no ACLs, and its owner owns all in it"
LOCK = "the bucket keeps what is written for a time (Object Lock): allow s3:PutObjectRetention, or use a bucket without"
FULL = "make room there, or keep fewer releases (`store.keep_releases`)"
HINTS: Dict[str, str] = {
    "RequestTimeTooSkewed": "set the build server's clock (`timedatectl`): it differs from the store's by more than a "
    "quarter of an hour",
    "ExpiredToken": EXPIRED,
    "ExpiredTokenException": EXPIRED,
    "TokenRefreshRequired": EXPIRED,
    "RequestExpired": EXPIRED,
    "InvalidToken": EXPIRED,
    "InvalidAccessKeyId": WRONG_KEYS,
    "SignatureDoesNotMatch": WRONG_KEYS + "; a proxy that changes requests spoils signatures, too",
    "AccessControlListNotSupported": ACL,
    "ObjectLockConfigurationNotFoundError": LOCK,
    "InvalidRetentionPeriod": LOCK,
    "InvalidStorageClass": "mend store.storage_class: this server, or this bucket, has no such class",
    "InvalidObjectState": "the object is in an archive: restore it, and let no lifecycle rule of the bucket move "
    "releases there",
    "InvalidEncryptionAlgorithmError": "mend store.encryption",
    "ServerSideEncryptionConfigurationNotFoundError": "mend store.encryption",
    "AllAccessDisabled": "the account or the bucket is shut; its owner can tell why",
    "AccountProblem": "the account or the bucket is shut; its owner can tell why",
    "QuotaExceeded": FULL,
    "XMinioStorageFull": FULL,
    "XMinioAdminBucketQuotaExceeded": FULL,
    "SlowDown": "the store is busy: run the command again",
    "ServiceUnavailable": "the store is busy: run the command again",
    "InternalError": "the store has a fault of its own: run the command again, or look at its log",
}
#: said of a bucket of another region, or of an endpoint of one
ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307")


class Refused(Failure):
    """The store answers, and does not allow that."""


@contextlib.contextmanager
def told(doing: str, bucket: str, server: str) -> Iterator[None]:
    """Whatever boto3 raises, as a Failure. `server` is what operators call it."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConfigNotFound,
        CredentialRetrievalError,
        EndpointConnectionError,
        HTTPClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        ProfileNotFound,
        SSLError,
        TokenRetrievalError,
    )
    from botocore.parsers import ResponseParserError

    place = "{} in s3://{}".format(doing, bucket)

    def failure(why: object, hint: Optional[str] = None) -> Failure:
        return Failure("store", "{} failed: {}".format(place, why), hint=hint)

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise failure(
            "the build server has no S3 credentials",
            "give it an instance role or ~/.aws/credentials, or set `store.credentials: operator`",
        ) from error
    except (ProfileNotFound, ConfigNotFound) as error:
        raise failure(error, "mend store.profile, or ~/.aws/config of the build server's user") from error
    except (CredentialRetrievalError, TokenRetrievalError) as error:
        raise failure("the build server gets no S3 credentials: {}".format(error), EXPIRED) from error
    except ClientError as error:
        raise refused(place, bucket, server, error) from error
    except SSLError as error:
        if "WRONG_VERSION_NUMBER" in str(error):
            raise failure("{} speaks no TLS".format(server), "write http:// in store.endpoint_url") from error
        raise failure(
            "{} has no certificate that the build server trusts: {}".format(server, error),
            "give boto3 the authority's file there: AWS_CA_BUNDLE, or ca_bundle in ~/.aws/config",
        ) from error
    except (EndpointConnectionError, HTTPClientError) as error:
        raise failure(
            "{} can't be reached from the build server: {}".format(server, error),
            "check store.endpoint_url, store.region, store.addressing and the network of the build server",
        ) from error
    except ParamValidationError as error:
        raise failure(
            error, "mend it; or boto3 on the build server is too old for it: take that away, and ours is used"
        ) from error
    except Boto3Error as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, ClientError):
            raise refused(place, bucket, server, cause) from error
        raise failure(error) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise failure(error) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # boto3 gives what the server says as it came, and is itself surprised by some of it; and it follows
        # redirections without an end.
        raise failure(
            "{} gave an answer that S3 does not give ({}: {})".format(server, type(error).__name__, error),
            "mend store.endpoint_url",
        ) from error


def refused(place: str, bucket: str, server: str, error: Any) -> Failure:
    """What a ClientError says, with the hint that fits its code."""
    said = error.response.get("Error", {})
    answer = error.response.get("ResponseMetadata", {})
    code, status = str(said.get("Code", "?")), answer.get("HTTPStatusCode")
    message = str(said.get("Message") or "no reason given")
    if code == "NoSuchBucket":
        return Failure(
            "store",
            "the bucket {} does not exist at {}".format(bucket, server),
            hint="create it, or mend store.url",
        )
    region = said.get("Region") or answer.get("HTTPHeaders", {}).get("x-amz-bucket-region")
    hint = HINTS.get(code)
    if hint is None and code in ELSEWHERE:
        hint = "set store.region: {}".format(region) if region else "set store.region to the bucket's own region"
    if hint is None and ("kms" in code.lower() or "kms:" in message.lower()):
        hint = KMS
    if code == "InvalidRequest" and "kms" in message.lower():
        hint = KMS
    denied = status in (401, 403) or code == "AccessDenied"
    if hint is None and denied:
        hint = RIGHTS
    if denied:
        return Refused("store", "{} was refused: {} ({})".format(place, code, message), hint=hint)
    return Failure("store", "{} failed: {}".format(place, error), hint=hint)


#: Python 3.8 does not know it; a FIPS machine wants to hear it.
_NOT_FOR_SECURITY: Dict[str, Any] = {"usedforsecurity": False} if sys.version_info >= (3, 9) else {}
#: words of a server that demands an object's digest
DEMANDS = ("Content-MD5", "x-amz-checksum", "x-amz-sdk-checksum", "MissingUploadObjectWithObjectLockHeaders")


class Digests:
    """Sends an object's MD5 where the bucket demands one, as those with Object Lock do; the others are spared the cost.

    That a bucket does is learned from its first refusal.
    """

    def __init__(self) -> None:
        self._demanded = False

    def send(self, request: Callable[..., Any], content: Any, **named: Any) -> Any:
        """`request` is a client's method that takes a Body."""
        from botocore.exceptions import ClientError

        if not self._demanded:
            try:
                return request(Body=content, **named)
            except ClientError as error:
                said = str(error.response.get("Error", {}))
                if not any(word in said for word in DEMANDS):
                    raise
                self._demanded = True
        return request(Body=content, ContentMD5=md5(content), **named)


def md5(content: Any) -> str:
    """As HTTP's Content-MD5 has it."""
    # S3 knows no better one in its place.
    return b64encode(hashlib.new("md5", content, **_NOT_FOR_SECURITY).digest()).decode("ascii")  # noqa: S324
