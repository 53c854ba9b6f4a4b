"""From images to features, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from pqbench.contracts.workload import Extractor
from pqbench.errors import UserError


def extract_features(extractor: Extractor, images: Tensor | Iterable[Tensor], batch: int = 250) -> Tensor:
    """Features of images, (N, D) float32 on the CPU: "features" of `extract_outputs`, which says what is raised."""
    return extract_outputs(extractor, images, batch)["features"]


def extract_outputs(extractor: Extractor, images: Tensor | Iterable[Tensor], batch: int = 250) -> dict[str, Tensor]:
    """Everything that one pass of the extractor gives: (N, ...) float32 on the CPU, by the names in its `outputs`.

    images   (N, C, H, W) uint8, or an iterable of such tensors, of which only one is held at a time
    batch    images that go through the extractor together

    Raises `UserError` when there is no image, when images are not uint8 or have other channels than the extractor
    takes, and when an output is not finite.
    """
    chunks = [images] if isinstance(images, Tensor) else images
    device = _device(extractor.net)
    parts: dict[str, list[Tensor]] = {name: [] for name in extractor.outputs}
    with torch.no_grad():
        for chunk in chunks:
            require_images(extractor, chunk)
            for part in chunk.split(batch) if len(chunk) else ():
                for name, found in _outputs(extractor, part.to(device)).items():
                    parts[name].append(found)
    if not any(parts.values()):
        raise UserError("There are no images to extract features from.")
    return {name: torch.cat(found) for name, found in parts.items()}


def require_images(extractor: Extractor, images: Tensor) -> None:
    """Raise `UserError` unless the extractor takes images of this shape and type."""
    if images.dtype != torch.uint8:
        raise UserError(f"The extractor {extractor.name} takes uint8 images; these are {images.dtype}.")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise UserError(
            f"The extractor {extractor.name} takes images (N, C, H, W); these have shape {tuple(images.shape)}."
        )
    if extractor.channels is not None and images.shape[1] != extractor.channels:
        grey = " Grey images are scored only where that is declared: fid-clean[grey=repeat], for instance."
        hint = grey if (images.shape[1], extractor.channels) == (1, 3) else ""
        raise UserError(
            f"The extractor {extractor.name} takes images with {extractor.channels} channels; "
            f"these have {images.shape[1]}.{hint}"
        )


def _outputs(extractor: Extractor, images: Tensor) -> dict[str, Tensor]:
    given: Tensor | Mapping[str, Tensor] = extractor.net(images)
    named = {"features": given} if isinstance(given, Tensor) else given
    outputs = {name: named[name].float().cpu() for name in extractor.outputs}
    for name, values in outputs.items():
        require_finite(values.flatten(1), f"The extractor {extractor.name}", name)
    return outputs


def require_finite(features: Tensor, source: str, what: str = "features") -> None:
    """Raise `UserError` when a feature (N, D) is NaN or infinite: no distance can be computed from it."""
    bad = int((~torch.isfinite(features).all(1)).sum())
    if bad:
        raise UserError(f"{source} gave NaN or infinite {what} for {bad} of {len(features)} images.")


def _device(net: nn.Module) -> torch.device:
    first = next(chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if first is None else first.device
