"""From quantized layers to operations that OpenVINO's low-precision transformations turn into int8 kernels."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.base.errors import UserError
from pqbench.engines.openvino.group_norm import ReducedGroupNorm
from pqbench.engines.quantized import is_quantized
from pqbench.quantization.net.attention import quantized_operands
from pqbench.quantization.net.layers import ActivationQuantizer, QuantizedLayer, quantized_layers, replace_module

_BYTE_LEVELS = 256


def lower(net: nn.Module) -> nn.Module:
    """A copy of `net` to be exported; a full-precision net stays as it is where the CPU has a kernel for group norms.

    In a quantized net, quantized layers become `LoweredLayer`s, the quantizers of attention operands
    `LoweredActivation`s, and group norms are written out: OpenVINO fuses its own
    group norm in float graphs only, and brings every activation to another memory layout for it in quantized ones
    (measured: 25 instead of 19 ms a step of 16 images for the bundled net at int8, nothing to gain for float).
    """
    from pqbench.engines.openvino.exact import runs_group_norm

    net = copy.deepcopy(net)
    norms = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.GroupNorm)]
    if not is_quantized(net) and (not norms or runs_group_norm()):
        return net
    for name, layer in list(quantized_layers(net)):
        replace_module(net, name, LoweredLayer(layer))
    for name, operand in list(quantized_operands(net)):
        replace_module(net, name, LoweredActivation(operand))
    for name, norm in norms:
        replace_module(net, name, ReducedGroupNorm(norm))
    return net


class LoweredLayer(nn.Module):
    """A quantized layer as fake quantization of its input and int8 weights times one scale an output channel.

    Weights are kept as code minus zero-point, which fits a signed byte on every grid but the widest asymmetric ones;
    those stay in float, and so do weights with a scale for each group of inputs, which int8 kernels cannot apply. Such
    a layer shows as float in the executable's `layers`.
    """

    steps: Tensor | None
    scale: Tensor

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.layer = layer
        self.activation = LoweredActivation(layer.activation, unsigned=True)
        scale, zero = layer.weight_parameters()
        steps = layer.codes.to(torch.int16) - zero.to(torch.int16)
        byte = torch.iinfo(torch.int8)
        fits = (
            layer.grid is not None and not layer.group_size and bool(((steps >= byte.min) & (steps <= byte.max)).all())
        )
        self.register_buffer("steps", steps.to(torch.int8) if fits else None)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's arithmetic, in the form that is exported."""
        steps = self.steps
        weight = self.layer.weight if steps is None else steps.to(torch.float32) * self.scale
        return self.layer.operate(self.activation(x), weight, self.layer.bias)


class LoweredActivation(nn.Module):
    """Activation fake quantization on 256 levels, whatever the grid's bits.

    OpenVINO has kernels for bytes. A narrower grid is clamped to its own range first, so that the codes in the byte are
    exactly its codes: clamping to a grid's end points and rounding to the grid commute.

    unsigned   codes of a narrow symmetric grid are moved up to start at 0. Kernels move signed bytes up by 128, and
               products of such large codes saturate where 16 bits hold a pair of them
    """

    def __init__(self, activation: ActivationQuantizer, unsigned: bool = False) -> None:
        super().__init__()
        self.grid = activation.grid
        if self.grid is None:
            return
        if activation.dynamic:
            raise UserError(
                "OpenVINO executes static activation scales; this model takes one from each token as it comes."
            )
        if activation.scale.numel() != 1:
            raise UserError("OpenVINO executes one activation scale a layer; this model has one for each time step.")
        self.scale, self.zero = float(activation.scale), int(activation.zero_point)
        self.low = (self.grid.low - self.zero) * self.scale
        self.high = (self.grid.high - self.zero) * self.scale
        self.narrow = self.grid.high - self.grid.low + 1 < _BYTE_LEVELS
        self.first = -_BYTE_LEVELS // 2 if self.grid.symmetric else 0
        if self.grid.symmetric and self.narrow and unsigned:
            self.zero, self.first = self.zero - self.grid.low, 0

    def forward(self, x: Tensor) -> Tensor:
        """`x` moved to the nearest point of the grid."""
        if self.grid is None:
            return x
        if self.narrow:
            x = F.hardtanh(x, self.low, self.high)
        last = self.first + _BYTE_LEVELS - 1
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, self.first, last)
