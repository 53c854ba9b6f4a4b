"""The extrapolated distance where the true one is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pqbench.contracts import MetricInputs, Reference, ScoringRules
from pqbench.scoring.formulas.n_bias import subset_sizes
from pqbench.scoring.metrics.extrapolated import FrechetInfinity

VARIANCES = torch.tensor([2.0, 1.0, 0.5, 0.5, 0.2, 0.1, 0.1, 0.05], dtype=torch.float64)
SHIFT, SCALE = 0.3, 1.2
TRUTH = 8 * SHIFT**2 + float((VARIANCES.sqrt() * (SCALE - 1)).square().sum())
REFERENCE = Reference(torch.zeros(8, dtype=torch.float64), VARIANCES.diag(), torch.zeros(0, 8), 0, "")


def test_the_interval_covers_the_distance_of_the_populations_and_the_bias_is_gone() -> None:
    generator = torch.Generator().manual_seed(0)
    limits, at_n, hits, trials = [], [], 0, 150
    for _ in range(trials):
        features = torch.randn(200, 8, generator=generator, dtype=torch.float64) * VARIANCES.sqrt() * SCALE + SHIFT
        given = MetricInputs(ScoringRules(200), {"features": lambda f=features: f, "reference": lambda: REFERENCE})  # type: ignore[misc]
        score = FrechetInfinity(points=8).compute(given)
        assert score.low is not None
        assert score.high is not None
        hits += score.low <= TRUTH <= score.high
        limits.append(score.value)
        at_n.append(score.detail["distances"][-1])
    error = float(np.std(limits)) / np.sqrt(trials)
    assert abs(np.mean(limits) - TRUTH) < 2.5 * error
    assert np.mean(at_n) - TRUTH > 3 * error
    assert 0.88 <= hits / trials <= 0.99


def test_the_curve_ends_at_all_images_and_its_line_is_that_of_least_squares() -> None:
    features = torch.randn(300, 8, generator=torch.Generator().manual_seed(1))
    given = MetricInputs(ScoringRules(300), {"features": lambda: features, "reference": lambda: REFERENCE})
    score = FrechetInfinity(points=15).compute(given)
    sizes, distances = score.detail["sizes"], score.detail["distances"]
    assert (sizes[0], sizes[-1], len(sizes)) == (30, 300, 15)
    slope, limit = np.polyfit(1 / np.array(sizes), distances, 1)
    assert score.value == pytest.approx(limit, rel=1e-9)
    assert score.detail["slope"] == pytest.approx(slope, rel=1e-9)
    assert slope > 0


def test_subsets_fill_a_covariance() -> None:
    assert subset_sizes(50_000, 2048, 15)[0] == 5000
    assert subset_sizes(9000, 2048, 3) == [4096, 6548, 9000]
    with pytest.raises(ValueError, match="too few to extrapolate"):
        subset_sizes(8000, 2048, 15)
