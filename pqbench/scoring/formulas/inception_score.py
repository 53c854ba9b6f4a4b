"""The inception score of Salimans et al. (2016): how sure a classifier is of each image, and how varied its answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

SHUFFLE_SEED = 2020
"""Of the order in which images are put into splits, so that folders sorted by class are mixed; torch-fidelity's."""


def divergences(logits: Tensor, splits: int) -> list[tuple[Tensor, Tensor]]:
    """For each split, its images (n,) int64 and their divergences KL(p(y|x) || p(y)) within the split, (n,) float64.

    logits   (N, K) of any floating type; the published score takes those of the Inception without its bias

    Images are put into `splits` parts of equal size, to one, as torch-fidelity does. Raises ValueError for fewer images
    than splits.
    """
    if not 1 <= splits <= len(logits):
        raise ValueError(f"{len(logits)} images cannot be put into {splits} splits.")
    order = torch.from_numpy(np.random.RandomState(SHUFFLE_SEED).permutation(len(logits)))
    return [(part, _divergences(logits[part])) for part in _parts(order, splits)]


def inception_scores(logits: Tensor, splits: int) -> Tensor:
    """exp(E KL(p(y|x) || p(y))) of each split, (splits,) float64; the score is their mean (Salimans et al., eq. 1)."""
    return torch.stack([values.mean().exp() for _, values in divergences(logits, splits)])


def _parts(order: Tensor, splits: int) -> Iterator[Tensor]:
    n = len(order)
    for i in range(splits):
        yield order[i * n // splits : (i + 1) * n // splits]


def _divergences(logits: Tensor) -> Tensor:
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    # The logarithm of the mean, from logarithms: a class that no image can have gives 0 and not NaN.
    log_q = log_p.logsumexp(0) - np.log(len(log_p))
    divergence: Tensor = (p * (log_p - log_q)).sum(1)
    return divergence
