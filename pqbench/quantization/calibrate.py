"""Setting the grids of a net's quantized layers: weights from the weights, activations from a calibration set.

Every quantizer goes through these two functions. Weights first and then activations lets the activation ranges see what
the quantized weights make of the input (what PTQ4DM's code does); the other order observes the FP model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pqbench.contracts.calibration import CalibrationSet
from pqbench.contracts.context import ProgressCallback, silent
from pqbench.errors import UserError
from pqbench.quantization.layers import (
    ActivationQuantizer,
    QuantizedLayer,
    activation_quantizers,
    quantized_layers,
    replace_module,
)
from pqbench.quantization.observers import Observer, ObserverFactory, RangeRule
from pqbench.quantization.ranges import rows


@torch.no_grad()
def calibrate_weights(net: nn.Module, rule: RangeRule, per_channel: bool = True) -> None:
    """Freeze every quantized layer's weight, rounded to nearest, on the grid that `rule` chooses.

    per_channel: one scale an output channel, else one for the whole tensor.
    """
    for _, layer in quantized_layers(net):
        freeze_nearest(layer, rule, per_channel)


@torch.no_grad()
def freeze_nearest(layer: QuantizedLayer, rule: RangeRule, per_channel: bool = True) -> None:
    """Freeze one layer as `calibrate_weights` does."""
    scale, zero = layer.weight_scale, layer.weight_zero
    if layer.grid is not None:
        scale, zero = rule(rows(layer.weight, per_channel), layer.grid)
    channels = len(layer.weight)
    layer.freeze(layer.weight, scale.expand(channels), zero.expand(channels))


@torch.no_grad()
def calibrate_activations(
    net: nn.Module,
    calibration: CalibrationSet,
    observer: ObserverFactory,
    *,
    batch: int = 64,
    quantized_prefix: bool = False,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = silent,
) -> None:
    """Set every activation grid, of layers' inputs and attention operands, from what it sees on the calibration set.

    observer           makes one observer a quantizer from its grid
    batch              samples that go through the net together, and one update of each observer
    quantized_prefix   False: all layers are observed in one pass over unquantized activations;
                       True: in the same single pass every quantizer already hands on what it quantized with the range
                       known so far, so that later layers see the errors of earlier ones

    What stays in full precision is left alone. Raises `UserError` when a layer is never run or its input is not
    finite.
    """
    with _observing(net, observer, quantized_prefix) as watched:
        for start in range(0, len(calibration), batch):
            part = slice(start, start + batch)
            net(calibration.x_t[part].to(device), calibration.t[part].to(device))
            progress(min(start + batch, len(calibration)), len(calibration), "observing activations")
        for watcher in watched:
            watcher.settle()


class _Watcher(nn.Module):
    """Stands in for an activation quantizer while what it gets is observed."""

    def __init__(self, name: str, quantizer: ActivationQuantizer, observer: Observer, quantize: bool) -> None:
        super().__init__()
        self.name = name
        self.quantizer = quantizer
        self.observer = observer
        self.quantize = quantize

    def forward(self, x: Tensor) -> Tensor:
        with _naming(self.name):
            self.observer.update(x)
        if not self.quantize:
            return x
        self.settle()
        quantized: Tensor = self.quantizer(x)
        return quantized

    def settle(self) -> None:
        """Hand the range known so far to the quantizer."""
        with _naming(self.name):
            self.quantizer.set(*self.observer.parameters())


@contextmanager
def _observing(net: nn.Module, observer: ObserverFactory, quantize: bool) -> Iterator[list[_Watcher]]:
    """Put a watcher in the place of every activation quantizer that has a grid, and the quantizers back afterwards."""
    watched: list[_Watcher] = []
    for name, quantizer in activation_quantizers(net):
        if quantizer.grid is not None:
            watched.append(_Watcher(name, quantizer, observer(quantizer.grid), quantize))
    try:
        for watcher in watched:
            replace_module(net, watcher.name, watcher)
        yield watched
    finally:
        for watcher in watched:
            replace_module(net, watcher.name, watcher.quantizer)


@contextmanager
def _naming(quantizer: str) -> Iterator[None]:
    """Put the name of the layer or of the operand before what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{quantizer.removesuffix('.activation')}: {error}") from None
