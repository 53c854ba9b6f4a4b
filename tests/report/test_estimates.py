"""Figures of several seeds and of ratios, and how they are written."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import (
    cell,
    make_metrics,
    make_record,
    metric,
    only,
)
from scipy import stats

from pqbench.report.estimates import Estimate, over_seeds
from pqbench.report.numbers import decimals, fixed

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
