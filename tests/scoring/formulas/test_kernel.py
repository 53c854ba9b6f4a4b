from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.scoring.formulas.kernel import kernel_distance, kernel_interval, unbiased_mmd2


def features(n: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)) + shift


def test_agrees_with_torch_fidelity_on_the_same_features() -> None:
    declare_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_fidelity.metric_kid import kid_features_to_metric
    x, y = features(300, 0.3), features(400, seed=1)
    theirs = kid_features_to_metric(
        x.double(), y.double(), kid_subsets=7, kid_subset_size=120, rng_seed=11, verbose=False
    )
    ours = kernel_distance(x, y, subsets=7, subset_size=120, seed=11)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-10)
    assert ours.subset_std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-10)


def test_is_unbiased_and_so_near_zero_and_of_both_signs_for_one_distribution() -> None:
    values = np.array([unbiased_mmd2(features(40, seed=2 * i), features(40, seed=2 * i + 1)) for i in range(200)])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert values.min() < 0 < values.max()


def test_equals_the_sums_over_pairs_of_its_definition() -> None:
    x, y = features(5, 0.5).double().numpy(), features(6, seed=1).double().numpy()

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 16 + 1) ** 3)

    xx = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(6) for j in range(6) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert unbiased_mmd2(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(xx + yy - 2 * xy)


def test_subsets_depend_on_the_seed_alone() -> None:
    x, y = features(200, 0.2), features(300, seed=1)
    first, again, other = (kernel_distance(x, y, 5, 100, seed).value for seed in (1, 1, 2))
    assert first == again != other


def test_refuses_subsets_larger_than_a_set() -> None:
    with pytest.raises(ValueError, match="120"):
        kernel_distance(features(100), features(300), subsets=2, subset_size=120, seed=0)


def test_interval_covers_the_expected_distance_as_often_as_it_says() -> None:
    reference = features(400, seed=10_000)
    truth = np.mean([unbiased_mmd2(features(60, 0.3, seed=i).double(), reference.double()) for i in range(1000)])
    hits, width = 0, []
    for trial in range(150):
        x = features(60, 0.3, seed=2000 + trial)
        distance = kernel_distance(x, reference, subsets=20, subset_size=60, seed=trial)
        low, high = kernel_interval(distance, x, reference, resamples=200, seed=trial)
        assert low < distance.value < high
        hits += low <= truth <= high
        width.append(high - low)
    assert 0.88 <= hits / 150 <= 0.995
    assert np.mean(width) < 2 * truth
