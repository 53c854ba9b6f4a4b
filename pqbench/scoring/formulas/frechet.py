"""The Frechet distance between two Gaussians (Heusel et al., 2017, eq. 6), in float64 and by eigenvalues."""

from __future__ import annotations

import torch
from torch import Tensor

from pqbench.base.errors import UserError

_NARROW = 256  # features up to which a symmetric root costs nothing
_ROWS = 8192  # features that are held in float64 at once: 8,192 x 2,048 are 134 MB


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches.

    Batches are merged by Chan et al. (1979), eq. 2.1: sums of squares are taken about each batch's own mean, so
    that features far from zero lose no digits.
    """

    def __init__(self, dimension: int) -> None:
        self.n = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64)
        self._scatter = torch.zeros(dimension, dimension, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Take in a batch, (N, D) of any floating type; a long one in parts, so that memory stays bounded."""
        for part in torch.split(features, _ROWS) if len(features) else ():
            self._add(part)

    def _add(self, features: Tensor) -> None:
        batch = features.detach().cpu().double()
        mean = batch.mean(0)
        centred = batch - mean
        total = self.n + len(batch)
        shift = mean - self.mean
        self._scatter += centred.T @ centred + torch.outer(shift, shift) * (self.n * len(batch) / total)
        self.mean = self.mean + shift * (len(batch) / total)
        self.n = total

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """The statistics of features (N, D)."""
        statistics = cls(features.shape[1])
        statistics.add(features)
        return statistics

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64, divided by n - 1. Raises `UserError` for fewer than two images."""
        if self.n < 2:
            raise UserError(f"A covariance needs at least 2 images; there are {self.n}.")
        return self._scatter / (self.n - 1)


def symmetric_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance, (D, D) float64; eigenvalues below zero are rounding and become 0."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def factor(covariance: Tensor) -> Tensor:
    """F with F F^T = covariance, (D, D) float64.

    For wide features the Cholesky factor, a seventeenth of the symmetric root's time at D = 2048; the root where there
    is none, as of fewer images than features.
    """
    if len(covariance) > _NARROW:
        triangle: Tensor
        triangle, failure = torch.linalg.cholesky_ex(covariance)
        if int(failure) == 0:
            return triangle
    return symmetric_root(covariance)


def distances_to(mean: Tensor, covariance: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Frechet distances of many Gaussians to one: means (B, D), covariances (B, D, D) -> (B,), all float64.

    tr sqrt(S1 S2) is the sum of the roots of the eigenvalues of F^T S2 F for any F with F F^T = S1 (they are those of
    S1 S2), which is symmetric: its eigenvalues are real, exist for singular covariances too, and cost no matrix square
    root of a product.
    """
    root = factor(covariance)
    product = root.mT @ covariances @ root
    cross = torch.linalg.eigvalsh((product + product.mT) / 2).clamp(min=0).sqrt().sum(-1)
    traces = covariance.trace() + covariances.diagonal(dim1=-2, dim2=-1).sum(-1)
    distances: Tensor = (means - mean).square().sum(-1) + traces - 2 * cross
    return distances.clamp(min=0)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2)), for means (D,) and covariances (D, D).

    Raises ValueError when the shapes differ or a number is not finite.
    """
    parts = [part.detach().cpu().double() for part in (mean1, cov1, mean2, cov2)]
    if parts[0].shape != parts[2].shape or any(c.shape != (len(parts[0]),) * 2 for c in (parts[1], parts[3])):
        raise ValueError(f"Shapes of means and covariances differ: {[tuple(part.shape) for part in parts]}.")
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise ValueError("A mean or a covariance holds NaN or infinite values.")
    return float(distances_to(parts[0], parts[1], parts[2][None], parts[3][None])[0])
