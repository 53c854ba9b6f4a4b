"""The bytes of a tensor, for digests and files."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's values in their order: its own memory where it lies on the CPU without gaps."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel() == 1:
        # One value counts as contiguous whatever its stride, and `view` to bytes looks at the stride.
        flat = flat.clone(memory_format=torch.contiguous_format)
    octets: memoryview = flat.view(torch.uint8).numpy().data
    return octets
