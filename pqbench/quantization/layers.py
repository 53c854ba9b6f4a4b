"""Quantized layers: a convolution or a linear layer that stores integers and scales.

Simulation, the packed checkpoint and every engine read the same integers (`codes`), scales and zero-points. Weights are
quantized once: a frozen layer keeps the values that its codes stand for and uses them in every forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.errors import UserError
from pqbench.methods.precision import FULL_PRECISION_BITS
from pqbench.quantization.grid import Grid, per_channel
from pqbench.quantization.learned_step import learned_fake_quantize

QUANTIZABLE = (nn.Conv2d, nn.Conv1d, nn.Linear)
Quantizable = nn.Conv2d | nn.Conv1d | nn.Linear


class ActivationQuantizer(nn.Module):
    """Quantizes a layer's input on one static, per-tensor grid.

    scale        () float32
    zero_point   () int32
    At 32 bits it passes its input through. Gradients reach the input straight-through, within the grid's range.
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
        """Take over a scale and a zero-point, each of one element.

        Raises `UserError` when the grid cannot have them (a scale that is NaN, a zero-point out of range).
        """
        if self.grid is not None:
            self.grid.require(scale, zero_point)
        self.scale = scale.detach().reshape(()).float().clone()
        self.zero_point = zero_point.detach().reshape(()).to(torch.int32).clone()

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, of the same shape."""
        grid = self.grid
        if grid is None:
            return x
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            # One operation that exporters recognise; it is too slow (and blind to NaN) to be run.
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, grid.low, grid.high)
        if torch.is_grad_enabled() and x.requires_grad:
            return learned_fake_quantize(x, self.scale, self.zero_point.float(), grid)
        return grid.fake_quantize(x, self.scale, self.zero_point)

    def extra_repr(self) -> str:
        """What `print(net)` says about it."""
        return f"bits={self.bits}, symmetric={self.symmetric}"


class QuantizedLayer(nn.Module):
    """A Conv2d, Conv1d or Linear whose weights are integers, one scale an output channel.

    codes          (out, in, ...) the stored integers: int8 on a symmetric grid, uint8 on an asymmetric one
    weight_scale   (out,) float32
    weight_zero    (out,) int32
    weight         (out, in, ...) float32: what the codes stand for (derived, and no part of the state)
    At 32 bits the float weight is the state, and codes, scales and zero-points mean nothing.

    Raises `UserError` for a layer of another kind, and for a convolution that pads with anything but zeros.
    """

    codes: Tensor
    weight_scale: Tensor
    weight_zero: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        layer: Quantizable,
        w_bits: int,
        a_bits: int,
        w_symmetric: bool = True,
        a_symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.w_bits = w_bits
        self.w_symmetric = w_symmetric
        self.activation = ActivationQuantizer(a_bits, a_symmetric)
        self._take_shape(layer)
        weight, grid = layer.weight.detach(), self.grid
        ones = torch.ones(len(weight), device=weight.device)
        self.register_buffer("codes", torch.zeros_like(weight, dtype=torch.int8 if grid is None else grid.dtype))
        self.register_buffer("weight_scale", ones)
        self.register_buffer("weight_zero", torch.zeros_like(ones, dtype=torch.int32))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.register_buffer("weight", weight.float().clone())
        self._choose_state()
        self.register_load_state_dict_post_hook(_restore)  # type: ignore[no-untyped-call]

    def _take_shape(self, layer: Quantizable) -> None:
        self.operation = operation_of(layer)
        self.convolution: dict[str, Any] = {}
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            if layer.padding_mode != "zeros":
                raise UserError(
                    f"A convolution with {layer.padding_mode} padding cannot be quantized yet: exempt it by its name."
                )
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

        scale, zero_point: (out,). A weight that already lies on the grid is kept exactly. At 32 bits the float weight
        is kept as it is. Raises `UserError` for NaN or infinite weights and for scales and zero-points that the grid
        cannot have.
        """
        if not bool(torch.isfinite(weight).all()):
            raise UserError("A layer's weights are NaN or infinite: the method that made them has diverged.")
        weight, grid = weight.detach().float(), self.grid
        if grid is None:
            self.weight = weight.clone()
        else:
            grid.require(scale, zero_point)
            self.weight_scale = scale.detach().float().clone()
            self.weight_zero = zero_point.detach().to(torch.int32).clone()
            columns = per_channel(self.weight_scale, weight), per_channel(self.weight_zero, weight)
            self.codes = grid.quantize(weight, *columns).to(grid.dtype)
        self._choose_state()
        self.restore()

    def _choose_state(self) -> None:
        """Keep in the state what is stored, integers or (at 32 bits) the float weight, and leave out the rest."""
        quantized = self.grid is not None
        for name in ("codes", "weight_scale", "weight_zero"):
            self.register_buffer(name, getattr(self, name), persistent=quantized)
        self.register_buffer("weight", self.weight, persistent=not quantized)

    def restore(self) -> None:
        """Derive `weight` from the codes."""
        grid = self.grid
        if grid is not None:
            scale = per_channel(self.weight_scale, self.codes)
            zero = per_channel(self.weight_zero, self.codes)
            self.weight = grid.dequantize(self.codes, scale, zero)

    def operate(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's arithmetic with the given weight and bias: for training code that brings its own."""
        if self.operation == "Linear":
            return F.linear(x, weight, bias)
        if self.operation == "Conv1d":
            return F.conv1d(x, weight, bias, **self.convolution)
        return F.conv2d(x, weight, bias, **self.convolution)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output on its quantized input."""
        return self.operate(self.activation(x), self.weight, self.bias)

    def extra_repr(self) -> str:
        """What `print(net)` says about it."""
        return f"{self.operation}, w_bits={self.w_bits}, shape={tuple(self.weight.shape)}"


def _restore(layer: nn.Module, _incompatible_keys: object) -> None:
    assert isinstance(layer, QuantizedLayer)
    layer.restore()


def operation_of(layer: Quantizable) -> str:
    """The operation that a layer is, also when its class is a subclass: `Conv2d`, `Conv1d` or `Linear`.

    Raises `UserError` for any other.
    """
    for kind in QUANTIZABLE:
        if isinstance(layer, kind):
            return kind.__name__
    raise UserError(
        f"A {type(layer).__name__} cannot be quantized, only Conv2d, Conv1d and Linear can: leave it in full precision."
    )


def quantized_layers(net: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """The quantized layers of a net with their names, in the order of registration."""
    for name, module in net.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module


def activation_quantizers(net: nn.Module) -> Iterator[tuple[str, ActivationQuantizer]]:
    """All activation quantizers of a net with their names: inputs of layers (`conv_in.activation`), and operands."""
    for name, module in net.named_modules():
        if isinstance(module, ActivationQuantizer):
            yield name, module


def quantizable_layers(net: nn.Module) -> Iterator[tuple[str, Quantizable]]:
    """The layers of a net that can be quantized and are not yet, with their names."""
    for name, module in net.named_modules():
        if isinstance(module, QUANTIZABLE) and getattr(module, "padding_mode", "zeros") == "zeros":
            yield name, module


def replace_module(net: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in the place of the submodule `name` (dotted)."""
    net.set_submodule(name, new)
