"""Who runs a command. A value."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class Operator:
    """Who runs this command."""

    #: user@host
    name: str
    #: the address of the CI job; None for a person
    ci_job: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.ci_job})" if self.ci_job else self.name
