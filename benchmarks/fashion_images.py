"""What the benchmarks of the bundled workload share: images of a net, and their FD to the real ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.scoring.features import extract_features
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance
from pqbench.workloads.fashion import Fashion

_BATCH = 64


def images(workload: Fashion, net: Callable[..., Tensor], steps: int, seed: int, count: int) -> Tensor:
    """Images 0 ... count-1 of a base seed, (count, 1, 32, 32) uint8."""
    parts = []
    for first in range(0, count, _BATCH):
        noise = initial_noise(seed, range(first, min(first + _BATCH, count)), workload.shape)
        parts.append(workload.decode(ddim_sample(net, workload.schedule(), workload.timesteps(steps), noise)))
    return torch.cat(parts)


def distance(workload: Fashion, pictures: Tensor) -> float:
    """FD to the real images."""
    features = extract_features(workload.extractor(), pictures)
    statistics, reference = FeatureStatistics(features.shape[1]), workload.reference()
    statistics.add(features)
    return frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)
