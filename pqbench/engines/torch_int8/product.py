"""The integer matrix product of torch, and the shapes that it takes.

`torch._int_mm` is int8 times int8 with exact int32 sums: cuBLASLt's kernels on a GPU, oneDNN's on a CPU. Its name is
private, and there is no public one for these kernels in torch 2.13: `torch.mm(..., out_dtype=torch.int32)` is not
implemented for int8, `torch.nn.functional.scaled_mm` takes 8- and 4-bit floats. It is what torchao's int8 layers
call, and inductor knows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

_EXACT_TERMS = 1024
"""Products of signed bytes, at most 2^14, whose sum is always a float32 number."""


@cache
def products_saturate() -> bool:
    """Whether `torch._int_mm` on this CPU gives another number than the sum of the largest products.

    Found by running it once per process. torch chooses exact loops of its own on CPUs without VNNI; oneDNN's kernels
    for such CPUs, which `ONEDNN_MAX_CPU_ISA` forces elsewhere, saturate.
    """
    codes = torch.full((16, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(codes, codes.t()) != 64 * 127 * 127).any())


@dataclass(frozen=True)
class Shapes:
    """What a device's kernels ask of the shapes: (rows, inner) times (inner, columns).

    rows        the fewest rows
    multiple    of what the inner dimension and the columns must be multiples
    saturates   whether this CPU's kernels add pairs of products in 16 bits: then it multiplies in float32 instead
    """

    rows: int = 1
    multiple: int = 1
    saturates: bool = field(default_factory=products_saturate)

    @classmethod
    def for_device(cls, device: str) -> Shapes:
        """On a GPU more than 16 rows, and multiples of 8 (ATen's `_int_mm_out_cuda`).

        16 instead: then rows start at multiples of 16 bytes, which cuBLASLt's documentation asks of its fast kernels.
        """
        return cls(rows=17, multiple=16) if device == "cuda" else cls()

    def padded(self, matrix: Tensor) -> Tensor:
        """`matrix` (columns, inner) of the right factor, both filled up with zeros."""
        columns, inner = matrix.shape
        return F.pad(matrix, (0, -inner % self.multiple, 0, -columns % self.multiple))


def integer_product(left: Tensor, right: Tensor, columns: int, shapes: Shapes) -> Tensor:
    """The exact product of left (M, K) and the transpose of right, both int8 -> (M, columns) int32.

    right   (N, K) or what `Shapes.padded` made of it, N >= columns: so its transpose lies column by column, the one
            layout that all of cuBLASLt's int8 kernels have
    """
    rows, inner = left.shape
    if shapes.saturates and left.device.type == "cpu":
        return _product_in_float(left, right[:columns, :inner])
    # Zeros add nothing to a sum; rows and columns of them are cut off.
    left = F.pad(left, (0, right.shape[1] - inner, 0, max(shapes.rows - rows, 0)))
    return torch._int_mm(left, right.t())[:rows, :columns]


def _product_in_float(left: Tensor, right: Tensor) -> Tensor:
    """The same in float32, exact because no sum gets as long as to be rounded: (M, K), (N, K) -> (M, N) int32."""
    total = torch.zeros(len(left), len(right), dtype=torch.int32)
    for start in range(0, left.shape[1], _EXACT_TERMS):
        terms = slice(start, start + _EXACT_TERMS)
        total = total + torch.matmul(left[:, terms].float(), right[:, terms].float().t()).int()
    return total
