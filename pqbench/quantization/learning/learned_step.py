"""Fake quantization with gradients: straight-through for the values, LSQ for the scale, LSQ+ for the zero-point.

Esser et al., "Learned step size quantization" (ICLR 2020), eq. 3: d x_hat / d s = round(x/s) - x/s inside the range and
the clipped code outside. Bhalgat et al., "LSQ+" (2020), eq. 5: a zero-point moves only what is clipped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pqbench.quantization.grids.grid import Grid


class _LearnedStep(torch.autograd.Function):
    """x_hat = (clamp(round(x / s) + z, low, high) - z) s with the gradients above; s and z broadcast against x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        ratio = x / scale
        code = torch.round(ratio).add_(zero)
        clipped = code.clamp(low, high)
        ctx.save_for_backward(ratio, clipped, clipped == code, scale, zero)
        return (clipped - zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        ratio, clipped, inside, scale, zero = ctx.saved_tensors
        passed = gradient * inside
        to_scale = to_zero = None
        if ctx.needs_input_grad[1]:
            to_scale = _reduce_to((clipped - zero).mul_(gradient).sub_(passed * ratio), scale)
        if ctx.needs_input_grad[2]:
            to_zero = _reduce_to((passed - gradient).mul_(scale), zero)
        return passed, to_scale, to_zero, None, None


def _reduce_to(values: Tensor, like: Tensor) -> Tensor:
    """Sum over the axes along which `like` was broadcast."""
    return values.sum_to_size(like.shape) if like.dim() else values.sum()


def learned_fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> Tensor:
    """Fake-quantize `x` so that gradients reach x, scale and zero-point.

    scale and zero_point are float tensors that broadcast against x; the zero-point must hold whole numbers.
    """
    result: Tensor = _LearnedStep.apply(x, scale, zero_point, grid.low, grid.high)  # type: ignore[no-untyped-call]
    return result


class _RoundedWithin(torch.autograd.Function):
    """round(clamp(x, low, high)), whose gradient is held back only where a step down it would lead farther out.

    The gradient of clamp alone is zero out there: a zero-point that one step carried over the edge would stay for ever.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x <= low, x >= high)
        return torch.round(x.clamp(low, high))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        below, above = ctx.saved_tensors
        outwards = (below & (gradient > 0)) | (above & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0), None, None


def learned_zero_point(latent: Tensor | None, grid: Grid, scale: Tensor) -> Tensor:
    """The zero-point of a latent one: a whole number within the grid, with a straight-through gradient.

    latent   of the shape of `scale`; None: the zero-point is fixed at 0
    """
    if latent is None:
        return torch.zeros_like(scale)
    result: Tensor = _RoundedWithin.apply(latent, grid.low, grid.high)  # type: ignore[no-untyped-call]
    return result
