"""Tunable layers: a quantized layer taken apart for training, and put together again as integers.

`tune(net)` replaces every `QuantizedLayer` by a `TunableLayer`, whose forward goes through the same grids but passes
gradients to a float copy of the weight, to the step sizes and to the bias, and the quantizer of every attention operand
by a `TunableOperand`; `settle(net)` freezes the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pqbench.contracts.precision import FULL_PRECISION_BITS
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.grids.groups import over_groups, spread
from pqbench.quantization.grids.tokens import per_token
from pqbench.quantization.learning.learned_step import learned_fake_quantize, learned_zero_point
from pqbench.quantization.learning.tunable_operand import TunableOperand, tunable_operands
from pqbench.quantization.net.attention import quantized_operands
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers, replace_module


class OtherGrid(NamedTuple):
    """A second grid that a layer's weight is mixed with: `share` x the layer's own + (1 - share) x this one.

    scale, zero_point   (out,) or (out, groups)
    """

    grid: Grid
    scale: Tensor
    zero_point: Tensor
    share: float


class TunableLayer(nn.Module):
    """A quantized layer whose weight, step sizes, zero-point and bias can be trained.

    Step sizes are s = s_0 exp(theta): Adam's steps on theta are relative changes, so one learning rate fits scales of
    any magnitude, and a scale cannot become negative.

    weight          (out, in, ...) float32, the latent weight
    weight_theta    (out,) or (out, groups), log change of the weight step sizes
    input_theta     () or (S,) for a table over S time steps, log change of the activation step size
    input_zero      () or (S,), latent zero-point of the activation grid (rounded straight-through); None where the grid
                    is symmetric, with its zero-point fixed at 0
    weight_blend    None, or the grid that the layer is leaving
    A dynamic input grid has nothing to train: input_theta and input_zero are then unused. A block with tables that is
    run by itself needs to know its time steps (`time_tables.at_time_steps`).
    """

    weight_scale: Tensor
    weight_zero: Tensor
    input_scale: Tensor

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.register_buffer("weight_scale", layer.weight_scale.clone())
        self.register_buffer("weight_zero", layer.weight_zero.float())
        self.weight_theta = nn.Parameter(torch.zeros_like(layer.weight_scale))
        self.register_buffer("input_scale", layer.activation.scale.clone())
        self.input_theta = nn.Parameter(torch.zeros_like(layer.activation.scale))
        fixed = layer.activation.symmetric
        self.input_zero = None if fixed else nn.Parameter(layer.activation.zero_point.float().clone())
        self.w_bits = layer.w_bits
        self.a_bits = layer.activation.bits
        self.weight_blend: OtherGrid | None = None

    @property
    def weight_grid(self) -> Grid | None:
        """The weights' grid at the current width, or None in full precision."""
        if self.w_bits == FULL_PRECISION_BITS:
            return None
        return Grid(self.w_bits, self.layer.w_symmetric)

    @property
    def input_grid(self) -> Grid | None:
        """The activations' grid at the current width, or None in full precision."""
        if self.a_bits == FULL_PRECISION_BITS:
            return None
        return Grid(self.a_bits, self.layer.activation.symmetric)

    def weight_step(self) -> Tensor:
        """The weight step sizes, (out,) or (out, groups)."""
        return self.weight_scale * self.weight_theta.exp()

    def input_step(self) -> Tensor:
        """The activation step size, () or (S,)."""
        return self.input_scale * self.input_theta.exp()

    def set_weight_grid(self, bits: int, scale: Tensor, zero_point: Tensor) -> None:
        """Start the weight grid anew at another width; scale and zero-point (out,) or (out, groups)."""
        self.w_bits = bits
        shape, group_size = self.weight.shape, self.layer.group_size
        self.weight_scale = over_groups(scale.detach().float(), shape, group_size).clone()
        self.weight_theta.data.zero_()
        self.weight_zero = over_groups(zero_point.detach().float(), shape, group_size).clone()

    def set_input_grid(self, bits: int, scale: Tensor, zero_point: Tensor) -> None:
        """Start the activation grid anew at another width; one scale and zero-point, also for all of a table, or (S,).

        The number of parameter sets stays what it was.
        """
        self.a_bits = bits
        shape = self.input_theta.shape
        self.input_scale, zero = (
            (value.reshape(()) if value.numel() == 1 else value).detach().float().expand(shape).clone()
            for value in (scale, zero_point)
        )
        self.input_theta.data.zero_()
        if self.input_zero is not None:
            self.input_zero.data = zero

    def weight_on_grid(self) -> Tensor:
        """The weight moved to the layer's own grid, with gradients: what `settled` keeps."""
        grid = self.weight_grid
        if grid is None:
            return self.weight
        return self._moved(grid, self.weight_step(), self.weight_zero)

    def quantized_weight(self) -> Tensor:
        """The weight as the layer uses it, with gradients: on its own grid, or between two."""
        weight, other = self.weight_on_grid(), self.weight_blend
        if other is None:
            return weight
        return other.share * weight + (1 - other.share) * self._moved(other.grid, other.scale, other.zero_point)

    def _moved(self, grid: Grid, scale: Tensor, zero_point: Tensor) -> Tensor:
        group_size = self.layer.group_size
        columns = spread(scale, self.weight, group_size), spread(zero_point, self.weight, group_size)
        return learned_fake_quantize(self.weight, *columns, grid)

    def quantized_input(self, x: Tensor) -> Tensor:
        """The input as the layer uses it, with gradients."""
        grid = self.input_grid
        if grid is None:
            return x
        activation = self.layer.activation
        if activation.dynamic:
            return per_token(x, grid, activation.token_axis)
        zero = learned_zero_point(self.input_zero, grid, self.input_scale)
        return learned_fake_quantize(x, activation.current(self.input_step(), x), activation.current(zero, x), grid)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output on its quantized input."""
        return self.layer.operate(self.quantized_input(x), self.quantized_weight(), self.bias)

    @torch.no_grad()
    def settled(self) -> QuantizedLayer:
        """The frozen layer with the trained values."""
        layer = self.layer
        layer.w_bits = self.w_bits
        layer.activation.bits = self.a_bits
        grid = self.input_grid
        if grid is not None and not layer.activation.dynamic:
            layer.activation.set(self.input_step(), learned_zero_point(self.input_zero, grid, self.input_scale))
        if self.bias is not None:
            layer.bias = self.bias.detach().clone()
        layer.freeze(self.weight, self.weight_step(), self.weight_zero)
        return layer


def tunable_layers(net: nn.Module) -> Iterator[tuple[str, TunableLayer]]:
    """The tunable layers of a net with their names."""
    for name, module in net.named_modules():
        if isinstance(module, TunableLayer):
            yield name, module


def tune(net: nn.Module) -> dict[str, TunableLayer]:
    """Replace the quantized layers and attention operands of `net` by tunable ones, in place; returns the layers."""
    made = {name: TunableLayer(layer) for name, layer in list(quantized_layers(net))}
    operands = {name: TunableOperand(quantizer) for name, quantizer in quantized_operands(net)}
    for name, module in (made | operands).items():
        replace_module(net, name, module)
    return made


def settle(net: nn.Module) -> nn.Module:
    """Freeze the tunable layers and operands of `net` again, in place."""
    frozen = {name: layer.settled() for name, layer in tunable_layers(net)}
    operands = {name: operand.settled() for name, operand in tunable_operands(net)}
    for name, module in (frozen | operands).items():
        replace_module(net, name, module)
    return net
