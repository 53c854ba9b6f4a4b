"""The two stages of a reconstruction, block by block: how weights are rounded, and the step sizes of activations.

As in Q-Diffusion (Li et al., 2023, section 3.2 and its released code): weights first, activations in full precision;
then, weights frozen, the activation step sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.contracts.precision import FULL_PRECISION_BITS
from pqbench.quantization.learning.block_source import BlockSource, Inputs, Mixing
from pqbench.quantization.learning.learned_inputs import settle_inputs, start_learning_inputs
from pqbench.quantization.learning.reconstruction import Descent, reconstruct
from pqbench.quantization.learning.rounding import RoundingPressure, settle_rounding, start_rounding
from pqbench.quantization.net.layers import ActivationQuantizer

Trace = list[dict[str, Any]]
Finished = Callable[[str], None]
"""Called with the name of each block that is done."""


@dataclass(frozen=True)
class RoundingStage:
    """AdaRound over blocks.

    weight       of the regulariser beside the error
    warmup       share of the iterations without it
    full_share   with mixed inputs, the probability of a full-precision element
    """

    descent: Descent
    weight: float = 0.01
    warmup: float = 0.2
    inputs: Inputs = "quantized"
    full_share: float = 0.5

    def run(
        self,
        source: BlockSource,
        weights: Mapping[str, Tensor],
        generator: torch.Generator,
        trace: Trace,
        finished: Finished = lambda block: None,
    ) -> None:
        """Round the weights of every block of `source.net`, whose weight grids are set, in the order of execution.

        weights: the float weights by layer names; other layers are left as they are.
        """
        with activations_off(source.net):
            for block in source.blocks:
                layers = start_rounding(source.net, weights, block)
                if layers:
                    self._block(block, source, [layer.rounding for layer in layers.values()], generator, trace)
                    settle_rounding(source.net)
                finished(block)

    def _block(self, block: str, source: BlockSource, roundings: Any, generator: torch.Generator, trace: Trace) -> None:
        pressure = RoundingPressure(roundings, self.descent.iterations, self.weight, self.warmup)
        with source.data(block, self.inputs, mixing_for(self.inputs, self.full_share, generator)) as data:
            reconstruct(
                block,
                source.net.get_submodule(block),
                data,
                [rounding.v for rounding in roundings],
                self.descent,
                generator,
                regulariser=pressure,
                trace=lambda row: trace.append({"stage": "weights", "block": block, **row}),
            )


@dataclass(frozen=True)
class StepSizeStage:
    """LSQ of activation step sizes over blocks, weights frozen and zero-points fixed."""

    descent: Descent
    inputs: Inputs = "full"
    full_share: float = 0.5

    def run(
        self, source: BlockSource, generator: torch.Generator, trace: Trace, finished: Finished = lambda block: None
    ) -> None:
        """Learn the step sizes of every block of `source.net`, whose grids are set, in the order of execution."""
        for block in source.blocks:
            learned = start_learning_inputs(source.net, block)
            if learned:
                steps = [each.step for each in learned.values()]
                self._block(block, source, steps, generator, trace)
                settle_inputs(source.net)
            finished(block)

    def _block(
        self, block: str, source: BlockSource, steps: list[nn.Parameter], generator: torch.Generator, trace: Trace
    ) -> None:
        with source.data(block, self.inputs, mixing_for(self.inputs, self.full_share, generator)) as data:
            reconstruct(
                block,
                source.net.get_submodule(block),
                data,
                steps,
                self.descent,
                generator,
                trace=lambda row: trace.append({"stage": "activations", "block": block, **row}),
            )


def mixing_for(inputs: Inputs, full_share: float, generator: torch.Generator) -> Mixing | None:
    """The mixing that inputs of this kind need."""
    return Mixing(full_share, generator) if inputs == "mixed" else None


@contextmanager
def activations_off(net: nn.Module) -> Iterator[None]:
    """Leave all activations of `net` in full precision for a while."""
    quantizers = [module for module in net.modules() if isinstance(module, ActivationQuantizer)]
    bits = [quantizer.bits for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.bits = FULL_PRECISION_BITS
        yield
    finally:
        for quantizer, width in zip(quantizers, bits, strict=True):
            quantizer.bits = width
