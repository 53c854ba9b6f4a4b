"""The Frechet distance of 2048 features: ours by eigenvalues, and the field's by a matrix square root.

    python benchmarks/frechet.py --threads 2 --rounds 3

Both take turns in one process on the same statistics, of features that resemble an Inception's (rectified, correlated,
variances over three decades). pytorch-fid and clean-fid call `scipy.linalg.sqrtm` on the product of the covariances;
torch-fidelity takes the eigenvalues of that product, which is not symmetric. Also printed: what statistics of 10,000
features cost, and the distance's interval by the delta method.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance
from pqbench.scoring.formulas.influence import frechet_contribution


def features(n: int, dimension: int, seed: int, shift: float) -> Tensor:
    """(n, dimension) float32."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(0)) / dimension**0.5
    scales = torch.logspace(-1.5, 0, dimension)
    return ((torch.randn(n, dimension, generator=generator) * scales) @ mixing + shift).relu()


def by_square_root(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """As pytorch-fid does."""
    gap = (mean1 - mean2).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = scipy.linalg.sqrtm((cov1 @ cov2).numpy())
    return float(gap @ gap + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(np.real(root)))


def by_eigenvalues_of_the_product(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """As torch-fidelity does."""
    gap = (mean1 - mean2).numpy()
    roots = np.sqrt(np.linalg.eigvals(cov1.numpy() @ cov2.numpy()).astype("complex128")).real.sum()
    return float(gap @ gap + np.trace(cov1) + np.trace(cov2) - 2 * roots)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    first, second = (features(options.images, options.dimension, seed, 0.1 * seed) for seed in (1, 2))
    own, other = FeatureStatistics.of(first), FeatureStatistics.of(second)
    given = own.mean, own.covariance, other.mean, other.covariance
    ways: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], float]] = {
        "ours": frechet_distance,
        "scipy.linalg.sqrtm": by_square_root,
        "eigenvalues of the product": by_eigenvalues_of_the_product,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            seconds[name].append(timed(lambda way=way: way(*given)))  # type: ignore[misc]
    base = statistics.median(seconds["ours"])
    for name, way in ways.items():
        middle = statistics.median(seconds[name])
        print(f"{name:28} {middle:7.2f} s  {middle / base:6.2f} times ours  distance {way(*given):.6f}")
    print(f"{'statistics':28} {timed(lambda: FeatureStatistics.of(first)):7.2f} s  of {options.images} features")
    interval = timed(lambda: frechet_contribution(0.0, first, other.mean, other.covariance))
    print(f"{'interval':28} {interval:7.2f} s")


if __name__ == "__main__":
    main()
