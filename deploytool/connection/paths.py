"""Where things lie on the build server. Pure: paths only, nothing is looked up."""

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Place:
    """The work area of one application, as one environment sees it."""

    #: absolute, `~` already expanded
    root: str
    application: str
    environment: str
    #: of the repository, for monorepos; relative
    subdirectory: str = "."

    @property
    def application_root(self) -> str:
        return str(PurePosixPath(self.root, self.application))

    @property
    def mirror(self) -> str:
        return str(PurePosixPath(self.application_root, "repository.git"))

    @property
    def workspace(self) -> str:
        """The whole work tree of the repository, kept between builds."""
        return str(PurePosixPath(self.application_root, "workspace"))

    @property
    def work_tree(self) -> str:
        """The application's part of the workspace: commands run here, and this is what is packed."""
        return str(PurePosixPath(self.workspace, self.subdirectory))

    @property
    def shared(self) -> str:
        """Linked files and directories of this environment, for builds and migrations."""
        return str(PurePosixPath(self.application_root, "shared", self.environment))

    @property
    def kept(self) -> str:
        """What stages made, by stage and key."""
        return str(PurePosixPath(self.application_root, "kept"))

    @property
    def logs(self) -> str:
        return str(PurePosixPath(self.application_root, "logs"))

    def log(self, name: str) -> str:
        """`name` is a release id, or whatever the run is called as long as it has none."""
        return str(PurePosixPath(self.logs, f"{name}.log"))
