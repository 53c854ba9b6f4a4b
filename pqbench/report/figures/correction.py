"""What corrections found: the gain of each step, one line a method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from pqbench.report.figures.style import COLOURS, FAINT, INK, MARKERS, ImageFormat, drawn
from pqbench.results.records import Record

STAGE = "correct"
_SIZE = (6.8, 4.2)
_STYLES = ("-", "--", ":")
"""Where colours come round again."""


@dataclass(frozen=True)
class Line:
    """One method's gains.

    timesteps   ascending
    gains       at each of them, the mean over `seeds` cells that differ in their seed
    """

    label: str
    timesteps: tuple[int, ...]
    gains: tuple[float, ...]
    seeds: int = 1


def correction_lines(records: Iterable[Record]) -> list[Line]:
    """A line for each method whose correction left the gains of its steps, in order of appearance."""
    found: dict[tuple[str, tuple[int, ...]], list[tuple[float, ...]]] = {}
    for record in records:
        rows = [row for row in record.trace.get(STAGE, []) if row.keys() >= {"time_step", "gain"}]
        rows.sort(key=lambda row: int(row["time_step"]))
        if rows:
            timesteps = tuple(int(row["time_step"]) for row in rows)
            found.setdefault((record.label, timesteps), []).append(tuple(float(row["gain"]) for row in rows))
    return [
        Line(label, timesteps, tuple(sum(gains) / len(gains) for gains in zip(*cells, strict=True)), len(cells))
        for (label, timesteps), cells in found.items()
    ]


def gains_figure(lines: Sequence[Line], form: ImageFormat = "png") -> bytes:
    """Gains over time steps, the sampler's way from right to left. `lines` holds at least one."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(1.0, color=FAINT, linewidth=1.0, linestyle="--")
        for place, line in enumerate(lines):
            axes.plot(
                line.timesteps,
                line.gains,
                color=COLOURS[place % len(COLOURS)],
                linestyle=_STYLES[place // len(COLOURS) % len(_STYLES)],
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                linewidth=1.4,
                label=f"{line.label}{f', mean of {line.seeds} seeds' if line.seeds > 1 else ''}",
            )
        axes.set_xlabel("time step t (0: clean image)")
        axes.set_ylabel("gain against full precision")
        axes.set_title("Gain that the correction undoes; below 1: predictions too small", loc="left", color=INK)
        # Below the axes: labels of methods are long, and lines are everywhere.
        figure.legend(loc="outside lower left", fontsize=8, frameon=False, ncols=1)

    return drawn(draw, (_SIZE[0], _SIZE[1] + 0.2 * len(lines)), form)
