"""Normally Distributed Time-step Calibration (PTQ4DM, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pqbench.calibration.runs import calibration_set
from pqbench.contracts.calibration import CalibrationSampler, CalibrationSet
from pqbench.contracts.context import Context
from pqbench.contracts.parameters import parameter
from pqbench.quantization.papers import PTQ4DM_BIBTEX

PRESETS = ("script", "text")


@dataclass(frozen=True)
class Ndtc(CalibrationSampler):
    """Time steps drawn from a normal distribution that leans to the clean end, each sample from its own FP run."""

    name: ClassVar[str] = "ndtc"
    summary: ClassVar[str] = "normally distributed time steps, each sample from its own FP run (PTQ4DM)"
    references: ClassVar[tuple[str, ...]] = (PTQ4DM_BIBTEX,)
    deviations: ClassVar[tuple[str, ...]] = (
        "A sample keeps the time step at which the denoiser sees it; the released script stores the loop index, which "
        "reverses time and skips the respacing.",
        "The paper bounds the mean (at most T/2) without fixing it: both presets use the script's 0.4 T by default.",
        "T is the number of sampling steps, as in the script, and draws are clamped to [0, T-1]: at level T of the "
        "text there is no denoiser input.",
    )

    preset: str = parameter(
        "script",
        help="standard deviation of the time steps: sqrt(T/2) (text) or 0.4 T (script); the two sources disagree",
        choices=PRESETS,
    )
    mean: float = parameter(0.4, help="mean of the time steps as a share of T", low=0, high=0.5)
    samples: int = parameter(1024, quick=256, help="samples in the calibration set", low=1)

    def sample(self, context: Context) -> CalibrationSet:
        """Draw the levels, then follow one FP run down to each."""
        mean, std = self.moments(context.steps)
        levels = normal_levels(self.samples, context.steps, mean, std, context.generator("calibration/ndtc"))
        facts = {"sampler": self.name, "preset": self.preset, "mean": mean, "std": std, "steps": context.steps}
        return calibration_set(context, levels, self.name, facts)

    def moments(self, steps: int) -> tuple[float, float]:
        """Mean and standard deviation of the normal distribution, in sampling steps from the clean end."""
        std = math.sqrt(steps / 2) if self.preset == "text" else 0.4 * steps
        return self.mean * steps, std


def normal_levels(count: int, steps: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """(count,) int64 draws from N(mean, std), floored and clamped to [0, steps - 1]."""
    draws = mean + std * torch.randn(count, generator=generator, dtype=torch.float64)
    return draws.floor().long().clamp(0, steps - 1)
