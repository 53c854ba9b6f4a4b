"""How images of any size become the 299x299 that Inception takes, or the square that a backbone takes.

FID depends on it (Parmar et al., "On Aliased Resizing and Surprising Subtleties in GAN Evaluation", CVPR 2022), so each
function does what one known implementation does. All take images (N, C, H, W) uint8.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional


def bilinear_tensorflow1(images: Tensor, size: int) -> Tensor:
    """Bilinear without half-pixel centres, as TensorFlow 1 did: (N, C, size, size) float32.

    Bit for bit torch-fidelity's, which interpolates between four gathered copies of the output's size; here the columns
    are interpolated first, on the rows that the input has.
    """
    pixels = images.float()
    low, high, share = _neighbours(pixels.shape[3], size, pixels.device)
    left, right = pixels[..., low], pixels[..., high]
    rows = left + (right - left) * share
    low, high, share = _neighbours(pixels.shape[2], size, pixels.device)
    upper, lower = rows[..., low, :], rows[..., high, :]
    return upper + (lower - upper) * share[:, None]


def _neighbours(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each output pixel along one axis: the pixel before it, the one after it, and how far it is between them."""
    places = torch.arange(size, dtype=torch.float32, device=device)
    places = places * torch.tensor(length / size, dtype=torch.float32, device=device)
    low = places.long()
    return low, (low + 1).clamp_max(length - 1), places - low.float()


def bilinear_torch(images: Tensor, size: int) -> Tensor:
    """Bilinear with half-pixel centres and without antialiasing, as `torch.nn.functional.interpolate` does it."""
    return functional.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False)


def bicubic_pillow(images: Tensor, size: int) -> Tensor:
    """Bicubic with antialiasing, each channel in float32 and clipped to 0..255, as Pillow does it in mode F.

    Pillow's filter is linear and works on columns, then on rows: two matrix products do a whole batch. The matrices are
    what Pillow itself makes of the unit images, so they follow the installed version.
    """
    pixels = images.float()
    columns = _pillow_matrix(pixels.shape[3], size).to(pixels.device)
    rows = _pillow_matrix(pixels.shape[2], size).to(pixels.device)
    return (rows @ (pixels @ columns.T)).clamp_(0, 255)


@lru_cache(maxsize=16)
def _pillow_matrix(length: int, size: int) -> Tensor:
    """What Pillow multiplies one axis with: (size, length) float32."""
    unit = Image.fromarray(np.eye(length, dtype=np.float32))
    return torch.from_numpy(np.array(unit.resize((length, size), Image.Resampling.BICUBIC)))


def pillow_uint8(images: Tensor, size: int | tuple[int, int], filter_name: str) -> Tensor:
    """As Pillow resizes RGB images, rounded to whole numbers twice: (N, 3, size, size) uint8, image by image.

    size   of the square, or (rows, columns)
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    resampling = Image.Resampling[filter_name.upper()]
    pictures = (Image.fromarray(image) for image in images.permute(0, 2, 3, 1).contiguous().cpu().numpy())
    resized = np.stack([np.asarray(picture.resize((columns, rows), resampling)) for picture in pictures])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).to(images.device)
