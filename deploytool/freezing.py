"""Freeze and thaw: an environment that takes no deployment until somebody lifts that again. Kept in Consul."""

from collections.abc import Mapping

from deploytool.errors import LockedError
from deploytool.fleet import printable
from deploytool.session import Session
from deploytool.worker.freezing import words


def frozen_words(frozen: Mapping[str, str]) -> str:
    """Who froze it, since when and why, as the rest of a sentence. Whoever may write to Consul wrote it."""
    return printable(words(frozen))


def refuse_if_frozen(session: Session) -> None:
    """Raise LockedError if somebody has frozen the environment."""
    frozen = session.worker.ask("frozen")["frozen"]
    if frozen is not None:
        raise LockedError(
            f"{session.settings.environment} is {frozen_words(frozen)}",
            hint=f"`fab {session.settings.environment} thaw` lifts that",
        )
