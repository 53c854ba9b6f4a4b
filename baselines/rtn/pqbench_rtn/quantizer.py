"""The quantizer `minmax`: one pass over a calibration set and one rounding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from pqbench.contracts import CalibrationSet, Context, Quantizer, parameter
from pqbench.quantization import observers, ranges
from pqbench.quantization.calibrate import calibrate_activations, calibrate_weights
from pqbench.quantization.scope import quantize_layers, split_patterns

PERCENTILE_SHARE = 0.999


@dataclass(frozen=True)
class MinMaxQuantizer(Quantizer):
    """Rounds weights and layer inputs to the nearest points of static grids; those of inputs are asymmetric."""

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

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        """Round the weights, then observe the inputs that the rounded layers get."""
        net = net.to(context.device)
        example = calibration.x_t[:1].to(context.device), calibration.t[:1].to(context.device)
        quantize_layers(
            net,
            context.precision,
            example,
            end_bits=self.end_bits or None,
            exempt=split_patterns(self.exempt),
            w_symmetric=self.w_symmetric,
        )
        rule = self._rule()
        calibrate_weights(net, rule, self.per_channel)
        calibrate_activations(
            net, calibration, self._observer(context, rule), device=context.device, progress=context.progress
        )
        return net

    def _rule(self) -> observers.RangeRule:
        if self.range == "percentile":
            return partial(ranges.percentile, share=PERCENTILE_SHARE)
        return ranges.lp_search if self.range == "lp" else ranges.minmax

    def _observer(self, context: Context, rule: observers.RangeRule) -> observers.ObserverFactory:
        if self.range == "minmax":
            return observers.MinMax
        generator = context.generator(f"{self.name}/reservoir")
        return lambda grid: observers.Reservoir(grid, rule, generator)
