"""The quantizer `minmax`: one pass over a calibration set and one rounding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from pqbench.contracts import CalibrationSet, Context, Quantizer, UserError, parameter
from pqbench.quantization import (
    RESERVOIR_VALUES,
    MinMax,
    ObserverFactory,
    RangeRule,
    Reservoir,
    calibrate_activations,
    calibrate_weights,
    lp_search,
    minmax,
    percentile,
    quantize_layers,
    split_patterns,
)

PERCENTILE_SHARE = 0.999
SMALLEST_RESERVOIR = 4096


@dataclass(frozen=True)
class MinMaxQuantizer(Quantizer):
    """Rounds weights and layer inputs to the nearest points of their grids; those of inputs are asymmetric."""

    name: ClassVar[str] = "minmax"
    summary: ClassVar[str] = "round to nearest on ranges taken from the extremes (or a percentile, or an L_p search)"

    w_symmetric: bool = parameter(True, help="weight grids around zero")
    per_channel: bool = parameter(True, help="one weight scale an output channel instead of one a layer")
    range: str = parameter(
        "minmax",
        help="the range that a grid covers: all values, the middle 99.9 %, or that of the least L_2.4 error",
        choices=("minmax", "percentile", "lp"),
    )
    end_bits: int = parameter(8, help="bits of the first and the last layer; 0: like the rest", low=0, high=8)
    exempt: str = parameter("", help="patterns of layers that stay in full precision, separated by |")
    group_size: int = parameter(
        0, help="weights of an output channel that share a scale, in the order of its inputs; 0: all of them", low=0
    )
    dynamic: bool = parameter(
        False, help="activation ranges from each token (pixel) when it comes, by min-max, instead of static ones"
    )
    time_tables: bool = parameter(False, help="one set of activation parameters for each sampling step")

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        """Round the weights, then observe the inputs that the rounded layers get.

        Leaves a row in the trace for every sampling step without a calibration sample. Raises `UserError` for
        parameters that exclude each other.
        """
        if self.dynamic and self.time_tables:
            raise UserError("minmax: dynamic ranges are stored nowhere, so time_tables=true has nothing to hold.")
        net = net.to(context.device)
        example = calibration.inputs(slice(1), context.device)
        quantize_layers(
            net,
            context.precision,
            example,
            end_bits=self.end_bits or None,
            exempt=split_patterns(self.exempt),
            w_symmetric=self.w_symmetric,
            group_size=self.group_size,
            a_dynamic=self.dynamic,
        )
        rule = self._rule()
        calibrate_weights(net, rule, self.per_channel)
        borrowed = calibrate_activations(
            net,
            calibration,
            self._observer(context, rule),
            time_steps=context.timesteps() if self.time_tables else None,
            device=context.device,
            progress=context.progress,
        )
        for step, source in borrowed.items():
            context.trace.append({"event": "no sample of its own", "time_step": step, "parameters_of": source})
        return net

    def _rule(self) -> RangeRule:
        if self.range == "percentile":
            return partial(percentile, share=PERCENTILE_SHARE)
        return lp_search if self.range == "lp" else minmax

    def _observer(self, context: Context, rule: RangeRule) -> ObserverFactory:
        if self.range == "minmax":
            return MinMax
        generator = context.generator(f"{self.name}/reservoir")
        # A table holds one reservoir a step: together they take no more memory than that of a static grid, until the
        # sample would be too small for a percentile.
        shares = context.steps if self.time_tables else 1
        size = max(RESERVOIR_VALUES // shares, SMALLEST_RESERVOIR)
        return lambda grid: Reservoir(grid, rule, generator, size)
