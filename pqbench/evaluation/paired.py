"""How far a method's images are from the full-precision model's images of the same seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from pqbench.errors import UserError

CAP_DB = 100.0
"""PSNR of an image without any error: above what one wrong pixel in a million leaves, and still a number."""


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image to its partner, in dB, (N,) float64; capped at `CAP_DB`.

    images, reference   (N, C, H, W) uint8; image i of both started from the same noise

    Raises `UserError` when the two are not of one shape and uint8, or empty.
    """
    if images.shape != reference.shape or images.dtype != torch.uint8 or reference.dtype != torch.uint8:
        raise UserError(
            f"Paired distances need the same uint8 images from both models; given are {tuple(images.shape)} "
            f"{images.dtype} and {tuple(reference.shape)} {reference.dtype}."
        )
    if len(images) == 0:
        raise UserError("There are no images to compare with the full-precision model's.")
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255.0**2 / error)).clamp(max=CAP_DB)
