"""What can go wrong, in the words the operator sees; each class is one exit code of the command line.

An error says three things: what failed and where (`message`), the last lines of output (`tail`), and who must do what
(`hint`). Errors are raised near the fault and caught in one place, `deploytool.tasks`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from deploytool.text.untrusted import one_line


class DeployError(Exception):
    """A failure with a sentence. `exit_code` is part of the contract of the command line."""

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

    def as_dict(self) -> Mapping[str, object]:
        """The error as it stands in `--json` documents."""
        return {"kind": self.kind, "message": self.message, "tail": list(self.tail), "hint": self.hint}


class UsageError(DeployError):
    """The command was typed wrongly, or names something that does not exist."""

    exit_code = 2
    kind = "usage"


class SettingsError(UsageError):
    """The settings are wrong. `problems` holds all of them, one sentence each."""

    kind = "settings"

    def __init__(self, problems: Sequence[str], *, hint: str | None = None) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the settings:", tail=problems, hint=hint)
        self.problems = tuple(problems)


class LockedError(DeployError):
    """Somebody else holds the lock; the message says who, since when and for what."""

    exit_code = 3
    kind = "locked"


class StepError(DeployError):
    """A step failed on the build server. No host was switched; if it was `migrate_after`, all were."""

    exit_code = 4
    kind = "step"


class HookError(StepError):
    """A hook on the operator's side failed. Before `go`, no host was switched."""

    kind = "hook"


class ConnectionFailed(DeployError):
    """The build server can't be reached or trusted: its key is unknown or changed, or others can change what we run."""

    exit_code = 5
    kind = "connection"


class StoreError(DeployError):
    """The store refused or is unreachable."""

    exit_code = 6
    kind = "store"


class ConsulError(DeployError):
    """The event could not be fired, Consul is unreachable, or a role has no host that could hear it."""

    exit_code = 7
    kind = "consul"


class FleetError(DeployError):
    """At least one expected host failed, stayed silent or still serves the old release."""

    exit_code = 8
    kind = "fleet"


class Interrupted(DeployError):
    """The operator interrupted; the message says what was left running, and where."""

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
