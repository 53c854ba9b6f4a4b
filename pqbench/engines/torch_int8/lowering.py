"""From quantized layers to integer products."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pqbench.engines.torch_int8.attention import CodedProduct
from pqbench.engines.torch_int8.layer import FloatLayer, IntegerLayer, IntegerMatrix, runs_in_integers
from pqbench.engines.torch_int8.product import Shapes
from pqbench.quantization.grids.step_clock import StepClock
from pqbench.quantization.net.attention import QuantizedProduct
from pqbench.quantization.net.layers import ActivationQuantizer, activation_quantizers, quantized_layers, replace_module

KEPT = (ActivationQuantizer, IntegerLayer, IntegerMatrix)
"""What keeps its scales and biases in float32, whatever the floating-point type around it."""


def lower(net: nn.Module, shapes: Shapes) -> nn.Module:
    """A copy of `net` whose quantized layers and attentions compute in integers, as far as they can."""
    net = copy.deepcopy(net).eval()
    for clock in {id(each.clock): each.clock for _, each in activation_quantizers(net)}.values():
        if clock is not None:
            clock.__class__ = CapturedClock
    for name, layer in list(quantized_layers(net)):
        replace_module(net, name, IntegerLayer(layer, shapes) if runs_in_integers(layer) else FloatLayer(layer))
    products = [(name, module) for name, module in net.named_modules() if isinstance(module, QuantizedProduct)]
    for name, product in products:
        replace_module(net, name, CodedProduct(product, shapes))
    return net


class CapturedClock(StepClock):
    """A clock that asks nothing of the values of `t`, so that reading it can be captured into a graph."""

    def places(self, t: Tensor) -> Tensor:
        """The rows of the table for time steps `t`, () or (N,): as many int64."""
        steps = torch.tensor(self.time_steps, device=t.device)
        # Past the middle between two time steps the higher one is nearer.
        return (2 * t.reshape(-1, 1) > steps[1:] + steps[:-1]).sum(1)
