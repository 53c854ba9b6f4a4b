"""What an engine executed, held against what the net stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import nn

from pqbench.contracts import ExecutedLayer
from pqbench.quantization.net.attention import OPERANDS, quantized_attentions
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers

_FLOATING = ("f", "bf")
"""Beginnings of the names of floating-point types: f32, f16, bf16."""


def counts(layers: Iterable[ExecutedLayer]) -> dict[str, int]:
    """How many operations ran at each precision: {"f32": 3, "u8": 40}."""
    return dict(sorted(Counter(layer.precision for layer in layers).items()))


def stored_weights(layers: Iterable[ExecutedLayer]) -> dict[str, int]:
    """In how many operations the engine holds the weights in which type: {"f32": 3, "i8": 40}."""
    return dict(sorted(Counter(layer.weights for layer in layers if layer.weights).items()))


def fell_back(net: nn.Module, executed: Sequence[ExecutedLayer]) -> tuple[str, ...]:
    """Layers and attentions that are quantized in `net`, inputs and weights, and ran in floating point all the same.

    A layer with weights alone on a grid is no integer arithmetic in the first place, and is not among them. Nor is what
    the engine's names do not lead back to.
    """
    floating = {name for each in executed if each.precision.startswith(_FLOATING) for name in each.layers}
    return tuple(name for name in _integer_work(net) if name in floating)


def _integer_work(net: nn.Module) -> list[str]:
    layers = [name for name, layer in quantized_layers(net) if _in_integers(layer)]
    attentions = [
        name
        for name, module in quantized_attentions(net)
        if all(module.get_submodule(path).grid is not None for path in OPERANDS.values())
    ]
    return [*layers, *attentions]


def _in_integers(layer: QuantizedLayer) -> bool:
    return layer.grid is not None and layer.activation.grid is not None
