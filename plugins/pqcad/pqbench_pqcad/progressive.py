"""PQ: progressive two-stage quantization with momentum-detected bit transitions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from pqbench.contracts import FULL_PRECISION_BITS, CalibrationSet, Context, Precision, Quantizer, UserError, parameter
from pqbench.quantization import (
    BlockSource,
    Inputs,
    ShuffledBatches,
    block_names,
    quantize_layers,
    settle,
    split_patterns,
    start_tables,
    tunable_layers,
    tune,
)
from pqbench_pqcad.activations import ActivationStage
from pqbench_pqcad.detector import MomentumDetector
from pqbench_pqcad.progress import BlockProgress
from pqbench_pqcad.references import PQCAD
from pqbench_pqcad.weights import WeightStage

StageRun = Callable[..., None]


@dataclass(frozen=True)
class ProgressiveQuantizer(Quantizer):
    """Weights first, then activations; each block goes from `start` bits to the target one bit at a time."""

    name: ClassVar[str] = "progressive"
    summary: ClassVar[str] = "two-stage progressive quantization with a momentum detector (PQ of PQCAD-DM)"
    references: ClassVar[tuple[str, ...]] = (PQCAD,)
    deviations: ClassVar[tuple[str, ...]] = (
        "The paper's equations, schedule and rounding optimiser are not public: they are pqbench's design here.",
    )

    start: int = parameter(8, low=2, high=8, help="bit-width at which each stage begins")
    weight_budget: int = parameter(
        120, quick=12, full=1000, low=1, high=1_000_000, help="most iterations of one block at one weight width"
    )
    activation_budget: int = parameter(
        60, quick=8, full=500, low=1, high=1_000_000, help="most iterations of one block at one activation width"
    )
    minimum: int = parameter(
        20, quick=4, full=50, low=1, high=1_000_000, help="fewest iterations at a width, after the ramp"
    )
    detector: bool = parameter(True, help="end a width at a plateau; false: every width spends its whole budget")
    beta: float = parameter(0.9, quick=0.5, low=0.0, high=0.999, help="momentum of the detector")
    tau: float = parameter(0.02, quick=0.05, low=0.0, high=1.0, help="relative change of M that counts as none")
    patience: int = parameter(2, quick=1, low=1, high=1000, help="quiet checks in a row that end a width")
    interval: int = parameter(5, quick=2, low=1, high=1000, help="iterations between two checks of the detector")
    ramp: int = parameter(20, quick=4, full=100, low=0, high=1_000_000, help="iterations that blend two grids; 0: none")
    averaging: float = parameter(0.9, low=0.0, high=0.9999, help="momentum of the average that a new grid is fitted to")
    weight_lr: float = parameter(0.02, low=0.0, high=1.0, help="learning rate of weights, in weight step sizes")
    step_lr: float = parameter(0.01, low=0.0, high=1.0, help="learning rate of the logarithms of step sizes")
    time_tables: bool = parameter(
        False, help="one set of activation parameters for each sampling step; no engine here executes those"
    )
    w_symmetric: bool = parameter(True, help="weight grids around zero")
    batch: int = parameter(32, low=1, high=4096, help="samples in an iteration")
    end_bits: int = parameter(8, low=0, high=8, help="least bits of the first and the last layer; 0: as the others")
    wide: str = parameter("", help="patterns of layers with 8 bits at least, separated by |")
    exempt: str = parameter("", help="patterns of layers that stay in full precision, separated by |")

    def __post_init__(self) -> None:
        if self.ramp >= self.weight_budget:
            raise UserError(
                f"{self.name}: ramp={self.ramp} leaves no iteration of weight_budget={self.weight_budget} to the new "
                "grid alone: give a ramp below the budget."
            )

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        """Run both stages over all blocks in the order of execution.

        Raises `UserError` when `start` is below a target: there is no way down to it.
        """
        self._require_way_down(context.precision)
        job = _Quantization(self, context, net.to(context.device), calibration)
        with job.source:
            if context.precision.w != FULL_PRECISION_BITS:
                job.stage("weights", self._weight_stage(), "quantized")
            if context.precision.a != FULL_PRECISION_BITS:
                job.stage("activations", self._activation_stage(), "full")
        return settle(job.net)

    def _require_way_down(self, precision: Precision) -> None:
        for key, bits in (("w", precision.w), ("a", precision.a)):
            if bits != FULL_PRECISION_BITS and self.start < bits:
                raise UserError(f"start={self.start} is below {key}={bits}, where its way down would end: raise start.")

    def _weight_stage(self) -> StageRun:
        return WeightStage(
            start=self.start,
            ramp=self.ramp,
            averaging=self.averaging,
            weight_lr=self.weight_lr,
            step_lr=self.step_lr,
            detector=lambda: self._detector(self.weight_budget, settling=self.ramp),
        ).run

    def _activation_stage(self) -> StageRun:
        return ActivationStage(
            start=self.start,
            step_lr=self.step_lr,
            detector=lambda: self._detector(self.activation_budget),
        ).run

    def _detector(self, budget: int, settling: int = 0) -> MomentumDetector:
        """The rule for one width. Without the detector nothing fires before the budget is spent.

        settling   iterations in which two grids are blended: the width has its `minimum` after them, on its own grid

        So the twin of an ablation gets at least the iterations that the detector allows: what the detector is worth is
        the time that it saves, and what that costs in quality. For equal iterations, give the twin smaller budgets.
        """
        return MomentumDetector(
            beta=self.beta,
            tau=self.tau,
            patience=self.patience,
            interval=self.interval,
            minimum=min(settling + self.minimum, budget) if self.detector else budget,
            budget=budget,
            settling=settling,
        )


class _Quantization:
    """One quantization: the net being changed, the FP net's answers, and what the stages share."""

    def __init__(self, settings: ProgressiveQuantizer, context: Context, net: nn.Module, data: CalibrationSet) -> None:
        self.settings = settings
        self.context = context
        inputs, example = (data.inputs(part, context.device) for part in (slice(None), slice(2)))
        net.requires_grad_(False)
        blocks = block_names(net, lambda: net(*example))
        self.source = BlockSource(net, copy.deepcopy(net), blocks, *inputs)
        self.trace: list[dict[str, Any]] = context.trace
        quantize_layers(
            net,
            context.precision,
            example,
            end_bits=settings.end_bits or None,
            wide=split_patterns(settings.wide),
            exempt=split_patterns(settings.exempt),
            w_symmetric=settings.w_symmetric,
        )
        if settings.time_tables:
            start_tables(net, context.timesteps().tolist())
        tune(net.to(context.device))
        for _, layer in tunable_layers(net):
            # Both stages start in full precision: a width is set when its turn comes.
            layer.w_bits = layer.a_bits = FULL_PRECISION_BITS
        self.net = net
        stages = (context.precision.w != FULL_PRECISION_BITS) + (context.precision.a != FULL_PRECISION_BITS)
        self.progress = BlockProgress(context.progress, len(blocks) * stages)

    def stage(self, name: str, run: StageRun, inputs: Inputs) -> None:
        """Bring every block to its target.

        Weights are fitted on what the quantized prefix hands on, and make up for its errors. Step sizes cannot: with
        those inputs they only learn to answer small, as the best guess of an answer that the errors have blurred is,
        and what remains of a gain adds up over the sampling steps.
        """
        generator = self.context.generator(f"progressive/{name}")
        for block in self.source.blocks:
            module = self.net.get_submodule(block)
            layers = dict(tunable_layers(module))
            if layers:
                batches = ShuffledBatches(len(self.source), self.settings.batch, generator)
                with self.source.data(block, inputs) as data:
                    run(block, module, layers, data, batches, self.trace)
            self.progress.finished(f"{name}: {block}")
