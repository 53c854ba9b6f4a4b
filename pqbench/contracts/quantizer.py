"""Quantizers: from a full-precision denoiser to one whose layers hold integers."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import nn

from pqbench.contracts.calibration import CalibrationSet
from pqbench.contracts.component import Component, Kind
from pqbench.contracts.context import Context


class Quantizer(Component):
    """Turns the FP denoiser into a quantized one."""

    kind: ClassVar[Kind] = "quantizer"

    @abstractmethod
    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        """Quantize `net` (a fresh FP copy that may be changed) to `context.precision`.

        The result's quantized layers must be frozen `QuantizedLayer`s (`pqbench.quantization`), so that simulation, the
        packed checkpoint and every engine read the same integers.
        """
