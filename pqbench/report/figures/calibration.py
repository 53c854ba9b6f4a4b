"""The time steps that calibration samplers drew: one small histogram a sampler, all on the same time axis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pqbench.report.figures.style import COLOURS, FAINT, INK, ImageFormat, drawn
from pqbench.results.records import Record

STAGE = "calibrate"
COLUMNS = 3
_PANEL = (4.1, 2.9)
"""Inches of one panel, with its title."""
_TITLE_CHARACTERS = 54
_MOST_BARS = 60
"""Beyond as many sampling steps, neighbours share a bar."""


@dataclass(frozen=True)
class Panel:
    """One sampler's time steps.

    timesteps   the sampling steps, ascending
    counts      samples at each of them, the mean over `sets` sets that differ in their seed
    users       labels of the methods that work on them
    """

    sampler: str
    timesteps: tuple[int, ...]
    counts: tuple[float, ...]
    sets: int = 1
    users: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Panel:
        """The panel of one row of a calibration's trace."""
        return cls(str(row["sampler"]), tuple(row["timesteps"]), tuple(row["histogram"]))


def calibration_panels(records: Iterable[Record]) -> list[Panel]:
    """A panel for each sampler with its parameters, in order of appearance; sets of several seeds are averaged."""
    rows: dict[tuple[str, tuple[int, ...]], dict[str, Sequence[int]]] = {}
    users: dict[tuple[str, tuple[int, ...]], dict[str, None]] = {}
    for record in records:
        for row in record.trace.get(STAGE, []):
            if not row.keys() >= {"sampler", "digest", "timesteps", "histogram"}:
                continue  # a record of an earlier version
            key = str(row["sampler"]), tuple(row["timesteps"])
            rows.setdefault(key, {})[str(row["digest"])] = row["histogram"]
            users.setdefault(key, {})[record.label] = None
    return [
        Panel(
            sampler,
            timesteps,
            tuple(sum(counts) / len(sets) for counts in zip(*sets.values(), strict=True)),
            len(sets),
            tuple(users[sampler, timesteps]),
        )
        for (sampler, timesteps), sets in rows.items()
    ]


def time_steps_figure(panels: Sequence[Panel], form: ImageFormat = "png") -> bytes:
    """Small multiples of histograms over the sampling steps. `panels` holds at least one."""
    columns = min(COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(lines, columns, squeeze=False)
        last = max(panel.timesteps[-1] for panel in panels)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw(axes, panel, last)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        figure.supxlabel(
            "dashed: equally many samples at every sampling step", fontsize=8.5, color=INK, x=0.99, ha="right"
        )

    # A panel alone has room to be larger.
    scale = 1.5 if len(panels) == 1 else 1.0
    return drawn(draw, (scale * _PANEL[0] * columns, scale * _PANEL[1] * lines), form)


def _draw(axes: Axes, panel: Panel, last: int) -> None:
    places, counts, width = _bars(panel)
    axes.bar(places, counts, width=0.85 * width, color=COLOURS[0])
    axes.set_ylim(0, 1.06 * max(counts))
    total = sum(panel.counts)
    axes.axhline(total / len(counts), color=FAINT, linewidth=1.0, linestyle="--")
    axes.set_xlim(-0.03 * last - width / 2, 1.03 * last + width / 2)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("time step t (0: clean image)", fontsize=9)
    axes.set_ylabel("samples", fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.set_title(_title(panel, round(total)), loc="left", fontsize=8.5, color=INK)


def _bars(panel: Panel) -> tuple[list[float], list[float], float]:
    """Centres, heights and common width of the bars."""
    each = math.ceil(len(panel.timesteps) / _MOST_BARS)
    groups = [slice(i, i + each) for i in range(0, len(panel.timesteps), each)]
    places = [sum(panel.timesteps[g]) / len(panel.timesteps[g]) for g in groups]
    width = (places[-1] - places[0]) / (len(places) - 1) if len(places) > 1 else 1.0
    return places, [sum(panel.counts[g]) for g in groups], width


def _title(panel: Panel, samples: int) -> str:
    seeds = f", mean of {panel.sets} sets" if panel.sets > 1 else ""
    words = [f"{panel.sampler.replace(',', ', ')}: {samples} samples{seeds}"]
    if panel.users:
        words.append(f"used by {', '.join(user.replace(',', ', ') for user in panel.users)}")
    return "\n".join(
        line
        for text in words
        for line in textwrap.wrap(text, _TITLE_CHARACTERS, max_lines=2, placeholder=" …", break_on_hyphens=False)
    )
