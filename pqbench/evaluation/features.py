"""From images to features, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pqbench.contracts.workload import Extractor
from pqbench.errors import UserError


@torch.no_grad()
def extract_features(extractor: Extractor, images: Tensor | Iterable[Tensor], batch: int = 250) -> Tensor:
    """Features of images, (N, D) float32 on the CPU.

    images   (N, C, H, W) uint8, or an iterable of such tensors, of which only one is held at a time
    batch    images that go through the extractor together

    Raises `UserError` when there is no image, when images are not uint8, and when a feature is not finite.
    """
    chunks = [images] if isinstance(images, Tensor) else images
    features = [_batch_features(extractor, part) for chunk in chunks for part in chunk.split(batch) if len(part)]
    if not features:
        raise UserError("There are no images to extract features from.")
    return torch.cat(features)


def _batch_features(extractor: Extractor, images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        raise UserError(f"The extractor {extractor.name} takes uint8 images; these are {images.dtype}.")
    features: Tensor = extractor.net(images).float().cpu()
    require_finite(features, f"The extractor {extractor.name}")
    return features


def require_finite(features: Tensor, source: str) -> None:
    """Raise `UserError` when a feature is NaN or infinite: no distance can be computed from it."""
    bad = int((~torch.isfinite(features).all(1)).sum())
    if bad:
        raise UserError(f"{source} gave NaN or infinite features for {bad} of {len(features)} images.")
