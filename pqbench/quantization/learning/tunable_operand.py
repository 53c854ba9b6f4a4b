"""Tunable operands: an attention operand's quantizer taken apart for training, as a layer's input is."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pqbench.contracts.precision import FULL_PRECISION_BITS
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.learning.learned_step import learned_fake_quantize, learned_zero_point
from pqbench.quantization.net.attention import QuantizedProduct, SoftmaxQuantizer
from pqbench.quantization.net.layers import ActivationQuantizer


class TunableOperand(nn.Module):
    """An activation quantizer whose step size and zero-point can be trained; that of a softmax stays 0.

    input_theta    () or (S,) with a table over time steps, log change of the step size
    input_zero     () or (S,), latent zero-point (rounded straight-through); None where it is fixed at 0: of a
                   softmax, or a symmetric grid
    a_bits         the current width
    The names are those of a `TunableLayer`'s input.
    """

    input_scale: Tensor

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.register_buffer("input_scale", quantizer.scale.clone())
        self.input_theta = nn.Parameter(torch.zeros_like(quantizer.scale))
        fixed = quantizer.symmetric or isinstance(quantizer, SoftmaxQuantizer)
        self.input_zero = None if fixed else nn.Parameter(quantizer.zero_point.float().clone())
        self.a_bits = quantizer.bits

    @property
    def input_grid(self) -> Grid | None:
        """The grid at the current width, or None in full precision."""
        if self.a_bits == FULL_PRECISION_BITS:
            return None
        return Grid(self.a_bits, self.quantizer.symmetric)

    def input_step(self) -> Tensor:
        """The step size, () or (S,)."""
        return self.input_scale * self.input_theta.exp()

    def set_input_grid(self, bits: int, scale: Tensor, zero_point: Tensor) -> None:
        """Start the grid anew at another width; a zero-point that is fixed at 0 stays there."""
        self.a_bits = bits
        self.input_scale = scale.detach().reshape(()).float().clone()
        self.input_theta.data.zero_()
        if self.input_zero is not None:
            self.input_zero.data = zero_point.detach().reshape(()).float().clone()

    def quantized_input(self, x: Tensor) -> Tensor:
        """`x` as the product uses it, with gradients."""
        grid = self.input_grid
        if grid is None:
            return x
        current, zero = self.quantizer.current, learned_zero_point(self.input_zero, grid, self.input_scale)
        return learned_fake_quantize(x, current(self.input_step(), x), current(zero, x), grid)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, of the same shape."""
        return self.quantized_input(x)

    @torch.no_grad()
    def settled(self) -> ActivationQuantizer:
        """The quantizer with the trained values."""
        self.quantizer.bits = self.a_bits
        grid = self.input_grid
        if grid is not None:
            self.quantizer.set(self.input_step(), learned_zero_point(self.input_zero, grid, self.input_scale))
        return self.quantizer


def tunable_operands(net: nn.Module) -> Iterator[tuple[str, TunableOperand]]:
    """The tunable operands of a net with their names."""
    for name, product in net.named_modules():
        if isinstance(product, QuantizedProduct):
            for operand, module in product.named_children():
                if isinstance(module, TunableOperand):
                    yield f"{name}.{operand}", module
