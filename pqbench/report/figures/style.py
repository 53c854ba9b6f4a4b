"""How all figures look, and how they become bytes that depend on their content alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ImageFormat = Literal["png", "svg"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
"""Okabe and Ito's palette, told apart with any colour vision; without its yellow, which is too pale for lines."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#333333"
FAINT = "#9A9A9A"

SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "text.parse_math": False,
    "svg.hashsalt": "pqbench",
    "svg.fonttype": "path",
}


def drawn(draw: Callable[[Figure], None], size: tuple[float, float], form: ImageFormat = "png") -> bytes:
    """The file of a figure of `size` inches that `draw` fills.

    Works on a figure of its own, without pyplot, so that nothing global is left behind.
    """
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        figure = Figure(figsize=size, dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        data = io.BytesIO()
        # Dates and versions inside the file would make every figure a new one.
        metadata = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
        figure.savefig(data, format=form, metadata=metadata)
    return data.getvalue()
