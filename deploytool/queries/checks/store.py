"""What hosts need to read the store, as far as settings tell it. Pure."""

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deploytool.queries.checks.finding import Check

if TYPE_CHECKING:
    from deploytool.settings import Settings


def check_ways_of_hosts(settings: "Settings") -> list[Check]:
    """Lines for what works on the build server and may not on hosts, whose stretcher knows less of S3 than boto3."""
    store = settings.store
    if store.hosts_url is not None or not store.url.startswith("s3:"):
        return []
    lines = []
    if store.endpoint_url is not None and not _is_address(urlsplit(store.endpoint_url).hostname or ""):
        parts, bucket = urlsplit(store.endpoint_url), urlsplit(store.url).netloc
        lines.append(
            "stretcher puts the bucket into the host's name unless that is an IP address: from every host "
            f"{parts.scheme}://{bucket}.{parts.netloc} must lead to the store. Else name its IP address in "
            "store.endpoint_url, or a gateway in store.hosts_url"
        )
    if store.request_payer is not None:
        lines.append(
            "stretcher never says that it pays: hosts can read only as the bucket's owner, or by store.hosts_url"
        )
    return [Check("store: hosts", True, line) for line in lines]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
