"""The Frechet distance at infinitely many images (Chong and Forsyth, 2020, section 3.2).

The distance of n images lies above its limit by a term that is linear in 1/n to first order, and that depends on the
model. The distance of subsets of growing size is therefore laid on a line against 1/n, whose value at 0 is the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from pqbench.scoring.formulas.bootstrap import LEVEL, Interval
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance

SMALLEST_SHARE = 0.1
"""Of the images, in the smallest subset (5,000 of 50,000 in the paper)."""
FEWEST_PER_FEATURE = 2
"""Images a feature in the smallest subset: with fewer, the bias is no longer a line in 1/n."""
_SEED = 0


@dataclass(frozen=True)
class Curve:
    """Distances of subsets, and the line through them.

    sizes       images of each subset, ascending; the last is all of them
    distances   of each
    limit       the line at 1/n = 0
    slope       its rise with 1/n
    interval    95 %, of the limit over images
    """

    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    limit: float
    slope: float
    interval: Interval


def subset_sizes(n: int, dimension: int, points: int) -> list[int]:
    """`points` sizes evenly spaced up to n, as published.

    Raises ValueError where even the largest has too few images for the dimension.
    """
    smallest = max(math.ceil(SMALLEST_SHARE * n), FEWEST_PER_FEATURE * dimension, 2)
    if 2 * smallest > n or points < 2:
        raise ValueError(f"{n} images are too few to extrapolate a distance of {dimension} features.")
    return [int(size) for size in np.linspace(smallest, n, points).round()]


def extrapolated(features: Tensor, mean: Tensor, covariance: Tensor, influence: Tensor, points: int) -> Curve:
    """The distance of features (N, D) to a Gaussian at infinitely many images, by ordinary least squares.

    influence   (N,) of each image on the distance (`pqbench.scoring.formulas.influence.frechet_contribution`)

    The limit is sum_j c_j F_j with the weights c_j of the intercept, which add up to 1. To first order each F_j
    deviates by the mean influence of its subset, drawn without replacement: the limit's variance is
    var(influence) [1/N + sum_j c_j^2 (1/n_j - 1/N)]. Residuals would understate it, for all subsets share images.
    """
    n = len(features)
    sizes = subset_sizes(n, features.shape[1], points)
    generator = torch.Generator().manual_seed(_SEED)
    distances = []
    for size in sizes:
        chosen = torch.randperm(n, generator=generator)[:size].sort().values
        own = FeatureStatistics.of(features[chosen])
        distances.append(frechet_distance(own.mean, own.covariance, mean, covariance))
    weights = _intercept_weights(sizes)
    limit = float(weights @ np.array(distances))
    slope = float(np.polyfit(1 / np.array(sizes), distances, 1)[0])
    share = 1 / n + float(weights**2 @ (1 / np.array(sizes) - 1 / n))
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(share * float(influence.double().var()))
    return Curve(tuple(sizes), tuple(distances), limit, slope, Interval(limit - half, limit + half))


def _intercept_weights(sizes: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How much each point counts for the line's value at 1/n = 0."""
    x = 1 / np.array(sizes, dtype=np.float64)
    gap = x - x.mean()
    weights: np.ndarray[tuple[int], np.dtype[np.float64]] = 1 / len(x) - x.mean() * gap / (gap @ gap)
    return weights
