from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pqbench.scoring.formulas.bootstrap import frechet_replicates, mean_replicates, pivot_interval, resample_weights
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance

DIMENSION = 6
MEAN, COVARIANCE = torch.zeros(DIMENSION, dtype=torch.float64), torch.eye(DIMENSION, dtype=torch.float64)


def draw(n: int, shift: float, seed: int) -> Tensor:
    return torch.randn(n, DIMENSION, generator=torch.Generator().manual_seed(seed)) * 1.1 + shift


def distance(features: Tensor) -> float:
    statistics = FeatureStatistics(DIMENSION)
    statistics.add(features)
    return frechet_distance(statistics.mean, statistics.covariance, MEAN, COVARIANCE)


def test_weights_are_counts_of_n_draws() -> None:
    weights = torch.cat(list(resample_weights(30, 120, seed=0)))
    assert weights.shape == (120, 30)
    assert (weights.sum(1) == 30).all()
    assert (weights == weights.round()).all()
    assert torch.equal(weights, torch.cat(list(resample_weights(30, 120, seed=0))))


def test_replicates_are_distances_of_resampled_features() -> None:
    features = draw(700, 40.0, 0)
    replicates = frechet_replicates(features, MEAN, COVARIANCE, resamples=60, seed=3)
    weights = torch.cat(list(resample_weights(700, 60, seed=3))).long()
    explicit = [distance(features.repeat_interleave(row, 0)) for row in weights]
    np.testing.assert_allclose(replicates, explicit, rtol=1e-10)


def test_percentiles_would_miss_the_estimate_and_the_pivot_interval_holds_it() -> None:
    features = draw(60, 0.0, 1)
    replicates = frechet_replicates(features, MEAN, COVARIANCE, resamples=200, seed=0)
    estimate = distance(features)
    assert replicates.mean() > 1.2 * estimate
    low, high = pivot_interval(estimate, replicates)
    assert low < estimate < high


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_interval_covers_the_expected_distance_at_this_image_count(shift: float) -> None:
    n, trials = 150, 200
    truth = np.mean([distance(draw(n, shift, 10_000 + i)) for i in range(2000)])
    hits = 0
    for trial in range(trials):
        features = draw(n, shift, trial)
        replicates = frechet_replicates(features, MEAN, COVARIANCE, resamples=200, seed=trial)
        low, high = pivot_interval(distance(features), replicates)
        hits += low <= truth <= high
    assert 0.88 <= hits / trials <= 0.995


def test_mean_intervals_are_those_of_the_normal_theory() -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 20
    low, high = pivot_interval(float(values.mean()), mean_replicates(values, 2000, seed=0))
    half = 1.96 * float(values.std()) / 2000**0.5
    assert high - low == pytest.approx(2 * half, rel=0.1)
    assert low < float(values.mean()) < high
