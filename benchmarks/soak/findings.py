"""What a part of the soak has found: bounds that hold or do not, and figures that are only shown. Pure."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.report import By, Row, figure, table

HELD = "met"


@dataclass(slots=True)
class Findings:
    """Rows with a limit, in their order; and what has none: the case, and the figure in words."""

    rows: list[Row] = field(default_factory=list)
    shown: list[tuple[str, str]] = field(default_factory=list)

    def within(self, case: str, value: float | None, limit: float, unit: str = "") -> None:
        """The figure itself is to be no higher."""
        self.rows.append(Row(case, value, limit, By.ITSELF, unit=unit))

    def ratio(self, case: str, value: float, limit: float, beside: float, beside_name: str, unit: str = "s") -> None:
        """The figure is to be no more than so many times the one beside it, of the same run."""
        self.rows.append(Row(case, value, limit, By.RATIO, beside, beside_name, unit))

    def more(self, case: str, value: float, limit: float, beside: float, beside_name: str, unit: str = "") -> None:
        """The figure is to be no more than the one beside it, and so much."""
        self.rows.append(Row(case, value, limit, By.MORE, beside, beside_name, unit))

    def show(self, case: str, value: float, unit: str = "s", beside: str = "") -> None:
        self.shown.append((case, f"{figure(value, unit)}  {beside}".rstrip()))

    def add(self, others: "Findings") -> None:
        self.rows += others.rows
        self.shown += others.shown

    @property
    def broken(self) -> list[Row]:
        """Where a bound does not hold, or was not measured."""
        return [row for row in self.rows if row.verdict != HELD]

    def text(self) -> str:
        """Both tables."""
        parts = []
        if self.rows:
            header = ["bound", "found", "beside", "judged", "limit", ""]
            parts.append(table(header, [row.cells() for row in self.rows]))
        if self.shown:
            parts.append(table(["shown", "found"], self.shown))
        return "\n\n".join(parts) + "\n"

    def as_json(self) -> str:
        return json.dumps({"rows": [asdict(row) for row in self.rows], "shown": self.shown}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Findings":
        told = json.loads(text)
        rows = [Row(**{**row, "by": By(row["by"])}) for row in told["rows"]]
        return cls(rows, [(case, value) for case, value in told["shown"]])


@dataclass(frozen=True, slots=True)
class Windows:
    """The two stretches of a series that are compared: the first after the warm-up, and the last. Counted from 0."""

    warm_up: int
    length: int

    def early(self, series: Sequence[float]) -> float:
        return statistics.median(series[self.warm_up : self.warm_up + self.length])

    def late(self, series: Sequence[float]) -> float:
        return statistics.median(series[-self.length :])

    def have(self, number: int, count: int) -> bool:
        """Whether the one of that number, of `count`, is in one of them."""
        return self.warm_up <= number < self.warm_up + self.length or number >= count - self.length

    @property
    def shortest(self) -> int:
        """So long must a series be that the two do not overlap."""
        return self.warm_up + 2 * self.length

    @property
    def early_name(self) -> str:
        """`deploys 61–80`, as one counts."""
        return f"deploys {self.warm_up + 1}–{self.warm_up + self.length}"
