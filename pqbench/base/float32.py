"""Products of float32 that are float32 on a graphics card too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within it no convolution and no matrix product of float32 runs in TF32; usable as a decorator.

    Torch lets cuDNN round the inputs of convolutions to the 11 significant bits of TF32. Features and images would then
    depend on the kind of card, and a simulated integer product would not have the numbers of the integers.
    """
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
