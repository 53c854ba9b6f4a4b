"""Targets of step-halving distillation (Salimans and Ho, "Progressive distillation", ICLR 2022, appendix G).

One student DDIM step from t to t'' must land where several teacher steps land: two (t -> t' -> t'') for the net that
is halved, 2^k for one that taught k halvings ago. The target is what the student has to predict, in the net's own
prediction space: a loss in x-space with weight max(SNR, 1) diverges for an epsilon-predicting net, because at high
noise it divides by a signal close to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pqbench.base.errors import UserError


def student_timesteps(run: Tensor, halvings: int = 1) -> Tensor:
    """The steps that a student visits after some halvings of `run`, (steps / 2^halvings,).

    Raises `UserError` when the step count cannot be halved so often.
    """
    merged = 2**halvings
    if len(run) < merged or len(run) % merged:
        times, needed = "", "an even number of at least 2"
        if halvings > 1:
            times, needed = f" {halvings} times", f"a multiple of {merged}, or ask for fewer halvings"
        raise UserError(f"A teacher with {len(run)} sampling steps cannot be halved{times}: give it {needed}.")
    return run[::merged]


def student_samples(run: Tensor, t: Tensor, halvings: int = 1) -> Tensor:
    """Which samples of a calibration set are at steps that the student visits after some halvings: int64 indices.

    run   (S,) the time steps of the full-precision model's run
    t     (N,) the calibration set's time steps

    Raises `UserError` when the set was drawn from a run with other steps, or leaves out one of the student's.
    """
    foreign = t[~torch.isin(t, run)]
    if len(foreign):
        raise UserError(
            f"The calibration set of the distillation holds the time step {int(foreign[0])}, which the teacher's "
            f"{len(run)} steps never visit: it is one of another schedule or step count; draw it again for this run."
        )
    visited = student_timesteps(run, halvings)
    missing = visited[~torch.isin(visited, t)]
    if len(missing):
        raise UserError(
            f"The calibration set of the distillation has no sample at {len(missing)} of the {len(visited)} steps that "
            f"the student visits (the first is {int(missing[0])}): draw more samples, or take another sampler, for "
            "instance distiller_calibration=trajectories."
        )
    return torch.isin(t, visited).nonzero().flatten()


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
