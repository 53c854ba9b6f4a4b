"""The prediction with which one DDIM step lands where several steps of a net land.

The target of step-halving distillation, in the net's own prediction space (Salimans and Ho, "Progressive distillation",
ICLR 2022, appendix G).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.schedule import NoiseSchedule
from pqbench.diffusion.ddim import Denoiser, coefficient, ddim_step, step_factors


@torch.no_grad()
def merged_prediction(
    net: Denoiser,
    schedule: NoiseSchedule,
    run: Tensor,
    x_t: Tensor,
    t: Tensor,
    *condition: Tensor,
    merged: int = 2,
    prediction: str = "epsilon",
) -> Tensor:
    """What to predict so that one DDIM step from t lands where `merged` steps of `net` land; of one, what it predicts.

    run   (S,) the time steps at which `net` steps, descending, S a multiple of `merged`
    x_t   (N, C, H, W); t (N,), each one of the student's time steps (every `merged`-th of `run`); condition, each
          (N, ...), what else `net` is called with

    Returns (N, C, H, W) of x_t's type. Raises `UserError` when the steps cannot be merged or a `t` is no student step.
    """
    if merged == 1:
        return net(x_t, t, *condition)
    start = _starts(run, merged, t)
    ends = torch.cat([run, run.new_tensor([-1])])
    x = x_t
    for k in range(merged):
        now, after = ends[start + k], ends[start + k + 1]
        x = ddim_step(schedule, x, net(x, now, *condition), now, after, prediction)
    ratio, shift = step_factors(schedule, prediction, t, ends[start + merged])
    # In float64: at low noise both terms of the difference are nearly equal.
    difference = x.double() - coefficient(ratio, x_t.double()) * x_t.double()
    return (difference / coefficient(shift, x_t.double())).to(x_t.dtype)


def _starts(run: Tensor, merged: int, t: Tensor) -> Tensor:
    """The position in `run` of each student step `t`."""
    if len(run) % merged or not len(run):
        raise UserError(
            f"A run of {len(run)} sampling steps cannot be merged by {merged}: it needs a multiple of {merged}."
        )
    visited = run[::merged]
    found = visited[None, :] == t[:, None]
    if not bool(found.any(1).all()):
        raise UserError(
            "Some samples are at time steps that the model with fewer steps never visits: its "
            f"{len(visited)} steps are {visited.tolist()}."
        )
    return found.int().argmax(1) * merged
