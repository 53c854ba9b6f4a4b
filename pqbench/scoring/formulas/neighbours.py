"""Improved precision and recall: which images lie on the other set's manifold (Kynkaanniemi et al., 2019, eq. 1, 2).

The manifold of a set of features is the union of balls about each, up to its k-th nearest neighbour in the set.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDING = 1e-12
"""Squared distances below this share of the squared norms are rounding, and 0: copies of an image must be at distance 0
of each other in every block, or a ball of radius 0 would not hold them."""
_ROWS = 2048  # features on either side whose distances are held at once: 2,048 x 2,048 float64 are 34 MB


def squared_radii(features: Tensor, k: int) -> Tensor:
    """Squared distance of each feature (N, D) to its k-th nearest other one, (N,) float64.

    Raises ValueError for fewer than k + 1 features.
    """
    if not 1 <= k < len(features):
        raise ValueError(f"{len(features)} features have no {k}-th neighbours.")
    found = []
    for first in range(0, len(features), _ROWS):
        rows = features[first : first + _ROWS]
        # The nearest of all is the feature itself, at distance 0.
        nearest = rows.new_empty(len(rows), 0, dtype=torch.float64)
        for start in range(0, len(features), _ROWS):
            distances = _squared_distances(rows, features[start : start + _ROWS])
            if first == start:
                distances.fill_diagonal_(0)
            both = torch.cat([nearest, distances], 1)
            nearest = both.topk(min(k + 1, both.shape[1]), dim=1, largest=False).values
        found.append(nearest[:, k])
    return torch.cat(found)


def on_manifold(features: Tensor, manifold: Tensor, k: int) -> Tensor:
    """Whether each of features (N, D) lies in the manifold of others (M, D): (N,) bool.

    Precision is the mean of this for generated images on the real ones' manifold, recall the other way round.
    Distances are computed in float64 and in blocks. Raises ValueError for fewer than k + 1 others.
    """
    radii = squared_radii(manifold, k)
    inside = torch.zeros(len(features), dtype=torch.bool)
    for first in range(0, len(features), _ROWS):
        here = slice(first, first + _ROWS)
        for start in range(0, len(manifold), _ROWS):
            there = slice(start, start + _ROWS)
            inside[here] |= (_squared_distances(features[here], manifold[there]) <= radii[there]).any(1)
    return inside


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M) float64; about the mean of `b`, which loses no digits where features lie far from 0."""
    y = b.double()
    origin = y.mean(0)
    x, y = a.double() - origin, y - origin
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    distances = norms - 2 * x @ y.T
    return distances.masked_fill_(distances <= _ROUNDING * norms, 0)
