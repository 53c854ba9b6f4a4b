"""One seed an image: the noise that image i starts from depends on (base seed, i) and on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def image_generator(seed: int, index: int, purpose: str = "image") -> torch.Generator:
    """The CPU generator of image `index`."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def initial_noise(seed: int, indices: Iterable[int], shape: tuple[int, ...], purpose: str = "image") -> Tensor:
    """x_T of the given images, (len(indices), *shape) float32, on the CPU."""
    return torch.stack([torch.randn(shape, generator=image_generator(seed, i, purpose)) for i in indices])
