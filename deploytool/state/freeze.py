"""Freeze and thaw: an environment takes no deploy until it is thawed, but still goes back. Kept in Consul."""

from collections.abc import Mapping
from typing import Any

from deploytool.connection.client import Asked
from deploytool.errors import LockedError
from deploytool.session import Session
from deploytool.text.untrusted import printable
from deploytool.worker.freezing import words


def frozen_words(frozen: Mapping[str, str]) -> str:
    """Who froze it, since when and why, as the rest of a sentence. Whoever may write to Consul wrote it."""
    return printable(words(frozen))


def ask_frozen(session: Session, *, after: Asked | None = None) -> Asked:
    """Ask whether the environment is frozen. What comes after it is done only if it is not."""
    return session.worker.start("frozen", after=after, expect={"frozen": None})


def refuse_if_frozen(session: Session, asked: Asked | None = None) -> None:
    """Raise LockedError if somebody has frozen the environment. `asked` is the question, if it was put already."""
    frozen = (asked or ask_frozen(session)).answer()["frozen"]
    if frozen is not None:
        raise LockedError(
            f"{session.settings.environment} is {frozen_words(frozen)}",
            hint=f"`fab {session.settings.environment} thaw` lifts that",
        )


def note_freeze(session: Session, announced: Mapping[str, Any]) -> None:
    """Show the freeze that an announcement passed, because it goes back. `announced` is the worker's answer."""
    if announced["frozen"] is not None:
        session.console.note(
            f"{session.settings.environment} is {frozen_words(announced['frozen'])}; a freeze does not stop a rollback"
        )
