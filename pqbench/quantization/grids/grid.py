"""Uniform affine grids: x is stored as the integer round(x / scale) + zero_point, clamped to the grid's codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.precision import QUANTIZED_BITS


@dataclass(frozen=True)
class Grid:
    """The integer codes of a quantizer.

    symmetric   codes -2^(b-1) ... 2^(b-1) - 1 around a zero-point of 0 (signed)
    otherwise   codes 0 ... 2^b - 1 with a zero-point among them (asymmetric)

    Raises `UserError` for bits outside 2 to 8.
    """

    bits: int
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.bits not in QUANTIZED_BITS:
            raise UserError(f"A grid has 2 to 8 bits, not {self.bits}.")

    @property
    def dtype(self) -> torch.dtype:
        """The smallest type that holds every code: int8 for symmetric grids, uint8 otherwise."""
        return torch.int8 if self.symmetric else torch.uint8

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    def parameters(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        """Scale (float32) and zero-point (int32) that cover [minimum, maximum], of the shape of both.

        The range is widened to hold 0 (padding must be exact). A range of zero width gets the scale 1, on which its
        only value, 0, is exact.
        """
        minimum, maximum = minimum.clamp(max=0).double(), maximum.clamp(min=0).double()
        if self.symmetric:
            scale = torch.maximum(maximum / self.high, minimum / self.low)
        else:
            scale = (maximum - minimum) / (self.high - self.low)
        tiny = scale < torch.finfo(torch.float32).tiny
        scale = torch.where(tiny, torch.ones_like(scale), scale).float()
        if self.symmetric:
            return scale, torch.zeros_like(scale, dtype=torch.int32)
        zero = torch.round(-minimum / scale.double()).clamp(self.low, self.high)
        return scale, zero.to(torch.int32)

    def quantize(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """Codes of `x` as float (whole numbers); scale and zero-point broadcast against `x`. NaN stays NaN."""
        # In place after the first operation: a tenth of the time of torch's fused kernel on a CPU, and that one turns
        # NaN into an ordinary code, which would hide a diverged model.
        return torch.div(x, scale).round_().add_(zero_point).clamp_(self.low, self.high)

    def dequantize(self, codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """The values that codes stand for, float32."""
        return (codes.float() - zero_point) * scale

    def fake_quantize(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """`x` moved to the nearest point of the grid; scale and zero-point broadcast against `x`."""
        if zero_point.dim() == 0 and zero_point.device.type == "cpu":
            # Between bounds that are moved instead of the codes: two passes over memory fewer.
            zero = int(zero_point)
            return torch.div(x, scale).round_().clamp_(self.low - zero, self.high - zero).mul_(scale)
        return self.quantize(x, scale, zero_point).sub_(zero_point).mul_(scale)

    def require(self, scale: Tensor, zero_point: Tensor) -> None:
        """Raise `UserError` unless every scale is finite and above 0 and every zero-point is a code of the grid."""
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            raise UserError("A scale is NaN, infinite or not above 0: the quantizer that set it has diverged.")
        low, high = (0, 0) if self.symmetric else (self.low, self.high)
        if not bool(((zero_point >= low) & (zero_point <= high)).all()):
            kind = "symmetric" if self.symmetric else "asymmetric"
            raise UserError(
                f"A zero-point lies outside {low} to {high}, those of a {kind} grid of {self.bits} bits: "
                "take scale and zero-point from Grid.parameters."
            )


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """(C,) values shaped to broadcast along the first axis of `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
