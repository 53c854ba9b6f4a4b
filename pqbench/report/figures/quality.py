"""Quality against latency: what a method costs in distance and what it gains in time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from pqbench.report.figures.labels import Label, place_labels
from pqbench.report.figures.style import COLOURS, FAINT, INK, MARKERS, ImageFormat, drawn
from pqbench.report.tables.results import distance_of
from pqbench.results.estimates import Estimate
from pqbench.results.names import LATENCY, latency_place
from pqbench.results.records import Manifest, Record
from pqbench.results.rows import Group, Row, grouped

LOG_FROM = 3.0
"""An axis is logarithmic where its largest value is at least this many times its smallest."""


@dataclass(frozen=True)
class Point:
    """One row on one engine, at batch 1."""

    label: str
    engine: str
    distance: Estimate
    latency: Estimate
    colour: str
    is_reference: bool


def quality_latency(records: Iterable[Record], manifest: Manifest, form: ImageFormat = "png") -> bytes | None:
    """A PNG or SVG: distance against measured milliseconds an image at batch 1; one panel for each protocol.

    Error bars are the 95 % intervals; dashed lines mark the full-precision model on its fastest engine. None where no
    cell has both.
    """
    of_groups = ((group, _points(group)) for group in grouped(records, manifest) if group.protocol)
    panels = [(group, points) for group, points in of_groups if points]
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, (group, points) in zip(grid[0], panels, strict=True):
            _panel(figure, axes, group, points, distance_of(group, manifest))

    return drawn(draw, (7.2 * len(panels), 4.8), form)


def _points(group: Group) -> list[Point]:
    points = []
    for position, row in enumerate(group.rows):
        distance = row.estimate("fd", group.protocol)
        for engine, latency in _latencies(row):
            if distance is not None:
                colour = INK if row.is_reference else COLOURS[position % len(COLOURS)]
                points.append(Point(_name(row), engine, distance, latency, colour, row.is_reference))
    return points


def _name(row: Row) -> str:
    steps = f"{row.steps} steps"
    return f"{row.label}, {steps}" if row.is_reference else f"{row.label} {row.precision}, {steps}"


def _latencies(row: Row) -> list[tuple[str, Estimate]]:
    names = sorted({n for r in row.finished for n in r.metrics if n.startswith(LATENCY) and latency_place(n)[1] == 1})
    found = ((latency_place(name)[0], row.estimate(name)) for name in names)
    return [(engine, estimate) for engine, estimate in found if estimate is not None]


def _panel(figure: Figure, axes: Axes, group: Group, points: Sequence[Point], distance: str) -> None:
    axes.set_xlabel("measured latency, ms an image at batch 1 (lower is better)")
    axes.set_ylabel(f"{distance} (lower is better)")
    engines = sorted({point.engine for point in points})
    for point in points:
        _draw_point(axes, point, MARKERS[engines.index(point.engine) % len(MARKERS)])
    _scale(axes, points)
    _reference_lines(axes, points)
    _title(axes, group, points)
    _engine_legend(axes, engines)
    figure.canvas.draw()  # the layout must be final before labels are placed in pixels
    place_labels(axes, [_label(point, len(engines) > 1) for point in points], _bars(axes, points))
    figure.set_layout_engine("none")


def _draw_point(axes: Axes, point: Point, marker: str) -> None:
    axes.errorbar(
        [point.latency.value],
        [point.distance.value],
        xerr=_bar(point.latency),
        yerr=_bar(point.distance),
        fmt=marker,
        color=point.colour,
        markersize=7,
        elinewidth=1.2,
        capsize=2.5,
        zorder=3,
    )


def _bar(estimate: Estimate) -> list[list[float]] | None:
    if estimate.low is None or estimate.high is None:
        return None
    # Matplotlib refuses lengths below zero, which rounding can make of an interval that ends at its value.
    return [[max(estimate.value - estimate.low, 0.0)], [max(estimate.high - estimate.value, 0.0)]]


def _label(point: Point, names_engine: bool) -> Label:
    text = f"{point.label} ({point.engine})" if names_engine and point.is_reference else point.label
    return Label(point.latency.value, point.distance.value, text, point.colour)


def _scale(axes: Axes, points: Sequence[Point]) -> None:
    """Limits with room for labels, and plain numbers on logarithmic axes."""
    for axis, estimates in (("x", [p.latency for p in points]), ("y", [p.distance for p in points])):
        ends = [end for e in estimates for end in (e.value, e.low, e.high) if end is not None]
        low, high = min(ends), max(ends)
        is_log = low > 0 and high / low >= LOG_FROM
        margin = (high / low) ** 0.15 if is_log else max(0.2 * (high - low), 0.05 * abs(high), 1e-9)
        limits = (low / margin, high * margin) if is_log else (max(low - margin, 0.0), high + margin)
        if is_log:
            axes.set(**{f"{axis}scale": "log"})
            ticks = axes.xaxis if axis == "x" else axes.yaxis
            ticks.set_major_locator(FixedLocator(_round_numbers(*limits)))
            ticks.set_minor_locator(NullLocator())
            ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ticks.set_minor_formatter(NullFormatter())
        axes.set(**{f"{axis}lim": limits})


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between the limits; every digit where those would be too few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 7)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 4:
            break
    return inside


def _reference_lines(axes: Axes, points: Sequence[Point]) -> None:
    references = [point for point in points if point.is_reference]
    if references:
        strongest = min(references, key=lambda point: point.latency.value)
        axes.axhline(strongest.distance.value, color=FAINT, linestyle="--", linewidth=1, zorder=1)
        axes.axvline(
            strongest.latency.value, color=FAINT, linestyle="--", linewidth=1, zorder=1, label="full precision"
        )


def _title(axes: Axes, group: Group, points: Sequence[Point]) -> None:
    shown = {point.label for point in points}
    missing = [_name(row) for row in group.rows if _name(row) not in shown]
    title = f"{group.workload}, budget {group.budget}, protocol {group.protocol}"
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    if missing:
        note = "not shown (failed, or no measured latency): " + "; ".join(missing)
        axes.annotate(note, (0, -0.19), xycoords="axes fraction", fontsize=7.5, color=FAINT, wrap=True)


def _engine_legend(axes: Axes, engines: Sequence[str]) -> None:
    for engine, marker in zip(engines, MARKERS, strict=False):
        axes.plot([], [], marker, color=FAINT, label=engine)
    axes.legend(title="engine", frameon=False, loc="upper right", fontsize=9, title_fontsize=9)


def _bars(axes: Axes, points: Sequence[Point]) -> list[Bbox]:
    """Error bars, reference lines and the legend in pixels, which labels must not cover."""
    boxes = [line.get_window_extent().padded(2) for line in axes.get_lines() if line.get_linestyle() == "--"]
    for point in points:
        x, y = point.latency, point.distance
        for low, high in (
            ((x.low or x.value, y.value), (x.high or x.value, y.value)),
            ((x.value, y.low or y.value), (x.value, y.high or y.value)),
        ):
            boxes.append(Bbox(axes.transData.transform([low, high])).padded(2))
    legend = axes.get_legend()
    return boxes if legend is None else [*boxes, legend.get_window_extent()]
