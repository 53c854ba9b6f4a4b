"""Split shortcuts: a layer that reads concat(h, skip) gets grids for each part (Li et al., Q-Diffusion, 2023).

The two parts of an up-path's input differ by far in their ranges, and so do the weights that read them. A layer on a
concatenated input is the sum of one layer for each part, so it is replaced by a `SplitLayer` of such layers, each of
which is then quantized like any other: its own input grid, and its own weight scales for the output channels. Their
integer results can be added up as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pqbench.base.errors import UserError
from pqbench.quantization.net.following import run_following_x
from pqbench.quantization.net.layers import Quantizable, operation_of, quantizable_layers, replace_module

_CHANNEL_AXES = {"Conv2d": -3, "Conv1d": -2, "Linear": -1}
_CONCATENATIONS = {"cat", "concat", "concatenate"}


class SplitLayer(nn.Module):
    """The sum of one layer for each part of a concatenated input; the first has the bias.

    parts    the layers, in the order of the concatenation
    widths   channels that each of them reads
    axis     the axis of the channels
    """

    def __init__(self, layer: Quantizable, widths: Sequence[int]) -> None:
        super().__init__()
        _require_parts(layer, widths)
        self.widths = list(widths)
        self.axis = _CHANNEL_AXES[operation_of(layer)]
        ends = list(accumulate(widths))
        starts = [0, *ends[:-1]]
        self.parts = nn.ModuleList(_part(layer, slice(start, end)) for start, end in zip(starts, ends, strict=True))
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output on the whole input."""
        first, *others = (part(h) for part, h in zip(self.parts, torch.split(x, self.widths, self.axis), strict=True))
        total: Tensor = first
        for each in others:
            total = total + each
        return total

    def extra_repr(self) -> str:
        """What `print(net)` says about it."""
        return f"widths={self.widths}"


def _require_parts(layer: Quantizable, widths: Sequence[int]) -> None:
    channels = layer.weight.shape[1]
    if not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise UserError("A grouped convolution cannot be split along its input channels: leave it whole.")
    if len(widths) < 2 or min(widths) < 1 or sum(widths) != channels:
        raise UserError(f"A layer of {channels} input channels cannot be split into {list(widths)}.")


def _part(layer: Quantizable, columns: slice) -> nn.Module:
    """The layer restricted to the input channels `columns`."""
    weight = layer.weight.detach()[:, columns].clone()
    bias = layer.bias if columns.start == 0 else None
    part: nn.Module
    # Without memory at first: initialising weights would draw from the global generator.
    if isinstance(layer, nn.Linear):
        part = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    else:
        kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Conv1d
        options: dict[str, Any] = {
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "padding_mode": layer.padding_mode,
            "bias": bias is not None,
            "device": "meta",
        }
        part = kind(weight.shape[1], weight.shape[0], layer.kernel_size, **options)  # type: ignore[arg-type]
    part.weight = nn.Parameter(weight, layer.weight.requires_grad)
    if bias is not None:
        part.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return part


def split_layer(net: nn.Module, name: str, widths: Sequence[int]) -> list[str]:
    """Replace the layer `name` of `net` by a `SplitLayer`, in place; returns the names of the parts.

    Raises `UserError` when the widths do not add up to the layer's channels, and for a grouped convolution.
    """
    layer = net.get_submodule(name)
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear))
    replace_module(net, name, SplitLayer(layer, widths))
    return part_names(name, widths)


def part_names(name: str, widths: Sequence[int]) -> list[str]:
    """Names of the parts of a split layer: `up_blocks.0.resnets.0.conv_shortcut.parts.0`, ..."""
    return [f"{name}.parts.{place}" for place in range(len(widths))]


class _Concatenations(TorchFunctionMode):
    """Keeps the results of all concatenations and how they were put together, of parts that all depend on x_t."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, list[torch.Size], int]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") not in _CONCATENATIONS:
            return result
        tensors = args[0] if args else kwargs["tensors"]
        if all(tensor.requires_grad for tensor in tensors):
            axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
            self.seen.append((result, [tensor.shape for tensor in tensors], axis % result.dim()))
        return result

    def widths(self, x: object, axis: int) -> tuple[int, ...]:
        """The channels of the parts of `x` if it is such a result, concatenated along its channel axis; else none."""
        for result, shapes, along in self.seen:
            if x is result and along == axis % result.dim():
                return tuple(shape[along] for shape in shapes if shape[along])
        return ()


def concatenated_inputs(net: nn.Module, example: tuple[Tensor, ...]) -> dict[str, tuple[int, ...]]:
    """The layers that read concat(h, skip) directly when `net(*example)` runs, with the channels of its parts.

    All parts depend on x_t (a time embedding concatenates sines and cosines, a conditional net x_t and its condition).
    Only layers count that read the same parts in each of their calls, and grouped convolutions not at all.
    """
    watcher = _Concatenations()
    found: dict[str, set[tuple[int, ...]]] = {}
    hooks = []
    for name, layer in quantizable_layers(net):
        if not isinstance(layer, nn.Linear) and layer.groups != 1:
            continue
        axis = _CHANNEL_AXES[operation_of(layer)]

        def note(_module: nn.Module, inputs: tuple[object, ...], _name: str = name, _axis: int = axis) -> None:
            found.setdefault(_name, set()).add(watcher.widths(inputs[0], _axis) if inputs else ())

        hooks.append(layer.register_forward_pre_hook(note))
    watching: AbstractContextManager[object] = watcher
    try:
        with watching:
            run_following_x(net, example)
    finally:
        for hook in hooks:
            hook.remove()
    single = {name: next(iter(widths)) for name, widths in found.items() if len(widths) == 1}
    return {name: widths for name, widths in single.items() if len(widths) > 1}
