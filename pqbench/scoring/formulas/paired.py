"""How far a method's images are from the full-precision model's images of the same seeds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from pqbench.base.errors import UserError
from pqbench.contracts.metric import Images

CAP_DB = 100.0
"""PSNR of an image without any error: above what one wrong pixel in a million leaves, and still a number."""

WINDOW, SIGMA = 11, 1.5
"""The Gaussian window of Wang et al. (2004), in pixels."""
_PEAK = 255.0
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
_IMAGES = 64  # that are compared in float64 at once


def each_pair(measure: Callable[[Tensor, Tensor], Tensor], images: Images, reference: Images) -> Tensor:
    """`measure` of every image and its partner, (N,), a batch at a time. Raises `UserError` as the measure does."""
    if len(images) != len(reference):
        raise UserError(
            f"Paired distances need as many images of both models; there are {len(images)} and {len(reference)}."
        )
    found = [
        measure(*part)
        for pair in zip(images, reference, strict=True)
        for part in zip(*(torch.split(each, _IMAGES) for each in pair), strict=True)
    ]
    if not found:
        raise UserError("There are no images to compare with the full-precision model's.")
    return torch.cat(found)


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image to its partner, in dB, (N,) float64; capped at `CAP_DB`.

    images, reference   (N, C, H, W) uint8; image i of both started from the same noise

    Raises `UserError` when the two are not of one shape and uint8, or empty.
    """
    _require_pairs(images, reference)
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(_PEAK**2 / error)).clamp(max=CAP_DB)


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image to its partner (Wang et al., 2004, eq. 13), (N,) float64, at most 1.

    A Gaussian window of 11 x 11 with sigma 1.5, only where it lies within the image; K1 = 0.01, K2 = 0.03, L = 255; the
    mean over positions and channels. That is scikit-image's `gaussian_weights=True, use_sample_covariance=False`.

    Raises `UserError` as `psnr` does, and for images smaller than the window.
    """
    _require_pairs(images, reference)
    if min(images.shape[2:]) < WINDOW:
        height, width = images.shape[2:]
        raise UserError(f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels; these have {height}x{width}.")
    x, y = images.double(), reference.double()
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    above = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    below = (mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2)
    return (above / below).flatten(1).mean(1)


def _windowed(x: Tensor) -> Tensor:
    """Means of (N, C, H, W) under the window, (N, C, H - 10, W - 10): along columns, then along rows."""
    offsets = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    planes = x.flatten(0, 1)[:, None]
    planes = functional.conv2d(planes, weights[None, None, :, None])
    planes = functional.conv2d(planes, weights[None, None, None, :])
    return planes.reshape(*x.shape[:2], *planes.shape[2:])


def _require_pairs(images: Tensor, reference: Tensor) -> None:
    if images.shape != reference.shape or images.dtype != torch.uint8 or reference.dtype != torch.uint8:
        raise UserError(
            f"Paired distances need the same uint8 images from both models; given are {tuple(images.shape)} "
            f"{images.dtype} and {tuple(reference.shape)} {reference.dtype}."
        )
    if len(images) == 0:
        raise UserError("There are no images to compare with the full-precision model's.")
