"""Every step of whole denoising runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pqbench.contracts.calibration import CalibrationSampler, CalibrationSet
from pqbench.contracts.context import Context
from pqbench.contracts.parameters import parameter
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise

_BATCH = 64
"""Runs that are made together; part of what decides the last bits of x_t, hence no parameter."""


@dataclass(frozen=True)
class Trajectories(CalibrationSampler):
    """All x_t that the denoiser sees in `runs` FP runs: many samples for the work, but those of a run belong together.

    Where a quantizer should see independent samples, `uniform` and `interval` follow one run for each.
    """

    name: ClassVar[str] = "trajectories"
    summary: ClassVar[str] = "every sampling step of whole FP runs, for distillers"

    runs: int = parameter(2048, quick=192, full=8192, help="FP runs; each gives one sample a sampling step", low=1)

    def sample(self, context: Context) -> CalibrationSet:
        """Run the FP denoiser and keep what it is shown; samples are ordered by step, then by run."""
        groups = [range(first, min(first + _BATCH, self.runs)) for first in range(0, self.runs, _BATCH)]
        states = []
        for group in groups:
            states.append(self._states(context, group))
            context.progress(group.stop, self.runs, "denoising runs for the calibration set")
        x_t = torch.cat(states, 1).flatten(0, 1)
        t = context.timesteps().repeat_interleave(self.runs)
        facts = {"sampler": self.name, "runs": str(self.runs), "steps": str(context.steps)}
        # Samples of a run have its condition.
        condition = context.workload.condition(context.seed, range(self.runs), self._purpose)
        repeated = tuple(torch.cat([each] * context.steps) for each in condition)
        return CalibrationSet(x_t, t, context.workload.fingerprint(), facts, context.workload.prediction, repeated)

    @property
    def _purpose(self) -> str:
        return f"calibration/{self.name}"

    def _states(self, context: Context, group: range) -> Tensor:
        """(steps, runs of the group, C, H, W) on the CPU."""
        workload, states = context.workload, []
        ddim_sample(
            workload.denoiser().to(context.device),
            workload.schedule(),
            context.timesteps(),
            initial_noise(context.seed, group, workload.shape, self._purpose).to(context.device),
            lambda _, x_t: states.append(x_t.cpu()),
            workload.prediction,
            workload.condition(context.seed, group, self._purpose),
        )
        return torch.stack(states)
