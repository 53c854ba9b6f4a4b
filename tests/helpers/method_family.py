"""A plugin with samplers, quantizers, distillers and three methods made of them; none of them does any work."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import ClassVar

from torch import nn

from pqbench import hookimpl
from pqbench.components.sources import Source
from pqbench.contracts import (
    CalibrationSampler,
    CalibrationSet,
    Context,
    Correction,
    Distiller,
    Method,
    Precision,
    Quantizer,
    Teachers,
    parameter,
)


@dataclass(frozen=True)
class Normal(CalibrationSampler):
    name: ClassVar[str] = "normal"
    deviations: ClassVar[tuple[str, ...]] = ("draws fewer images",)
    samples: int = parameter(256, help="how many", quick=64, low=1)
    preset: str = parameter("text", help="which", choices=("text", "script"))

    def sample(self, context: Context) -> CalibrationSet:
        raise AssertionError("composing runs nothing")


@dataclass(frozen=True)
class Flat(CalibrationSampler):
    name: ClassVar[str] = "flat"

    def sample(self, context: Context) -> CalibrationSet:
        raise AssertionError("composing runs nothing")


@dataclass(frozen=True)
class MinMax(Quantizer):
    name: ClassVar[str] = "minmax"
    norm: float = parameter(2.4, help="which", low=1, high=8)

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        return net


@dataclass(frozen=True)
class Progressive(MinMax):
    name: ClassVar[str] = "progressive"
    tau: float = parameter(0.01, help="when to move on", low=0, high=1)
    rate: float = parameter(0.1, help="step size", low=0)
    exempt: str = parameter("", help="patterns of layers")


@dataclass(frozen=True)
class Halving(Distiller):
    name: ClassVar[str] = "halving"
    calibration: ClassVar[str] = "normal"
    rate: float = parameter(0.2, help="step size", low=0)

    def distill(
        self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet
    ) -> nn.Module:
        return student


@dataclass(frozen=True)
class Plain(Halving):
    name: ClassVar[str] = "plain"
    calibration: ClassVar[str] = ""
    step_share: ClassVar[Fraction] = Fraction(1, 4)


@dataclass(frozen=True)
class Nudge(Correction):
    name: ClassVar[str] = "nudge"
    runs: int = parameter(64, help="how many", quick=8, low=1)

    def correct(self, context: Context, net: nn.Module, full_precision: nn.Module, steps: int) -> nn.Module:
        return net


class Full(Method):
    name = "full"
    precision = Precision()


class Simple(Method):
    name = "simple"
    calibration = "normal"
    quantizer = "minmax"
    settings: ClassVar[dict[str, object]] = {"calibration.preset": "script", "norm": 2.0}


class Whole(Method):
    name = "whole"
    calibration = "normal"
    quantizer = "progressive"
    distiller = "halving"
    settings: ClassVar[dict[str, object]] = {"quantizer.tau": 0.5, "distiller_calibration": "flat"}


def family_source() -> Source:
    plugin = SimpleNamespace(
        pqbench_calibrations=hookimpl(lambda: [Normal, Flat], specname="pqbench_calibrations"),
        pqbench_quantizers=hookimpl(lambda: [MinMax, Progressive], specname="pqbench_quantizers"),
        pqbench_distillers=hookimpl(lambda: [Halving, Plain], specname="pqbench_distillers"),
        pqbench_corrections=hookimpl(lambda: [Nudge], specname="pqbench_corrections"),
        pqbench_methods=hookimpl(lambda: [Full, Simple, Whole], specname="pqbench_methods"),
    )
    return Source("family", "pqbench-family", "1.2", __name__, lambda: plugin)
