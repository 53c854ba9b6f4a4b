"""Acceptance windows: where the distance of a workload's full-precision model must land at a given image count.

The rule. A pool of images is sampled once from noise that no run uses (purpose "acceptance"). For each count n the
pool is cut into as many disjoint blocks of n as it holds; the centre is the mean of their distances. The spread is
the standard deviation of the distance over draws of n images from the pool. The window reaches

    4 spreads x sqrt(1 + 1/blocks)   for the luck of a run's own noise and of the centre's, and
    2 % of the centre                for arithmetic that differs between processors and versions of torch

to either side: two-sided, since a model that seems too good was not measured by this protocol either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.base.float32 import exact_float32
from pqbench.contracts.workload import Extractor, Reference, Workload
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.scoring.features import extract_features
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance

RULE = (
    "centre: mean FD of disjoint blocks of n images; spread: standard deviation of the FD over 200 draws of n images "
    "from the pool; half-width: 4 spreads x sqrt(1 + 1/blocks) + 2 % of the centre"
)
PURPOSE = "acceptance"
_SPREADS = 4.0
_TOLERANCE = 0.02
_DRAWS = 200
_BATCH = {"cpu": 64, "cuda": 512}


@dataclass(frozen=True)
class Measured:
    """One window and what it was derived from."""

    n: int
    steps: int
    fd: float
    spread: float
    blocks: int
    low: float
    high: float


@exact_float32()
def measure_windows(
    workload: Workload,
    counts: Sequence[int],
    pool: int,
    progress: Callable[[int], None] = lambda done: None,
    device: str = "cpu",
) -> list[Measured]:
    """Sample a pool from the workload's full-precision model and derive a window for each count.

    Sampling and features run on `device`. Raises `UserError` when a count exceeds the pool.
    """
    if max(counts) > pool:
        raise UserError(f"A window for {max(counts)} images needs a pool of at least as many; --pool is {pool}.")
    features = extract_features(_extractor_on(workload, device), pool_images(workload, pool, progress, device))
    reference = workload.reference()
    return [window(features, reference, n, workload.steps) for n in counts]


def _extractor_on(workload: Workload, device: str) -> Extractor:
    extractor = workload.extractor()
    return replace(extractor, net=extractor.net.to(device))


def pool_images(
    workload: Workload, count: int, progress: Callable[[int], None], device: str = "cpu"
) -> Iterator[Tensor]:
    """Images of the full-precision model, a batch at a time; `progress` is told how many are done."""
    net, timesteps = workload.denoiser().to(device), workload.timesteps(workload.steps)
    size = _BATCH[torch.device(device).type]
    for start in range(0, count, size):
        indices = range(start, min(start + size, count))
        noise = initial_noise(0, indices, workload.shape, PURPOSE).to(device)
        condition = workload.condition(0, indices, PURPOSE)
        x_0 = ddim_sample(
            net, workload.schedule(), timesteps, noise, prediction=workload.prediction, condition=condition
        )
        yield workload.decode(x_0)
        progress(indices.stop)


def window(features: Tensor, reference: Reference, n: int, steps: int) -> Measured:
    """The window for n images from the features of a pool, (P, D) with P >= n."""
    blocks = [distance(block, reference) for block in torch.split(features, n) if len(block) == n]
    centre = math.fsum(blocks) / len(blocks)
    generator = torch.Generator().manual_seed(n)
    draws = [
        distance(features[torch.randint(len(features), (n,), generator=generator)], reference) for _ in range(_DRAWS)
    ]
    spread = float(torch.tensor(draws, dtype=torch.float64).std())
    half = _SPREADS * spread * math.sqrt(1 + 1 / len(blocks)) + _TOLERANCE * centre
    return Measured(n, steps, centre, spread, len(blocks), max(0.0, centre - half), centre + half)


def distance(features: Tensor, reference: Reference) -> float:
    """Frechet distance of features (N, D) to a reference."""
    statistics = FeatureStatistics(features.shape[1])
    statistics.add(features)
    return frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)
