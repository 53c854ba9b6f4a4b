"""All files of a run's report, beside its records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pqbench.base.files import write_atomically
from pqbench.results.records import Manifest, Record
from pqbench.results.store import RunFolder

TABLES = ("table.md", "table.tex", "table.csv", "table.html")
QUALITY_PLOT = "quality_latency"
SAMPLE_GRID = "samples.png"
CALIBRATION_PLOT = "calibration"
CORRECTION_PLOT = "corrections"
BIAS_PLOT = "n_bias"


def write_report(run: RunFolder) -> list[Path]:
    """Write tables and figures into the run's folder, each whole or not at all; return what was written.

    table.md, table.tex, table.csv (one row a cell), table.html, quality_latency.png and .svg where cells have both a
    distance and a latency, samples.png where images were kept, calibration.png and .svg where calibration sets were
    drawn, corrections.png and .svg where predictions were corrected, n_bias.png and .svg where a distance was
    extrapolated to infinitely many images, and trace-NAME.png for each cell with a trace of progressive quantization.
    The same records give the same bytes.

    Raises `UserError` for a folder that holds no run, damaged records or a full disk.
    """
    from pqbench.report.renderers.html_page import html_page
    from pqbench.report.renderers.latex import latex
    from pqbench.report.renderers.markdown import markdown
    from pqbench.report.tables.flat import cells_csv
    from pqbench.report.tables.results import results_table

    manifest, records = run.manifest(), run.current_records()
    table = results_table(records, manifest, run.comparisons())
    figures = figures_of(run)
    contents = (markdown(table), latex(table), cells_csv(records), html_page(table, shown_figures(figures)))
    files: dict[str, str | bytes] = {**dict(zip(TABLES, contents, strict=True)), **figures}
    for name, content in files.items():
        write_atomically(run.path / name, content)
    return [run.path / name for name in files]


def figures_of(run: RunFolder) -> dict[str, bytes]:
    """The run's figures by file name."""
    from pqbench.report.figures.samples import sample_grid

    manifest, records = run.manifest(), run.current_records()
    figures = {}
    grid = sample_grid(records, manifest, run.path)
    if grid is not None:
        figures[SAMPLE_GRID] = grid
    figures |= _quality(records, manifest)
    return figures | _time_steps(records) | _gains(records) | _biases(records) | _traces(records)


def shown_figures(figures: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a page shows of `figures_of`: PNG files by caption."""
    captions = {
        f"{QUALITY_PLOT}.png": "Quality against measured latency",
        SAMPLE_GRID: "The same seeds in every column",
        f"{CALIBRATION_PLOT}.png": "Time steps of the calibration sets",
        f"{BIAS_PLOT}.png": "The distance against the number of images",
        f"{CORRECTION_PLOT}.png": "Gains that corrections undo",
    }
    return {
        captions.get(name, f"Progressive quantization: {name.removesuffix('.png')}"): figure
        for name, figure in figures.items()
        if name.endswith(".png")
    }


def _quality(records: list[Record], manifest: Manifest) -> dict[str, bytes]:
    from pqbench.report.figures.quality import quality_latency

    figure = quality_latency(records, manifest)
    svg = quality_latency(records, manifest, "svg")
    return {} if figure is None or svg is None else {f"{QUALITY_PLOT}.png": figure, f"{QUALITY_PLOT}.svg": svg}


def _time_steps(records: list[Record]) -> dict[str, bytes]:
    from pqbench.report.figures.calibration import calibration_panels, time_steps_figure

    panels = calibration_panels(records)
    if not panels:
        return {}
    return {
        f"{CALIBRATION_PLOT}.png": time_steps_figure(panels),
        f"{CALIBRATION_PLOT}.svg": time_steps_figure(panels, "svg"),
    }


def _gains(records: list[Record]) -> dict[str, bytes]:
    from pqbench.report.figures.correction import correction_lines, gains_figure

    lines = correction_lines(records)
    if not lines:
        return {}
    return {f"{CORRECTION_PLOT}.png": gains_figure(lines), f"{CORRECTION_PLOT}.svg": gains_figure(lines, "svg")}


def _biases(records: list[Record]) -> dict[str, bytes]:
    from pqbench.report.figures.n_bias import bias_curves, bias_figure

    curves = bias_curves(records)
    if not curves:
        return {}
    return {f"{BIAS_PLOT}.png": bias_figure(curves), f"{BIAS_PLOT}.svg": bias_figure(curves, "svg")}


def _traces(records: list[Record]) -> dict[str, bytes]:
    from pqbench.report.figures.trace import quantization_trace

    traces = {}
    for record in records:
        figure = quantization_trace(record)
        if figure is not None:
            traces[_trace_name(record)] = figure
    return traces


def _trace_name(record: Record) -> str:
    """A file name that says which cell it is and that every file system takes."""
    label = re.sub(r"[^\w.=-]+", "_", f"{record.label}-{record.precision}").strip("_")
    return f"trace-{label}-seed{record.seed}-{record.cell[:8]}.png".replace("/", "_")
