"""The kernel distance KID: the squared maximum mean discrepancy of features (Binkowski et al., 2018, section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from pqbench.scoring.formulas.bootstrap import LEVEL, Interval, pivot_interval, resample_weights

_ROWS = 1024  # rows of a kernel matrix that are held at once


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / D + 1)^3 for every pair: (N, D), (M, D) -> (N, M)."""
    base = (x @ y.T).div_(x.shape[1]).add_(1)
    # Two products: a power of float64 tensors takes ten times as long.
    return (base * base).mul_(base)


def unbiased_mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of (N, D) and (M, D) (Gretton et al., 2012, eq. 3); may be negative."""

    def off_diagonal_mean(kernel: Tensor) -> Tensor:
        n = len(kernel)
        return (kernel.sum() - kernel.trace()) / (n * (n - 1))

    within = off_diagonal_mean(cubic_kernel(x, x)) + off_diagonal_mean(cubic_kernel(y, y))
    return float(within - 2 * cubic_kernel(x, y).mean())


@dataclass(frozen=True)
class KernelDistance:
    """KID with the standard deviation over its subsets, from which the error of using subsets follows."""

    value: float
    subset_std: float
    subsets: int


def kernel_distance(features: Tensor, reference: Tensor, subsets: int, subset_size: int, seed: int) -> KernelDistance:
    """KID of features (N, D) to reference features (M, D): the mean over random subsets of both.

    The subsets depend on the seed and the counts alone. They are drawn as torch-fidelity draws them, so that
    equal features give equal numbers. Raises ValueError when a set is smaller than a subset.
    """
    if not 2 <= subset_size <= min(len(features), len(reference)):
        raise ValueError(f"KID subsets of {subset_size} cannot be drawn from {len(features)} and {len(reference)}.")
    rng = np.random.RandomState(seed)

    def draw(pool: Tensor) -> Tensor:
        return pool[torch.from_numpy(rng.choice(len(pool), subset_size, replace=False))].double()

    values = [unbiased_mmd2(draw(features), draw(reference)) for _ in range(subsets)]
    return KernelDistance(float(np.mean(values)), float(np.std(values)), subsets)


def kernel_interval(
    distance: KernelDistance, features: Tensor, reference: Tensor, resamples: int, seed: int
) -> Interval:
    """95 % interval of a KID: the bootstrap over all features, and the error of having used random subsets.

    Both are taken as independent: their half-widths add in quadrature.
    """
    sampling = pivot_interval(distance.value, _replicates(features, reference, resamples, seed))
    subset_error = NormalDist().inv_cdf((1 + LEVEL) / 2) * distance.subset_std / math.sqrt(distance.subsets)
    return Interval(
        distance.value - math.hypot(distance.value - sampling.low, subset_error),
        distance.value + math.hypot(sampling.high - distance.value, subset_error),
    )


def _replicates(features: Tensor, reference: Tensor, resamples: int, seed: int) -> Tensor:
    """Resampled squared discrepancies, up to the reference's own term, which is the same for all of them.

    Pairs of copies of one image are left out, in the sum and in the count: they would bias a resample upwards.
    """
    x, y = features.double(), reference.double()
    to_reference = torch.cat([cubic_kernel(part, y).mean(1) for part in torch.split(x, _ROWS)])
    groups = []
    for weights in resample_weights(len(x), resamples, seed):
        pairs = _weighted_pairs(x, weights)
        groups.append(pairs - 2 * weights @ to_reference / len(x))
    return torch.cat(groups)


def _weighted_pairs(x: Tensor, weights: Tensor) -> Tensor:
    """Mean kernel value over pairs of different images in each resample: (N, D), (B, N) -> (B,)."""
    totals = torch.zeros(len(weights), dtype=torch.float64)
    for rows, row_weights in zip(torch.split(x, _ROWS), torch.split(weights, _ROWS, 1), strict=True):
        totals += ((row_weights @ cubic_kernel(rows, x)) * weights).sum(1)
    same = weights.square()
    totals -= same @ (x.square().mean(1) + 1) ** 3
    return totals / (weights.sum(1).square() - same.sum(1))
