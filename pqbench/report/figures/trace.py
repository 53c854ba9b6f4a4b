"""The trace of progressive quantization: how each block came down to its width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pqbench.bench.records import Record
from pqbench.report.figures.style import COLOURS, FAINT, INK, ImageFormat, drawn

STAGE = "quantize"
MOST_NAMED_BLOCKS = 24
CURVES = {"loss": (COLOURS[5], 0.8), "perturbation": (COLOURS[2], 0.8), "momentum": (COLOURS[1], 1.6)}
"""Colour and width of each line that the trace may hold."""


def quantization_trace(record: Record, form: ImageFormat = "png") -> bytes | None:
    """Bits, loss and its momentum over all checks of the detector, block after block; None without such a trace.

    Reads rows of `record.trace["quantize"]` with any of stage, block, width, loss, perturbation, momentum and event.
    """
    rows = [
        row for row in record.trace.get(STAGE, []) if any(_number(row, key) is not None for key in ("loss", "width"))
    ]
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        bits, loss = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        _draw_bits(bits, rows)
        _draw_loss(loss, rows)
        for axes in (bits, loss):
            _draw_blocks(axes, rows)
        _name_blocks(bits, rows)
        figure.suptitle(f"{record.label} {record.precision}, seed {record.seed}", x=0.02, ha="left", fontsize=10)

    return drawn(draw, (10.0, 5.4), form)


def _draw_bits(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    axes.step(range(len(rows)), _series(rows, "width"), where="mid", color=INK, linewidth=1.4)
    axes.set_ylabel("bits")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_loss(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for key, (colour, width) in CURVES.items():
        values = _series(rows, key)
        if any(math.isfinite(value) for value in values):
            axes.plot(values, color=colour, linewidth=width, label=key)
    events = [i for i, row in enumerate(rows) if row.get("event")]
    if events:
        axes.plot(
            events, [0.02] * len(events), "|", color=INK, transform=axes.get_xaxis_transform(), label="transition"
        )
    if any(value > 0 for value in _series(rows, "loss")):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("relative to full precision")
    axes.set_xlabel("iterations, block after block")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=4)


def _draw_blocks(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    axes.grid(axis="x", visible=False)
    for position, (_, start, end) in enumerate(_spans(rows)):
        if position % 2:
            axes.axvspan(start - 0.5, end - 0.5, color="#F3F3F3", zorder=0)


def _name_blocks(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    spans = list(_spans(rows))
    every = math.ceil(len(spans) / MOST_NAMED_BLOCKS)
    for name, start, end in spans[::every]:
        axes.annotate(
            name,
            ((start + end - 1) / 2, 1.02),
            xycoords=axes.get_xaxis_transform(),
            rotation=35,
            fontsize=7,
            color=FAINT,
            ha="left",
            va="bottom",
        )


def _spans(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int, int]]:
    """(name, first row, row behind its last) of each run of rows that belong to one block and stage."""
    start = 0
    for (stage, block), members in groupby(rows, key=lambda row: (row.get("stage"), row.get("block"))):
        end = start + len(list(members))
        yield ": ".join(str(part) for part in (stage, block) if part), start, end
        start = end


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = (_number(row, key) for row in rows)
    return [math.nan if value is None else value for value in values]


def _number(row: Mapping[str, Any], key: str) -> float | None:
    try:
        return float(row[key])
    except (KeyError, TypeError, ValueError):
        return None
