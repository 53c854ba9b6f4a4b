"""95 % intervals by resampling the kept features (Efron, 1979).

What an interval is about: the value that the same protocol would give on average over other images of the same model,
**at the same number of images** n. It is not the distance at infinitely many images: the plug-in Frechet distance is
biased up by a term in 1/n that every method at this n shares.

Why not percentiles: a resample of n images has fewer distinct ones (63 %), so its distance carries that bias
a second time and the plain percentile interval can lie wholly above the estimate. The resampled distances are
therefore used only for their spread: their mean is moved to the estimate and the deviations are mirrored (the basic, or
pivot, interval), which always holds the estimate.

The reference's own sampling error is not part of an interval: it is the same for all methods of a protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pqbench.scoring.formulas.frechet import distances_to

LEVEL = 0.95
WIDEST = 256
"""Features up to which distances are resampled: beyond, 200 eigenvalue problems take hours, and influences do as well
(`pqbench.scoring.formulas.influence`)."""
_GROUP = 50  # resamples whose weights are held at once: 50 x 50,000 float64 are 20 MB
_ROWS = 512  # images whose second moments are held at once: 512 x 2,080 entries for 64 features


class Interval(NamedTuple):
    """Bounds of a 95 % interval."""

    low: float
    high: float


def resample_weights(n: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each of n images occurs in each resample, in groups (B, n) float64 whose rows sum to n."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, resamples, _GROUP):
        rows = min(_GROUP, resamples - start)
        drawn = torch.randint(n, (rows, n), generator=generator)
        counts = torch.zeros(rows, n, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def pivot_interval(estimate: float, replicates: Tensor) -> Interval:
    """The basic interval about `estimate` from resampled values (B,), after moving their mean to it."""
    deviations = replicates - replicates.mean()
    tail = (1 - LEVEL) / 2
    below, above = torch.quantile(deviations, torch.tensor([tail, 1 - tail], dtype=deviations.dtype)).tolist()
    return Interval(min(estimate, estimate - above), max(estimate, estimate - below))


def frechet_replicates(features: Tensor, mean: Tensor, covariance: Tensor, resamples: int, seed: int) -> Tensor:
    """Frechet distances of resamples of features (N, D) to a Gaussian, (resamples,) float64."""
    x = features.double()
    origin = x.mean(0)
    # Distances do not depend on the origin, and second moments about it lose no digits.
    x = x - origin
    n = len(x)
    groups = []
    for weights in resample_weights(n, resamples, seed):
        means = weights @ x / n
        scatters = _weighted_moments(x, weights) - n * means[:, :, None] * means[:, None, :]
        covariances = scatters / (n - 1)
        groups.append(distances_to(mean.double() - origin, covariance.double(), means, covariances))
    return torch.cat(groups)


def _weighted_moments(x: Tensor, weights: Tensor) -> Tensor:
    """Sums over the images of w_i x_i x_i^T for each row of weights: (N, D), (B, N) -> (B, D, D).

    One product of the weights with the distinct entries of all x_i x_i^T: half the work of a product for each resample.
    """
    dimension = x.shape[1]
    upper, left = torch.triu_indices(dimension, dimension)
    entries = torch.zeros(len(weights), len(upper), dtype=x.dtype)
    for rows, row_weights in zip(torch.split(x, _ROWS), torch.split(weights, _ROWS, 1), strict=True):
        entries.addmm_(row_weights, rows[:, upper] * rows[:, left])
    moments = x.new_zeros(len(weights), dimension, dimension)
    moments[:, upper, left] = entries
    moments[:, left, upper] = entries
    return moments


def mean_replicates(values: Tensor, resamples: int, seed: int) -> Tensor:
    """Means of resamples of values (N,), (resamples,) float64."""
    n = len(values)
    return torch.cat([weights @ values.double() / n for weights in resample_weights(n, resamples, seed)])
