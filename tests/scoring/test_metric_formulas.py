"""Metrics of features against torch-fidelity and plain float64 formulas, on random features."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import correlate1d
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.scoring.formulas import neighbours
from pqbench.scoring.formulas.inception_score import inception_scores
from pqbench.scoring.formulas.kernel import kernel_distance
from pqbench.scoring.formulas.neighbours import on_manifold, squared_radii
from pqbench.scoring.formulas.paired import ssim
from pqbench.scoring.metrics.inception import InceptionScore
from pqbench.scoring.metrics.manifold import wilson_interval
from pqbench.testing import metric_inputs


@pytest.fixture(scope="module")
def fidelity() -> SimpleNamespace:
    """torch-fidelity's formulas."""
    declare_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_fidelity.metric_isc import isc_features_to_metric
        from torch_fidelity.metric_prc import calculate_precision_recall_full
    return SimpleNamespace(inception_score=isc_features_to_metric, precision_recall=calculate_precision_recall_full)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "splits"), [(200, 10), (203, 10), (50, 1)])
def test_inception_score_is_that_of_torch_fidelity(n: int, splits: int, fidelity: SimpleNamespace) -> None:
    logits = 3 * draw(n, 12)
    theirs = fidelity.inception_score(logits, splits=splits)
    scores = inception_scores(logits, splits)
    assert len(scores) == splits
    assert float(scores.mean()) == pytest.approx(theirs["inception_score_mean"], rel=1e-10)
    assert float(scores.std(correction=0)) == pytest.approx(theirs["inception_score_std"], rel=1e-8)


def test_inception_score_of_known_answers() -> None:
    sure = 1000 * torch.eye(5).repeat(20, 1)  # each image surely of one of five classes: as many as the score can be
    assert float(inception_scores(sure, 1)) == pytest.approx(5)
    assert float(inception_scores(torch.zeros(40, 7), 4).mean()) == pytest.approx(1)
    with pytest.raises(ValueError, match="3 images cannot be put into 4 splits"):
        inception_scores(torch.zeros(3, 7), 4)


def test_the_interval_of_an_inception_score_is_as_wide_as_its_spread() -> None:
    metric, scores, widths = InceptionScore(splits=2), [], []
    for seed in range(200):
        score = metric.compute(metric_inputs(metric, n=200, seed=seed))
        assert score.low is not None
        assert score.high is not None
        scores.append(score.value)
        widths.append((score.high - score.low) / 2)
    expected = 1.96 * float(np.std(scores))
    assert float(np.mean(widths)) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("rows", [7, 64, 4096])
def test_precision_and_recall_are_those_of_torch_fidelity_in_any_blocks(
    rows: int, monkeypatch: pytest.MonkeyPatch, fidelity: SimpleNamespace
) -> None:
    monkeypatch.setattr(neighbours, "_ROWS", rows)
    ours, real = 1.1 * draw(83, 6) + 20, draw(120, 6, seed=1) + 20
    precision, recall = fidelity.precision_recall(ours.double(), real.double(), 3)
    assert float(on_manifold(ours, real, 3).double().mean()) == pytest.approx(precision, abs=1e-7)
    assert float(on_manifold(real, ours, 3).double().mean()) == pytest.approx(recall, abs=1e-7)
    assert 0 < precision < 1
    assert 0 < recall < 1


def test_radii_reach_to_the_kth_other_feature() -> None:
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0], [7.0]])
    assert squared_radii(features, 1).tolist() == pytest.approx([1, 1, 4, 0, 0])
    assert squared_radii(features, 2).tolist() == pytest.approx([9, 4, 9, 16, 16])
    with pytest.raises(ValueError, match="5 features have no 5-th neighbours"):
        squared_radii(features, 5)


def test_a_set_lies_on_its_own_manifold() -> None:
    features = draw(60, 4) * 1e-3 + 50
    assert on_manifold(features, features, 3).all()


def test_copies_of_an_image_lie_on_their_own_manifold() -> None:
    generator = torch.Generator().manual_seed(0)
    image = 3 * torch.randn(1, 2048, generator=generator) + 5
    real = torch.cat([image.repeat(10, 1), torch.randn(2100, 2048, generator=generator)])
    assert squared_radii(real, 3)[:10].tolist() == [0] * 10
    assert on_manifold(image.repeat(7, 1), real, 3).all()


@pytest.mark.parametrize(("inside", "n"), [(0, 20), (20, 20), (7, 20), (400, 1000)])
def test_wilsons_interval_is_scipys(inside: int, n: int) -> None:
    theirs = stats.binomtest(inside, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(inside / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_kid_of_features_in_half_precision_is_that_of_the_rounded_ones() -> None:
    ours, real = (draw(150, 16) + 0.2).half(), draw(170, 16, seed=1).half()
    found = kernel_distance(ours, real, subsets=12, subset_size=60, seed=0)
    assert found == kernel_distance(ours.double(), real.double(), subsets=12, subset_size=60, seed=0)


def reference_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """scikit-image's definition with Gaussian weights, of one channel: truncated at 3.5 sigma, borders cut."""
    radius = int(3.5 * 1.5 + 0.5)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()

    def blurred(image: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            image = correlate1d(image, weights, axis=axis, mode="reflect")
        return image

    x, y = x.astype(np.float64), y.astype(np.float64)
    ux, uy = blurred(x), blurred(y)
    vx, vy, vxy = blurred(x * x) - ux * ux, blurred(y * y) - uy * uy, blurred(x * y) - ux * uy
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = ((2 * ux * uy + c1) * (2 * vxy + c2)) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    return float(values[radius:-radius, radius:-radius].mean())


@pytest.mark.parametrize("shape", [(3, 16, 19), (1, 11, 11)])
def test_ssim_is_that_of_its_definition(shape: tuple[int, int, int]) -> None:
    first = (draw(4, *shape) * 50 + 128).clamp(0, 255).to(torch.uint8)
    second = (first + 20 * draw(4, *shape, seed=1)).clamp(0, 255).to(torch.uint8)
    second[3] = first[3]
    found = ssim(first, second)
    expected = [
        np.mean([reference_ssim(x[c].numpy(), y[c].numpy()) for c in range(shape[0])])
        for x, y in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert float(found[3]) == pytest.approx(1, abs=1e-12)
    assert math.isfinite(float(ssim(torch.zeros_like(first), torch.zeros_like(first)).mean()))


def test_ssim_refuses_images_below_its_window() -> None:
    small = torch.zeros(2, 3, 10, 30, dtype=torch.uint8)
    with pytest.raises(UserError, match="at least 11x11 pixels; these have 10x30"):
        ssim(small, small)
