"""One line of `check`: what was tried, and how that went."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypedDict

from deploytool.connection.client import error_of
from deploytool.errors import DeployError
from deploytool.text.untrusted import printable
from deploytool.worker.wire import Finding

#: The exit code of `check` is the first of these that applies.
ORDER = (2, 5, 6, 7, 4, 8)


class CheckJson(TypedDict):
    """One prerequisite of a deploy."""

    name: Annotated[str, "what was checked"]
    ok: Annotated[bool | None, "whether it is fine; null if it was not checked"]
    text: Annotated[str, "what was found, what is wrong, or why it was not checked"]
    hint: Annotated[str | None, "what to do"]
    exit_code: Annotated[int, "the exit code that it stands for; 0 if it is fine"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `check`."""

    name: str
    #: None: it was not tried, and the text says why
    ok: bool | None
    #: what was found, or what is wrong
    text: str
    hint: str | None = None
    exit_code: int = 0

    @property
    def word(self) -> str:
        return {True: "ok", False: "BAD", None: "-"}[self.ok]

    @property
    def sentence(self) -> str:
        """What was found, with how to fix what is wrong."""
        return f"{self.name}: {self.text}" + (f"; hint: {self.hint}" if self.hint else "")

    def as_dict(self) -> CheckJson:
        return {"name": self.name, "ok": self.ok, "text": self.text, "hint": self.hint, "exit_code": self.exit_code}


def tried(name: str, attempt: Callable[[], str]) -> Check:
    """The check's line, whether it went well or not."""
    try:
        return Check(name, True, attempt())
    except DeployError as error:
        return failed(name, error)


def failed(name: str, error: DeployError) -> Check:
    """The line of a failure. One that says nothing of what is checked is raised again."""
    if error.exit_code not in ORDER:
        raise error
    text = "; ".join((error.message, *_telling(error.tail)))
    return Check(name, False, printable(text), error.hint, error.exit_code)


def _telling(tail: Sequence[str]) -> Sequence[str]:
    """The lines that say what is wrong: from where git begins to, else the last."""
    begins = next((place for place, line in enumerate(tail) if re.match(r"(remote: )?(fatal|error):", line)), -3)
    return [line.strip() for line in tail[begins:] if line.strip()]


def told(findings: Sequence[Finding]) -> list[Check]:
    """The lines of what the worker has tried by itself."""
    return [
        failed(each.name, error_of(each.failure))
        if each.failure is not None
        else Check(each.name, None if each.found is None else True, printable(each.found or "nothing was found out"))
        for each in findings
    ]
