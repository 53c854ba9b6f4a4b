"""C_DC: the calibration set of the distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pqbench.contracts import CalibrationSampler, CalibrationSet, Context, UserError, parameter
from pqbench.diffusion import coefficient, ddim_sample, initial_noise
from pqbench.distillation import student_timesteps
from pqbench_pqcad.references import PQCAD

PURPOSE = "distillation calibration"
"""Names the noise and the conditions of the FP runs."""


@dataclass(frozen=True)
class Stratified(CalibrationSampler):
    """Time-conditioned uniform sampling with noise injection.

    The time steps that the student visits are split into equal strata, and every stratum gets the same number of
    samples, uniform within it. Each x_t is a point of an FP trajectory, moved by noise of `rho` times the schedule's
    sigma_t, so that the student also learns what to do beside the trajectories that only the FP model follows.
    A later halving's student visits every second of these steps, and learns at the samples of those.
    """

    name: ClassVar[str] = "stratified"
    summary: ClassVar[str] = "equal strata of the student's time axis with noise injection (C_DC of PQCAD-DM)"
    references: ClassVar[tuple[str, ...]] = (PQCAD,)

    trajectories: int = parameter(2048, quick=192, full=8192, low=1, high=1_000_000, help="FP runs that x_t come from")
    strata: int = parameter(0, low=0, high=1000, help="strata of the time axis; 0: one for each student step")
    rho: float = parameter(0.05, low=0.0, high=1.0, help="strength of the injected noise, in units of sigma_t")
    batch: int = parameter(64, low=1, high=4096, help="FP runs that are made together")

    def sample(self, context: Context) -> CalibrationSet:
        """As many samples as student steps for each FP trajectory.

        Raises `UserError` when the workload's steps cannot be halved or the strata cannot be equal.
        """
        visited = student_timesteps(context.timesteps())
        strata = self._strata(len(visited))
        generator = context.generator("stratified")
        # Drawn for all trajectories at once, so that `batch` decides about speed alone.
        chosen = _draw(len(visited), strata, self.trajectories, generator)
        t = visited[chosen].flatten()
        condition = context.workload.condition(context.seed, range(self.trajectories), PURPOSE)
        x_t = self._points(context, chosen, condition).flatten(0, 1)
        sigma = coefficient(context.workload.schedule().sigma(t), x_t)
        noisy = x_t + self.rho * sigma * torch.randn(x_t.shape, generator=generator)
        facts = {"sampler": self.name, "rho": str(self.rho), "strata": str(strata)}
        # Samples of a trajectory have its condition; they are ordered by step, then by trajectory.
        repeated = tuple(torch.cat([each] * len(visited)) for each in condition)
        workload = context.workload
        return CalibrationSet(noisy, t, workload.fingerprint(), facts, workload.prediction, repeated)

    def _strata(self, steps: int) -> int:
        strata = self.strata or steps
        if steps % strata:
            raise UserError(
                f"strata={strata} cannot split the student's {steps} steps equally: give a divisor of {steps}, "
                "or 0 for one stratum a step."
            )
        return strata

    def _points(self, context: Context, chosen: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        """The x_t of trajectory i at the student's steps `chosen[:, i]`, (steps, trajectories, C, H, W)."""
        net = context.workload.denoiser().to(context.device)
        parts = []
        for first in range(0, self.trajectories, self.batch):
            members = range(first, min(first + self.batch, self.trajectories))
            rows = [each[first : members.stop] for each in condition]
            states = self._trajectories(context, net, members, rows)
            index = chosen[:, first : members.stop, None, None, None].expand(-1, -1, *states.shape[2:])
            parts.append(states.gather(0, index))
            context.progress(members.stop, self.trajectories, "FP trajectories")
        return torch.cat(parts, 1)

    def _trajectories(
        self, context: Context, net: torch.nn.Module, members: range, condition: Sequence[Tensor]
    ) -> Tensor:
        """The x_t of FP runs at the student's steps, (steps / 2, N, C, H, W)."""
        states: list[Tensor] = []

        def keep(step: int, x_t: Tensor) -> None:
            if step % 2 == 0:
                states.append(x_t.cpu())

        x_T = initial_noise(context.seed, members, context.workload.shape, PURPOSE).to(context.device)
        workload = context.workload
        ddim_sample(net, workload.schedule(), context.timesteps(), x_T, keep, workload.prediction, condition)
        return torch.stack(states)


def _draw(steps: int, strata: int, count: int, generator: torch.Generator) -> Tensor:
    """Positions among the student's steps, (steps, count): row by row through the strata, uniform within each."""
    width = steps // strata
    first = torch.arange(steps) % strata * width
    return first[:, None] + torch.randint(width, (steps, count), generator=generator)
