"""From floating-point inputs to signed bytes, on the grids of the simulation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pqbench.quantization.net.layers import ActivationQuantizer

HALF = 128
"""By how much the codes of unsigned 8-bit grids are shifted, so that they fit a signed byte."""


class Codes(NamedTuple):
    """Integers that stand for (codes - zero) * scale.

    codes   int8
    scale   float32, broadcasts against them and does not vary along the last axis
    zero    int32 of the same shape, or None: it is 0
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None


class CodedActivation(nn.Module):
    """An activation quantizer as integers: static, one set for each time step, or one for each token.

    Codes are kept as steps from the zero-point where these fit a signed byte, which spares the correction for it: on
    all grids of fewer than 8 bits and on symmetric ones. Codes of unsigned 8-bit grids are shifted by `HALF` instead.

    token_axis   the axis of a token's features
    """

    def __init__(self, quantizer: ActivationQuantizer, token_axis: int = -1) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.grid = quantizer.grid
        self.token_axis = token_axis

    def codes(self, x: Tensor) -> Codes:
        """The integers of `x`, of its shape. A NaN becomes any code: integers have none."""
        stored, scale, zero = self._stored(x)
        return Codes(stored.to(torch.int8), scale, zero)

    def forward(self, x: Tensor) -> Tensor:
        """`x` moved to the nearest point of the grid, in its own type: for what runs in floating point."""
        if self.grid is None:
            return x
        stored, scale, zero = self._stored(x)
        return ((stored if zero is None else stored - zero) * scale).to(x.dtype)

    def _stored(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        assert self.grid is not None
        # In bfloat16, a quotient would be rounded to another step.
        x = x.float()
        scale, zero = self._range(x)
        codes = (torch.round(x / scale) + zero).clamp(self.grid.low, self.grid.high)
        if self.grid.bits < 8 or self.grid.symmetric:
            return codes - zero, scale, None
        return codes - HALF, scale, zero - HALF

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.grid is not None
        if self.quantizer.dynamic:
            return self.grid.parameters(*torch.aminmax(x, dim=self.token_axis, keepdim=True))
        quantizer = self.quantizer
        return quantizer.current(quantizer.scale, x), quantizer.current(quantizer.zero_point, x)
