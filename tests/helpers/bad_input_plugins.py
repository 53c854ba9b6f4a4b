"""Samplers and workloads that are wrong in one way each. Used as a run's `pqbench_plugins.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pqbench import hookimpl
from pqbench.calibration.uniform import Uniform
from pqbench.contracts import (
    CalibrationSampler,
    CalibrationSet,
    Context,
    Distiller,
    Quantizer,
    Teachers,
    Workload,
    parameter,
)
from pqbench.testing import TinyWorkload


@dataclass(frozen=True)
class Wrong(CalibrationSampler):
    """Draws a set that is wrong in the way that `how` says."""

    name: ClassVar[str] = "wrong"
    how: str = parameter(
        "model",
        help="what is wrong",
        choices=("model", "resolution", "prediction", "empty", "nan", "late", "fractions", "zeros", "constant"),
    )

    def sample(self, context: Context) -> CalibrationSet:
        good = Uniform(samples=8).sample(context)
        x_t, t = good.x_t, good.t
        match self.how:
            case "model":
                return replace(good, workload="0" * 64)
            case "resolution":
                return replace(good, x_t=torch.nn.functional.interpolate(x_t, scale_factor=2.0))
            case "prediction":
                return replace(good, prediction="v")
            case "empty":
                return replace(good, x_t=x_t[:0], t=t[:0])
            case "nan":
                return replace(good, x_t=x_t.masked_fill(x_t > 1, math.nan))
            case "late":
                return replace(good, t=t + 1000)
            case "fractions":
                return replace(good, t=t + 0.5)
            case "zeros":
                return replace(good, x_t=torch.zeros_like(x_t))
        return replace(good, x_t=torch.full_like(x_t, 0.7))


@dataclass(frozen=True)
class Forgetful(Quantizer):
    """Returns nothing, or another thing than a net."""

    name: ClassVar[str] = "forgetful"
    how: str = parameter("none", help="what it returns", choices=("none", "state"))

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> Any:
        return None if self.how == "none" else net.state_dict()


@dataclass(frozen=True)
class ForgetfulDistiller(Distiller):
    name: ClassVar[str] = "forgetful"

    def distill(self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet) -> Any:
        return None


@dataclass(frozen=True)
class ForgetfulSampler(CalibrationSampler):
    name: ClassVar[str] = "forgetful"

    def sample(self, context: Context) -> Any:
        return None


@dataclass(frozen=True)
class Wordy(Quantizer):
    name: ClassVar[str] = "wordy"

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        raise RuntimeError("tensor " * 800 + "at last")


class Transposed(nn.Module):
    """x_t (N, 3, 8, 8), t (N,) -> (N, 3, 8, 8), without a layer that can be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ConvTranspose2d(3, 3, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        made: Tensor = self.layer(x_t)
        return made


class TransposedWorkload(TinyWorkload):
    name: ClassVar[str] = "transposed"

    def architecture(self) -> nn.Module:
        return Transposed().eval()


@hookimpl
def pqbench_calibrations() -> list[type[CalibrationSampler]]:
    return [Wrong, ForgetfulSampler]


@hookimpl
def pqbench_quantizers() -> list[type[Quantizer]]:
    return [Forgetful, Wordy]


@hookimpl
def pqbench_distillers() -> list[type[Distiller]]:
    return [ForgetfulDistiller]


@hookimpl
def pqbench_workloads() -> list[type[Workload]]:
    return [TransposedWorkload]
