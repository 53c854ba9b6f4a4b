"""What is said about a calibration set: what drew it, and which time steps it holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pqbench.calibration.stored import StoredCalibration
from pqbench.components.grammar import MethodSpec
from pqbench.contracts import CalibrationSampler, CalibrationSet, Context, parameters_of

DRAWN_BY = "drawn_by"
"""Fact of a set: its sampler with every parameter, as `pqbench calibrate` reads it."""
STEPS = "steps"
"""Fact of a set: the sampling steps that it was drawn for."""


def stamped(drawn: CalibrationSet, sampler: CalibrationSampler, context: Context) -> CalibrationSet:
    """The set with all that made it among its facts; one from a file keeps the facts it came with."""
    if isinstance(sampler, StoredCalibration):
        return drawn
    made_by = {DRAWN_BY: spec_of(sampler), "seed": str(context.seed), STEPS: str(context.steps)}
    return replace(drawn, facts={**drawn.facts, **made_by})


def spec_of(sampler: CalibrationSampler) -> str:
    """`ndtc[preset=script,mean=0.4,samples=256]`."""
    values = ((each.name, getattr(sampler, each.name)) for each in parameters_of(type(sampler)))
    return str(MethodSpec(sampler.name, tuple((name, _text(value)) for name, value in values)))


def drawn_by(calibration: CalibrationSet) -> str:
    """What drew a set, as far as its facts say so."""
    return calibration.facts.get(DRAWN_BY) or calibration.facts.get("sampler", "an unknown sampler")


def time_steps_row(calibration: CalibrationSet, timesteps: Tensor) -> dict[str, Any]:
    """How many samples there are at each sampling step, as a row of a trace.

    timesteps   (S,) int64, the sampling steps; a sample between two of them counts at the nearer one
    """
    steps = timesteps.sort().values
    nearest = (calibration.t[:, None] - steps[None, :]).abs().argmin(1)
    return {
        "sampler": drawn_by(calibration),
        "digest": calibration.digest,
        "timesteps": steps.tolist(),
        "histogram": torch.bincount(nearest, minlength=len(steps)).tolist(),
    }


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
