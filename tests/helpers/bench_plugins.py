"""Methods for tests of the bench: a cheap one, and one for each way to fail. Used as a run's `pqbench_plugins.py`."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from pqbench import hookimpl
from pqbench.contracts import (
    AcceptanceWindow,
    CalibrationSampler,
    CalibrationSet,
    Context,
    Contribution,
    Correction,
    Distiller,
    Extractor,
    FeatureExtractor,
    ImageMetric,
    Method,
    MetricInputs,
    Need,
    Precision,
    Quantizer,
    Score,
    Teachers,
    UserError,
    Weights,
    Workload,
    parameter,
)
from pqbench.distillation import Guide, HalvingDistiller, TrainedDistiller, halved_teacher
from pqbench.quantization import (
    MinMax,
    calibrate_activations,
    calibrate_weights,
    correct_output,
    minmax,
    quantize_layers,
)
from pqbench.testing import TinyText, TinyWorkload

TRACE_ROWS = 3000
PAUSE = "PQBENCH_TEST_PAUSE"
"""Makes a `slow` quantizer stop in the middle until stdin ends, so that a test can kill it there."""


@dataclass(frozen=True)
class Noise(CalibrationSampler):
    """Pure noise at every sampling step."""

    name: ClassVar[str] = "noise"

    def sample(self, context: Context) -> CalibrationSet:
        x_t = torch.randn(len(context.timesteps()), *context.workload.shape, generator=context.generator("noise"))
        return CalibrationSet(x_t, context.timesteps(), context.workload.fingerprint())


@dataclass(frozen=True)
class Round(Quantizer):
    """Min-max ranges, nearest rounding, and a long trace; `slow` seconds are slept and `loud` prints."""

    name: ClassVar[str] = "round"
    slow: float = parameter(0.0, help="seconds to sleep", low=0)
    loud: bool = parameter(False, help="print to standard output")

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        for done in range(10):
            context.progress(done, 10, "sleeping")
            time.sleep(self.slow / 10)
            if done == 5 and self.slow and os.environ.get(PAUSE):
                print(PAUSE, file=sys.stderr, flush=True)
                sys.stdin.read()
        if self.loud:
            print("a plugin that prints")
        example = calibration.inputs(slice(1))
        quantize_layers(net, context.precision, example)
        calibrate_weights(net, minmax)
        calibrate_activations(net, calibration, MinMax)
        events = {0: "begin", TRACE_ROWS // 2: "halfway", TRACE_ROWS - 1: "end"}
        context.trace.extend(
            {"iteration": i, "loss": 1 / (i + 1), "event": events.get(i, "")} for i in range(TRACE_ROWS)
        )
        return net


@dataclass(frozen=True)
class Careless(Round):
    """Like `round`, on ranges that depend on the process's global random numbers."""

    name: ClassVar[str] = "careless"

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        noisy = replace(calibration, x_t=calibration.x_t * (1 + torch.rand(1)))
        return super().quantize(context, net, noisy)


@dataclass(frozen=True)
class Broken(Quantizer):
    """Fails in the way that `how` says."""

    name: ClassVar[str] = "broken"
    how: str = parameter(
        "raises", help="how it fails", choices=("raises", "exits", "memory", "torch-memory", "nan", "full", "reads")
    )

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        match self.how:
            case "raises":
                raise RuntimeError("the sum\nof 2 | 2 is 5")
            case "exits":
                sys.exit("bye")
            case "memory":
                raise MemoryError
            case "torch-memory":
                torch.empty(1 << 60)
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
            case "reads":
                Path("/nonexistent/weights").read_bytes()
        first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
        first.weight.data *= 1e38  # silent at x = 0, and infinite with any noise
        return net


@dataclass(frozen=True)
class Copy(Distiller):
    """Returns the student untouched; half the steps."""

    name: ClassVar[str] = "copy"
    step_share: ClassVar[Fraction] = Fraction(1, 2)

    def distill(
        self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet
    ) -> nn.Module:
        return student


@dataclass(frozen=True)
class Learns(TrainedDistiller):
    """Matches the full-precision model for a few iterations; every step stays."""

    name: ClassVar[str] = "learns"
    step_share: ClassVar[Fraction] = Fraction(1)
    iterations: int = parameter(6, help="training iterations", low=1)

    def distill(
        self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet
    ) -> nn.Module:
        return self.learn(context, student, [Guide("model", teachers.full_precision, 1.0, merged=1)], calibration)


@dataclass(frozen=True)
class Halves(HalvingDistiller):
    """Learns from the teacher that is halved."""

    name: ClassVar[str] = "halves"
    iterations: int = parameter(6, help="training iterations", low=1)

    def guides(self, teachers: Teachers, teacher: nn.Module, halving: int) -> Sequence[Guide]:
        return [halved_teacher("teacher", teacher, 1.0, halving)]


@dataclass(frozen=True)
class Doubled(Correction):
    """Takes every prediction for twice what it should be; `forgets` returns nothing."""

    name: ClassVar[str] = "doubled"
    deviations: ClassVar[tuple[str, ...]] = ("No paper would do this.",)
    forgets: bool = parameter(False, help="return nothing")

    def correct(self, context: Context, net: nn.Module, full_precision: nn.Module, steps: int) -> nn.Module:
        if self.forgets:
            return None  # type: ignore[return-value]
        context.trace.append({"steps": steps})
        biases = torch.zeros(steps, context.workload.shape[0])
        return correct_output(net, context.timesteps()[:: context.steps // steps], torch.full((steps,), 2.0), biases)


class ThreeOutputs(FeatureExtractor):
    """Local means as features, a coarse picture as spatial features, and logits of a few colours; no weights."""

    name: ClassVar[str] = "three"

    def weights(self) -> Weights | None:
        return None

    def open(self, weights: Path | None, sha256: str) -> Extractor:
        outputs = ("features", "spatial", "logits")
        return Extractor(_Three().eval(), "three", "3" * 64, outputs=outputs, pixels="as they are", channels=3)


class _Three(nn.Module):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = images.float() / 255
        features = torch.cat([x.mean((2, 3)), x.flatten(1).std(1, keepdim=True)], 1)
        spatial = nn.functional.adaptive_avg_pool2d(x, 2)[:, 0]
        return {"features": features, "spatial": spatial, "logits": 30 * x.mean((2, 3))}


@dataclass(frozen=True)
class Brightness(ImageMetric):
    """The mean of all pixels, times `scale`; fails where `raises`."""

    name: ClassVar[str] = "brightness"
    title: ClassVar[str] = "Brightness"
    unit: ClassVar[str] = "levels"
    direction: ClassVar[Literal["lower", "higher"]] = "higher"
    needs: ClassVar[tuple[Need, ...]] = ("images",)
    scale: float = parameter(1.0, help="factor")
    raises: bool = parameter(False, help="fail")

    def compute(self, given: MetricInputs) -> Score:
        if self.raises:
            raise ValueError("too dark")
        values = self._values(given)
        return Score(float(values.mean()), notes=("Brightness is no quality.",))

    def contribution(self, value: float, given: MetricInputs) -> Contribution:
        values = self._values(given)
        return Contribution(value, values - values.mean(), 1 / len(values))

    def _values(self, given: MetricInputs) -> torch.Tensor:
        return self.scale * torch.cat([batch.double().flatten(1).mean(1) for batch in given.images])


class Cheap(Method):
    name: ClassVar[str] = "cheap"
    precision: ClassVar[Precision] = Precision(4, 4)
    calibration: ClassVar[str] = "noise"
    quantizer: ClassVar[str] = "round"


class Failing(Cheap):
    name: ClassVar[str] = "failing"
    quantizer: ClassVar[str] = "broken"
    precision: ClassVar[Precision] = Precision(32, 32)


class TinyWithWindow(TinyWorkload):
    """The tiny workload with a window that its full-precision model cannot meet."""

    name: ClassVar[str] = "windowed"

    def acceptance(self) -> tuple[AcceptanceWindow, ...]:
        return (AcceptanceWindow(n=16, steps=4, low=5.0, high=6.0),)


class Enlarged(TinyWorkload):
    """Images of 32x32 pixels, each of the tiny workload's four times as wide and high."""

    name: ClassVar[str] = "enlarged"

    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        return super().decode(x_0).repeat_interleave(4, 2).repeat_interleave(4, 3)


class Damaged(TinyWorkload):
    """A workload whose own model turns out damaged."""

    name: ClassVar[str] = "damaged"

    def denoiser(self) -> nn.Module:
        raise UserError("/models/damaged.safetensors is truncated: reinstall it.")


@hookimpl
def pqbench_workloads() -> list[type[Workload]]:
    return [TinyWithWindow, Enlarged, Damaged, TinyText]


@hookimpl
def pqbench_calibrations() -> list[type[CalibrationSampler]]:
    return [Noise]


@hookimpl
def pqbench_quantizers() -> list[type[Quantizer]]:
    return [Round, Careless, Broken]


@hookimpl
def pqbench_distillers() -> list[type[Distiller]]:
    return [Copy, Halves, Learns]


@hookimpl
def pqbench_corrections() -> list[type[Correction]]:
    return [Doubled]


@hookimpl
def pqbench_extractors() -> list[type[FeatureExtractor]]:
    return [ThreeOutputs]


@hookimpl
def pqbench_metrics() -> list[type[ImageMetric]]:
    return [Brightness]


@hookimpl
def pqbench_methods() -> list[type[Method]]:
    return [Cheap, Failing]
