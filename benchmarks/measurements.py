"""Figures by their names, as they come in: `large/changed/fab gzip`. Several of each, whose median counts."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Measurements:
    """What was measured so far. The part of a name before the last slash says what; the last says of whom."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    #: side → what compresses its archives, with its version
    compressors: dict[str, str] = field(default_factory=dict)
    #: what was not measured, and why
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str = "s") -> None:
        self.figures.setdefault(name, []).append(value)
        self.units[name] = unit

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def named(self, side: str) -> str:
        """The side with its compressor, if that is known: "fab gzip (python-isal 1.7.2)"."""
        compressor = self.compressors.get(side)
        return f"{side} ({compressor})" if compressor else side

    def median(self, name: str) -> float | None:
        """None if it was not measured."""
        values = self.figures.get(name)
        return statistics.median(values) if values else None

    def highest(self, beginning: str) -> float | None:
        """The highest value of all figures whose names begin like that; None if there are none."""
        return max((max(values) for name, values in self.figures.items() if name.startswith(beginning)), default=None)

    def below(self, beginning: str) -> Mapping[str, float]:
        """Medians by the rest of the name, of all figures whose names begin like that, in the order they came in."""
        return {
            name.removeprefix(beginning): statistics.median(values)
            for name, values in self.figures.items()
            if name.startswith(beginning)
        }

    def as_json(self) -> dict[str, object]:
        return {
            "figures": {
                name: {"unit": self.units[name], "median": statistics.median(values), "values": values}
                for name, values in self.figures.items()
            },
            "compressors": self.compressors,
            "notes": self.notes,
        }
