"""The tests between two rows: what they cover, and that pairs are sharper than none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pqbench.comparison.verdict import between_seeds, over_images
from pqbench.contracts import Contribution
from pqbench.contracts.workload import Reference
from pqbench.results.comparisons import Comparison, ComparisonIndex, Finding
from pqbench.scoring.formulas.frechet import frechet_distance
from pqbench.scoring.formulas.influence import frechet_contribution, mean_contribution

VARIANCES = torch.tensor([1.0, 0.7, 0.5, 0.3, 0.2, 0.1], dtype=torch.float64)
REFERENCE = Reference(torch.zeros(6, dtype=torch.float64), VARIANCES.diag(), torch.zeros(2, 6), 2, "")
SHIFT = 0.4


def truth(scale: float) -> float:
    return 6 * SHIFT**2 + float((VARIANCES.sqrt() * (scale - 1)).square().sum())


def draw(n: int, scales: tuple[float, float], generator: torch.Generator) -> list[Contribution]:
    """Two rows from the same noise, which correlate by 0.9."""
    noise, own = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    both = (noise, 0.9 * noise + math.sqrt(1 - 0.81) * own)
    return [contribution(z * VARIANCES.sqrt() * s + SHIFT) for z, s in zip(both, scales, strict=True)]


def contribution(features: Tensor) -> Contribution:
    value = frechet_distance(features.mean(0), features.T.cov(), REFERENCE.mean, REFERENCE.covariance)
    return frechet_contribution(value, features, REFERENCE.mean, REFERENCE.covariance)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_covers_the_true_difference_and_pairs_are_sharper(seeds: int) -> None:
    generator, trials = torch.Generator().manual_seed(0), 300
    scales = (1.25, 1.2)
    true = truth(scales[0]) - truth(scales[1])
    hits, widths, unpaired_widths = 0, [], []
    for _ in range(trials):
        a, b = zip(*(draw(300, scales, generator) for _ in range(seeds)), strict=True)
        paired, unpaired = (over_images(a, b, "", "lower", is_paired) for is_paired in (True, False))
        hits += paired.low <= true <= paired.high
        widths.append(paired.high - paired.low)
        unpaired_widths.append(unpaired.high - unpaired.low)
    assert 0.90 <= hits / trials <= 0.99
    assert np.mean(widths) < 0.6 * np.mean(unpaired_widths)


def test_rows_that_are_equal_but_for_their_spread_over_few_images_are_not_told_apart() -> None:
    """At 40 images the row with more variance lies higher by its bias alone."""
    generator = torch.Generator().manual_seed(0)
    scales = (1.0 + 0.25, 1.0 - 0.25)
    assert truth(scales[0]) == truth(scales[1])
    findings = []
    for _ in range(200):
        a, b = zip(*(draw(40, scales, generator) for _ in range(8)), strict=True)
        findings.append(over_images(a, b, "", "lower", is_paired=True))
    called = [finding.verdict != "no evidence" for finding in findings]
    by_interval = [finding.low > 0 or finding.high < 0 for finding in findings]
    assert np.mean([finding.bias for finding in findings]) > 0
    assert np.mean(called) <= 0.08 < np.mean(by_interval)


def test_paired_means_are_students_test() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(40, generator=generator, dtype=torch.float64) + 20
    b = a + 0.3 * torch.randn(40, generator=generator, dtype=torch.float64) - 0.2
    first, second = ([mean_contribution(float(x.mean()), x)] for x in (a, b))
    found = over_images(first, second, "seed 0", "higher", is_paired=True)
    expected = stats.ttest_rel(a.numpy(), b.numpy()).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.verdict == "better"
    assert found.ratio is None
    assert found.test == "paired delta method over images, 40 a seed, seed 0"
    assert over_images(first, second, "", "lower", is_paired=True).verdict == "worse"


def test_a_row_against_itself_is_no_evidence() -> None:
    (row, _) = draw(50, (1.2, 1.2), torch.Generator().manual_seed(0))
    found = over_images([row], [row], "", "lower", is_paired=True)
    assert (found.difference, found.verdict) == (0, "no evidence")
    assert (found.low, found.high) == pytest.approx((0, 0), abs=1e-3)
    assert (found.ratio, found.ratio_low, found.ratio_high) == (1, 1, 1)


def test_the_ratio_covers_the_true_ratio() -> None:
    generator, hits = torch.Generator().manual_seed(1), 0
    for _ in range(300):
        a, b = draw(400, (1.25, 1.2), generator)
        found = over_images([a], [b], "", "lower", is_paired=True)
        assert found.ratio_low is not None
        assert found.ratio_high is not None
        hits += found.ratio_low <= truth(1.25) / truth(1.2) <= found.ratio_high
    assert 0.90 <= hits / 300 <= 0.99


def seeds_of(values: list[float], bias: float = 0.0) -> list[Contribution]:
    """One contribution a seed, of images that say nothing."""
    return [Contribution(value, torch.zeros(4), 0.25, bias=bias) for value in values]


def test_differences_between_seeds_are_students_test() -> None:
    a, b = [4.5, 5.8, 4.1], [5.4, 6.6, 5.3]
    found = between_seeds(seeds_of(a), seeds_of(b), "seeds 0, 1, 2", "lower")
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.verdict == "better"
    assert "2 degrees of freedom, seeds 0, 1, 2" in found.test
    with pytest.raises(ValueError, match="needs 3"):
        between_seeds(seeds_of(a[:2]), seeds_of(b[:2]), "", "lower")


def test_what_rounding_does_between_seeds_is_no_evidence() -> None:
    a, b = [1 + 1.0e-9, 2 + 1.1e-9, 3 + 1.05e-9], [1.0, 2.0, 3.0]
    assert stats.ttest_rel(a, b).pvalue < 0.001
    found = between_seeds(seeds_of(a), seeds_of(b), "", "lower")
    assert found.verdict == "no evidence"
    assert (found.low, found.high) == pytest.approx((-2e-4, 2e-4), rel=1e-3)
    assert between_seeds(seeds_of([x + 3e-4 for x in b]), seeds_of(b), "", "lower").verdict == "worse"


@pytest.mark.parametrize(
    ("bias", "verdict"), [(0.0, "worse"), (0.2, "worse"), (0.98, "no evidence"), (3.0, "no evidence")]
)
def test_a_verdict_between_seeds_holds_without_the_bias(bias: float, verdict: str) -> None:
    a, b = [6.0, 7.1, 4.95], [5.0, 6.0, 4.0]
    found = between_seeds(seeds_of(a, bias + 0.5), seeds_of(b, 0.5), "", "lower")
    assert found.low > 0
    assert found.bias == pytest.approx(bias)
    assert found.verdict == verdict


def test_pairs_need_the_same_images() -> None:
    with pytest.raises(ValueError, match="same number of images"):
        over_images(
            [mean_contribution(0, torch.rand(4))], [mean_contribution(0, torch.rand(5))], "", "lower", is_paired=True
        )


def test_a_comparison_reads_either_way_round() -> None:
    finding = Finding(
        test="t", over="images", difference=2, low=1, high=3, ratio=2, ratio_low=1.6, ratio_high=2.5, verdict="worse"
    )
    sides = {
        name: {"label": name, "precision": "w4a4", "steps": 20, "seeds": (0,), "cells": (name,), "value": value}
        for name, value in (("a", 4.0), ("b", 2.0))
    }
    kept = Comparison.model_validate(
        {"metric": "fd", "direction": "lower", "unit": "", "n": 9, **sides, "findings": (finding,)}
    )
    index = ComparisonIndex([kept])
    assert index.between(("a",), ("b",), "fd") == kept
    flipped = index.between(("b",), ("a",), "fd")
    assert flipped is not None
    (other,) = flipped.findings
    assert (flipped.a.value, other.difference, other.low, other.high) == (2, -2, -3, -1)
    assert (other.ratio, other.ratio_low, other.ratio_high, flipped.verdict) == (0.5, 0.4, 1 / 1.6, "better")
    assert index.between(("a",), ("b",), "kid") is None
