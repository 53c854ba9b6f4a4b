"""The N-bias curve: the Frechet distance against one over the number of images, and its line to infinitely many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from pqbench.report.figures.style import COLOURS, FAINT, INK, MARKERS, ImageFormat, drawn
from pqbench.results.records import Record

METRIC = "fd_infinity"
_SIZE = (6.8, 4.2)


@dataclass(frozen=True)
class BiasCurve:
    """One cell's distances.

    sizes, distances   images of each subset and its distance
    limit              the line at infinitely many, with its 95 % interval; `slope` against 1/n
    """

    label: str
    title: str
    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    limit: float
    low: float
    high: float
    slope: float


def bias_curves(records: Iterable[Record]) -> list[BiasCurve]:
    """A curve for each cell that has the metric, in order; seeds are named where there are several."""
    found = [record for record in records if METRIC in record.metrics]
    seeds = {record.seed for record in found}
    return [_curve(record, names_seed=len(seeds) > 1) for record in found if _is_complete(record)]


def bias_figure(curves: Sequence[BiasCurve], form: ImageFormat = "png") -> bytes:
    """Distances over 1/n, their lines down to 0, and the interval of each limit. `curves` holds at least one."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=FAINT, linewidth=1.0, linestyle="--")
        for place, curve in enumerate(curves):
            colour = COLOURS[place % len(COLOURS)]
            marker = MARKERS[place % len(MARKERS)]
            inverse = [1 / size for size in curve.sizes]
            axes.plot(inverse, curve.distances, marker, color=colour, markersize=4, label=_label(curve))
            line = [0.0, max(inverse)]
            axes.plot(line, [curve.limit + curve.slope * x for x in line], color=colour, linewidth=1.2)
            bars = [[max(0.0, curve.limit - curve.low)], [max(0.0, curve.high - curve.limit)]]
            axes.errorbar([0.0], [curve.limit], yerr=bars, color=colour, marker=marker, markersize=5, capsize=3)
        axes.set_xlabel("1 / number of images (0: infinitely many)")
        axes.set_ylabel(curves[0].title.removesuffix("∞"))
        axes.set_title("What few images add to the distance; bars: 95 % interval of the limit", loc="left", color=INK)
        figure.legend(loc="outside lower left", fontsize=8, frameon=False, ncols=1)

    return drawn(draw, (_SIZE[0], _SIZE[1] + 0.2 * len(curves)), form)


def _is_complete(record: Record) -> bool:
    return {"sizes", "distances", "slope"} <= record.metrics[METRIC].detail.keys()


def _curve(record: Record, names_seed: bool) -> BiasCurve:
    metric = record.metrics[METRIC]
    return BiasCurve(
        label=f"{record.label} {record.precision}" + (f", seed {record.seed}" if names_seed else ""),
        title=metric.title,
        sizes=tuple(int(size) for size in metric.detail["sizes"]),
        distances=tuple(float(distance) for distance in metric.detail["distances"]),
        limit=metric.value,
        low=metric.value if metric.low is None else metric.low,
        high=metric.value if metric.high is None else metric.high,
        slope=float(metric.detail["slope"]),
    )


def _label(curve: BiasCurve) -> str:
    return f"{curve.label}: {curve.limit:.3g} [{curve.low:.3g}, {curve.high:.3g}]"
