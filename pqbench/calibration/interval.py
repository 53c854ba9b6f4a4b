"""Every c-th sampling step, the same number of samples at each (Q-Diffusion, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.calibration.runs import calibration_set
from pqbench.contracts.calibration import CalibrationSampler, CalibrationSet
from pqbench.contracts.context import Context
from pqbench.contracts.parameters import parameter
from pqbench.quantization.papers import Q_DIFFUSION_BIBTEX


@dataclass(frozen=True)
class Interval(CalibrationSampler):
    """Equal numbers of samples at every `every`-th sampling step, counted from the first (the noisiest)."""

    name: ClassVar[str] = "interval"
    summary: ClassVar[str] = "every c-th sampling step, equally many samples at each (Q-Diffusion)"
    references: ClassVar[tuple[str, ...]] = (Q_DIFFUSION_BIBTEX,)
    deviations: ClassVar[tuple[str, ...]] = (
        "Each sample comes from its own FP run, where the paper keeps several steps of one run, and samples are "
        "shuffled, so that any batch of them spans all the steps.",
    )

    every: int = parameter(1, help="distance between the chosen sampling steps", low=1)
    samples: int = parameter(5120, quick=256, help="samples in all; the first steps get the remainder", low=1)

    def sample(self, context: Context) -> CalibrationSet:
        """Deal the samples out to the steps, then follow one FP run down to each.

        Raises `UserError` when `every` leaves the run no more than its first step.
        """
        if 1 < context.steps <= self.every:
            raise UserError(
                f"{self.name}: every={self.every} leaves only the first of {context.steps} sampling steps: give less."
            )
        levels = interval_levels(self.samples, context.steps, self.every)
        order = torch.randperm(self.samples, generator=context.generator("calibration/interval"))
        facts = {"sampler": self.name, "every": self.every, "steps": context.steps}
        return calibration_set(context, levels[order], self.name, facts)


def interval_levels(count: int, steps: int, every: int) -> Tensor:
    """(count,) int64 levels, cycling through every `every`-th step from the first one on."""
    chosen = torch.arange(steps - 1, -1, -every, dtype=torch.int64)
    return chosen[torch.arange(count) % len(chosen)]
