"""What `check` says of the way from hosts to the store."""

from typing import Any

import pytest

from deploytool.queries.checks.store import check_ways_of_hosts
from deploytool.settings.model import Store


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"endpoint_url": "http://minio.internal:9000"}, ["http://deploys.minio.internal:9000 must lead to the store"]),
        ({"endpoint_url": "http://10.0.0.5:9000"}, []),
        ({"endpoint_url": "http://[fd00::5]:9000"}, []),
        ({"endpoint_url": "http://minio.internal:9000", "hosts_url": "http://cache.internal"}, []),
        ({"request_payer": "requester"}, ["stretcher never says that it pays"]),
        ({}, []),
    ],
)
def test_endpoint_by_a_name_that_hosts_ask_otherwise_than_the_build_server_is_told(
    said: dict[str, Any], words: list[str]
) -> None:
    settings: Any = type("Settings", (), {"store": Store(url="s3://deploys/shop", **said)})
    lines = check_ways_of_hosts(settings)
    assert [line.ok for line in lines] == [True] * len(words)
    assert all(word in line.text for word, line in zip(words, lines, strict=True))
