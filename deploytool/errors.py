"""What can go wrong, in the words the operator sees; each class is one exit code of the command line.

An error says three things: what failed and where (`message`), the last lines of output (`tail`), and who must do what
(`hint`). Errors are raised near the fault and caught in one place, `deploytool.tasks`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, NotRequired, TypedDict

from deploytool.text.untrusted import one_line

#: Of every JSON document. It counts up when a field goes, or changes its type or meaning; new fields change nothing.
SCHEMA_VERSION = 1


class ErrorJson(TypedDict):
    """Why a command failed, or would fail."""

    kind: Annotated[str, "the kind of error; see the table of exit codes"]
    message: Annotated[str, "what failed and why, in one sentence"]
    tail: Annotated[list[str], "the last lines of output, or all problems in the settings"]
    hint: Annotated[str | None, "what to do; null if the message says it"]


class HeadJson(TypedDict):
    """What every document has."""

    schema_version: Annotated[int, "the version of these documents"]
    environment: Annotated[str | None, "the environment; null if the command line names none"]
    exit_code: Annotated[int, "the command's exit code"]
    error: NotRequired[Annotated[ErrorJson, "why the command failed; missing if it did not"]]


class DeployError(Exception):
    """A failure that has no exit code of its own: a bug in deploytool."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "bug"

    def __init__(self, message: str, *, tail: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.tail = tuple(tail)
        self.hint = hint

    def __str__(self) -> str:
        """The error for the screen: each of its parts on a line of its own, whatever it quotes."""
        lines = [one_line(self.message), *(f"  | {one_line(line)}" for line in self.tail)]
        if self.hint:
            lines.append(f"hint: {one_line(self.hint)}")
        return "\n".join(lines)

    def as_dict(self) -> ErrorJson:
        """The error as it stands in `--json` documents."""
        return {"kind": self.kind, "message": self.message, "tail": list(self.tail), "hint": self.hint}


def refusal(error: DeployError) -> HeadJson:
    """The document of a command that did not begin."""
    return {
        "schema_version": SCHEMA_VERSION,
        "environment": None,
        "exit_code": error.exit_code,
        "error": error.as_dict(),
    }


class UsageError(DeployError):
    """The command line is wrong, or names something that does not exist."""

    exit_code = 2
    kind = "usage"


class SettingsError(UsageError):
    """The settings are wrong; `tail` has all problems, one sentence each."""

    kind = "settings"

    def __init__(self, problems: Sequence[str], *, hint: str | None = None) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the settings:", tail=problems, hint=hint)
        self.problems = tuple(problems)


class LockedError(DeployError):
    """Somebody else holds the lock, or the environment is frozen; the message says who, since when and why."""

    exit_code = 3
    kind = "locked"


class StepError(DeployError):
    """A step failed on the build server. No host was switched; if the step was `migrate_after`, all were."""

    exit_code = 4
    kind = "step"


class HookError(StepError):
    """A hook failed on the operator's machine. No host was switched."""

    kind = "hook"


class ConnectionFailed(DeployError):
    """The build server is unreachable or not trusted: its key is unknown or changed, or others can write its files."""

    exit_code = 5
    kind = "connection"


class StoreError(DeployError):
    """The store refused a request or is unreachable."""

    exit_code = 6
    kind = "store"


class ConsulError(DeployError):
    """Consul refused a request or is unreachable, or a role has no host that could receive the event."""

    exit_code = 7
    kind = "consul"


class FleetError(DeployError):
    """At least one host is not verified on the expected release."""

    exit_code = 8
    kind = "fleet"


class Interrupted(DeployError):
    """The command was interrupted; the message says during what, the hint what is still running."""

    exit_code = 130
    kind = "interrupted"


#: as failures travel from the worker
BY_KIND: Mapping[str, type[DeployError]] = {
    error.kind: error
    for error in (
        DeployError,
        UsageError,
        LockedError,
        StepError,
        ConnectionFailed,
        StoreError,
        ConsulError,
        Interrupted,
    )
}
