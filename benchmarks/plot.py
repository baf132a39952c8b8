"""Cost against size as a picture: files, megabytes and hosts, each beside a line that grows as its size does."""

from pathlib import Path

from benchmarks.measurements import Measurements
from benchmarks.report import UP_TO, costs
from benchmarks.sides import CHANGED, COLD


def draw(found: Measurements, path: Path) -> bool:
    """Write an SVG; False if no cost was measured, and nothing is written."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    lines = {
        kind: {what: points for what in (COLD, CHANGED, "CPU time") if (points := costs(found, kind, what))}
        for kind in UP_TO
    }
    shown = [kind for kind in UP_TO if lines[kind]]
    if not shown:
        return False
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.6), squeeze=False)
    for axis, kind in zip(axes[0], shown, strict=True):
        for what, points in lines[kind].items():
            axis.plot(*zip(*points, strict=True), marker="o", label=what)
        lowest = min(lines[kind].values(), key=lambda points: points[-1][1])
        (smallest, _), (largest, cost) = lowest[0], lowest[-1]
        axis.plot([smallest, largest], [cost * smallest / largest, cost], ":", color="grey", label="linear")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks([size for size, _ in lowest], labels=[f"{size:,.0f}" for size, _ in lowest])
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(kind)
        axis.set_ylabel("seconds")
        axis.legend()
        axis.grid(True, which="major", linewidth=0.4)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
    return True
