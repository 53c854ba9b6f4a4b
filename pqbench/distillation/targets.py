"""Targets of step-halving distillation (Salimans and Ho, "Progressive distillation", ICLR 2022, appendix G).

One student DDIM step from t to t'' must land where two teacher steps t -> t' -> t'' land. The target is expressed
as the epsilon that the student has to predict: a loss in x-space with weight max(SNR, 1) diverges for an
epsilon-predicting net, because at high noise it divides by a signal close to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pqbench.diffusion.ddim import Denoiser, coefficient, ddim_step, successors
from pqbench.diffusion.schedule import NoiseSchedule
from pqbench.errors import UserError


def student_timesteps(teacher: Tensor) -> Tensor:
    """The steps that a student with half the steps visits, (steps / 2,).

    Raises `UserError` when the teacher's step count cannot be halved.
    """
    if len(teacher) < 2 or len(teacher) % 2:
        raise UserError(
            f"A teacher with {len(teacher)} sampling steps cannot be halved: give it an even number of at least 2."
        )
    return teacher[::2]


@torch.no_grad()
def two_step_epsilon(
    net: Denoiser, schedule: NoiseSchedule, teacher: Tensor, x_t: Tensor, t: Tensor, *condition: Tensor
) -> Tensor:
    """The epsilon with which one DDIM step from t lands where two steps of `net` land.

    teacher   (S,) the teacher's time steps, descending, S even
    x_t       (N, C, H, W); t (N,), each one of the student's time steps (every second of `teacher`); condition, each
              (N, ...), what else `net` is called with

    Returns (N, C, H, W) of x_t's type. Raises `UserError` when the steps cannot be halved or a `t` is no student step.
    """
    middle, end = _next_two(teacher, t)
    x_middle = ddim_step(schedule, x_t, net(x_t, t, *condition), t, middle)
    x_end = ddim_step(schedule, x_middle, net(x_middle, middle, *condition), middle, end)
    ratio = schedule.signal(end) / schedule.signal(t)
    shift = schedule.sigma(end) - schedule.sigma(t) * ratio
    # In float64: at low noise both terms of the difference are nearly equal.
    difference = x_end.double() - coefficient(ratio, x_t.double()) * x_t.double()
    return (difference / coefficient(shift, x_t.double())).to(x_t.dtype)


def _next_two(teacher: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's two time steps after each student step `t`; the second is -1 (clean data) after the last pair."""
    visited = student_timesteps(teacher)
    found = visited[None, :] == t[:, None]
    if not bool(found.any(1).all()):
        raise UserError(
            "The calibration set of the distillation holds time steps that the student never visits: use a sampler "
            f"that draws from its {len(visited)} steps, for instance distiller_calibration=stratified."
        )
    pair = found.int().argmax(1)
    return teacher[1::2][pair], successors(visited)[pair]


@torch.no_grad()
def in_batches(
    function: Callable[..., Tensor],
    x_t: Tensor,
    t: Tensor,
    batch: int,
    done: Callable[[int], None],
    condition: Sequence[Tensor] = (),
) -> Tensor:
    """Evaluate `function(x_t, t, *condition)` over a calibration set in batches; `done` gets the samples so far."""
    parts = []
    for i in range(0, len(x_t), batch):
        parts.append(function(*(each[i : i + batch] for each in (x_t, t, *condition))))
        done(min(i + batch, len(x_t)))
    return torch.cat(parts)
