"""Figures: made from records alone, the same to the byte every time, and readable."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image
from report_runs import full_precision, make_manifest, make_metrics, make_record, make_trace, typical_records

from pqbench.report.figures.labels import Label, place_labels
from pqbench.report.figures.quality import quality_latency
from pqbench.report.figures.samples import sample_grid
from pqbench.report.figures.trace import quantization_trace
from pqbench.results.records import Record


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def has_colour(picture: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(picture.astype(int) - wanted).sum(-1) < 6).any())


@pytest.mark.parametrize("form", ["png", "svg"])
def test_quality_plot_is_the_same_every_time(form: str) -> None:
    first = quality_latency(typical_records(), make_manifest(), form)  # type: ignore[arg-type]
    assert quality_latency(typical_records(), make_manifest(), form) == first  # type: ignore[arg-type]
    assert first.startswith(b"\x89PNG" if form == "png" else b"<?xml")


def test_quality_plot_shows_every_timed_method_in_a_colour_of_its_own() -> None:
    picture = opened(quality_latency(typical_records(), make_manifest()))
    # Rows are fp, rtn, ptq4dm, pqcad; the palette is given to rows in that order.
    assert all(has_colour(picture, colour) for colour in ("#333333", "#D55E00", "#009E73", "#CC79A7"))
    assert not has_colour(picture, "#E69F00")


def test_quality_plot_has_a_panel_for_each_protocol() -> None:
    other = make_record("rtn", label="other", metrics=make_metrics(80, 14, 0.6, 13, protocol="99e0c0de"))
    one = opened(quality_latency(typical_records(), make_manifest()))
    two = opened(quality_latency([*typical_records(), other], make_manifest()))
    assert two.shape[1] == 2 * one.shape[1]


@pytest.mark.parametrize("records", [[], [make_record("rtn", metrics=make_metrics(9, None, 1, 9))]])
def test_where_no_cell_has_a_distance_and_a_latency_there_is_no_plot(records: list[Record]) -> None:
    assert quality_latency(records, make_manifest()) is None


def test_quality_plot_of_full_precision_alone() -> None:
    assert opened(quality_latency([full_precision()], make_manifest())).ndim == 3


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.floats(0.3, 0.7), st.floats(0.2, 0.8)), min_size=2, max_size=6))
def test_labels_do_not_overlap_even_where_points_do(points: list[tuple[float, float]]) -> None:
    figure = Figure(figsize=(7, 5), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    place_labels(axes, [Label(x, y, f"method {i} w4a4", "black") for i, (x, y) in enumerate(points)])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(points)
    for i, box in enumerate(boxes):
        assert all(Bbox.intersection(box.padded(-1), other.padded(-1)) is None for other in boxes[:i])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)


def test_trace_is_the_same_every_time() -> None:
    record = make_record("pqcad", trace={"quantize": make_trace()})
    first = quantization_trace(record)
    assert first is not None
    assert first == quantization_trace(record)


@pytest.mark.parametrize(
    "rows",
    [
        [{"loss": 0.5}, {"loss": "NaN"}, {"loss": None}],
        [{"width": 8, "block": "a"}, {"width": 4, "event": "transition"}],
        [{"loss": 0.0, "momentum": "Infinity"}],
        [{"block": f"b{i}", "loss": 1.0, "width": 4} for i in range(60)],
    ],
)
def test_trace_takes_rows_that_lack_keys_or_hold_odd_values(rows: list[dict[str, object]]) -> None:
    picture = quantization_trace(make_record("pqcad", trace={"quantize": rows}))
    assert picture is not None
    assert opened(picture).std() > 0


@pytest.mark.parametrize("trace", [{}, {"quantize": []}, {"quantize": [{"note": "hello"}]}, {"distill": [{"loss": 1}]}])
def test_no_trace_no_figure(trace: dict[str, list[dict[str, object]]]) -> None:
    assert quantization_trace(make_record("pqcad", trace=trace)) is None


def strip(folder: Path, name: str, levels: list[int], side: int = 16) -> str:
    tiles = [np.full((side, side), level, np.uint8) for level in levels]
    Image.fromarray(np.concatenate(tiles, axis=1)).save(folder / name)
    return name


def grid_of(folder: Path) -> np.ndarray:
    records = [
        make_record("rtn", samples=strip(folder, "a.png", [10, 20, 30])),
        full_precision(samples=strip(folder, "b.png", [110, 120, 130])),
        make_record("ptq4dm", status="failed", reason="NaN " * 60),
        make_record("pqcad", samples="gone.png"),
    ]
    grid = sample_grid(records, make_manifest(), folder)
    assert grid is not None
    return opened(grid)


def test_sample_grid_keeps_seeds_in_columns_and_full_precision_on_top(tmp_path: Path) -> None:
    picture = grid_of(tmp_path)
    centres = {}
    for level in (10, 20, 30, 110, 120, 130):
        found = np.argwhere((picture == level).all(-1))
        # Labels are drawn in greys too; a tile is a filled square of 64 pixels.
        dense = [p for p in found if (picture[p[0] : p[0] + 64, p[1] : p[1] + 64] == level).all()]
        assert len(dense) == 1, level
        centres[level] = dense[0]
    for low, high in ((10, 110), (20, 120), (30, 130)):
        assert centres[low][1] == centres[high][1]
        assert centres[high][0] < centres[low][0]
    assert centres[10][1] < centres[20][1] < centres[30][1]


def test_sample_grid_says_why_a_row_has_no_images(tmp_path: Path) -> None:
    assert has_colour(grid_of(tmp_path), "#C0392B")


def test_sample_grid_of_wide_images_goes_by_the_shape(tmp_path: Path) -> None:
    row = np.concatenate([np.full((16, 32), level, np.uint8) for level in (10, 20)], axis=1)
    Image.fromarray(row).save(tmp_path / "wide.png")
    manifest = make_manifest(workload={"name": "w", "shape": [1, 16, 32]})
    grid = sample_grid([make_record("rtn", samples="wide.png")], manifest, tmp_path)
    assert grid is not None
    assert (opened(grid) == 20).all(-1).sum() == pytest.approx(64 * 128, rel=0.02)


def test_no_samples_no_grid(tmp_path: Path) -> None:
    assert sample_grid(typical_records(), make_manifest(), tmp_path) is None
