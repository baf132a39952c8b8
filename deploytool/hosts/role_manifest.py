"""What the manifest of one role says, with all templates of the settings rendered. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deploytool.model.release import DeploymentId, Release, ReleaseId

Phase = Literal["pre", "post", "success", "failure"]
TEMPLATE_NAME = "manifest.yml.j2"


@dataclass(frozen=True, slots=True)
class HostCommand:
    """A shell command for a host, already rendered, and the setting that it came from, as in `roles.web.restart[0]`."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class RoleManifest:
    """Everything that one manifest says, with all templates of the settings rendered."""

    application: str
    environment: str
    role: str
    release: Release
    deployment: DeploymentId
    #: the archive's URL; empty if hosts use the release that they have kept
    src: str
    deploy_to: str
    keep_releases: int
    linked_dirs: tuple[str, ...]
    linked_files: tuple[str, ...]
    restart: tuple[HostCommand, ...]
    hooks: dict[Phase, tuple[HostCommand, ...]]
    #: the settings of `verify` by name, as the host's scripts read them: empty if not asked for; `yes` or `no`
    verify: Mapping[str, str]
    hook_seconds: int
    stable_seconds: int
    #: the directory that takes Consul's place; empty if it is Consul
    bus_directory: str
    #: what `fab ENV rollback` goes to once this deployment is verified, and hosts therefore keep; None if not known
    rollback_release: ReleaseId | None = None
    #: take a host out of traffic for the switch, and bring it back
    drain: tuple[HostCommand, ...] = ()
    undrain: tuple[HostCommand, ...] = ()
    #: where builds lie: what runs from there is no release; empty if only the build server knows
    build_root: str = ""

    @property
    def drains(self) -> bool:
        """Whether hosts are taken out of traffic for the switch."""
        return bool(self.drain or self.undrain)

    @property
    def kept(self) -> bool:
        """Whether hosts use the release that they have kept from before, and download nothing."""
        return not self.src

    @property
    def dest(self) -> str:
        """Where a template of the user's own may let stretcher sync to: never a directory that serves."""
        return f"{self.deploy_to}/incoming/{self.deployment}"

    @property
    def unpacked_prefix(self) -> str:
        """What all names begin with that this role's trees have in stretcher's temporary directory.

        With dots between, which are in no name of the settings: no other role's begin so.
        """
        return f".deploytool.{self.application}.{self.environment}.{self.role}."

    @property
    def unpacked_name(self) -> str:
        return f"{self.unpacked_prefix}{self.deployment}"

    @property
    def beside(self) -> str:
        """Where stretcher can always rename to: beside the directory that it unpacks in, from where it syncs."""
        return f"../{self.unpacked_name}"

    @property
    def names(self) -> dict[str, str]:
        return hook_names(self.application, self.environment, self.role, self.release, self.deployment, self.deploy_to)


def hook_names(
    application: str, environment: str, role: str, release: Release, deployment: DeploymentId, deploy_to: str
) -> dict[str, str]:
    """The names that hooks, `restart` and `verify` may use, with their values."""
    return {
        "application": application,
        "environment": environment,
        "role": role,
        "release": release.id,
        "revision": release.revision,
        "deployment": deployment,
        "deploy_to": deploy_to,
        "release_path": f"{deploy_to}/releases/{release.id}",
        "current_path": f"{deploy_to}/current",
        "shared_path": f"{deploy_to}/shared",
    }
