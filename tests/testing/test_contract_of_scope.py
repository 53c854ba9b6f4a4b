"""A quantizer with everything in scope keeps the contract of quantizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import nn

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet, Context, Quantizer
from pqbench.quantization.net.attention import quantized_operands
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.net.shortcuts import SplitLayer
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.testing import check_quantizer


@dataclass(frozen=True)
class WholeScope(Quantizer):
    """Layers, attention operands and split shortcuts, to nearest."""

    name: ClassVar[str] = "whole_scope"
    summary: ClassVar[str] = "everything that can be quantized, rounded to nearest"
    references: ClassVar[tuple[str, ...]] = ("@misc{none}",)

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        """Weights, then activations."""
        example = calibration.x_t[:1], calibration.t[:1]
        quantize_layers(net, context.precision, example, attention=True, split_shortcuts=True)
        calibrate_weights(net, minmax)
        calibrate_activations(net, calibration, MinMax)
        if context.precision.quantizes:
            assert any(isinstance(module, SplitLayer) for module in net.modules())
            assert len(list(quantized_operands(net))) == 4
        return net


@dataclass(frozen=True)
class MovedZero(WholeScope):
    """The zero-point of a softmax is moved after it was set."""

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        """As above, and then wrong."""
        net = super().quantize(context, net, calibration)
        for name, operand in quantized_operands(net):
            if name.endswith("softmax"):
                operand.zero_point.fill_(1)
        return net


def test_a_quantizer_of_the_whole_scope_is_sound() -> None:
    check_quantizer(WholeScope(), precisions=("w4a4", "w8a8"))


def test_an_operand_that_is_not_what_it_says_breaks_the_contract() -> None:
    with pytest.raises((AssertionError, UserError), match="zero-point is not 0"):
        check_quantizer(MovedZero(), precisions=("w4a4",))
