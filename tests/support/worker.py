"""What a worker is given, and what it makes."""

import os
from pathlib import Path
from typing import Any

from deploytool.playground.playground import Playground


def hello(root: Path, store: dict[str, Any]) -> dict[str, Any]:
    return {
        "root": str(root),
        "application": "shop",
        "environment": "production",
        "store": store,
        "consul": {},
        "secrets": [],
        "operator": "me@laptop",
        "purpose": "testing",
        "compression": "none",
    }


def s3(playground: Playground, prefix: str) -> dict[str, Any]:
    keys = playground.deploy_keys
    return {
        "url": f"s3://{playground.bucket}/{prefix}",
        "endpoint_url": playground.endpoint_url,
        "region": playground.region,
        "credentials": {"access_key": keys.access_key, "secret_key": keys.secret_key},
    }


def unfinished(playground: Playground, prefix: str) -> list[str]:
    client = playground.s3_client()
    found = client.list_multipart_uploads(Bucket=playground.bucket, Prefix=prefix).get("Uploads", [])
    client.close()
    return [upload["Key"] for upload in found]


NO_INDEX = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/",
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "",
    "PIP_CONFIG_FILE": os.devnull,
}


def tree(directory: Path) -> Path:
    for name, content in {
        "app/tmp/kept": "deep",
        "app/spec/kept": "deep",
        "tmp/cache": "top",
        "spec/a": "top",
        "log/x.log": "top",
        ".git/config": "git",
        "vendor/lib/.git": "git",
        "a b/$(id)'\"": "strange",
        "README": "hello",
    }.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (directory / "link").symlink_to("README")
    (directory / "run").write_text("#!/bin/sh\n")
    (directory / "run").chmod(0o755)
    return directory


#: What makes a compressor count as installed.
TELLS_VERSION = '[ "$1" != --version ] || { echo 9.9; exit; }\n'


def fake_program(directory: Path, name: str, text: str) -> str:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text("#!/bin/sh\n" + text)
    (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"
