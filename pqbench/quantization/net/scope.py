"""Which layers of a denoiser are quantized, and to how many bits: chosen once, by patterns, kept with the result."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.precision import FULL_PRECISION_BITS, QUANTIZED_BITS, Precision
from pqbench.quantization.net.attention import OPERANDS, make_operands, operand_names, quantize_attention
from pqbench.quantization.net.attention_search import attention_modules
from pqbench.quantization.net.following import run_following_x
from pqbench.quantization.net.layers import QuantizedLayer, quantizable_layers, replace_module
from pqbench.quantization.net.shortcuts import concatenated_inputs, part_names, split_layer

WIDE_BITS = 8
"""Of the layers that are kept wider than the others: the widest that int8 kernels have, at no cost in time there."""


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


def first_and_last(net: nn.Module, example: tuple[Tensor, ...]) -> tuple[str, str]:
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
    try:
        run_following_x(net, example)
    finally:
        for hook in hooks:
            hook.remove()
    if not readers:
        raise UserError("No Conv2d, Conv1d or Linear layer of the net reads x_t: it has no input layer to keep wider.")
    return readers[0], readers[-1]


def quantize_layers(
    net: nn.Module,
    precision: Precision,
    example: tuple[Tensor, ...],
    *,
    end_bits: int | None = None,
    wide: Sequence[str] = (),
    exempt: Sequence[str] = (),
    w_symmetric: bool = True,
    a_symmetric: bool = False,
    group_size: int = 0,
    a_dynamic: bool = False,
    attention: bool = False,
    softmax_bits: int = 8,
    split_shortcuts: bool = False,
) -> list[str]:
    """Replace the layers of `net` by `QuantizedLayer`s, in place; their grids are still to be set.

    example           (x_t, t, *condition) with which the net is run once or more, to learn what it does and in which
                      order
    end_bits          bits of the layer that reads x_t and of the last layer, weights and input alike (never below
                      `precision`); None keeps them at `precision`
    wide              shell patterns of layers, or of parts of split layers, that have at least `WIDE_BITS` bits
    exempt            shell patterns of names that stay in full precision: of layers, of the parts of split layers
                      (`*.conv_shortcut.parts.1`) and of attention operands (`*.sv_product.softmax`)
    group_size        input elements of a weight that share a scale; 0: all of an output channel
    a_dynamic         layers' inputs are quantized on one grid a token, taken from its own range
    attention         whether the operands of attention products, q, k, v and the softmax output, are quantized to the
                      activation bits as well (see `quantize_attention`); at 32 of them nothing is
    softmax_bits      bits of the softmax output, 2 to 8, or 32
    split_shortcuts   whether layers that read a concatenation of feature maps directly are split at its boundaries
                      (see `SplitLayer`); at w32a32 none is

    Layers that cannot be quantized (other kinds of convolution, padding with anything but zeros) stay as they are, and
    the audit lists them. Returns the names of the quantized layers in the order of execution. Raises `UserError` when
    a pattern matches nothing, when nothing is left to quantize, and for bits that a softmax cannot have.
    """
    _require_softmax_bits(softmax_bits)

    def run() -> object:
        return net(*example)

    order = execution_order(net, run)
    concatenated = concatenated_inputs(net, example) if split_shortcuts else {}
    attentions = attention_modules(net, run) if attention else []
    parts = {name: part_names(name, concatenated[name]) for name in order if name in concatenated}
    operands = [name for each in attentions for name in operand_names(each).values()]
    left_out = _matching([*order, *(part for names in parts.values() for part in names), *operands], exempt, "exempt")
    left_out |= {name for name, names in parts.items() if left_out.issuperset(names)}
    parts = {name: [name] for name in order} | (parts if precision.quantizes else {})
    chosen = [part for name in order if name not in left_out for part in parts[name] if part not in left_out]
    if not chosen:
        raise UserError("Nothing is left to quantize: the net has no Conv2d, Conv1d or Linear layer in scope.")
    ends = set() if end_bits is None else {part for name in first_and_last(net, example) for part in parts[name]}
    for name, widths in concatenated.items():
        if precision.quantizes and name not in left_out:
            split_layer(net, name, widths)
    widened = _matching(chosen, wide, "wide")
    for name in chosen:
        least = max(end_bits or 0 if name in ends else 0, WIDE_BITS if name in widened else 0)
        at = _widened(precision, least)
        layer = net.get_submodule(name)
        assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear))
        grids = (at.w, at.a, w_symmetric, a_symmetric)
        replace_module(net, name, QuantizedLayer(layer, *grids, group_size=group_size, a_dynamic=a_dynamic))
    for name in attentions if precision.a != FULL_PRECISION_BITS else ():
        _quantize_attention(net, name, precision.a, softmax_bits, a_symmetric, left_out)
    return chosen


def _require_softmax_bits(bits: int) -> None:
    if bits not in QUANTIZED_BITS and bits != FULL_PRECISION_BITS:
        raise UserError(f"softmax_bits={bits} is not possible: use 2 to 8 bits, or 32 for full precision.")


def _widened(precision: Precision, least: int) -> Precision:
    """The precision of a layer that has at least so many bits of what is quantized at all."""
    w, a = (bits if bits == FULL_PRECISION_BITS else max(bits, least) for bits in (precision.w, precision.a))
    return Precision(w, a)


def _quantize_attention(
    net: nn.Module, name: str, a_bits: int, softmax_bits: int, symmetric: bool, left_out: set[str]
) -> None:
    """Quantize the operands of one attention that are not left out, if there are any."""
    bits = {operand: softmax_bits if operand == "softmax" else a_bits for operand in OPERANDS}
    for operand, full_name in operand_names(name).items():
        if full_name in left_out:
            bits[operand] = FULL_PRECISION_BITS
    if any(each != FULL_PRECISION_BITS for each in bits.values()):
        quantize_attention(net, name, make_operands(bits, symmetric))


def split_patterns(text: str) -> tuple[str, ...]:
    """The patterns of a parameter's text, which are separated by `|` (a comma would end the parameter)."""
    return tuple(part.strip() for part in text.split("|") if part.strip())


def _matching(names: Sequence[str], patterns: Sequence[str], parameter: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        hits = set(fnmatch.filter(names, pattern))
        if not hits:
            raise UserError(_unmatched(names, pattern, parameter))
        found |= hits
    return found


def _unmatched(names: Sequence[str], pattern: str, parameter: str) -> str:
    """The sentence for a pattern that matches nothing, with the nearest of what may be hundreds of names."""
    near = difflib.get_close_matches(pattern.strip("*."), names, n=3, cutoff=0.3) or names[:3]
    return f"{parameter}={pattern!r} matches no layer; the nearest of the {len(names)} layers are: {', '.join(near)}."
