"""The figure of time steps: which panels a run has, and what is in them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from report_runs import make_record

from pqbench.report.figures.calibration import Panel, calibration_panels, time_steps_figure
from pqbench.results.records import Record

STEPS = [99, 199, 299, 399]


def row(sampler: str, histogram: list[int], digest: str) -> dict[str, Any]:
    return {"sampler": sampler, "digest": digest, "timesteps": STEPS[: len(histogram)], "histogram": histogram}


def record(label: str, *rows: dict[str, Any], seed: int = 0) -> Record:
    return make_record(label, seed=seed, trace={"calibrate": list(rows)})


def test_a_panel_a_sampler_with_the_mean_over_seeds_and_all_users() -> None:
    first, second = row("ndtc", [4, 2, 0, 0], "a"), row("ndtc", [2, 2, 2, 0], "b")
    other = row("stratified", [0, 3, 0, 3], "c")
    records = [
        record("ptq4dm", first),
        record("ptq4dm", second, seed=1),
        record("pqcad", first, other),
        make_record("fp"),
        record("old", {"histogram": [1, 2]}),
    ]
    assert calibration_panels(records) == [
        Panel("ndtc", tuple(STEPS), (3, 2, 1, 0), 2, ("ptq4dm", "pqcad")),
        Panel("stratified", tuple(STEPS), (0, 3, 0, 3), 1, ("pqcad",)),
    ]


def test_sets_at_other_steps_have_a_panel_of_their_own() -> None:
    records = [record("a", row("ndtc", [1, 1], "a")), record("b", row("ndtc", [1, 1, 1], "b"))]
    assert [panel.timesteps for panel in calibration_panels(records)] == [(99, 199), (99, 199, 299)]


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_the_figure_has_room_for_every_panel(count: int) -> None:
    panels = [Panel(f"sampler{i}[samples=8]", tuple(STEPS), (1, 2, 3, 2), 1, ("m",) * i) for i in range(count)]
    figure = time_steps_figure(panels)
    lines = -(-count // 3)
    assert Image.open(io.BytesIO(figure)).height >= lines * 400
    assert time_steps_figure(panels) == figure


@pytest.mark.parametrize("steps", [1, 2, 1000])
def test_any_number_of_sampling_steps(steps: int) -> None:
    panel = Panel("uniform", tuple(range(steps)), (1,) * steps)
    assert time_steps_figure([panel], "svg").startswith(b"<?xml")
