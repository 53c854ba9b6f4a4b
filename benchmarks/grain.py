"""How the bundled workload's FD answers to grain: white noise on the full-precision model's own images.

    python benchmarks/grain.py --images 512 --levels 0 2 4 6 8 12

Compressed models that remove too little noise differ from full precision by little more than this.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.evaluation.features import extract_features
from pqbench.evaluation.frechet import FeatureStatistics, frechet_distance
from pqbench.workloads.fashion import Fashion

_BATCH = 64


def images(workload: Fashion, count: int) -> Tensor:
    """The full-precision model's images of seed 0, (count, 1, 32, 32) uint8."""
    net, timesteps = workload.denoiser().requires_grad_(False), workload.timesteps(workload.steps)
    parts = []
    for first in range(0, count, _BATCH):
        noise = initial_noise(0, range(first, min(first + _BATCH, count)), workload.shape)
        parts.append(workload.decode(ddim_sample(net, workload.schedule(), timesteps, noise)))
    return torch.cat(parts)


def distance(workload: Fashion, pictures: Tensor) -> float:
    """FD to the real images."""
    features = extract_features(workload.extractor(), pictures)
    statistics, reference = FeatureStatistics(features.shape[1]), workload.reference()
    statistics.add(features)
    return frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)


def main() -> None:
    """Print one line a level."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--levels", type=float, nargs="+", default=[0, 2, 4, 6, 8, 12], help="grey levels of 255")
    options = parser.parse_args()
    workload = Fashion()
    clean = images(workload, options.images).float()
    grain = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    for level in options.levels:
        noisy = (clean + level * grain).clamp(0, 255).round().to(torch.uint8)
        print(f"noise of {level:g} grey levels: FD {distance(workload, noisy):.2f}", flush=True)


if __name__ == "__main__":
    main()
