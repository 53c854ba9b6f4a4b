"""What each image contributes to a distance: its influence, the derivative with respect to the image's weight.

A distance is a smooth function T of the distribution of the features. With psi_i the influence of image i, n^-1 sum
psi_i is T's deviation to first order, so that var(psi) / n is the variance of T (the delta method, or infinitesimal
jackknife; Efron, 1982, chapter 6). Two rows that are made from the same noise have influences image by image, and the
variance of the difference of their distances is that of the differences of influences: no resampling, no random
numbers.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import torch
from torch import Tensor

from pqbench.contracts.metric import Contribution
from pqbench.scoring.formulas.bootstrap import LEVEL, Interval
from pqbench.scoring.formulas.frechet import FeatureStatistics, factor
from pqbench.scoring.formulas.kernel import cubic_kernel

_ROWS = 4096  # features that are held in float64 at once, and rows of a kernel matrix


def delta_interval(contribution: Contribution) -> Interval:
    """95 % interval of a metric from what each image contributes to it, by the normal distribution."""
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * standard_error(contribution)
    return Interval(contribution.value - half, contribution.value + half)


def standard_error(contribution: Contribution) -> float:
    """Of a metric over images, and over the random subsets of the reference where it uses any."""
    variance = contribution.image_scale * float(contribution.images.var())
    if contribution.reference is not None:
        variance += contribution.reference_scale * float(contribution.reference.var())
    return math.sqrt(variance)


def frechet_contribution(value: float, features: Tensor, mean: Tensor, covariance: Tensor) -> Contribution:
    """The influences on a Frechet distance that is known already (`frechet_with_influences`)."""
    return replace(frechet_with_influences(features, mean, covariance), value=value)


def frechet_with_influences(features: Tensor, mean: Tensor, covariance: Tensor) -> Contribution:
    """The Frechet distance of features to a Gaussian, and the influences on it.

    The influences on the Frechet distance F of features (N, D), and its bias to second order.

    With the reference's mean m and covariance S, and G = S^1/2 (S^1/2 C S^1/2)^-1/2 S^1/2 for the features' mean mu
    and covariance C: dF = 2 (mu - m).d mu + tr[(I - G) dC]. The bias is tr C / N of the mean's term, and half the
    second derivative of -2 tr sqrt(S^1/2 C S^1/2) (divided differences: Daleckii and Krein, 1965) at the variance of
    the sample covariance: on samples of known Gaussians right to 2 % at 16 images a dimension, 18 % too small at 2.

    Any F with F F^T = S does for S^1/2. Features are taken in parts, so that beside them only matrices (D, D) are held.

    mean, covariance   of the reference, (D,) and (D, D)
    """
    own, root, n = FeatureStatistics.of(features), factor(covariance.double()), len(features)
    values, vectors = torch.linalg.eigh(root.mT @ own.covariance @ root)
    # Directions without variance: the features have nothing in them, neither influence nor bias.
    is_there = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    roots = torch.where(is_there, values, torch.inf).sqrt()
    turn, gap = root @ vectors, own.mean - mean.double()
    influence, spread = [], -torch.diag(values.square())
    for rows in torch.split(features, _ROWS):
        centred = rows.double() - own.mean
        squares = (centred @ turn).square()
        influence.append(2 * centred @ gap + centred.square().sum(1) - squares @ roots.reciprocal())
        spread.addmm_(squares.T, squares, alpha=1 / n)
    weights = (torch.outer(roots, roots) * (roots[:, None] + roots)).reciprocal()
    bias = (own.covariance.trace() + (spread * weights).sum() / 2) / n
    images = torch.cat(influence)
    traces = own.covariance.trace() + covariance.double().trace()
    value = max(0.0, float(gap.square().sum() + traces - 2 * values.clamp(min=0).sqrt().sum()))
    return Contribution(value, images - images.mean(), 1 / n, bias=float(bias))


def kernel_contribution(value: float, features: Tensor, reference: Tensor, subsets: int, size: int) -> Contribution:
    """The influences on a kernel distance that is the mean over `subsets` random subsets of `size` of both sets.

    The squared discrepancy's influence of image x is 2 [mean k(x, x') - mean k(x, y)] over the other images x' and
    the reference images y (Gretton et al., 2012, the first-order term of eq. 3), that of y is -2 mean k(x, y). Using
    subsets, drawn without replacement, adds (1 / size - 1 / N) / subsets to the scale, to first order. The discrepancy
    is unbiased.

    features, reference   (N, D), (M, D)
    """
    n, m = len(features), len(reference)
    within, across = (torch.zeros(n, dtype=torch.float64) for _ in range(2))
    onto_reference = torch.zeros(m, dtype=torch.float64)
    for first in range(0, n, _ROWS):
        here = slice(first, first + _ROWS)
        rows = features[here].double()
        within[here] -= (rows.square().mean(1) + 1) ** 3
        for start in range(0, n, _ROWS):
            within[here] += cubic_kernel(rows, features[start : start + _ROWS].double()).sum(1)
        for start in range(0, m, _ROWS):
            kernel = cubic_kernel(rows, reference[start : start + _ROWS].double())
            across[here] += kernel.sum(1) / m
            onto_reference[start : start + _ROWS] += kernel.sum(0)
    influence = 2 * (within / (n - 1) - across)
    onto = -2 * onto_reference / n
    return Contribution(
        value,
        influence - influence.mean(),
        1 / n + (1 / size - 1 / n) / subsets,
        onto - onto.mean(),
        (1 / size - 1 / m) / subsets,
    )


def mean_contribution(value: float, values: Tensor) -> Contribution:
    """The influences on a mean of values (N,)."""
    exact = values.double()
    return Contribution(value, exact - exact.mean(), 1 / len(exact))
