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

from pqbench.base.errors import UserError
from pqbench.contracts.precision import FULL_PRECISION_BITS
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.grids.groups import over_groups, scale_shape, spread
from pqbench.quantization.grids.step_clock import StepClock
from pqbench.quantization.grids.tokens import per_token
from pqbench.quantization.learning.learned_step import learned_fake_quantize

QUANTIZABLE = (nn.Conv2d, nn.Conv1d, nn.Linear)
Quantizable = nn.Conv2d | nn.Conv1d | nn.Linear

_TOKEN_AXIS = {"Linear": -1, "Conv1d": -2, "Conv2d": -3}
"""Where the features of a token are in an input, batched or not."""


class ActivationQuantizer(nn.Module):
    """Quantizes a layer's input on a per-tensor grid that is static or depends on the time step, or on one a token.

    scale        () float32, or a table (S,) over the time steps of `clock`
    zero_point   () int32, or (S,)
    clock        tells at which time step each row of the input is; None: there is no table
    dynamic      every token has a grid of its own, over its own range; scale and zero_point mean nothing then and are
                 no part of the state
    token_axis   the axis of a token's features
    At 32 bits it passes its input through. Gradients reach the input straight-through, within the grid's range.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int, symmetric: bool = False, dynamic: bool = False, token_axis: int = -1) -> None:
        super().__init__()
        self.bits = bits
        self.symmetric = symmetric
        self.dynamic = dynamic
        self.token_axis = token_axis
        self.clock: StepClock | None = None
        self.register_buffer("scale", torch.ones(()), persistent=not dynamic)
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32), persistent=not dynamic)

    @property
    def grid(self) -> Grid | None:
        """The grid, or None at full precision."""
        if self.bits == FULL_PRECISION_BITS:
            return None
        return Grid(self.bits, self.symmetric)

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take over a scale and a zero-point, each of one element or a table of one for each time step of the clock.

        Raises `UserError` when the grid cannot have them (a scale that is NaN, a zero-point out of range) and when a
        table does not fit the clock.
        """
        if self.grid is not None:
            self.grid.require(scale, zero_point)
        shape = () if scale.numel() == 1 else (scale.numel(),)
        steps = 0 if self.clock is None else len(self.clock)
        if shape not in ((), (steps,)):
            raise UserError(
                f"A table of {scale.numel()} activation scales does not fit a clock of {steps} time steps: give the "
                "net its time steps with `keep_time` first."
            )
        self.scale = scale.detach().reshape(shape).float().clone()
        self.zero_point = zero_point.detach().reshape(shape).to(torch.int32).clone()

    def current(self, values: Tensor, x: Tensor) -> Tensor:
        """Of values one a parameter set, () or (S,), those of `x`'s time steps, which broadcast against `x`.

        Raises `UserError` when the time step is not known.
        """
        if values.dim() == 0:
            return values
        if self.clock is None:
            raise UserError("Activation parameters for each time step need a clock: give the net one with `keep_time`.")
        return self.clock.pick(values, x)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, of the same shape."""
        grid = self.grid
        if grid is None:
            return x
        if self.dynamic:
            return per_token(x, grid, self.token_axis)
        scale, zero = self.current(self.scale, x), self.current(self.zero_point, x)
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            if self.scale.dim():
                raise UserError("A net with activation parameters for each time step cannot be traced: it is one of S.")
            # One operation that exporters recognise; it is too slow (and blind to NaN) to be run.
            return torch.fake_quantize_per_tensor_affine(x, scale, zero, grid.low, grid.high)
        if torch.is_grad_enabled() and x.requires_grad:
            return learned_fake_quantize(x, scale, zero.float(), grid)
        return grid.fake_quantize(x, scale, zero)

    def extra_repr(self) -> str:
        """What `print(net)` says about it."""
        kind = ", dynamic" if self.dynamic else f", time_steps={len(self.scale)}" if self.scale.dim() else ""
        return f"bits={self.bits}, symmetric={self.symmetric}{kind}"


class QuantizedLayer(nn.Module):
    """A Conv2d, Conv1d or Linear whose weights are integers, one scale an output channel or a group of its inputs.

    codes          (out, in, ...) the stored integers: int8 on a symmetric grid, uint8 on an asymmetric one
    weight_scale   (out,) float32, or (out, groups) with a group size (see `pqbench.quantization.grids.groups`)
    weight_zero    of the same shape, int32
    weight         (out, in, ...) float32: what the codes stand for (derived, and no part of the state)
    At 32 bits the float weight is the state, and codes, scales and zero-points mean nothing.

    group_size     input elements that share a scale; 0: all of an output channel
    a_dynamic      the input is quantized on one grid a token, over the token's own range

    Raises `UserError` for a layer of another kind, for a convolution that pads with anything but zeros and for a
    negative group size.
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
        *,
        group_size: int = 0,
        a_dynamic: bool = False,
    ) -> None:
        super().__init__()
        self.w_bits = w_bits
        self.w_symmetric = w_symmetric
        self.group_size = group_size
        self._take_shape(layer)
        self.activation = ActivationQuantizer(a_bits, a_symmetric, a_dynamic, _TOKEN_AXIS[self.operation])
        weight, grid = layer.weight.detach(), self.grid
        ones = torch.ones(scale_shape(weight.shape, group_size), device=weight.device)
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

        scale, zero_point: (out,), or (out, groups) in a layer with a group size. A weight that already lies on the grid
        is kept exactly. At 32 bits the float weight is kept as it is. Raises `UserError` for NaN or infinite weights
        and for scales and zero-points that the grid cannot have.
        """
        if not bool(torch.isfinite(weight).all()):
            raise UserError("A layer's weights are NaN or infinite: the method that made them has diverged.")
        weight, grid = weight.detach().float(), self.grid
        if grid is None:
            self.weight = weight.clone()
        else:
            grid.require(scale, zero_point)
            self.weight_scale = over_groups(scale.detach().float(), weight.shape, self.group_size).clone()
            self.weight_zero = over_groups(zero_point.detach(), weight.shape, self.group_size).to(torch.int32).clone()
            self.codes = grid.quantize(weight, *self.weight_parameters()).to(grid.dtype)
        self._choose_state()
        self.restore()

    def _choose_state(self) -> None:
        """Keep in the state what is stored, integers or (at 32 bits) the float weight, and leave out the rest."""
        quantized = self.grid is not None
        for name in ("codes", "weight_scale", "weight_zero"):
            self.register_buffer(name, getattr(self, name), persistent=quantized)
        self.register_buffer("weight", self.weight, persistent=not quantized)

    def weight_parameters(self) -> tuple[Tensor, Tensor]:
        """Scale and zero-point of the weights, shaped to broadcast against them."""
        scale, zero = (spread(value, self.codes, self.group_size) for value in (self.weight_scale, self.weight_zero))
        return scale, zero

    def restore(self) -> None:
        """Derive `weight` from the codes."""
        grid = self.grid
        if grid is not None:
            self.weight = grid.dequantize(self.codes, *self.weight_parameters())

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
        groups = f", group_size={self.group_size}" if self.group_size else ""
        return f"{self.operation}, w_bits={self.w_bits}, shape={tuple(self.weight.shape)}{groups}"


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
