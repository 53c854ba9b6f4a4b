"""Activation quantizers that learn their step size (LSQ; Esser et al., ICLR 2020), zero-points fixed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pqbench.quantization.learning.learned_step import learned_fake_quantize
from pqbench.quantization.learning.rounding import is_below
from pqbench.quantization.net.layers import ActivationQuantizer, replace_module

LEAST_SHARE = 0.1
"""A learned step size does not fall under this share of where it began."""
SMALL = 0.05
"""A step size that begins below this learns at a rate that is smaller in proportion."""


class LearnedInput(nn.Module):
    """Stands in for an activation quantizer while its step size is learned.

    step   the step size in units of its own, of the shape of the quantizer's scale

    The learning rates of Q-Diffusion are those of the step size, not of its logarithm, and Adam moves by about its rate
    whatever the gradient is. Of a softmax output at 8 bits the step size is 1/255: at a rate of 1e-3 a handful of
    iterations took it to the floor, and the attention's error to three times what it was. So a small step size has a
    unit as small, and none moves by more than 20 times the rate of itself; what is used never falls under a tenth of
    where it began.
    """

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        assert quantizer.grid is not None
        self.quantizer = quantizer
        self.grid = quantizer.grid
        start = quantizer.scale.detach()
        # A power of two: dividing by it and multiplying again is exact.
        self._unit = (start / SMALL).clamp(max=1).log2().floor().exp2()
        self.step = nn.Parameter(start / self._unit)
        self._least = LEAST_SHARE * start

    def used(self) -> Tensor:
        """The step size that is used."""
        return torch.maximum(self.step * self._unit, self._least)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, with gradients to it and to the step size."""
        step, zero = (self.quantizer.current(values, x) for values in (self.used(), self.quantizer.zero_point))
        return learned_fake_quantize(x, step, zero.to(x.dtype), self.grid)

    @torch.no_grad()
    def settled(self) -> ActivationQuantizer:
        """The quantizer with the learned step size."""
        self.quantizer.set(self.used(), self.quantizer.zero_point)
        return self.quantizer


def start_learning_inputs(net: nn.Module, below: str = "") -> dict[str, LearnedInput]:
    """Replace the activation quantizers that have a grid by learned ones, in place.

    Those with a grid a token have no step size to learn. below: only those inside of the module of this name; "": all.
    """
    found = [
        (name, module)
        for name, module in net.named_modules()
        if isinstance(module, ActivationQuantizer) and _has_step(module) and is_below(name, below)
    ]
    made = {name: LearnedInput(quantizer) for name, quantizer in found}
    for name, learned in made.items():
        replace_module(net, name, learned)
    return made


def _has_step(quantizer: ActivationQuantizer) -> bool:
    return quantizer.grid is not None and not quantizer.dynamic


def settle_inputs(net: nn.Module) -> nn.Module:
    """Put the activation quantizers back, with what was learned, in place."""
    for name, learned in list(learned_inputs(net)):
        replace_module(net, name, learned.settled())
    return net


def learned_inputs(net: nn.Module) -> Iterator[tuple[str, LearnedInput]]:
    """The learned activation quantizers of a net with their names."""
    for name, module in net.named_modules():
        if isinstance(module, LearnedInput):
            yield name, module
