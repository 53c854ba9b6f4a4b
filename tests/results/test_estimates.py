"""Figures of several seeds and of ratios, and how they are written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import (
    TIMING,
    cell,
    make_metrics,
    make_record,
    metric,
    only,
)
from scipy import stats

from pqbench.report.tables.footnotes import Footnotes
from pqbench.report.tables.numbers import decimals, fixed
from pqbench.results.estimates import Estimate, over_seeds
from pqbench.results.records import Record, StageRun

NUMBERS = st.floats(0.01, 1e4, allow_nan=False)


@given(st.lists(NUMBERS, min_size=2, max_size=6))
def test_mean_and_interval_over_seeds_are_scipys(values: list[float]) -> None:
    estimate = over_seeds([metric(value, 0.1) for value in values])
    assert estimate.value == pytest.approx(np.mean(values))
    assert estimate.seeds == len(values)
    spread = stats.sem(values)
    assert estimate.low is not None
    assert estimate.high is not None
    half = stats.t.ppf(0.975, len(values) - 1) * spread
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=1e-6, abs=1e-9)


def test_one_seed_keeps_its_own_interval() -> None:
    assert over_seeds([metric(5.0, 1.0)]) == Estimate(5.0, "lower", 4.0, 6.0)


def test_seeds_of_a_method_are_one_row_and_counted() -> None:
    seeds = [make_record("rtn", seed=s, metrics=make_metrics(fd, 9, 1, 9)) for s, fd in enumerate((10.0, 12.0, 14.0))]
    section = only([*seeds, make_record("rtn", seed=3, status="failed", reason="out of memory")])
    assert len(section.rows) == 1
    assert cell(section, "rtn", "fd").value == pytest.approx(12.0)
    assert cell(section, "rtn", "seeds").text == "3"
    assert "rtn failed (seed 3): out of memory" in section.footnotes


def test_infinite_values_do_not_break_the_mean() -> None:
    estimate = over_seeds([metric(math.inf, direction="higher"), metric(30.0, direction="higher")])
    assert estimate == Estimate(math.inf, "higher", seeds=2)


LATENCY = "latency_ms_per_image@openvino/1"


def timed(method: str, seed: int, key: str, latency: float, noisy: bool = False, **fields: Any) -> Record:
    """A cell whose timing is the stage `key`; latencies have no interval of their own, as in records."""
    detail = {"noisy": noisy, "other_work": 0.45}
    measured = metric(latency, protocol=TIMING).model_copy(update={"detail": detail})
    metrics = make_metrics(10.0 + seed, None, 1, 9) | {LATENCY: measured, "peak_memory_bytes": metric(5e7)}
    stages = (StageRun(stage="time", key=key, seconds=1, cached=True),)
    return make_record(method, seed=seed, metrics=metrics, stages=stages, **fields)


def full_precision(seed: int, key: str, latency: float = 8.0, **fields: Any) -> Record:
    return timed("fp", seed, key, latency, precision="w32a32", components={}, **fields)


def test_a_model_that_is_the_same_for_every_seed_was_timed_once() -> None:
    rivals = [timed("rtn", seed, f"rtn{seed}", 4.0 + 0.1 * seed) for seed in range(3)]
    shared = only([*(full_precision(seed, "one") for seed in range(3)), *rivals])
    for column in (LATENCY, "peak_memory_bytes"):
        its = cell(shared, "fp", column)
        assert (its.low, its.high) == (None, None)
    assert cell(shared, "fp", LATENCY).value == 8.0
    assert cell(shared, "fp", "seeds").text == "3"
    assert cell(shared, "fp", "fd").low is not None
    assert cell(shared, "rtn", LATENCY).low is not None
    speed_up = cell(shared, "rtn", "speed_up@openvino/1")
    assert (speed_up.value, speed_up.low) == (pytest.approx(8.0 / 4.1), None)
    assert any("was measured once for all of them" in line for line in shared.caption)
    apart = only([*(full_precision(seed, f"fp{seed}") for seed in range(3)), *rivals])
    assert cell(apart, "fp", LATENCY).low == 8.0
    assert cell(apart, "rtn", "speed_up@openvino/1").low is not None
    assert not any("was measured once" in line for line in apart.caption)


def test_a_timing_that_was_made_again_is_another_measurement() -> None:
    again = only([full_precision(seed, "one", latency) for seed, latency in enumerate((8.0, 8.2, 8.2))])
    its = cell(again, "fp", LATENCY)
    assert its.value == pytest.approx(8.1)
    assert its.low is not None
    assert its.low < 8.0


def test_a_footnote_of_every_seed_is_marked_once() -> None:
    section = only([timed("rtn", seed, f"rtn{seed}", 4.0 + 0.1 * seed, noisy=True) for seed in range(3)])
    notes = cell(section, "rtn", LATENCY).notes
    assert len(notes) == 1
    assert "other work took 45 %" in section.footnotes[notes[0] - 1]
    numbers = Footnotes()
    assert numbers.numbers(iter("aab")) == (1, 2)
    assert numbers.numbers(iter("cba")) == (1, 2, 3)


@given(NUMBERS, NUMBERS, st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_interval_of_a_ratio_holds_all_ratios_within(ours: float, theirs: float, a: float, b: float) -> None:
    mine = Estimate(ours, "lower", ours * (1 - a), ours * (1 + a))
    fp = Estimate(theirs, "lower", theirs * (1 - b), theirs * (1 + b))
    ratio = mine.ratio_of(fp)
    assert ratio.low is not None
    assert ratio.high is not None
    corners = np.divide.outer([fp.low, fp.high], [mine.low, mine.high])
    assert ratio.low == pytest.approx(corners.min())
    assert ratio.high == pytest.approx(corners.max())


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_a_column_shows_three_digits_of_its_smallest_unless_it_gets_too_wide(values: list[float]) -> None:
    places = decimals(values)
    texts = [fixed(value, places) for value in values]
    assert all(abs(float(text) - value) <= 0.5 * 10**-places + 1e-9 for text, value in zip(texts, values, strict=True))
    digits = len(texts[values.index(min(values))].replace(".", "").lstrip("0"))
    assert digits >= 3 or places == 4 or len(fixed(max(values), places).replace(".", "")) >= 5


@pytest.mark.parametrize(
    ("value", "text"), [(-0.001, "0.0"), (-2.0, "−2.0"), (math.inf, "∞"), (-math.inf, "−∞"), (math.nan, "NaN")]
)
def test_odd_numbers(value: float, text: str) -> None:
    assert fixed(value, 1) == text
