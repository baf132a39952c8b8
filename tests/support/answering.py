"""The line to a worker of a test, which does what it is asked at once."""

from collections.abc import Callable, Mapping
from typing import Any

from deploytool.connection.client import Asked, Listener, Message
from deploytool.errors import DeployError
from deploytool.worker.shapes import read


class Answered(Asked):
    """A question that was answered when it was asked; its error waits until somebody wants the answer."""

    def __init__(
        self, do: str, kind: Any, act: Callable[[], Any], after: "Asked | None", expect: Mapping[str, object]
    ) -> None:
        super().__init__("here", do, kind, after=after)
        self._answer: Message = {}
        self._error: BaseException | None = None
        self.went_well = False
        if isinstance(after, Answered) and not after.went_well:
            self._error = DeployError("not begun: what it comes after has not gone well")
            return
        try:
            self._answer = act() or {}
            self.went_well = all(self._answer.get(name) == value for name, value in expect.items())
        except (Exception, KeyboardInterrupt) as error:
            self._error = error

    def answer(self, *, told: Listener | None = None, limit_seconds: float | None = None) -> Any:
        if self.after is not None:
            self.after.answer()
        if self._error is not None:
            raise self._error
        return read(self.kind, self._answer)


class Answering:
    """A worker whose `ask` answers; what is asked `after` something that has not gone well is not done."""

    def ask(self, do: str, **parameters: Any) -> Any:
        raise NotImplementedError

    def start(
        self,
        do: str,
        kind: Any,
        /,
        *,
        after: Asked | None = None,
        expect: Mapping[str, object] | None = None,
        told: Listener | None = None,
        **parameters: Any,
    ) -> Asked:
        return Answered(do, kind, lambda: self.ask(do, **parameters), after, expect or {})
