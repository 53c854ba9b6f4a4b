"""The trace of progressive quantization: how each block came down to its width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pqbench.report.figures.style import COLOURS, FAINT, INK, ImageFormat, drawn
from pqbench.results.records import Record

STAGE = "quantize"
NAMED_SHARE = 0.035
"""Blocks that take less than this share of the axis have no room for a name; their bands still show them."""
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

    places = _places(rows)

    def draw(figure: Figure) -> None:
        bits, loss = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
        _draw_bits(bits, rows, places)
        _draw_loss(loss, rows, places)
        for axes in (bits, loss):
            _draw_blocks(axes, rows, places)
        _name_blocks(bits, rows, places)
        figure.suptitle(f"{record.label} {record.precision}, seed {record.seed}", x=0.02, ha="left", fontsize=10)

    return drawn(draw, (10.0, 5.4), form)


def _draw_bits(axes: Axes, rows: Sequence[Mapping[str, Any]], places: Sequence[float]) -> None:
    axes.step(places, _series(rows, "width"), where="pre", color=INK, linewidth=1.4)
    axes.set_ylabel("bits")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_loss(axes: Axes, rows: Sequence[Mapping[str, Any]], places: Sequence[float]) -> None:
    for key, (colour, width) in CURVES.items():
        values = _series(rows, key)
        if any(math.isfinite(value) for value in values):
            axes.plot(places, values, color=colour, linewidth=width, label=key)
    events = [place for place, row in zip(places, rows, strict=True) if row.get("event")]
    if events:
        axes.plot(
            events, [0.02] * len(events), "|", color=INK, transform=axes.get_xaxis_transform(), label="transition"
        )
    if any(value > 0 for value in _series(rows, "loss")):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("relative to full precision")
    axes.set_xlabel("iterations, block after block (names: the blocks with room for one)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=4)


def _draw_blocks(axes: Axes, rows: Sequence[Mapping[str, Any]], places: Sequence[float]) -> None:
    axes.grid(axis="x", visible=False)
    for position, (_, start, end) in enumerate(_spans(rows, places)):
        if position % 2:
            axes.axvspan(start, end, color="#F3F3F3", zorder=0)


def _name_blocks(axes: Axes, rows: Sequence[Mapping[str, Any]], places: Sequence[float]) -> None:
    room = NAMED_SHARE * max(places)
    last = -math.inf
    for name, start, end in _spans(rows, places):
        middle = (start + end) / 2
        if middle - last < room:
            continue
        last = middle
        axes.annotate(
            name,
            (middle, 1.02),
            xycoords=axes.get_xaxis_transform(),
            rotation=35,
            fontsize=7,
            color=FAINT,
            ha="left",
            va="bottom",
        )


def _places(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """How many iterations had been done at each row, over all blocks and widths before it.

    A row counts from the start of its width; rows without a count are one iteration each.
    """
    places: list[float] = []
    before = 0.0
    for _, members in groupby(rows, key=lambda row: (row.get("stage"), row.get("block"), row.get("width"))):
        counts = [_number(row, "iteration") for row in members]
        own = [float(i) if count is None else count for i, count in enumerate(counts, 1)]
        places += [before + count for count in own]
        before += own[-1]
    return places


def _spans(rows: Sequence[Mapping[str, Any]], places: Sequence[float]) -> Iterator[tuple[str, float, float]]:
    """(name, where it begins, where it ends) of each run of rows that belong to one block and stage."""
    start, first = 0.0, 0
    for (stage, block), members in groupby(rows, key=lambda row: (row.get("stage"), row.get("block"))):
        first += len(list(members))
        end = places[first - 1]
        short = str(block).removeprefix("net.") if block else ""
        yield ": ".join(str(part) for part in (stage, short) if part), start, end
        start = end


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = (_number(row, key) for row in rows)
    return [math.nan if value is None else value for value in values]


def _number(row: Mapping[str, Any], key: str) -> float | None:
    try:
        return float(row[key])
    except (KeyError, TypeError, ValueError):
        return None
