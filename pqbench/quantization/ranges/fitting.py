"""Setting the grids of a net's quantized layers: weights from the weights, activations from a calibration set.

Every quantizer goes through these two functions. Weights first and then activations lets the activation ranges see what
the quantized weights make of the input (what PTQ4DM's code does); the other order observes the FP model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.calibration import CalibrationSet
from pqbench.contracts.context import ProgressCallback, silent
from pqbench.quantization.grids.groups import fit_groups
from pqbench.quantization.grids.step_clock import StepClock, nearest_seen
from pqbench.quantization.grids.time_tables import keep_time
from pqbench.quantization.net.layers import (
    ActivationQuantizer,
    QuantizedLayer,
    activation_quantizers,
    quantized_layers,
    replace_module,
)
from pqbench.quantization.ranges.observers import Observer, ObserverFactory, PerTimeStep, RangeRule
from pqbench.quantization.ranges.rules import rows


@torch.no_grad()
def calibrate_weights(net: nn.Module, rule: RangeRule, per_channel: bool = True) -> None:
    """Freeze every quantized layer's weight, rounded to nearest, on the grid that `rule` chooses.

    per_channel: one scale an output channel, else one for the whole tensor. A layer with a group size has one scale a
    group; `UserError` is raised when `per_channel` is off for it.
    """
    for _, layer in quantized_layers(net):
        freeze_nearest(layer, rule, per_channel)


@torch.no_grad()
def freeze_nearest(layer: QuantizedLayer, rule: RangeRule, per_channel: bool = True) -> None:
    """Freeze one layer as `calibrate_weights` does."""
    if layer.group_size and not per_channel:
        raise UserError("One scale a layer and one scale a group of its inputs exclude each other: choose one.")
    scale, zero = layer.weight_scale, layer.weight_zero
    if layer.grid is not None and layer.group_size:
        scale, zero = fit_groups(rule, layer.weight, layer.grid, layer.group_size)
    elif layer.grid is not None:
        scale, zero = rule(rows(layer.weight, per_channel), layer.grid)
    layer.freeze(layer.weight, scale, zero)


@torch.no_grad()
def calibrate_activations(
    net: nn.Module,
    calibration: CalibrationSet,
    observer: ObserverFactory,
    *,
    batch: int = 64,
    quantized_prefix: bool = False,
    time_steps: Tensor | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = silent,
) -> dict[int, int]:
    """Set every activation grid, of layers' inputs and attention operands, from what it sees on the calibration set.

    observer           makes one observer a quantizer from its grid
    batch              samples that go through the net together, and one update of each observer
    quantized_prefix   False: all layers are observed in one pass over unquantized activations;
                       True: in the same single pass every quantizer already hands on what it quantized with the range
                       known so far, so that later layers see the errors of earlier ones

    time_steps         (S,) the sampler's time steps: every quantizer gets a table with one parameter set for each, from
                       the samples that are nearest to it; None: one static set

    Returns the time steps without a sample of their own, each with the time step whose parameters it took over. What
    stays in full precision or has dynamic ranges is left alone. Raises `UserError` when a layer is never run or its
    input is not finite.
    """
    clock = None if time_steps is None else keep_time(net, time_steps.tolist())
    if clock is not None:
        observer = partial(PerTimeStep, observer=observer, clock=clock)
    with _observing(net, observer, quantized_prefix) as watched:
        for start in range(0, len(calibration) if watched else 0, batch):
            part = slice(start, start + batch)
            net(*calibration.inputs(part, device))
            progress(min(start + batch, len(calibration)), len(calibration), "observing activations")
        for watcher in watched:
            watcher.settle()
    return {} if clock is None else _without_samples(clock, calibration.t)


def _without_samples(clock: StepClock, t: Tensor) -> dict[int, int]:
    steps, places = clock.time_steps, clock.places(t)
    nearest = nearest_seen(steps, [places] if isinstance(places, int) else set(places.tolist()))
    return {steps[place]: steps[other] for place, other in enumerate(nearest) if place != other}


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
        if quantizer.grid is not None and not quantizer.dynamic:
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
