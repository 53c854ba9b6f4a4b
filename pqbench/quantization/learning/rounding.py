"""AdaRound: learning for every weight whether it is rounded up or down (Nagel et al., ICML 2020).

The soft code of a weight w is floor(w / s) + h(V), with the rectified sigmoid of their eq. 23,
h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1). V starts where the soft weight is w itself; a regulariser,
eq. 24, sum(1 - |2 h - 1|^beta), drives every h to 0 or 1 in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers, replace_module

GAMMA, ZETA = -0.1, 1.1
"""The stretch of the rectified sigmoid."""
BETAS = (20.0, 2.0)
"""The regulariser's exponent when it sets in and at the end."""


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V), from 0 to 1."""
    return torch.sigmoid(v).mul_(ZETA - GAMMA).add_(GAMMA).clamp_(0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """The V at which h(V) is `h`, from 0 to 1."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


def rounding_regulariser(h: Tensor, beta: float) -> Tensor:
    """sum(1 - |2 h - 1|^beta): 0 when every h is 0 or 1, at most one for each."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def regulariser_slope(h: Tensor, beta: float) -> Tensor:
    """The regulariser's derivative with respect to each h."""
    centred = h.mul(2).sub_(1)
    # |c|^(beta-1) as 2^((beta-1) log2 |c|): a quarter of the time of torch's pow, and 0 stays 0.
    return centred.abs().log2_().mul_(beta - 1).exp2_().copysign_(centred).mul_(-2 * beta)


def _soft(v: Tensor) -> tuple[Tensor, Tensor]:
    """h(V) and dh / dV, which is 0 where the sigmoid is cut off."""
    stretched = torch.sigmoid(v).mul_(ZETA - GAMMA).add_(GAMMA)
    # (h - gamma)(zeta - h) / (zeta - gamma), in as few passes over memory as it takes.
    slope = torch.addcmul(stretched, stretched, stretched, value=-1 / (GAMMA + ZETA))
    slope = slope.mul_((GAMMA + ZETA) / (ZETA - GAMMA)).sub_(GAMMA * ZETA / (ZETA - GAMMA))
    slope = torch.ops.aten.hardtanh_backward(slope, stretched, 0, 1)
    return stretched.clamp_(0, 1), slope


class _SoftRound(torch.autograd.Function):
    """(start + h(V) span, h(V), dh / dV); only V has a gradient, and only through the first."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, start: Tensor, span: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, slope = _soft(v)
        ctx.save_for_backward(slope, span)
        ctx.mark_non_differentiable(h, slope)
        return torch.addcmul(start, h, span), h, slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        slope, span = ctx.saved_tensors
        return torch.mul(slope, span).mul_(gradients[0]), None, None


class SoftRounding(nn.Module):
    """The weights of one layer between rounding down and rounding up.

    v   the shape of the weight: the learned V

    scale and zero_point broadcast against the weight. Where both neighbours of a weight are beyond the grid, the weight
    is the grid's end whatever V is.
    """

    down: Tensor
    start: Tensor
    span: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, zero_point: Tensor, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        weight, scale, zero_point = weight.detach(), scale.detach(), zero_point.detach().to(weight.dtype)
        ratio = weight / scale
        down = torch.floor(ratio)
        fraction = (ratio - down).clamp_(0, 1)
        down = down + zero_point
        inside = (down >= grid.low) & (down < grid.high)
        self.register_buffer("down", down)
        self.register_buffer("start", (down.clamp(grid.low, grid.high) - zero_point) * scale)
        self.register_buffer("span", inside * scale)
        self.v = nn.Parameter(inverse_rectified_sigmoid(fraction))
        self._h, self._slope = _soft(self.v.detach())

    def forward(self) -> Tensor:
        """The soft weight."""
        weight: Tensor
        weight, self._h, self._slope = _SoftRound.apply(self.v, self.start, self.span)  # type: ignore[no-untyped-call]
        return weight

    def regulariser(self, beta: float) -> Tensor:
        """The regulariser's value at V, without a gradient."""
        return rounding_regulariser(rectified_sigmoid(self.v.detach()), beta)

    @torch.no_grad()
    def add_regulariser_gradient(self, beta: float, weight: float) -> None:
        """Add the gradient of `weight` x regulariser to that of V, which a backward pass has just set.

        In closed form and from the h of the forward pass: through autograd it takes more time than a small layer's
        convolution.
        """
        assert self.v.grad is not None
        self.v.grad.addcmul_(regulariser_slope(self._h, beta), self._slope, value=weight)

    def codes(self) -> Tensor:
        """The codes, float (whole numbers): up where h(V) is 0.5 or more, which is where V is 0 or more."""
        return (self.down + (self.v.detach() >= 0)).clamp_(self.grid.low, self.grid.high)


class RoundingLayer(nn.Module):
    """A quantized layer that learns how its weights are rounded.

    weight   the float weight, of which `layer` has the grid; scales and zero-points stay as they are
    """

    def __init__(self, layer: QuantizedLayer, weight: Tensor) -> None:
        super().__init__()
        assert layer.grid is not None
        self.layer = layer
        self._scale, self._zero = layer.weight_parameters()
        self.rounding = SoftRounding(weight, self._scale, self._zero, layer.grid)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with softly rounded weights."""
        return self.layer.operate(self.layer.activation(x), self.rounding(), self.layer.bias)

    @torch.no_grad()
    def settled(self) -> QuantizedLayer:
        """The frozen layer, every weight rounded to the nearer of its two sides."""
        layer = self.layer
        assert layer.grid is not None
        values = layer.grid.dequantize(self.rounding.codes(), self._scale, self._zero)
        layer.freeze(values, layer.weight_scale, layer.weight_zero)
        return layer


def start_rounding(net: nn.Module, weights: Mapping[str, Tensor], below: str = "") -> dict[str, RoundingLayer]:
    """Replace the quantized layers of `net` by ones that learn their rounding, in place.

    weights   the float weights, by the layers' names; layers that are not among them, or at 32 bits, are left
    below     only the layer of this name and those inside of the module of this name; "": all
    """
    made = {
        name: RoundingLayer(layer, weights[name])
        for name, layer in list(quantized_layers(net))
        if name in weights and layer.grid is not None and is_below(name, below)
    }
    for name, layer in made.items():
        replace_module(net, name, layer)
    return made


def settle_rounding(net: nn.Module) -> nn.Module:
    """Freeze the layers of `net` that learn their rounding again, in place."""
    for name, layer in list(rounding_layers(net)):
        replace_module(net, name, layer.settled())
    return net


def rounding_layers(net: nn.Module) -> Iterator[tuple[str, RoundingLayer]]:
    """The layers of a net that learn their rounding, with their names."""
    for name, module in net.named_modules():
        if isinstance(module, RoundingLayer):
            yield name, module


def is_below(name: str, module: str) -> bool:
    """Whether a dotted name is that of `module` or of something inside of it."""
    return not module or name == module or name.startswith(f"{module}.")


@dataclass(frozen=True)
class RoundingPressure:
    """The regulariser over an optimisation: off at first, then with beta falling linearly from 20 to 2.

    weight    its weight beside the reconstruction error
    warmup    share of the iterations in which it is off
    """

    roundings: Iterable[SoftRounding]
    iterations: int
    weight: float = 0.01
    warmup: float = 0.2

    def beta(self, iteration: int) -> float | None:
        """The exponent at an iteration, counted from 0; None while the regulariser is off."""
        start = self.warmup * self.iterations
        if iteration < start:
            return None
        return BETAS[1] + (BETAS[0] - BETAS[1]) * (1 - (iteration - start) / (self.iterations - start))

    def add_gradient(self, iteration: int) -> None:
        """Add its gradient to what a backward pass has left."""
        beta = self.beta(iteration)
        if beta is not None:
            for rounding in self.roundings:
                rounding.add_regulariser_gradient(beta, self.weight)

    def value(self, iteration: int) -> float:
        """What it adds to the loss."""
        beta = self.beta(iteration)
        if beta is None:
            return 0.0
        return self.weight * sum(float(rounding.regulariser(beta)) for rounding in self.roundings)
