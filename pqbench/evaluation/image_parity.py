"""Parity of images: what an engine made of the same seeds as its simulation."""

from __future__ import annotations

from torch import Tensor

from pqbench.bench.records import Metric
from pqbench.contracts import Extractor
from pqbench.evaluation.features import extract_features
from pqbench.evaluation.frechet import FeatureStatistics, frechet_distance
from pqbench.evaluation.paired import psnr
from pqbench.evaluation.protocol import Protocol


def image_parity(
    engine: str, executed: Tensor, simulated: Tensor, extractor: Extractor, protocol: Protocol
) -> dict[str, Metric]:
    """parity_fd@ENGINE, the Frechet distance between both sets, with their mean PSNR beside it.

    executed, simulated   (n, C, H, W) uint8, image i of both from the same noise

    Both sets are small and share their noise, so the distance says how far they are apart and nothing of either's own
    quality; sets without any difference have 0.
    """
    statistics = []
    for images in (executed, simulated):
        features = extract_features(extractor, images)
        statistics.append(FeatureStatistics(features.shape[1]))
        statistics[-1].add(features)
    ours, theirs = statistics
    value = frechet_distance(ours.mean, ours.covariance, theirs.mean, theirs.covariance)
    return {
        f"parity_fd@{engine}": Metric(
            value=value,
            unit="",
            direction="lower",
            n=len(executed),
            protocol=protocol.id,
            detail={"psnr_to_simulation": float(psnr(executed, simulated).mean()), "judge": protocol.judge},
        )
    }
