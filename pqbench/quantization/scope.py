"""Which layers of a denoiser are quantized, and to how many bits: chosen once, by patterns, kept with the result."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pqbench.errors import UserError
from pqbench.methods.precision import FULL_PRECISION_BITS, Precision
from pqbench.quantization.layers import QuantizedLayer, quantizable_layers, replace_module


def execution_order(net: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the quantizable layers in the order in which `run()` executes them; unused ones are left out."""
    order: list[str] = []
    hooks = []
    for name, layer in quantizable_layers(net):

        def note(_module: nn.Module, _inputs: object, _name: str = name) -> None:
            if _name not in order:
                order.append(_name)

        hooks.append(layer.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return order


def first_and_last(net: nn.Module, example: tuple[Tensor, Tensor]) -> tuple[str, str]:
    """Names of the first layer that reads x_t and of the last layer: the denoiser's two ends.

    A time embedding usually runs before anything reads x_t, so the first layer in execution is not the input layer.
    Which layers depend on x_t is seen by following its gradient. Raises `UserError` when none does.
    """
    readers: list[str] = []
    hooks = []
    for name, layer in quantizable_layers(net):

        def note(_module: nn.Module, inputs: tuple[object, ...], _name: str = name) -> None:
            if any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
                readers.append(_name)

        hooks.append(layer.register_forward_pre_hook(note))
    # Without this, everything after a trainable weight would seem to depend on x_t.
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            net(example[0].detach().clone().requires_grad_(), example[1])
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for hook in hooks:
            hook.remove()
    if not readers:
        raise UserError("No Conv2d, Conv1d or Linear layer of the net reads x_t: it has no input layer to keep wider.")
    return readers[0], readers[-1]


def quantize_layers(
    net: nn.Module,
    precision: Precision,
    example: tuple[Tensor, Tensor],
    *,
    end_bits: int | None = None,
    exempt: Sequence[str] = (),
    w_symmetric: bool = True,
    a_symmetric: bool = False,
    group_size: int = 0,
    a_dynamic: bool = False,
) -> list[str]:
    """Replace the layers of `net` by `QuantizedLayer`s, in place; their grids are still to be set.

    example      (x_t, t) with which the net is run once, to learn the order of its layers
    end_bits     bits of the layer that reads x_t and of the last layer, weights and input alike (never below
                 `precision`); None keeps them at `precision`
    exempt       shell patterns of layer names that stay in full precision
    group_size   input elements of a weight that share a scale; 0: all of an output channel
    a_dynamic    inputs are quantized on one grid a token, taken from its own range

    Returns the names of the quantized layers in the order of execution. Raises `UserError` when a pattern matches no
    layer or nothing is left to quantize.
    """
    order = execution_order(net, lambda: net(*example))
    left_out = _matching(order, exempt)
    chosen = [name for name in order if name not in left_out]
    if not chosen:
        raise UserError("Nothing is left to quantize: the net has no Conv2d, Conv1d or Linear layer in scope.")
    ends = set() if end_bits is None else set(first_and_last(net, example))
    for name in chosen:
        w, a = precision.w, precision.a
        if name in ends:
            assert end_bits is not None
            w = max(w, end_bits) if w != FULL_PRECISION_BITS else w
            a = max(a, end_bits) if a != FULL_PRECISION_BITS else a
        layer = net.get_submodule(name)
        assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear))
        grids = (w, a, w_symmetric, a_symmetric)
        replace_module(net, name, QuantizedLayer(layer, *grids, group_size=group_size, a_dynamic=a_dynamic))
    return chosen


def split_patterns(text: str) -> tuple[str, ...]:
    """The patterns of a parameter's text, which are separated by `|` (a comma would end the parameter)."""
    return tuple(part.strip() for part in text.split("|") if part.strip())


def _matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        hits = set(fnmatch.filter(names, pattern))
        if not hits:
            raise UserError(f"exempt={pattern!r} matches no layer; the layers are: {', '.join(names)}.")
        found |= hits
    return found
