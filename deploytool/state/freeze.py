"""Freeze and thaw: an environment takes no deploy until it is thawed, but still goes back. Kept in Consul."""

from deploytool.connection.client import Pending
from deploytool.errors import LockedError
from deploytool.session import Session
from deploytool.text.untrusted import printable
from deploytool.worker.wire import Freeze, Frozen


def refuse_if_frozen(session: Session, asked: Pending[Frozen] | None = None) -> None:
    """Raise LockedError if somebody has frozen the environment. `asked` is the question, if it was put already."""
    frozen = (asked or session.bus.frozen()).answer().frozen
    if frozen is not None:
        raise LockedError(
            f"{session.settings.environment} is {printable(frozen.words)}",
            hint=f"`fab {session.settings.environment} thaw` lifts it",
        )


def note_freeze(session: Session, passed: Freeze | None) -> None:
    """Show the freeze that an announcement passed, because it goes back."""
    if passed is not None:
        session.console.note(
            f"{session.settings.environment} is {printable(passed.words)}; a freeze does not stop a rollback"
        )
