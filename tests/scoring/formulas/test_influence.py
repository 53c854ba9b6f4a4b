"""Influences against finite differences, biases and standard errors against known populations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from pqbench.contracts.workload import Reference
from pqbench.scoring.formulas import influence
from pqbench.scoring.formulas.frechet import frechet_distance
from pqbench.scoring.formulas.influence import (
    delta_interval,
    frechet_contribution,
    frechet_with_influences,
    kernel_contribution,
    mean_contribution,
)
from pqbench.scoring.formulas.kernel import kernel_distance, unbiased_mmd2

DIMENSION = 5


def draw(n: int, seed: int, shift: float = 0.4, scale: float = 1.3, dimension: int = DIMENSION) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return torch.randn(n, dimension, generator=generator, dtype=torch.float64) @ mixing * scale + shift


def reference_of(features: Tensor) -> Reference:
    return Reference(features.mean(0), features.T.cov(), features, len(features), "0" * 64)


def weighted_frechet(features: Tensor, weights: Tensor, reference: Reference) -> float:
    """By SciPy's matrix square root, for images that count by weight; the population's covariance, divided by n."""
    x, w = features.numpy(), (weights / weights.sum()).numpy()
    mean = w @ x
    covariance = (x - mean).T @ (w[:, None] * (x - mean))
    root = scipy.linalg.sqrtm(covariance @ reference.covariance.numpy()).real
    gap = mean - reference.mean.numpy()
    return float(gap @ gap + np.trace(covariance) + np.trace(reference.covariance.numpy()) - 2 * np.trace(root))


def test_frechet_influence_is_the_derivative_by_an_images_weight() -> None:
    features, reference = draw(400, 0), reference_of(draw(900, 1, 0.0, 1.0))
    found = frechet_contribution(0.0, features, reference.mean, reference.covariance).images
    step = 1e-5
    for image in (0, 7, 399):
        nudge = torch.zeros(400, dtype=torch.float64)
        nudge[image] = 400 * step  # the empirical distribution moves to (1 - step) of itself, and step on the image
        up, down = (weighted_frechet(features, torch.ones(400) + sign * nudge, reference) for sign in (1, -1))
        assert float(found[image]) == pytest.approx((up - down) / (2 * step), rel=0.01, abs=0.02)


def test_features_without_variance_in_some_directions_have_finite_influences() -> None:
    features = draw(50, 0)
    features[:, 2] = 3.0
    reference = reference_of(draw(900, 1))
    assert torch.isfinite(frechet_contribution(0.0, features, reference.mean, reference.covariance).images).all()
    constant = frechet_contribution(0.0, torch.ones(20, DIMENSION), reference.mean, reference.covariance)
    assert (constant.images == 0).all()
    assert constant.bias == 0


@pytest.mark.parametrize("scale", [0.7, 1.3])
def test_frechet_bias_is_how_far_samples_lie_above_the_truth(scale: float) -> None:
    variances = torch.tensor([1.0, 0.5, 0.2, 0.1], dtype=torch.float64)
    reference = Reference(torch.zeros(4, dtype=torch.float64), variances.diag(), torch.zeros(2, 4), 2, "")
    truth = float((variances.sqrt() * scale - variances.sqrt()).square().sum())
    generator = torch.Generator().manual_seed(0)
    above, biases = [], []
    for _ in range(1500):
        features = torch.randn(100, 4, generator=generator, dtype=torch.float64) * variances.sqrt() * scale
        gap, cov = features.mean(0), features.T.cov().numpy()
        root = scipy.linalg.sqrtm(cov @ variances.diag().numpy()).real
        above.append(float(gap @ gap) + np.trace(cov) + float(variances.sum()) - 2 * np.trace(root) - truth)
        biases.append(frechet_contribution(0.0, features, reference.mean, reference.covariance).bias)
    error = 3 * float(np.std(above)) / math.sqrt(len(above))
    assert np.mean(biases) == pytest.approx(np.mean(above), rel=0.05, abs=error)
    assert np.mean(above) > error


def test_kernel_influence_is_what_leaving_an_image_out_changes() -> None:
    features, reference = draw(120, 0) / 3, draw(200, 1) / 3
    found = kernel_contribution(0.0, features, reference, subsets=1, size=120)
    whole = unbiased_mmd2(features, reference)
    without = torch.tensor([unbiased_mmd2(torch.cat([features[:i], features[i + 1 :]]), reference) for i in range(120)])
    jackknife = 119 * (whole - without.double())
    torch.testing.assert_close(
        found.images, jackknife - jackknife.mean(), rtol=0.05, atol=0.05 * float(found.images.std())
    )


def test_random_subsets_add_the_error_that_they_show() -> None:
    features, reference = draw(2000, 0) / 3, draw(3000, 1) / 3
    distance = kernel_distance(features, reference, subsets=200, subset_size=250, seed=0)
    found = kernel_contribution(distance.value, features, reference, subsets=200, size=250)
    assert found.reference is not None
    own = (found.image_scale - 1 / 2000) * float(found.images.var())
    expected = math.sqrt(own + found.reference_scale * float(found.reference.var()))
    assert expected == pytest.approx(distance.subset_std / math.sqrt(200), rel=0.15)


def test_a_mean_has_the_textbook_error() -> None:
    values = torch.tensor([10.0, 12.0, 17.0])
    found = mean_contribution(13.0, values)
    assert found.images.tolist() == pytest.approx([-3, -1, 4])
    assert found.image_scale * float(found.images.var()) == pytest.approx(13 / 3)


def test_wide_features_have_intervals_by_their_influence_that_cover_as_a_bootstrap_does() -> None:
    """Above the width that is resampled, the interval is the delta method's: about the expected value at this n."""
    generator, values, hits = torch.Generator().manual_seed(0), [], 0
    mean, covariance = torch.zeros(DIMENSION, dtype=torch.float64), torch.eye(DIMENSION, dtype=torch.float64)
    intervals = []
    for _ in range(200):
        features = 1.3 * torch.randn(150, DIMENSION, generator=generator, dtype=torch.float64) + 0.3
        value = frechet_distance(features.mean(0), features.T.cov(), mean, covariance)
        intervals.append(delta_interval(frechet_contribution(value, features, mean, covariance)))
        values.append(value)
    hits = sum(low <= np.mean(values) <= high for low, high in intervals)
    assert 0.9 <= hits / 200 <= 0.99


@pytest.mark.parametrize(("n", "width"), [(400, 300), (40, 300)])
def test_the_distance_that_comes_with_influences_is_the_distance(n: int, width: int) -> None:
    features, reference = draw(n, 0, dimension=width), reference_of(draw(900, 1, dimension=width))
    own = features.mean(0), features.T.cov()
    expected = frechet_distance(*own, reference.mean, reference.covariance)
    found = frechet_with_influences(features, reference.mean, reference.covariance)
    assert found.value == pytest.approx(expected, rel=1e-7)


def test_contributions_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    features, reference = draw(90, 0), reference_of(draw(200, 1))
    whole = frechet_contribution(1.0, features, reference.mean, reference.covariance)
    kernel = kernel_contribution(1.0, features, reference.features, subsets=3, size=20)
    monkeypatch.setattr(influence, "_ROWS", 13)
    parts = frechet_contribution(1.0, features, reference.mean, reference.covariance)
    torch.testing.assert_close(parts.images, whole.images)
    assert parts.bias == pytest.approx(whole.bias, rel=1e-9)
    kernel_parts = kernel_contribution(1.0, features, reference.features, subsets=3, size=20)
    torch.testing.assert_close(kernel_parts.images, kernel.images)
    torch.testing.assert_close(kernel_parts.reference, kernel.reference)
