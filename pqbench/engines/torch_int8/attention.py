"""Products of quantized attention, which are products of two activations, in integers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pqbench.engines.torch_int8.activation import CodedActivation, Codes
from pqbench.engines.torch_int8.product import Shapes, integer_product
from pqbench.quantization.net.attention import Product, QuantizedProduct
from pqbench.quantization.net.layers import ActivationQuantizer

MOST_MATRICES = 16
"""Matrices (samples times heads) that are multiplied one by one: torch has no integer product of a batch of them."""


class CodedProduct(nn.Module):
    """A product of two quantized activations, in integers where both have a grid.

    It is computed in floating point, on inputs on their grids, where there are more than `MOST_MATRICES` matrices, and
    where the net's own code multiplies (attention that is written out, not called as one function): that may do more
    than multiply.
    """

    def __init__(self, product: QuantizedProduct, shapes: Shapes) -> None:
        super().__init__()
        first, second = product.children()
        assert isinstance(first, ActivationQuantizer)
        assert isinstance(second, ActivationQuantizer)
        self.first, self.second = CodedActivation(first), CodedActivation(second)
        self.shapes = shapes

    def forward(self, left: Tensor, right: Tensor, multiply: Product = torch.matmul) -> Tensor:
        """The product of left (..., n, k) and right (..., k, m), or what `multiply` makes of both, (..., n, m)."""
        has_grids = self.first.grid is not None and self.second.grid is not None
        is_plain = multiply is torch.matmul and left.shape[:-2] == right.shape[:-2]
        if not (has_grids and is_plain and left.shape[:-2].numel() <= MOST_MATRICES):
            return multiply(self.first(left), self.second(right))
        return self._in_integers(self.first.codes(left), self.second.codes(right.mT)).to(left.dtype)

    def _in_integers(self, left: Codes, right: Codes) -> Tensor:
        """(..., n, k) and (..., m, k) -> (..., n, m) float32."""
        (rows, inner), columns = left.codes.shape[-2:], right.codes.shape[-2]
        pairs = zip(left.codes.reshape(-1, rows, inner), right.codes.reshape(-1, columns, inner), strict=True)
        found = torch.stack([integer_product(a, self.shapes.padded(b), columns, self.shapes) for a, b in pairs])
        total = found.reshape(*left.codes.shape[:-1], columns)
        # (a - za)(b - zb), summed, is ab - za b - zb a + k za zb.
        if left.zero is not None:
            total = total - left.zero * right.codes.sum(-1, dtype=torch.int32)[..., None, :]
        if right.zero is not None:
            sums = left.codes.sum(-1, keepdim=True, dtype=torch.int32)
            total = total - right.zero * (sums if left.zero is None else sums - left.zero * inner)
        return total * (left.scale * right.scale)
