"""The quantizer `qdiffusion`: AdaRound over blocks, then learned activation step sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pqbench.contracts import FULL_PRECISION_BITS, CalibrationSet, Context, Quantizer, parameter
from pqbench.quantization import (
    Q_DIFFUSION_BIBTEX,
    BlockSource,
    Descent,
    MovingAverage,
    RangeRule,
    RoundingStage,
    StepSizeStage,
    block_names,
    calibrate_activations,
    calibrate_weights,
    lp_search,
    minmax,
    quantize_layers,
    quantized_layers,
    split_patterns,
)
from pqbench_qdiffusion.ranges import magnitude

RANGES = ("max", "mse")
ACTIVATION_P = 2.4
"""Exponent of the error by which activation step sizes are learned."""
_GIB = 1 << 30


@dataclass(frozen=True)
class QDiffusionQuantizer(Quantizer):
    """As the released CIFAR-10 script runs it.

    Weights on asymmetric grids per output channel, layer inputs on symmetric ones per tensor, all at the target bits.
    """

    name: ClassVar[str] = "qdiffusion"
    summary: ClassVar[str] = "AdaRound over blocks, then learned activation step sizes (Q-Diffusion)"
    references: ClassVar[tuple[str, ...]] = (Q_DIFFUSION_BIBTEX,)
    deviations: ClassVar[tuple[str, ...]] = (
        "Blocks run in evaluation mode; the released code leaves dropout on while it optimises.",
        "The budgets quick and standard run fewer iterations than published, at higher learning rates; full runs the "
        "published ones.",
        "The rounding regulariser covers all parts of a split shortcut; in the released code only the first.",
        "The softmax output has an asymmetric grid with its zero-point fixed at 0, as the paper describes it; the "
        "released CIFAR-10 script gives it the symmetric grid of all activations, half of which it cannot use.",
        "Every range is widened to hold 0; a learned step size never falls under a tenth of where it began, and one "
        "that begins below 0.05 learns at a rate that is smaller in proportion.",
        "Batches go through the whole calibration set before a sample comes again; in the released code each batch is "
        "drawn anew.",
        "With weights=mse or activations=mse the search goes down to 1 % of the range; in the released code to 21 %.",
    )

    split: bool = parameter(True, help="split the up-path's shortcuts at the concatenation")
    attention: bool = parameter(True, help="quantize the operands of attention products")
    softmax_bits: int = parameter(8, help="bits of the softmax output", low=2, high=32)
    weights: str = parameter("max", help="ranges of weights: extremes, or the least L_2.4 error", choices=RANGES)
    activations: str = parameter("max", help="ranges that activations start from, as for weights", choices=RANGES)
    a_symmetric: bool = parameter(True, help="activation grids around zero")
    a_samples: int = parameter(64, help="calibration samples that activation ranges start from", low=1)
    iterations: int = parameter(
        500, quick=60, full=20_000, low=0, high=1_000_000, help="iterations of rounding a block; 0: to nearest"
    )
    lr: float = parameter(0.01, quick=0.03, full=1e-3, low=0, high=10, help="learning rate of rounding")
    regulariser: float = parameter(0.01, low=0, high=1000, help="weight of the rounding regulariser")
    warmup: float = parameter(0.2, low=0, high=1, help="share of the iterations without the regulariser")
    a_iterations: int = parameter(
        250, quick=15, full=5000, low=0, high=1_000_000, help="iterations of learning a block's step sizes; 0: none"
    )
    a_lr: float = parameter(1e-3, full=4e-4, low=0, high=10, help="peak learning rate of step sizes")
    batch: int = parameter(32, low=1, high=4096, help="samples in an iteration")
    mixed: bool = parameter(False, help="round with convolutions in bfloat16: faster where the hardware has it")
    memory: float = parameter(1.0, low=0, help="GiB of block inputs and outputs kept in memory; the rest goes to disk")
    end_bits: int = parameter(0, help="bits of the first and the last layer; 0: like the rest", low=0, high=8)
    exempt: str = parameter("", help="patterns of layers that stay in full precision, separated by |")

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        """Weights block by block, then activation step sizes block by block."""
        net = net.to(context.device).requires_grad_(False)
        inputs, example = (calibration.inputs(part, context.device) for part in (slice(None), slice(2)))
        reference = copy.deepcopy(net)
        blocks = block_names(net, lambda: net(*example))
        self._scope(context, net, example)
        floats = {name: layer.weight.clone() for name, layer in quantized_layers(net)}
        calibrate_weights(net, _searched if self.weights == "mse" else minmax)
        with BlockSource(net, reference, blocks, *inputs, memory_limit=round(self.memory * _GIB)) as source:
            progress = _Progress(context, len(blocks))
            if context.precision.w != FULL_PRECISION_BITS and self.iterations:
                self._round(context, source, floats, progress)
            if context.precision.a != FULL_PRECISION_BITS:
                self._start_activations(context, net, calibration)
                if self.a_iterations:
                    self._learn_steps(context, source, progress)
        return net

    def _scope(self, context: Context, net: nn.Module, example: tuple[Tensor, ...]) -> None:
        quantize_layers(
            net,
            context.precision,
            example,
            end_bits=self.end_bits or None,
            exempt=split_patterns(self.exempt),
            w_symmetric=False,
            a_symmetric=self.a_symmetric,
            attention=self.attention,
            softmax_bits=self.softmax_bits,
            split_shortcuts=self.split,
        )

    def _round(self, context: Context, source: BlockSource, floats: dict[str, Tensor], progress: _Progress) -> None:
        descent = Descent(self.iterations, self.lr, self.batch, mixed=self.mixed)
        stage = RoundingStage(descent, self.regulariser, self.warmup)
        generator = context.generator("qdiffusion/weights")
        stage.run(source, floats, generator, context.trace, progress.of("rounding"))

    def _start_activations(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> None:
        """Ranges of a few samples, each layer seeing what the quantized ones before it make of them."""
        order = torch.randperm(len(calibration), generator=context.generator("qdiffusion/ranges"))
        sample = calibration.subset(order[: self.a_samples])
        rule = _searched if self.activations == "mse" else magnitude if self.a_symmetric else minmax
        calibrate_activations(
            net,
            sample,
            lambda grid: MovingAverage(grid, rule),
            batch=len(sample),
            quantized_prefix=True,
            device=context.device,
        )

    def _learn_steps(self, context: Context, source: BlockSource, progress: _Progress) -> None:
        descent = Descent(self.a_iterations, self.a_lr, self.batch, cosine=True, p=ACTIVATION_P)
        generator = context.generator("qdiffusion/activations")
        StepSizeStage(descent).run(source, generator, context.trace, progress.of("step sizes"))


_searched: RangeRule = partial(lp_search, candidates=100)


class _Progress:
    """Counts blocks over both stages."""

    def __init__(self, context: Context, blocks: int) -> None:
        stages = (context.precision.w != FULL_PRECISION_BITS) + (context.precision.a != FULL_PRECISION_BITS)
        self._report: Callable[[int, int, str], Any] = context.progress
        self._done, self._total = 0, blocks * stages

    def of(self, stage: str) -> Callable[[str], None]:
        """What a stage calls with every finished block."""

        def finished(block: str) -> None:
            self._done += 1
            self._report(self._done, self._total, f"{stage}: {block}")

        return finished
