"""Time steps drawn uniformly from the sampler's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from pqbench.calibration.runs import calibration_set
from pqbench.contracts.calibration import CalibrationSampler, CalibrationSet
from pqbench.contracts.context import Context
from pqbench.contracts.parameters import parameter


@dataclass(frozen=True)
class Uniform(CalibrationSampler):
    """Every sampling step is equally likely, independently for each sample."""

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "time steps drawn uniformly from the sampling steps, each sample from its own FP run"

    samples: int = parameter(1024, quick=256, help="samples in the calibration set", low=1)

    def sample(self, context: Context) -> CalibrationSet:
        """Draw the levels, then follow one FP run down to each."""
        generator = context.generator("calibration/uniform")
        levels = torch.randint(0, context.steps, (self.samples,), generator=generator)
        return calibration_set(context, levels, self.name, {"sampler": self.name, "steps": context.steps})
