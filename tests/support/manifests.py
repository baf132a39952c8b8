"""Settings and a release for manifests."""

from types import SimpleNamespace
from typing import Any

from deploytool.model.release import DeploymentId, Release, ReleaseId, Revision
from deploytool.settings.model import Verify

DEPLOYMENT = DeploymentId("20261123T062233Zabcd")
RELEASE = Release(
    id=ReleaseId("20261123T061500Z-1a2b3c4"),
    application="shop",
    revision=Revision("1a2b3c4" + "0" * 33),
    branch="main",
    built_at="2026-11-23T06:15:00Z",
    built_by="jo",
    build_key="0" * 64,
    compression="gzip",
    checksum="ab" * 32,
    size_bytes=1000,
    unpacked_bytes=5000,
)


def given_settings(**changes: Any) -> Any:
    """What `role_manifest` reads of the settings."""
    none: dict[str, tuple[str, ...]] = {"pre": (), "post": (), "success": (), "failure": ()}
    none |= {"drain": (), "undrain": ()}
    role = SimpleNamespace(
        restart=changes.pop("restart", ()),
        verify=Verify.model_construct(**changes.pop("verify", {})),
        hooks=SimpleNamespace(**(none | changes.pop("hooks", {}))),
    )
    deploy_to = changes.pop("deploy_to", "/var/www/shop")
    rest = {
        "application": "shop",
        "environment": "production",
        "roles": {"web": role},
        "deploy_to_of": lambda _: deploy_to,
        "keep_releases": 5,
        "linked_dirs": (),
        "linked_files": (),
        "consul": SimpleNamespace(address=None),
        "trust": SimpleNamespace(signers=None, key=None),
        "has_pretend_hosts": False,
        "branch": "main",
        "build": SimpleNamespace(root="/var/tmp/deploytool", compression="gzip"),
        "store": SimpleNamespace(url="s3://acme-deploys/shop", hosts_url=None),
        "wait": SimpleNamespace(hook_seconds=120, stable_seconds=2),
        "proof_seconds": 2,
    }
    return SimpleNamespace(**(rest | changes))
