"""A small quantized student with its teachers and calibration set, for tests of whole distillations."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pqbench.calibration.trajectories import Trajectories
from pqbench.contracts import CalibrationSet, Context, Distiller, Precision, Teachers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.testing.tiny import TinyWorkload


class Net(nn.Module):
    """x_t (N, 3, 8, 8), t (N,) -> (N, 3, 8, 8); two convolutions, with a normalisation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.norm(self.one(x)))
        result: Tensor = self.two(hidden * (1 + t.view(-1, 1, 1, 1) / 1000))
        return result


class NetWorkload(TinyWorkload):
    name: ClassVar[str] = "net"

    def architecture(self) -> nn.Module:
        return Net().eval()


class VWorkload(NetWorkload):
    name: ClassVar[str] = "v"
    prediction: ClassVar[str] = "v"


class XWorkload(NetWorkload):
    name: ClassVar[str] = "x"
    prediction: ClassVar[str] = "x"


WORKLOADS = {workload.prediction: workload for workload in (NetWorkload, VWorkload, XWorkload)}


@dataclass
class Scene:
    """What a distiller needs, for nets with one prediction."""

    prediction: str = "epsilon"
    bits: int = 4
    runs: int = 8
    steps: int = 4
    workload: NetWorkload = field(init=False)
    teacher: nn.Module = field(init=False)
    calibration: CalibrationSet = field(init=False)

    def __post_init__(self) -> None:
        self.workload = WORKLOADS[self.prediction]()
        self.calibration = Trajectories(runs=self.runs).sample(self.context())
        self.teacher = self.workload.denoiser().requires_grad_(False)
        if self.bits < 32:
            example = self.calibration.x_t[:1], self.calibration.t[:1]
            quantize_layers(self.teacher, Precision(self.bits, self.bits), example)
            calibrate_weights(self.teacher, minmax)
            calibrate_activations(self.teacher, self.calibration, MinMax)

    def context(self, scratch: Path | None = None, **changed: Any) -> Context:
        precision = Precision(self.bits, self.bits)
        return Context(
            **{"workload": self.workload, "precision": precision, "steps": self.steps} | changed, scratch=scratch
        )

    def teachers(self) -> Teachers:
        return Teachers(copy.deepcopy(self.teacher), self.workload.denoiser().requires_grad_(False))

    def distill(self, distiller: Distiller, context: Context | None = None) -> nn.Module:
        student = copy.deepcopy(self.teacher)
        return distiller.distill(context or self.context(), student, self.teachers(), self.calibration)


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two nets have the same state, bit for bit."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
