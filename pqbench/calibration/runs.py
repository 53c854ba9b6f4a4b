"""What every sampler here does once it has chosen its time steps: run the FP denoiser down to them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pqbench.contracts.calibration import CalibrationSet
from pqbench.contracts.context import Context
from pqbench.diffusion.trajectories import collect

_BATCH = 64
"""Samples that run together; part of what decides the last bits of x_t, hence no parameter."""


def calibration_set(context: Context, levels: Tensor, purpose: str, facts: Mapping[str, object]) -> CalibrationSet:
    """The calibration set whose sample i is x_t at noise level `levels[i]` of its own FP run.

    levels    (N,) int64, sampling steps counted from the clean end: 0 is the run's last step and `context.steps - 1`
              its first, pure noise. This is the t of PTQ4DM's Algorithm 1, on the sampler's own time axis.
    purpose   names the noise and the conditions, so that two samplers never share it

    The time step stored with a sample is the one at which the denoiser sees it.
    """
    workload = context.workload
    timesteps = context.timesteps()
    positions = context.steps - 1 - levels
    purpose = f"calibration/{purpose}"
    condition = workload.condition(context.seed, range(len(levels)), purpose)
    x_t = collect(
        workload.denoiser().to(context.device),
        workload.schedule(),
        timesteps,
        positions,
        seed=context.seed,
        purpose=purpose,
        shape=workload.shape,
        condition=condition,
        batch=_BATCH,
        device=context.device,
        progress=context.progress,
        prediction=workload.prediction,
    )
    stated = {key: str(value) for key, value in facts.items()}
    return CalibrationSet(x_t, timesteps[positions], workload.fingerprint(), stated, workload.prediction, condition)
