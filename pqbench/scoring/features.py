"""From images to features, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pqbench.base.devices import device_of
from pqbench.base.errors import UserError
from pqbench.contracts.workload import Extractor
from pqbench.scoring.gathering import Gathered

_ROWS = 8192
"""Features that are looked at together, so that no mask as long as all of them is made."""


def extract_features(extractor: Extractor, images: Tensor | Iterable[Tensor], batch: int = 250) -> Tensor:
    """Features of images, (N, D) float32 on the CPU: "features" of `extract_outputs`, which says what is raised."""
    return extract_outputs(extractor, images, batch)["features"]


def extract_outputs(
    extractor: Extractor,
    images: Tensor | Iterable[Tensor],
    batch: int = 250,
    *,
    count: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Everything that one pass of the extractor gives: (N, ...) on the CPU, by the names in its `outputs`.

    images   (N, C, H, W) uint8, or an iterable of such tensors, of which only one is held at a time
    batch    images that go through the extractor together
    count    how many images there are, where an iterable of them knows: then the outputs are never held twice
    dtype    what outputs are kept in, batch by batch

    Raises `UserError` when there is no image, when images are not uint8 or have other channels than the extractor
    takes, and when an output is not finite or `dtype` cannot hold it.
    """
    chunks, count = ([images], len(images)) if isinstance(images, Tensor) else (images, count)
    device = device_of(extractor.net)
    gathered = {name: Gathered(count) for name in extractor.outputs}
    with torch.no_grad():
        for chunk in chunks:
            require_images(extractor, chunk)
            for part in chunk.split(batch) if len(chunk) else ():
                for name, found in _outputs(extractor, part.to(device), dtype).items():
                    gathered[name].add(found)
    if not any(map(len, gathered.values())):
        raise UserError("There are no images to extract features from.")
    return {name: found.whole() for name, found in gathered.items()}


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


def _outputs(extractor: Extractor, images: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    given: Tensor | Mapping[str, Tensor] = extractor.net(images)
    named = {"features": given} if isinstance(given, Tensor) else given
    outputs = {name: named[name].float().cpu() for name in extractor.outputs}
    for name, values in outputs.items():
        require_finite(values.flatten(1), f"The extractor {extractor.name}", name)
    kept = {name: values.to(dtype) for name, values in outputs.items()}
    for name, values in kept.items():
        if dtype != torch.float32:
            require_finite(values.flatten(1), f"The extractor {extractor.name} in {_in_words(dtype)}", name)
    return kept


def _in_words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def require_finite(features: Tensor, source: str, what: str = "features") -> None:
    """Raise `UserError` when a feature (N, D) is NaN or infinite: no distance can be computed from it."""
    bad = sum(int((~torch.isfinite(rows).all(1)).sum()) for rows in torch.split(features, _ROWS))
    if bad:
        raise UserError(f"{source} gave NaN or infinite {what} for {bad} of {len(features)} images.")
