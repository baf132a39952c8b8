"""What was measured, as tables: each case of issue 6 beside its target, then all figures beside their floors. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks import floors, link, sizes, startup, verified
from benchmarks.measurements import Measurements
from benchmarks.sides import CHANGED, COLD, PEER, SAME, TUNED_PEER, UNCHANGED

NOT_MEASURED = "not measured"
#: An exponent of 1 is linear. What is measured is not that exact.
LINEAR = 1.05
#: up to which size cost is judged; what was measured of smaller ones only is shown, and says nothing of these
UP_TO = {"files": sizes.FILES[-1], "MB": sizes.MEGABYTES[-1], "hosts": sizes.HOSTS[-1]}


class By(StrEnum):
    """How a figure is judged against what stands beside it."""

    RATIO = "×"
    MORE = "more"
    ITSELF = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One target: ours, what it is compared with, and the limit. None: not measured."""

    case: str
    ours: float | None
    limit: float
    by: By = By.RATIO
    beside: float | None = None
    beside_name: str = ""
    unit: str = "s"

    @property
    def judged(self) -> float | None:
        """The ratio, the difference or the figure itself: what the limit is for."""
        if self.ours is None:
            return None
        match self.by:
            case By.ITSELF:
                return self.ours
            case By.RATIO:
                return self.ours / self.beside if self.beside else None
            case By.MORE:
                return None if self.beside is None else self.ours - self.beside

    @property
    def verdict(self) -> str:
        if self.judged is None:
            return NOT_MEASURED
        return "met" if self.judged <= self.limit else "NOT MET"

    def cells(self) -> list[str]:
        beside = f"{figure(self.beside, self.unit)}  {self.beside_name}".strip() if self.beside_name else ""
        unit = "×" if self.by is By.RATIO else self.unit
        target = f"≤ {self.limit:g}{'' if unit == '×' else ' '}{unit}".rstrip() + (" more" * (self.by is By.MORE))
        return [self.case, figure(self.ours, self.unit), beside, figure(self.judged, unit), target, self.verdict]

    def as_json(self) -> Mapping[str, object]:
        return {
            "case": self.case,
            "ours": self.ours,
            "beside": self.beside,
            "beside_name": self.beside_name,
            "unit": self.unit,
            "judged_by": self.by.name.lower(),
            "judged": self.judged,
            "limit": self.limit,
            "verdict": self.verdict,
        }


def figure(value: float | None, unit: str) -> str:
    """A figure with its unit, with as many digits as it is worth."""
    if value is None:
        return NOT_MEASURED
    if value >= 100 or (unit == "" and value == int(value)):
        digits = 0
    elif value >= 10 and unit in ("MB", "kB"):
        digits = 1
    else:
        digits = 3 if value < 1 and unit == "s" else 2
    return f"{value:.{digits}f}{'' if unit in ('', '×') else ' '}{unit}"


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The power of size with which cost grows, from the last two sizes: 1 is linear. None for fewer than two.

    The last step, not a line through all: at small sizes it is what every deploy costs that is measured.
    """
    if len(points) < 2:
        return None
    (size, cost), (larger, more) = sorted(points)[-2:]
    return math.log(more / cost) / math.log(larger / size)


def costs(found: Measurements, kind: str, what: str) -> list[tuple[float, float]]:
    """(size, cost) of one kind of size, smallest first."""
    below = found.below(f"size/{kind}/{what}/")
    return sorted((float(size), cost) for size, cost in below.items() if size.isdecimal())


def must_reach(found: Measurements) -> list[Row]:
    """Every target, measured or not."""
    rows = []

    def against(case: str, app: str, compression: str, limit: float, other: str = PEER) -> None:
        name = f"{app}/{case}"
        side = f"fab {compression}"
        by = f" by {found.compressors[side]}" if side in found.compressors else ""
        words = f"{app} app, {case}, {compression}{by}"
        beside = found.median(f"{name}/{other}")
        rows.append(Row(words, found.median(f"{name}/{side}"), limit, beside=beside, beside_name=found.named(other)))

    for case in (UNCHANGED, CHANGED):
        against(case, "large", "gzip", 0.25)
    for case in (UNCHANGED, CHANGED):
        against(case, "large", "zstd", 0.15)
        against(case, "large", "zstd", 0.5, TUNED_PEER)
    against(COLD, "large", "gzip", 0.35)
    for case in (COLD, UNCHANGED, CHANGED):
        against(case, "small", "gzip", 0.5)
    against(SAME, "large", "gzip", 0.1)
    against(SAME, "small", "gzip", 0.35)
    rows += [_packing(found, compression) for compression in floors.COMPARABLE]
    rows += [
        Row(
            "small app over 150 ms, until the event",
            found.median(f"small/link/{link.FAR}"),
            3,
            By.MORE,
            found.median(f"small/link/{link.NEAR}"),
            "without",
        ),
        Row("SSH channels of a whole deploy", found.highest("verified/fab gzip/SSH channels"), 8, By.ITSELF, unit=""),
    ]
    for name in (startup.LIST, startup.FIRST_BYTE):
        empty = found.median(f"start-up/floor/{startup.EMPTY_LIST}")
        rows.append(Row(name, found.median(f"start-up/{name}"), 1.5, beside=empty, beside_name=startup.EMPTY_LIST))
    rows.append(Row("event → all 3 hosts verified, 2 MB", found.median(verified.LAST_HOST), 2, By.ITSELF))
    signed = found.median(verified.LAST_HOST_SIGNED)
    rows.append(Row("event → all 3 hosts verified, 2 MB, signed", signed, 2, By.ITSELF))
    for kind in ("MB", "files"):
        size = UP_TO[kind]
        for who in ("operator", "worker"):
            names = [f"size/{kind}/{case}/{size}/peak memory/{who}" for case in (COLD, CHANGED, sizes.COLD_ZSTD)]
            peak = max((each for name in names if (each := found.highest(name)) is not None), default=None)
            rows.append(Row(f"peak memory, {who}, {size:,} {kind}", peak, 150, By.ITSELF, unit="MB"))
    for kind, up_to in UP_TO.items():
        for what in ("CPU time",) if kind == "hosts" else (COLD, CHANGED):
            points = costs(found, kind, what)
            growth = exponent(points) if points and points[-1][0] == up_to else None
            rows.append(Row(f"cost against {kind}, {what}: exponent at {up_to:,}", growth, LINEAR, By.ITSELF, unit=""))
    return rows


def _packing(found: Measurements, compression: str) -> Row:
    """The floor is the slower of the fastest pipe and the fastest upload: what cannot be beaten side by side."""
    pipes = found.below("large/floor/")
    fastest = {
        what: min((name for name in names if name in pipes), key=lambda name: pipes[name], default=None)
        for what, names in {
            "pipe": floors.COMPARABLE[compression],
            "upload": [f"upload by {how}, {compression}" for how in ("boto3", "one PUT")],
        }.items()
    }
    names = [name for name in fastest.values() if name is not None]
    slower = max(names, key=lambda name: pipes[name]) if len(names) == len(fastest) else None
    by = found.compressors.get(f"fab {compression}")
    return Row(
        f"pack + hash + upload, {compression}" + (f" by {by}" if by else ""),
        found.median(f"large/pack, hash, upload/{compression}"),
        1.15,
        beside=pipes[slower] if slower else None,
        beside_name=slower or "pipe and upload",
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns below their heads; the first is text, the others are set to the right but for the last."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def text(line: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if 0 < number < len(widths) - 1 else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([text(lines[0]), "  ".join("─" * width for width in widths), *map(text, lines[1:])])


def deploy_table(found: Measurements) -> str:
    """Whole deploys: until the event, the whole command, channels, what was sent and stored, memory."""
    header = ["until the event", "", "whole command", "of peer", "channels", "over SSH", "to S3", "fab", "worker", "by"]
    rows = []
    for name in _deploys(found):
        case, _, side = name.rpartition("/")

        def median(what: str, unit: str, name: str = name) -> str:
            value = found.median(f"{name}/{what}")
            return "" if value is None else figure(value, unit)

        until, peer = found.median(name), found.median(f"{case}/{PEER}")
        rows.append(
            [
                case.replace("/", ", "),
                figure(until, "s"),
                median("whole command", "s"),
                figure(until / peer, "×") if until is not None and peer else "",
                median("SSH channels", ""),
                median("SSH traffic", "kB"),
                median("uploaded", "MB"),
                median("peak memory/operator", "MB"),
                median("peak memory/worker", "MB"),
                found.named(side),
            ]
        )
    return table(header, rows)


def phase_table(found: Measurements) -> str:
    """Where our own time goes, phase by phase, as `--json` tells it; the rest is start-up, connection and hello."""
    shown = [name for name in _deploys(found) if found.below(f"{name}/phase/")]
    phases = list(dict.fromkeys(phase for name in shown for phase in found.below(f"{name}/phase/")))
    rows = []
    for name in shown:
        case, _, side = name.rpartition("/")
        spent = found.below(f"{name}/phase/")
        whole = found.median(f"{name}/whole command") or 0
        cells = [figure(spent[phase], "s") if phase in spent else "" for phase in phases]
        rows.append([case.replace("/", ", "), *cells, figure(whole - sum(spent.values()), "s"), found.named(side)])
    return table(["phases", *phases, "the rest", "by"], rows)


def _deploys(found: Measurements) -> list[str]:
    """The names of all that was a whole deploy, but for the sizes, in the order of the cases."""
    marked = [name.removesuffix("/whole command") for name in found.figures if name.endswith("/whole command")]
    return [name for name in marked if not name.startswith("size/")]


def floor_table(found: Measurements) -> str:
    """All floors, and what was measured beside them alone."""
    names = [
        name
        for name in found.figures
        if "/floor/" in name or name.startswith(("start-up/", "large/pack, hash, upload/"))
    ]
    rows = [
        [name.replace("/floor/", ": ").replace("/", ", ", 1), _range(found, name), _median(found, name)]
        for name in names
    ]
    return table(["floors", "from – to", "median"], rows)


def _median(found: Measurements, name: str) -> str:
    return figure(found.median(name), found.units[name])


def _range(found: Measurements, name: str) -> str:
    values = found.figures[name]
    return f"{figure(min(values), found.units[name])} – {figure(max(values), found.units[name])}"


def size_table(found: Measurements) -> str:
    """Cost at each size, and for each doubling in the end."""
    rows = []
    for kind in UP_TO:
        for what in (COLD, CHANGED, sizes.COLD_ZSTD, "CPU time", "lag"):
            for size, cost in costs(found, kind, what):
                beginning = f"size/{kind}/{what}/{size:.0f}/peak memory/"
                peaks = [
                    figure(found.highest(beginning + who), "MB") if found.highest(beginning + who) else ""
                    for who in ("operator", "worker", "programs")
                ]
                rows.append([f"{size:,.0f} {kind}, {what}", figure(cost, "s"), *peaks, ""])
    return table(["size", "cost", "fab", "worker", "its programs", ""], rows)


def full_text(found: Measurements, place: str) -> str:
    """All of it, for the screen and for a file."""
    header = ["must reach", "ours", "beside", "judged", "target", ""]
    parts = [
        f"Measured on {place}. Medians; compare ratios, not seconds.",
        table(header, [row.cells() for row in must_reach(found)]),
    ]
    if _deploys(found):
        parts += [deploy_table(found), phase_table(found)]
    parts += [
        make(found)
        for make, beginning in ((floor_table, ("",)), (size_table, ("size/",)))
        if any(name.startswith(beginning) for name in found.figures)
    ]
    return "\n\n".join([*parts, *found.notes]) + "\n"
