"""The figure of gains: which lines a run has, and what is in them."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from report_runs import make_record

from pqbench.report.figures.correction import Line, correction_lines, gains_figure
from pqbench.results.records import Record


def record(label: str, gains: list[float], seed: int = 0) -> Record:
    rows = [{"time_step": 100 * (len(gains) - i), "gain": gain, "bias": 0.0} for i, gain in enumerate(gains)]
    return make_record(label, seed=seed, trace={"correct": rows})


def test_a_line_a_method_in_ascending_time_with_the_mean_over_seeds() -> None:
    records = [
        make_record("fp"),
        record("a", [1.0, 0.5]),
        record("a", [0.5, 0.5], seed=1),
        record("b", [0.25]),
        make_record("c", trace={"correct": [{"iteration": 1, "loss": 0.5}]}),
    ]
    assert correction_lines(records) == [Line("a", (100, 200), (0.5, 0.75), 2), Line("b", (100,), (0.25,))]


@pytest.mark.parametrize("count", [1, 3, 12])
def test_every_line_has_room_for_its_name(count: int) -> None:
    lines = [Line(f"method{i}[option={i}]", (1, 2, 3), (0.9, 0.95, 1.0)) for i in range(count)]
    picture = Image.open(io.BytesIO(gains_figure(lines)))
    assert picture.height == pytest.approx(150 * (4.2 + 0.2 * count), abs=2)
    assert gains_figure(lines) == gains_figure(lines)
    assert gains_figure(lines, "svg").startswith(b"<?xml")
