from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance


def gaussian(dimension: int, seed: int, rank: int | None = None) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((dimension, rank or 2 * dimension))
    return torch.from_numpy(rng.standard_normal(dimension)), torch.from_numpy(factor @ factor.T / dimension)


def by_matrix_root(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    root = scipy.linalg.sqrtm(cov1.numpy() @ cov2.numpy())
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * np.trace(root).real)


@pytest.mark.parametrize("dimension", [1, 3, 17, 64, 300])
def test_agrees_with_scipys_matrix_root(dimension: int) -> None:
    first, second = gaussian(dimension, 1), gaussian(dimension, 2)
    assert frechet_distance(*first, *second) == pytest.approx(by_matrix_root(*first, *second), rel=1e-9)


def test_agrees_with_torch_fidelity_and_clean_fid() -> None:
    declare_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid.fid import frechet_distance as clean
        from torch_fidelity.metric_fid import fid_statistics_to_metric
    first, second = gaussian(24, 3), gaussian(24, 4)
    ours = frechet_distance(*first, *second)
    arrays = [part.numpy() for part in (*first, *second)]
    stats = [{"mu": arrays[0], "sigma": arrays[1]}, {"mu": arrays[2], "sigma": arrays[3]}]
    theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-9)
    with warnings.catch_warnings():  # its call of scipy.linalg.sqrtm(disp=False) is deprecated
        warnings.simplefilter("ignore")
        assert ours == pytest.approx(clean(*arrays), rel=1e-9)


def test_diagonal_gaussians_have_the_distance_of_the_textbook() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0])
    expected = 0.5**2 * 3 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2
    assert frechet_distance(torch.zeros(3), a.diag(), torch.full((3,), 0.5), b.diag()) == pytest.approx(expected)


@pytest.mark.parametrize("dimension", [20, 300])
def test_singular_covariances_of_few_images_give_a_real_distance(dimension: int) -> None:
    (mean1, cov1), (mean2, cov2) = gaussian(dimension, 5, rank=3), gaussian(dimension, 6, rank=2)
    # tr sqrt(S1 S2) is the nuclear norm of F1^T F2 for S = F F^T: a reference that takes no root of a product.
    factors = []
    for cov in (cov1, cov2):
        values, vectors = np.linalg.eigh(cov.numpy())
        factors.append(vectors * np.sqrt(values.clip(0)))
    nuclear = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    expected = float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()) - 2 * nuclear
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(dimension=st.integers(1, 12), seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_is_a_distance(dimension: int, seed: int, scale: float) -> None:
    first, second = gaussian(dimension, seed), gaussian(dimension, seed + 1)
    forth, back = frechet_distance(*first, *second), frechet_distance(*second, *first)
    assert forth == pytest.approx(back, rel=1e-8, abs=1e-9)
    assert forth >= 0
    assert frechet_distance(*first, *first) == pytest.approx(0, abs=1e-9)
    scaled = frechet_distance(first[0] * scale, first[1] * scale**2, second[0] * scale, second[1] * scale**2)
    assert scaled == pytest.approx(forth * scale**2, rel=1e-7, abs=1e-9)


def test_refuses_what_has_no_distance() -> None:
    mean, cov = gaussian(4, 0)
    with pytest.raises(ValueError, match="Shapes"):
        frechet_distance(mean, cov, *gaussian(5, 0))
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(mean, cov * float("nan"), mean, cov)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 200), max_size=5), offset=st.sampled_from([0.0, 1e4]))
def test_statistics_do_not_depend_on_the_batches(cuts: list[int], offset: float) -> None:
    features = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    statistics = FeatureStatistics(5)
    for part in np.split(features.numpy(), sorted(cuts)):
        statistics.add(torch.from_numpy(part))
    np.testing.assert_allclose(statistics.mean, features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-7, atol=1e-10)
    assert statistics.n == 200


def test_one_image_has_no_covariance() -> None:
    statistics = FeatureStatistics(3)
    statistics.add(torch.ones(1, 3))
    with pytest.raises(UserError, match="at least 2 images"):
        _ = statistics.covariance
