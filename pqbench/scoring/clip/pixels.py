"""How images of any size become what CLIP takes: its own preprocessing."""

from __future__ import annotations

import torch
from torch import Tensor

from pqbench.scoring.extractors.resize import pillow_uint8

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def rule(size: int) -> str:
    """What `clip_pixels` does, for the protocol."""
    return (
        f"uint8, RGB (grey repeated), the shorter side resized to {size} by Pillow's bicubic filter, antialiased, "
        f"rounded to uint8; the central {size}x{size}; mean {MEAN}, std {STD}"
    )


def clip_pixels(images: Tensor, size: int) -> Tensor:
    """Images (N, 1 or 3, H, W) uint8 to (N, 3, size, size) float32, as OpenAI's and open_clip's transforms do it."""
    height, width = images.shape[2:]
    short = min(height, width)
    # int() and round() are torchvision's, on which those transforms stand.
    rows, columns = int(size * height / short), int(size * width / short)
    pixels = pillow_uint8(images.expand(-1, 3, -1, -1), (rows, columns), "bicubic")
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    central = pixels[:, :, top : top + size, left : left + size].float() / 255
    mean, std = (torch.tensor(values, device=central.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (central - mean) / std
