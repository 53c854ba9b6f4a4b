"""What each image contributes to a distance: its influence, the derivative with respect to the image's weight.

A distance is a smooth function T of the distribution of the features. With psi_i the influence of image i, n^-1 sum
psi_i is T's deviation to first order, so that var(psi) / n is the variance of T (the delta method, or infinitesimal
jackknife; Efron, 1982, chapter 6). Two rows that are made from the same noise have influences image by image, and the
variance of the difference of their distances is that of the differences of influences: no resampling, no random
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pqbench.contracts.workload import Reference
from pqbench.evaluation.frechet import symmetric_root
from pqbench.evaluation.kernel import cubic_kernel

_ROWS = 1024  # rows of a kernel matrix that are held at once


@dataclass(frozen=True)
class Contribution:
    """A metric of one cell, with what its error is made of.

    value              as in the cell's record
    images             (N,) float64, the influence of each image, mean zero
    image_scale        the metric's variance over images is this times the variance of `images`: 1 / N
    reference          (M,) float64, the influence of each kept reference image where random subsets of them are used
    reference_scale    likewise; the subsets are the same for all cells of a protocol
    bias               how far the metric lies above its value at infinitely many images, on average
    """

    value: float
    images: Tensor
    image_scale: float
    reference: Tensor | None = None
    reference_scale: float = 0.0
    bias: float = 0.0


def frechet_contribution(value: float, features: Tensor, reference: Reference) -> Contribution:
    """The influences on the Frechet distance F of features (N, D), and its bias to second order.

    With the reference's mean m and covariance S, and G = S^1/2 (S^1/2 C S^1/2)^-1/2 S^1/2 for the features' mean mu
    and covariance C: dF = 2 (mu - m).d mu + tr[(I - G) dC]. The bias is tr C / N of the mean's term, and half the
    second derivative of -2 tr sqrt(S^1/2 C S^1/2) (divided differences: Daleckii and Krein, 1965) at the variance of
    the sample covariance: on samples of known Gaussians right to 2 % at 16 images a dimension, 18 % too small at 2.
    """
    x, root = features.double(), symmetric_root(reference.covariance.double())
    n = len(x)
    mean = x.mean(0)
    centred = x - mean
    turned = centred @ root
    product = turned.T @ turned / (n - 1)
    values, vectors = torch.linalg.eigh(product)
    # Directions without variance: the features have nothing in them, neither influence nor bias.
    is_there = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    roots = torch.where(is_there, values, torch.inf).sqrt()
    squares = (turned @ vectors).square()
    shift = 2 * centred @ (mean - reference.mean.double())
    influence = shift + centred.square().sum(1) - squares @ roots.reciprocal()
    spread = squares.T @ squares / n - torch.diag(values.square())
    weights = (torch.outer(roots, roots) * (roots[:, None] + roots)).reciprocal()
    bias = (centred.square().sum() / (n - 1) + (spread * weights).sum() / 2) / n
    return Contribution(value, influence - influence.mean(), 1 / n, bias=float(bias))


def kernel_contribution(value: float, features: Tensor, reference: Tensor, subsets: int, size: int) -> Contribution:
    """The influences on a kernel distance that is the mean over `subsets` random subsets of `size` of both sets.

    The squared discrepancy's influence of image x is 2 [mean k(x, x') - mean k(x, y)] over the other images x' and
    the reference images y (Gretton et al., 2012, the first-order term of eq. 3), that of y is -2 mean k(x, y). Using
    subsets, drawn without replacement, adds (1 / size - 1 / N) / subsets to the scale, to first order. The discrepancy
    is unbiased.

    features, reference   (N, D), (M, D)
    """
    x, y = features.double(), reference.double()
    n, m = len(x), len(y)
    within, across = torch.zeros(n, dtype=x.dtype), torch.zeros(n, dtype=x.dtype)
    onto_reference = torch.zeros(m, dtype=x.dtype)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        to_reference = cubic_kernel(x[rows], y)
        within[rows] = cubic_kernel(x[rows], x).sum(1)
        across[rows] = to_reference.mean(1)
        onto_reference += to_reference.sum(0)
    within -= (x.square().mean(1) + 1) ** 3
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
