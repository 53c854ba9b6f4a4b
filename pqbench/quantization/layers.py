"""Quantized layers: a convolution or a linear layer that stores integers and scales.

Simulation, the packed checkpoint and every engine read the same integers (`codes`), scales and zero-points. Weights are
quantized once: a frozen layer keeps the values that its codes stand for and uses them in every forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.methods.precision import FULL_PRECISION_BITS
from pqbench.quantization.grid import Grid, per_channel

QUANTIZABLE = (nn.Conv2d, nn.Conv1d, nn.Linear)
Quantizable = nn.Conv2d | nn.Conv1d | nn.Linear


class ActivationQuantizer(nn.Module):
    """Quantizes a layer's input on one static, per-tensor grid.

    scale        () float32
    zero_point   () int32
    At 32 bits it passes its input through.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, symmetric: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.symmetric = symmetric
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    @property
    def grid(self) -> Grid | None:
        """The grid, or None at full precision."""
        if self.bits == FULL_PRECISION_BITS:
            return None
        return Grid(self.bits, self.symmetric)

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take over a scale and a zero-point, each of one element."""
        self.scale = scale.detach().reshape(()).float().clone()
        self.zero_point = zero_point.detach().reshape(()).to(torch.int32).clone()

    def forward(self, x: Tensor) -> Tensor:
        grid = self.grid
        if grid is None:
            return x
        # torch's fused kernel: the same grid as Grid.fake_quantize in one pass over memory.
        return torch.fake_quantize_per_tensor_affine(
            x, self.scale, self.zero_point, grid.low, grid.high
        )

    def extra_repr(self) -> str:
        return f"bits={self.bits}, symmetric={self.symmetric}"


class QuantizedLayer(nn.Module):
    """A Conv2d, Conv1d or Linear whose weights are integers, one scale an output channel.

    codes          (out, in, ...) int8: the stored integers, minus `code_offset`
    weight_scale   (out,) float32
    weight_zero    (out,) int32
    weight         (out, in, ...) float32: what the codes stand for (derived, never stored)
    """

    codes: Tensor
    weight_scale: Tensor
    weight_zero: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: Quantizable, w_bits: int, a_bits: int, w_symmetric: bool = True) -> None:
        super().__init__()
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.padding_mode != "zeros":
            from pqbench.errors import UserError

            raise UserError(f"A convolution with {layer.padding_mode} padding cannot be quantized yet.")
        self.w_bits = w_bits
        self.w_symmetric = w_symmetric
        self.activation = ActivationQuantizer(a_bits)
        self._take_shape(layer)
        weight = layer.weight.detach().float().clone()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("codes", torch.zeros_like(weight, dtype=torch.int16))
        self.register_buffer("weight_scale", torch.ones(len(weight)))
        self.register_buffer("weight_zero", torch.zeros(len(weight), dtype=torch.int32))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def _take_shape(self, layer: Quantizable) -> None:
        self.operation = type(layer).__name__
        self.convolution: dict[str, object] = {}
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            self.convolution = {
                "stride": layer.stride,
                "padding": layer.padding,
                "dilation": layer.dilation,
                "groups": layer.groups,
            }

    @property
    def grid(self) -> Grid | None:
        """The weights' grid, or None at full precision."""
        if self.w_bits == FULL_PRECISION_BITS:
            return None
        return Grid(self.w_bits, self.w_symmetric)

    def freeze(self, weight: Tensor, scale: Tensor, zero_point: Tensor) -> None:
        """Quantize `weight` (float, nearest grid point) and keep the integers.

        scale, zero_point: (out,). A weight that already lies on the grid is kept exactly. At 32 bits the float weight is
        kept as it is.
        """
        grid = self.grid
        if grid is None:
            self.weight = weight.detach().float().clone()
            return
        self.weight_scale = scale.detach().float().clone()
        self.weight_zero = zero_point.detach().to(torch.int32).clone()
        columns = per_channel(self.weight_scale, weight), per_channel(self.weight_zero, weight)
        self.codes = grid.quantize(weight.detach().float(), *columns).to(torch.int16)
        self.restore()

    def restore(self) -> None:
        """Derive `weight` from the codes."""
        grid = self.grid
        if grid is not None:
            scale = per_channel(self.weight_scale, self.codes)
            zero = per_channel(self.weight_zero, self.codes)
            self.weight = grid.dequantize(self.codes.float(), scale, zero)

    def operate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's arithmetic with the given weight and bias: for training code that brings its own."""
        if self.operation == "Linear":
            return F.linear(x, weight, bias)
        function = F.conv2d if self.operation == "Conv2d" else F.conv1d
        return cast(Tensor, function(x, weight, bias, **self.convolution))  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        return self.operate(self.activation(x), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.operation}, w_bits={self.w_bits}, shape={tuple(self.codes.shape)}"


def quantized_layers(net: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """The quantized layers of a net with their names, in the order of registration."""
    for name, module in net.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module


def quantizable_layers(net: nn.Module) -> Iterator[tuple[str, Quantizable]]:
    """The layers of a net that can be quantized and are not yet, with their names."""
    for name, module in net.named_modules():
        if isinstance(module, QUANTIZABLE):
            yield name, module


def replace_module(net: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in the place of the submodule `name` (dotted)."""
    parent_name, _, child = name.rpartition(".")
    parent = net.get_submodule(parent_name)
    setattr(parent, child, new) if not isinstance(parent, nn.ModuleList) else parent.__setitem__(
        int(child), new
    )
