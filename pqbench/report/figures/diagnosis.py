"""Figures of the diagnostics: SNR of every layer at every time step, and of the outputs of several methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pqbench.inspection.diagnostics_result import Diagnosis, snr_db
from pqbench.report.figures.style import COLOURS, INK, MARKERS, ImageFormat, drawn

MOST_NAMED_LAYERS = 70
MOST_NAMED_STEPS = 14
_ROW_INCHES = 0.155
_COLOURS = "viridis"
_NO_ERROR = "#FFFFFF"


def layer_map(diagnosis: Diagnosis, form: ImageFormat = "png") -> bytes:
    """A heat map of the SNR in dB, a row a layer in the order of execution and a column a time step.

    Above it the SNR of the net's output; beside it the mean over the steps of each layer. Where a layer has no error
    at all, the map is white.
    """
    snr = np.array([[snr_db(error) for error in errors] for errors in diagnosis.layer_errors])
    names = _short_names(diagnosis.layers)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(
            2, 2, width_ratios=(3.2, 1), height_ratios=(1.3, max(_ROW_INCHES * len(names), 1.0)), sharex="col"
        )
        output, corner, heat, mean = grid[0][0], grid[0][1], grid[1][0], grid[1][1]
        _draw_output(output, diagnosis)
        corner.set_axis_off()
        _draw_map(figure, heat, corner, snr, names, diagnosis)
        _draw_mean(mean, diagnosis)
        title = f"{diagnosis.title}: signal to quantization error, {diagnosis.images} full-precision runs"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)

    return drawn(draw, (9.6, 2.6 + _ROW_INCHES * len(names)), form)


def output_curves(diagnoses: Sequence[Diagnosis], form: ImageFormat = "png") -> bytes:
    """The SNR of the net's output over the time steps, a curve a method. A method without any error has no curve."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for i, diagnosis in enumerate(diagnoses):
            axes.plot(
                diagnosis.timesteps,
                _finite([snr_db(error) for error in diagnosis.output_errors]),
                marker=MARKERS[i % len(MARKERS)],
                markersize=4,
                color=COLOURS[i % len(COLOURS)],
                label=diagnosis.title,
            )
        axes.invert_xaxis()
        axes.set_xlabel("time step t (a run goes from left to right)")
        axes.set_ylabel("SNR of the net's output, dB (higher is better)")
        if diagnoses:
            axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return drawn(draw, (9.0, 4.2), form)


def _draw_output(axes: Axes, diagnosis: Diagnosis) -> None:
    axes.plot(_finite([snr_db(error) for error in diagnosis.output_errors]), color=INK, marker="o", markersize=3)
    axes.set_ylabel("output, dB")


def _draw_map(
    figure: Figure, axes: Axes, corner: Axes, snr: np.ndarray, names: Sequence[str], diagnosis: Diagnosis
) -> None:
    colours = mpl.colormaps[_COLOURS].with_extremes(bad=_NO_ERROR)
    finite = snr[np.isfinite(snr)]
    # A few layers without much error (the first, at 8 bits) would take all the colours for themselves.
    low, high = np.percentile(finite, (0, 97)) if finite.size else (0.0, 1.0)
    shown = np.ma.masked_invalid(snr)
    picture = axes.imshow(
        shown, aspect="auto", cmap=colours, norm=Normalize(low, max(high, low + 1e-9)), interpolation="nearest"
    )
    axes.grid(visible=False)
    every = math.ceil(len(names) / MOST_NAMED_LAYERS)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=6.5)
    columns = range(0, len(diagnosis.timesteps), math.ceil(len(diagnosis.timesteps) / MOST_NAMED_STEPS))
    axes.set_xticks(columns, [str(diagnosis.timesteps[i]) for i in columns], fontsize=8)
    axes.set_xlabel("time step t (a run goes from left to right)")
    bar = figure.colorbar(
        picture, cax=corner.inset_axes((0.0, 0.5, 0.95, 0.14)), orientation="horizontal", extend="max"
    )
    bar.set_label("SNR of a layer's output, dB", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _draw_mean(axes: Axes, diagnosis: Diagnosis) -> None:
    """Mean error of each layer over the steps, in dB."""
    means = [snr_db(sum(errors) / len(errors)) for errors in diagnosis.layer_errors]
    rows = range(len(means))
    axes.barh(rows, [value if math.isfinite(value) else 0.0 for value in means], height=0.7, color=COLOURS[0])
    axes.set_ylim(len(means) - 0.5, -0.5)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("SNR of the mean error, dB", fontsize=8)
    axes.tick_params(axis="x", labelsize=8, colors=INK)
    worst = min(rows, key=lambda row: means[row])
    axes.barh([worst], [means[worst] if math.isfinite(means[worst]) else 0.0], height=0.7, color=COLOURS[1])


def _short_names(layers: Sequence[str]) -> list[str]:
    """Layer names without what they all begin with."""
    firsts = {name.partition(".")[0] for name in layers}
    if len(firsts) == 1 and all("." in name for name in layers):
        return _short_names([name.partition(".")[2] for name in layers])
    return list(layers)


def _finite(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]
